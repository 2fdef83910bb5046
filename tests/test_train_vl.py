"""train_vl.py as a user starts it: in this process if possible, otherwise under its launchers."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.conversion.pairs import read_dataset
from runs.processes import launch
from runs.processes.accelerators import build_accelerator
from runs.run_folder import hold_run
from tests.tiny_model import write_tiny_base
from tests.training_runs import ENVIRONMENT, REPOSITORY, Train, assert_same_result, command, final, metrics
from vl_model.data.site_rows import group_sites

SHORT = ["--max_train_steps", "8", "--per_device_train_batch_size", "10", "--learning_rate", "2e-3"]


def held_out_sites(root: Path) -> int:
    rows = group_sites(read_dataset(root / "train" / "processed_data").pairs)
    return sum(row.fold == 0 and row.severity is not None for row in rows)


def test_a_full_run_learns_and_writes_its_files(train: Train, tiny_root: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--tune", "full", "--max_train_steps", "60", "--learning_rate", "3e-3", "--report_to", "tensorboard"]
    assert train("full", *arguments, "--per_device_train_batch_size", "32") == 0
    assert "1 process, device cpu, precision fp32" in capsys.readouterr().out
    rows = metrics(tiny_root, "full")
    losses = [float(row["loss"]) for row in rows]
    assert len(rows) == 60 and sum(losses[-5:]) / 5 < 0.8 * losses[0]
    assert rows[-1]["held_out_severity"] and float(rows[-1]["sites_per_second"]) > 0
    run = tiny_root / "train" / "checkpoints" / "full"
    record = json.loads((run / "run.json").read_text())
    assert record["held_out_folds"] == [0] and record["finished"] and record["processes"] == 1
    assert record["settings"]["learning_rate"] == 3e-3 and len(record["dataset_fingerprint"]) == 64
    assert {path.name for path in (run / "final").iterdir()} == {
        *("open_clip_config.json", "open_clip_model.safetensors", "site_model.json", "site_model.safetensors"),
        "README.md",
    }
    assert len(list(run.glob("checkpoint-*"))) == 2
    assert list((tiny_root / "train" / "logs" / "full").glob("events*"))


def test_zero_steps_write_the_bare_base(train: Train, tiny_root: Path, tiny_base: str) -> None:
    from vl_model.model.site_model_files import load_site_model
    from vl_model.towers.towers import load_towers

    assert train("bare", "--max_train_steps", "0") == 0
    image_N3HW = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = load_site_model(tiny_root / "train" / "checkpoints" / "bare" / "final").towers.encode_images(image_N3HW)
        assert torch.equal(found, load_towers(tiny_base).eval().encode_images(image_N3HW))


def test_a_killed_and_resumed_run_equals_an_unbroken_one(train: Train, tiny_root: Path, tiny_base: str) -> None:
    """After SIGKILL between two checkpoints and a resume, adapters, pooling, scale and metrics are bitwise equal."""
    slow = [*SHORT, "--lora_dropout", "0.1", "--checkpointing_steps", "3", "--gradient_accumulation_steps", "2"]
    slow += ["--mixup", "0.3", "--cutmix", "0.3", "--severity_sampling", "0.5", "--label_smoothing", "0.1"]
    unbroken, killed, workers = "unbroken", "killed", "2"
    assert train(unbroken, *slow) == 0
    arguments = command(tiny_root, tiny_base, killed, *slow, "--dataloader_num_workers", workers)
    with subprocess.Popen([sys.executable, *arguments], cwd=REPOSITORY, env=ENVIRONMENT) as process:
        path = tiny_root / "train" / "logs" / killed / "metrics.csv"
        while not (path.is_file() and len(path.read_text().splitlines()) >= 1 + 4):
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    run = tiny_root / "train" / "checkpoints" / killed
    assert not (run / "final").exists() and (run / "checkpoint-3").is_dir()
    assert train(killed, *slow, "--dataloader_num_workers", workers, "--resume_from_checkpoint", "latest") == 0
    assert_same_result(tiny_root, unbroken, killed)


def test_two_processes_train_the_same_as_one(train: Train, tiny_root: Path, tiny_base: str) -> None:
    ten = ["--max_train_steps", "10", "--learning_rate", "1e-3", "--tune", "full"]
    assert train("one", *ten, "--per_device_train_batch_size", "12") == 0
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    launcher += ["--config_file", "accelerate_configs/cpu_2.yaml"]
    arguments = command(tiny_root, tiny_base, "two", *ten, "--per_device_train_batch_size", "6")
    done = subprocess.run([*launcher, *arguments], cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 processes, device cpu" in done.stdout
    for one, two in zip(metrics(tiny_root, "one"), metrics(tiny_root, "two"), strict=True):
        assert float(two["loss"]) == pytest.approx(float(one["loss"]), abs=1e-5)
        # The number of held-out sites is odd, so that the mean of the two processes' means would be wrong.
        for name in ("held_out_caption", "held_out_severity") if one["held_out_caption"] else ():
            assert float(two[name]) == pytest.approx(float(one[name]), abs=1e-5)
    assert one["held_out_caption"] and held_out_sites(tiny_root) % 2 == 1


@pytest.mark.parametrize("loss", ["infonce", "siglip", "cross_entropy"])
def test_other_losses_learn_and_finish(loss: str, train: Train, tiny_root: Path) -> None:
    """Every loss reports the three terms. SigLIP's bias is part of a checkpoint, and not of the result."""
    twelve = ["--max_train_steps", "12", "--per_device_train_batch_size", "10", "--learning_rate", "3e-3"]
    arguments = ["--loss", loss, "--checkpointing_steps", "8", *twelve]
    assert train(loss, *arguments) == 0
    rows = metrics(tiny_root, loss)
    assert all(float(row[name]) > 0 for row in rows for name in ("loss_caption", "loss_severity", "loss_image"))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    unbroken = final(tiny_root, loss)
    assert not any("bias" in name for name in unbroken if "logit" in name)
    assert train(loss, *arguments, "--resume_from_checkpoint", "checkpoint-8") == 0
    resumed = final(tiny_root, loss)
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)


@pytest.mark.parametrize("script", [["train_vl.py"], ["-m", "train_vl"]], ids=["script", "module"])
def test_fewer_processes_than_configured_are_refused(tiny_root: Path, tmp_path: Path, script: list[str]) -> None:
    config = tmp_path / "multi_cpu.yaml"
    config.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nuse_cpu: true\n"
        "num_machines: 1\nnum_processes: 2\nmixed_precision: 'no'\n"
    )
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", str(config)]
    arguments = [*script, *command(tiny_root, "lumbar-tiny", "small")[1:]]
    done = subprocess.run([*launcher, *arguments], cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.startswith("train_vl.py: error: accelerate was configured for 2 processes but started 1")


def test_a_diverging_run_keeps_its_checkpoints_and_resumes_at_a_lower_rate(
    train: Train, tiny_root: Path, capsys: pytest.CaptureFixture
) -> None:
    steady = ["--tune", "full", *SHORT, "--checkpointing_steps", "3", "--checkpoints_total_limit", "9"]
    wild = [*steady, "--learning_rate", "1e30", "--warmup_ratio", "0"]

    def error_of(*arguments: str) -> str:
        assert train("wild", *arguments) == 2
        return str(capsys.readouterr().err.splitlines()[-1])

    error = error_of(*wild)
    assert "the loss is" in error and "lower learning_rate" in error and error.endswith("there is no checkpoint yet")
    run = tiny_root / "train" / "checkpoints" / "wild"
    assert not (run / "final").exists() and not list(run.glob("checkpoint-*"))

    assert train("wild", *steady, "--overwrite", "true") == 0
    checkpoints = {path: path.read_bytes() for path in run.glob("checkpoint-*/*")}
    error = error_of(*wild, "--resume_from_checkpoint", "checkpoint-3")
    assert error.endswith("--resume_from_checkpoint checkpoint-3 resumes from the last checkpoint")
    assert checkpoints == {path: path.read_bytes() for path in run.glob("checkpoint-*/*")}
    assert train("wild", *steady, "--resume_from_checkpoint", "checkpoint-3") == 0


def test_a_run_whose_scaler_skips_every_step_is_stopped(
    train: Train, tiny_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The loss stays finite: without the check such a run would finish with the weights that it started from."""

    def with_hopeless_scaler(*arguments: Any) -> Any:
        accelerator = build_accelerator(*arguments)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=math.inf)  # half of infinity is infinity
        return accelerator

    monkeypatch.setattr("runs.session.build_accelerator", with_hopeless_scaler)
    arguments = ["--max_train_steps", "60", "--per_device_train_batch_size", "10", "--checkpointing_steps", "40"]
    assert train("skipping", *arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "step 51 and the 50 before it have no finite gradient: the loss is " in error
    assert "set mixed_precision to no; --resume_from_checkpoint checkpoint-40 resumes from the last checkpoint" in error


@pytest.mark.parametrize(
    ("folds", "is_short"), [(["0"], True), (["3"], True), (["0", "1"], False), (["1"], False), ([], False)]
)
def test_too_few_held_out_studies_are_said_before_the_training(
    folds: list[str], is_short: bool, train: Train, capsys: pytest.CaptureFixture
) -> None:
    """The tiny data set has a study in fold 0, two in fold 1, and one in fold 3."""
    name = f"few-{'-'.join(folds)}"
    assert train(name, "--max_train_steps", "0", "--held_out_folds", *folds) == 0
    said = capsys.readouterr().out
    assert ("note: 1 graded study is held out, and eval_vl.py needs two" in said.partition(" process, ")[0]) == is_short


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--held_out_folds", "7"], "held_out_folds [7]"),
        (["--held_out_folds", "0", "1", "2", "3", "4"], "no labelled site outside"),
        (["--per_device_train_batch_size", "4000"], "do not fill one batch of 4000"),
        (["--learning_rat", "1"], "did you mean --learning_rate?"),
        (["--model", "lumbar-tiny"], "set tune to full to train it"),
        (["--root", "/nowhere"], "no such folder"),
        (["--run", "../up"], "a run's name may contain"),
        (["--warmup_ratio", "5"], "--warmup_ratio"),
        (["--learning_rate", "inf"], "--learning_rate inf: should be"),
        (["--loss_weights", "1", "inf", "1"], "--loss_weights element 2: inf"),
        (["--loss_weights", "0", "0", "0"], "--loss_weights 0 0 0"),
        (
            ["--loss", "infonce", "--label_smoothing", "0.1"],
            "--label_smoothing 0.1: the loss infonce has one positive caption per image",
        ),
        (["--loss", "siglip", "--merge_mirrored", "true"], "--merge_mirrored true: the loss siglip"),
        (["--loss", "infonce", "--mixup", "0.1"], "--mixup 0.1: the loss infonce cannot be combined with it"),
        (
            ["--loss", "siglip", "--severity_sampling", "1"],
            "--severity_sampling 1.0: the loss siglip cannot be combined with it",
        ),
        (["--mixup", "0.6", "--cutmix", "0.6"], "their sum must be at most 1"),
        (
            ["--augment", "false", "--cutmix", "0.5"],
            "--augment false: without augmentation, mixup and cutmix must be 0",
        ),
        (
            ["--dataloader_num_workers", "100000"],
            "--dataloader_num_workers 100000: should be at least 0 and at most 64",
        ),
        (["--seed", "99999999999999999999"], "--seed 99999999999999999999: should be"),
        (["--mixed_precision", "fp16"], "--mixed_precision fp16: cannot be used on a CPU"),
        (["--resume_from_checkpoint", ""], "--resume_from_checkpoint '': is empty"),
        (["--export", ""], "--export '': is empty"),
        (
            ["--resume_from_checkpoint", "checkpoint-9"],
            "'checkpoint-9': no such folder; the run 'wrong' has no complete checkpoint",
        ),
        (["--resume_from_checkpoint", "tests"], "give 'latest' or a checkpoint-<step> folder"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(
    arguments: list[str], words: str, train: Train, tiny_root: Path, capsys: pytest.CaptureFixture
) -> None:
    assert train("wrong", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("train_vl.py: error: ") and error.count("\n") == 1 and words in error
    assert not (tiny_root / "train" / "checkpoints" / "wrong").exists()


def test_a_run_does_not_resume_with_another_base(
    train: Train, tiny_base: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base.removeprefix("local-dir:"), base)
    arguments = ["--model", f"local-dir:{base}", "--max_train_steps", "1", "--per_device_train_batch_size", "10"]
    assert train("rebased", *arguments) == 0
    write_tiny_base(base, seed=9)
    assert train("rebased", *arguments, "--resume_from_checkpoint", "latest") == 2
    assert "was written with base_sha256 = " in capsys.readouterr().err


def test_a_run_does_not_resume_with_another_model(train: Train, tiny_base: str, capsys: pytest.CaptureFixture) -> None:
    """Without its flags a run would resume with the default, which would be loaded before it is refused."""
    short = ["--max_train_steps", "1", "--per_device_train_batch_size", "10"]
    assert train("small", *short) == 0
    assert train("small", *short, "--model", "ViT-B-16", "--resume_from_checkpoint", "latest") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"--model 'ViT-B-16': the run was trained on {tiny_base!r}" in error and "download" not in error
    assert train("small", *short, "--resume_from_checkpoint", "checkpoint-7") == 2
    assert "'checkpoint-7': no such folder; the run 'small' has checkpoint-1" in capsys.readouterr().err


def test_a_checkpoint_of_another_plan_leaves_the_run_unchanged(
    train: Train, tiny_root: Path, capsys: pytest.CaptureFixture
) -> None:
    """If run.json had other held-out folds, evaluation would count studies that were trained on as held out."""
    arguments = ["--max_train_steps", "2", "--per_device_train_batch_size", "10"]
    assert train("kept", *arguments) == 0
    record = tiny_root / "train" / "checkpoints" / "kept" / "run.json"
    before = record.read_bytes()
    assert train("kept", *arguments, "--held_out_folds", "1", "--resume_from_checkpoint", "latest") == 2
    assert "was written with held_out_folds = [0]" in capsys.readouterr().err
    assert record.read_bytes() == before and json.loads(before)["finished"]


def test_the_events_of_a_resumed_run_have_every_step_once(train: Train, tiny_root: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    short = [*("--max_train_steps", "4", "--per_device_train_batch_size", "10"), "--report_to", "tensorboard"]
    assert train("shown", *short, "--checkpointing_steps", "2") == 0
    assert train("shown", *short, "--checkpointing_steps", "2", "--resume_from_checkpoint", "checkpoint-2") == 0
    events = EventAccumulator(str(tiny_root / "train" / "logs" / "shown")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]


def test_a_tracker_that_is_not_installed_is_refused(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda _: None)
    assert train("untracked", "--report_to", "wandb") == 2
    assert "wandb is not installed" in capsys.readouterr().err


def test_a_run_that_another_process_is_training_is_refused(
    train: Train, tiny_root: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tiny_root / "train" / "checkpoints" / "held"
    with hold_run(run):
        assert train("held", "--max_train_steps", "0") == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"{run}: another process ({os.getpid()} on " in error
        assert "is training this run" in error
    assert not run.exists(), "empty folders are removed"


def test_a_run_is_only_overwritten_on_request(train: Train, capsys: pytest.CaptureFixture) -> None:
    assert train("twice", "--max_train_steps", "0") == 0
    assert train("twice", "--max_train_steps", "0") == 2
    assert "--resume_from_checkpoint latest" in capsys.readouterr().err
    assert train("twice", "--max_train_steps", "0", "--overwrite", "true") == 0


def test_a_collapsed_logit_scale_is_reported_once(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("vl_model.training.trainer.COLLAPSED_SCALE", 100.0)
    assert train("collapsed", "--max_train_steps", "3", "--per_device_train_batch_size", "10") == 0
    error = capsys.readouterr().err
    assert error.count("logit_scale fell to 14.") == 1 and "step 1: logit_scale" in error
