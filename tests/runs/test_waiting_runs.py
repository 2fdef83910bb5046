"""Real trainings in a wait that does not end by itself: hung or killed workers, and processes that do not answer."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from runs import preemption
from runs.job_clock import JobClock
from tests.training_runs import ENVIRONMENT, REPOSITORY, Train, assert_same_result, command, metrics

ARGUMENTS = ["--per_device_train_batch_size", "5", "--checkpointing_steps", "4", "--evaluation_steps", "1000"]
LONG = [*ARGUMENTS, "--max_train_steps", "2000"]


def start(root: Path, base: str, run: str, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *command(root, base, run, *arguments)],
        cwd=REPOSITORY,
        env=ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(happened: Callable[[], object], process: "subprocess.Popen[str]", patience: float = 100) -> None:
    until = time.monotonic() + patience
    while not happened():
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.002)


def rows(root: Path, run: str) -> int:
    path = root / "train" / "logs" / run / "metrics.csv"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def workers_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children()


def last_line(errors: str) -> str:
    return errors.replace("\r", "\n").strip().splitlines()[-1]


def test_a_run_whose_workers_hang_stops_as_between_steps(train: Train, tiny_root: Path, tiny_base: str) -> None:
    folder = tiny_root / "train" / "checkpoints" / "hung"
    arguments = [*ARGUMENTS, "--max_train_steps", "30", "--dataloader_num_workers", "2"]
    with start(tiny_root, tiny_base, "hung", *arguments) as process:
        wait_for(lambda: rows(tiny_root, "hung") > 1, process)
        for worker in workers_of(process):
            worker.suspend()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=60)
    done = len(metrics(tiny_root, "hung"))
    assert process.returncode == 0 and done < 30
    assert f"stopped by SIGTERM after step {done} of 30; the checkpoint is written" in printed
    assert (folder / f"checkpoint-{done}").is_dir()
    assert json.loads((folder / "run.json").read_text())["stopped_by"] == "SIGTERM"
    assert train("hung", *arguments, "--resume_from_checkpoint", "latest") == 0
    assert train("never-hung", *ARGUMENTS, "--max_train_steps", "30") == 0
    assert_same_result(tiny_root, "never-hung", "hung")


@pytest.mark.parametrize(("first_batch", "ends"), [(0.0, True), (60.0, False)])
def test_the_end_of_the_job_ends_a_wait(
    first_batch: float, ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any process; but the first batch gets some seconds, so that every start of a run takes a step."""
    monkeypatch.setattr(preemption, "SECONDS_FOR_FIRST_BATCH", first_batch)
    process = SimpleNamespace(is_main_process=False, num_processes=1)
    clock = JobClock(time.time() + 60)
    assert preemption.Preemption(tmp_path, 120, process, clock).should_end_wait() is ends


def test_a_stop_before_the_first_batch(train: Train, tiny_root: Path, tiny_base: str) -> None:
    folder = tiny_root / "train" / "checkpoints" / "early"
    with start(tiny_root, tiny_base, "early", *LONG, "--dataloader_num_workers", "2") as process:
        # Children before the record is written are commands that describe the machine, not workers.
        wait_for(lambda: (folder / "run.json").is_file() and workers_of(process), process)
        for worker in workers_of(process):
            worker.suspend()
        (folder / "STOP").touch()
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    if not rows(tiny_root, "early"):
        assert "stopped by the file STOP before the first step; there is nothing to write yet: to resume" in printed
    arguments = [*ARGUMENTS, "--max_train_steps", "2", "--overwrite"]
    assert train("early", *arguments) == 0


def test_a_killed_worker_is_one_line_and_nothing_is_lost(tiny_root: Path, tiny_base: str) -> None:
    run = "lost"
    with start(tiny_root, tiny_base, run, *LONG, "--dataloader_num_workers", "2") as process:
        wait_for(lambda: rows(tiny_root, run) > 1, process)
        workers_of(process)[0].kill()
        _, errors = process.communicate(timeout=60)
    done = len(metrics(tiny_root, run))
    assert process.returncode == 2 and "Traceback" not in errors
    said = last_line(errors)
    assert said.startswith("train_vl.py: error: loader worker ") and "was killed by SIGKILL" in said
    assert "use fewer --dataloader_num_workers (0 loads in the training process)" in said
    assert f"stopped after step {done} of 2000: --resume_from_checkpoint latest goes on from there" in said
    folder = tiny_root / "train" / "checkpoints" / run
    assert (folder / f"checkpoint-{done}").is_dir()
    assert json.loads((folder / "run.json").read_text())["stopped_by"] == "the loss of a loader worker"


def pair(root: Path, base: str, run: str, *arguments: str) -> list["subprocess.Popen[str]"]:
    """Start the two processes of a run as a launcher does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    return [start(root, base, run, *LONG, *arguments, **world, **rank) for rank in ranks]


@pytest.mark.parametrize(
    ("fault", "by", "status"),
    [
        (signal.SIGSTOP, "SIGTERM", 143),
        (signal.SIGKILL, "", 2),
    ],
)
def test_a_process_does_not_wait_for_one_that_does_not_answer(
    fault: signal.Signals, by: str, status: int, tiny_root: Path, tiny_base: str
) -> None:
    run = f"pair-{fault.name}-{by.split()[-1] if by else 'none'}"
    first, second = pair(tiny_root, tiny_base, run)
    try:
        wait_for(lambda: rows(tiny_root, run) > 5, first)
        second.send_signal(fault)
        time.sleep(0.5)
        if by == "SIGTERM":
            first.send_signal(signal.SIGTERM)
        _, errors = first.communicate(timeout=40)
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()
    assert first.returncode == status and "Traceback" not in errors
    said = last_line(errors)
    if by:
        assert f"stopped by {by} while this process waited for another process of the run, which does not" in said
    else:
        assert "train_vl.py: error: the connection to another process of the run was lost" in said
    assert "resumes from the last checkpoint" in said
    assert not (tiny_root / "train" / "checkpoints" / run / ".lock").exists()


def test_the_processes_stop_together_if_the_workers_of_one_hang(tiny_root: Path, tiny_base: str) -> None:
    first, second = pair(tiny_root, tiny_base, "pair-workers", "--dataloader_num_workers", "1")
    wait_for(lambda: rows(tiny_root, "pair-workers") > 1, first)
    for worker in workers_of(second):
        worker.suspend()
    time.sleep(0.5)
    (tiny_root / "train" / "checkpoints" / "pair-workers" / "STOP").touch()
    printed, _ = first.communicate(timeout=60)
    second.communicate(timeout=60)
    done = len(metrics(tiny_root, "pair-workers"))
    assert (first.returncode, second.returncode) == (0, 0)
    assert f"stopped by the file STOP after step {done} of 2000; the checkpoint is written" in printed


def test_ctrl_c_ends_a_run_whose_workers_hang(tiny_root: Path, tiny_base: str) -> None:
    with start(tiny_root, tiny_base, "hung-ctrl-c", *LONG, "--dataloader_num_workers", "1") as process:
        wait_for(lambda: rows(tiny_root, "hung-ctrl-c") > 1, process)
        workers = workers_of(process)
        for worker in workers:
            worker.suspend()
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and last_line(errors) == (
        "train_vl.py: interrupted; there is no checkpoint yet; --overwrite starts it anew"
    )
    assert not psutil.wait_procs(workers, timeout=5)[1]
