"""Runs that are stopped early write a checkpoint, exit with 0 and, resumed, end as they would have without it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training_runs import ENVIRONMENT, REPOSITORY, Train, assert_same_result, command, metrics

ARGUMENTS = [
    *("--max_train_steps", "12", "--per_device_train_batch_size", "10", "--learning_rate", "2e-3"),
    *("--evaluation_steps", "4", "--checkpointing_steps", "5", "--dataloader_num_workers", "2"),
]


@pytest.fixture(scope="module")
def uninterrupted() -> list[str]:
    """Return the names of the uninterrupted runs that earlier tests of this module have done."""
    return []


def when_written(rows: int, root: Path, run: str, stop: Callable[[], None], patience: float = 60) -> threading.Thread:
    """Start a thread that calls `stop` as soon as the run has written that many steps, or after `patience` seconds."""
    path = root / "train" / "logs" / run / "metrics.csv"

    def watch() -> None:
        until = time.monotonic() + patience
        while not (path.is_file() and len(path.read_text().splitlines()) > rows) and time.monotonic() < until:
            time.sleep(0.002)
        stop()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def touch_stop(root: Path, run: str) -> None:
    (root / "train" / "checkpoints" / run / "STOP").touch()


def terminate_this_process() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("by", ["the file STOP", "SIGTERM", "the end of the Slurm job"])
def test_a_stopped_run_writes_a_checkpoint_and_resumes_to_the_same_result(
    by: str,
    train: Train,
    tiny_root: Path,
    uninterrupted: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    if not uninterrupted:
        assert train("uninterrupted", *ARGUMENTS) == 0
        uninterrupted.append("uninterrupted")
    run = by.split()[-1]
    folder = tiny_root / "train" / "checkpoints" / run
    with monkeypatch.context() as patch:
        if by == "the end of the Slurm job":
            patch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 60))
            assert train(run, *ARGUMENTS, "--stop_margin", "70") == 0
        else:
            stop = terminate_this_process if by == "SIGTERM" else lambda: touch_stop(tiny_root, run)
            thread = when_written(2, tiny_root, run, stop)
            assert train(run, *ARGUMENTS) == 0
            thread.join()
    done = len(metrics(tiny_root, run))
    assert done < 12 and not (folder / "final").exists() and (folder / f"checkpoint-{done}").is_dir()
    message = capsys.readouterr().out.splitlines()[-1]
    assert message == (
        f"stopped by {by} after step {done} of 12; the checkpoint is written: to resume, give the same command with "
        "--resume_from_checkpoint latest"
    )
    assert json.loads((folder / "run.json").read_text())["stopped_by"] == by
    assert train(run, *ARGUMENTS, "--resume_from_checkpoint", "latest") == 0
    assert not (folder / "STOP").exists() and "stopped_by" not in (folder / "run.json").read_text()
    assert_same_result(tiny_root, "uninterrupted", run)


def test_a_job_that_is_over_does_not_stop_a_run(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1700000000")
    assert train("over", "--max_train_steps", "2", "--per_device_train_batch_size", "10") == 0
    said = capsys.readouterr().out
    assert "note: SLURM_JOB_END_TIME=1700000000 lies" in said and "over/final" in said


def test_an_evaluation_that_was_interrupted_is_done_by_the_resumed_run(
    train: Train, tiny_root: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["--max_train_steps", "3", "--per_device_train_batch_size", "10", "--evaluation_steps", "2"]
    assert train("complete", *arguments, "--held_out_folds", "0", "1") == 0
    # The end of the job is near, so the run stops before the first batch of held-out sites.
    job, near = pytest.MonkeyPatch(), [*arguments, "--held_out_folds", "0", "1", "--stop_margin", "7200"]
    with job.context() as patch:
        patch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 3600))
        assert train("interrupted", *near) == 0
        assert "the Slurm job ends in 60 minutes, and --stop_margin is 7200 seconds" in capsys.readouterr().out
        # Two starts in a row of one step each: a third one would be like them.
        assert train("interrupted", *near, "--resume_from_checkpoint", "latest") == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "the end of the Slurm job has stopped 2 starts in a row after one step at most" in error
    assert [row["held_out_severity"] for row in metrics(tiny_root, "interrupted")] == ["", ""]
    assert train("interrupted", *arguments, "--held_out_folds", "0", "1", "--resume_from_checkpoint", "latest") == 0
    assert_same_result(tiny_root, "complete", "interrupted")


def test_two_processes_stop_together_and_only_two_resume_the_run(
    train: Train, tiny_root: Path, tiny_base: str, capsys: pytest.CaptureFixture
) -> None:
    """The launcher passes SIGTERM on to the groups of its workers; the workers of the data loaders ignore it."""
    arguments = ["--max_train_steps", "2000", "--per_device_train_batch_size", "5", "--checkpointing_steps", "1000"]
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    launcher += ["--config_file", "accelerate_configs/cpu_2.yaml"]
    words = command(tiny_root, tiny_base, "pair", *arguments, "--dataloader_num_workers", "1")
    pipe = subprocess.PIPE
    with subprocess.Popen([*launcher, *words], cwd=REPOSITORY, env=ENVIRONMENT, stdout=pipe, text=True) as process:
        when_written(2, tiny_root, "pair", process.terminate, patience=400).join()
        printed, _ = process.communicate(timeout=400)
    (checkpoint,) = (tiny_root / "train" / "checkpoints" / "pair").glob("checkpoint-*")
    done = len(metrics(tiny_root, "pair"))
    assert checkpoint.name == f"checkpoint-{done}"
    assert f"stopped by SIGTERM after step {done} of 2000; the checkpoint is written" in printed
    assert train("pair", *arguments, "--resume_from_checkpoint", "latest") == 2
    assert "was written with processes = 2, now it is 1; resume with the same" in capsys.readouterr().err
