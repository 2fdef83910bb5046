"""The checks before the first step, their findings, and the memory estimate against what a step really keeps."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from runs.processes import launch
from tests.training_runs import Train
from vl_model.training import doctor, doctor_loader
from vl_model.training.memory import estimate_memory, saved_bytes

DOCTOR = ["--doctor", "--per_device_train_batch_size", "10"]


def test_all_checks_pass_and_nothing_is_written(train: Train, tiny_root: Path, capsys: pytest.CaptureFixture) -> None:
    before = sorted(path for path in tiny_root.rglob("*"))
    assert train("well", *DOCTOR, "--push_to_hub", "somebody/lumbar") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * 20
    names = "packages devices processes precision run trackers hub locator loss data set crops base batches loader"
    names += " sharing model checkpoint memory disk time"
    assert " ".join(line[5:16].strip() for line in lines) == names
    assert sorted(path for path in tiny_root.rglob("*")) == before


def test_each_problem_is_one_line(
    train: Train, tiny_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert train("faulty", *DOCTOR, "--held_out_folds", "9", "--model", "lumbar-tiny") == 2
    found = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("ok")]
    assert len(found) == 2 and "--held_out_folds [9]" in found[0] and "set tune to full to train it" in found[1]
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    monkeypatch.setattr(doctor, "version", lambda name: "1.0" if name == "torch" else "0.0")
    monkeypatch.setattr(doctor, "requires", lambda _: ["numpy", "torch==2.0"])
    assert train("faulty", *DOCTOR) == 2
    found = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("ok")]
    assert len(found) == 2 and "install the two together" in found[0] and "free some disk space" in found[1]


@pytest.mark.parametrize(
    ("arguments", "name", "words"),
    [
        (["--per_device_train_batch_size", "4000"], "batches", "do not fill one batch of 4000"),
        (["--mixup", "0.6", "--cutmix", "0.6"], "batches", "their sum must be at most 1"),
        (["--loss", "infonce", "--mixup", "0.1"], "loss", "the loss infonce cannot be combined with it"),
        (["--loss", "infonce", "--label_smoothing", "0.1"], "loss", "has one positive caption per image"),
        (["--loss_weights", "0", "0", "0"], "loss", "one of them must be above zero"),
        (["--report_to", "wandb"], "trackers", "install it, or use tensorboard"),
        (["--push_to_hub", "a b"], "hub", "give ORGANISATION/NAME"),
        (["--resume_from_checkpoint", "checkpoint-9"], "checkpoint", "'checkpoint-9': no such folder; the run"),
    ],
)
def test_whatever_would_stop_the_training_is_found(
    arguments: list[str],
    name: str,
    words: str,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda _: None)
    assert train("stopped", *DOCTOR, *arguments) == 2
    [line] = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("ok")]
    assert line.startswith(f"FIX  {name:10} ") and words in line


def test_a_leaking_base_and_the_checkpoint_of_another_run_are_found(
    train: Train, tiny_root: Path, capsys: pytest.CaptureFixture
) -> None:
    short = ["--max_train_steps", "2", "--per_device_train_batch_size", "10", "--tune", "full"]
    assert train("examined", *short) == 0
    run = tiny_root / "train" / "checkpoints" / "examined"
    capsys.readouterr()

    def problems_of(*arguments: str) -> list[str]:
        status = train(*arguments, "--doctor")
        lines = capsys.readouterr().out.splitlines()
        found = [line for line in lines if not line.startswith("ok")]
        assert status == (2 if found else 0) and len(lines) >= 16
        return found

    [line] = problems_of("next", *short, "--model", f"local-dir:{run / 'final'}", "--held_out_folds", "1")
    assert line.startswith("FIX  base ") and "2 of the 2 studies" in line
    [line] = problems_of("examined", *short, "--resume_from_checkpoint", "latest", "--seed", "5")
    assert line.startswith("FIX  checkpoint ") and "was written with seed = 0, now it is 5" in line
    assert not problems_of("examined", *short, "--resume_from_checkpoint", "latest")
    (run / "checkpoint-2" / "optimizer.pt").write_bytes(b"")
    [line] = problems_of("examined", *short, "--resume_from_checkpoint", "checkpoint-2")
    assert line.startswith("FIX  checkpoint ")
    assert "optimizer.pt: cannot be read (it was changed after it was written)" in line


def test_a_damaged_locator_does_not_end_the_other_checks(
    train: Train, tiny_root: Path, capsys: pytest.CaptureFixture
) -> None:
    locator = tiny_root / "train" / "checkpoints" / "damaged-locator" / "final" / "locator.json"
    locator.parent.mkdir(parents=True)
    locator.write_text("{")
    try:
        assert train("well", *DOCTOR) == 2
    finally:
        shutil.rmtree(locator.parents[1])
    lines = capsys.readouterr().out.splitlines()
    [line] = [line for line in lines if not line.startswith("ok")]
    assert line.startswith("FIX  locator ") and str(locator) in line
    assert len(lines) == 19 and lines[-1].startswith("ok   time ")


def test_a_full_gpu_is_one_line(train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(doctor, "estimate_memory", full)
    assert train("full-gpu", *DOCTOR) == 2
    [line] = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("ok")]
    assert line.startswith("FIX  memory ") and "not have enough memory for this model and two sites" in line


def test_saved_bytes_are_those_of_the_layers_inputs() -> None:
    """A linear layer saves its input, a ReLU its output: 4 bytes per number, each storage counted once."""
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    assert saved_bytes(model, lambda: model(torch.zeros(5, 8))) == 4 * 5 * (8 + 16)
    found = estimate_memory(model, lambda count: model(torch.zeros(count, 8)), 100)
    assert found.activations == 4 * 100 * (8 + 16) and found.moments == 2 * found.gradients
    assert found.gradients == found.weights == 4 * (8 * 16 + 16 + 16 * 4 + 4)
    model[0].requires_grad_(False)
    assert saved_bytes(model, lambda: model(torch.zeros(5, 8))) == 4 * 5 * 16


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_loader_is_tried(train: Train, workers: str, capsys: pytest.CaptureFixture) -> None:
    assert train("loading", *DOCTOR, "--dataloader_num_workers", workers) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ok   loader ")]
    by = "the training process" if workers == "0" else "2 workers, which need no shared memory,"
    assert f"{by} can load batches of " in line


@pytest.mark.parametrize(("free", "suffices"), [(1, False), (19, False), (64, True)])
def test_the_shared_memory_of_gpus_is_compared(monkeypatch: pytest.MonkeyPatch, free: int, suffices: bool) -> None:
    """Two processes of one machine, each with a GPU."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(doctor_loader, "started_processes", lambda: 2)
    monkeypatch.setattr(doctor_loader, "uses_cpu", lambda _: False)
    monkeypatch.setattr(doctor_loader.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(doctor_loader.shutil, "disk_usage", lambda _: SimpleNamespace(free=free * 2**20))
    is_enough, message = doctor_loader.check_shared_memory()
    assert is_enough == suffices and f"{free} MiB free" in message and "about 20 for 2 GPUs" in message
    assert ("--shm-size" in message) != is_enough
