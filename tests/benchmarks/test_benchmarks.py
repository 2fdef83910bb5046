"""The benchmarks run on little data, and print the expected rows."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from open_clip_train import main as open_clip_main

import train_vl
from benchmarks import gpu, layouts, prepare, tiles, timed_trainer, train
from benchmarks.comparison import Job, open_clip_arguments, our_arguments
from benchmarks.training_images import write_training_images
from data_prep.conversion.crop_geometry import CropGeometry
from data_prep.conversion.crops import read_crop_geometry
from data_prep.phantom import write_cohort
from vl_model.training.trainer import Trainer


def test_the_conversion_is_compared_with_a_plain_implementation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare.compare_with_plain(tmp_path, slices=2, turns=1)  # this asserts that the pixels equal the reference's
    lines = [line for line in capsys.readouterr().out.splitlines() if "sigma 15" in line]
    sizes = [line for line in lines if "relative to zlib" in line]
    assert len([line for line in lines if "relative to plain" in line]) == 2
    assert len(sizes) == 2 and all(line.endswith("met") for line in sizes)


def test_the_cost_of_several_tiles_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cohort(tmp_path / "drawn", train=1, test=0, seed=5)
    geometry = CropGeometry(48.0, 0.75, 3)
    seconds = tiles.prepare(geometry, tmp_path / "drawn", tmp_path / "root")
    assert seconds > 0 and read_crop_geometry(tmp_path / "root" / "train" / "processed_data") == geometry
    one = tiles.Cost(2.0, 1000.0, 2.0, 60.0, 500.0)
    tiles.print_cost(geometry, tiles.Cost(3.0, 3000.0, 5.0, 20.0, 900.0), one)
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[-1] for line in printed[-4:]] == ["1.50", "3.00", "3.00", "1.80"]


def test_both_layouts_of_tiles_are_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["layouts", "--model", "lumbar-tiny", "--batch_size", "2", "--turns", "1"])
    layouts.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  channels")]
    seconds = [float(line.split()[-1]) for line in lines]
    assert len(seconds) == 6 and min(seconds) > 0
    for first, last, ratio in (seconds[:3], seconds[3:]):
        assert ratio == pytest.approx(first / last, rel=0.3)  # the seconds are printed with three digits


def test_scaling_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare.measure_scaling(tmp_path, studies=2, turns=1)
    assert "two processes relative to one, by CPU time" in capsys.readouterr().out


@pytest.fixture(scope="module")
def images_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    write_training_images(root, 50)
    return root


@pytest.mark.parametrize(("trainer", "steps", "edge"), [("ours", 2, 0), ("open_clip", 2, 0), ("open_clip", 8, 2)])
def test_both_trainers_are_timed(
    trainer: str, steps: int, edge: int, images_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainers are started as benchmarks/train.py starts them, but in this process."""
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()
    monkeypatch.setattr(Trainer, "step", Trainer.step)  # restored after the test
    monkeypatch.setattr(open_clip_main, "train_one_epoch", open_clip_main.train_one_epoch)
    monkeypatch.setattr(
        open_clip_main, "setup_logging", lambda *_: None
    )  # it would enable the log output of all libraries
    job = Job(images_root, "lumbar-tiny", "no", batch=8, steps=steps, epochs=2, edge=edge)
    arguments = our_arguments(job, "timed") if trainer == "ours" else open_clip_arguments(job, tmp_path)
    report = tmp_path / "timing.json"
    monkeypatch.setattr(sys, "argv", ["timed_trainer.py", str(report), str(steps), str(edge), *arguments])
    timed_trainer.main()
    timing = timed_trainer.Timing(**json.loads(report.read_text()))
    assert len(timing.clock) == len(timing.processor) == 2 and min(timing.clock) > 0
    assert timing.peak_mb > 100 and timing.gpu_mb == 0


@pytest.mark.parametrize("trainer", ["ours", "open_clip"])
def test_the_start_of_workers_is_not_timed(trainer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a fake clock a step takes 1 s, and the start and the end of workers 100 s each; an epoch has six steps."""
    clock = 0.0
    monkeypatch.setattr(timed_trainer, "now", lambda: np.array([clock, clock]))
    complete, middle = timed_trainer.Stopwatch(6, 0), timed_trainer.Stopwatch(6, 2)

    def step(*_: object) -> None:
        nonlocal clock
        clock += 1

    def epoch(scheduler: Callable[[int], None], first: int) -> None:
        nonlocal clock
        clock += 100
        for number in range(first, first + 6):
            scheduler(number)
            step()
        clock += 100

    def epochs(*_: object) -> None:
        for first in (0, 6):
            open_clip_main.train_one_epoch(scheduler=lambda _: None, first=first)

    def steps() -> None:
        nonlocal clock
        clock += 100
        for _ in range(12):
            Trainer.step(None, 0)
        clock += 100

    monkeypatch.setattr(train_vl, "main", steps)
    monkeypatch.setattr(open_clip_main, "main", epochs)
    monkeypatch.setattr(sys, "argv", [])
    for watch, expected in ((complete, 6 if trainer == "ours" else 206), (middle, 2)):
        monkeypatch.setattr(Trainer, "step", step)
        monkeypatch.setattr(open_clip_main, "train_one_epoch", epoch)
        time_it = timed_trainer.time_ours if trainer == "ours" else timed_trainer.time_open_clip
        assert [float(end[0] - begin[0]) for begin, end in time_it([], watch)] == [expected] * 2


def test_the_loader_is_measured(images_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train.measure_loader(Job(images_root, "lumbar-tiny", "no", batch=8, steps=2, epochs=2), training_rate=1.0, aim=5)
    assert capsys.readouterr().out.splitlines()[-1].endswith("met")


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the benchmark would take minutes")
def test_without_a_gpu_its_benchmark_prints_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu"])
    gpu.main()
    printed = capsys.readouterr()
    assert printed.err == "benchmarks.gpu: no CUDA device was found, so nothing is measured\n" and not printed.out


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_the_operations_of_a_step_are_counted(tune: str, tiny_base: str, tmp_path: Path) -> None:
    """Forward and backward pass on the CPU; the rest of that benchmark requires a GPU."""
    one, two = (
        gpu.step_flops(Job(tmp_path, tiny_base, "bf16", batch=batch, steps=1, epochs=2), tune) for batch in (2, 4)
    )
    captions = 2 * one - two  # the operations that do not grow with the batch
    assert 0 < one < two and (captions > 0) == (tune == "full")
