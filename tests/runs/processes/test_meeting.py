"""Processes that are left alone by the others end with one line."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue

import pytest
import torch.distributed as dist

from runs.processes.launch import Launch
from runs.processes.meeting import meet
from tests.training_runs import REPOSITORY, command

FORK = multiprocessing.get_context("fork")  # what they need is imported already


def start(seconds: float, answers: "Queue[str]", **environment: str) -> BaseProcess:
    """Start a process that is to meet one other, and answers with how many met or with the error."""

    def work() -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
        os.environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", **environment}
        try:
            meet(Launch().world, "gloo", seconds)
            answers.put(str(dist.get_world_size()))
            dist.barrier()
        except ValueError as error:
            answers.put(str(error))

    process = FORK.Process(target=work)
    process.start()
    return process


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_a_rendezvous_that_nobody_joins_ends_with_one_line() -> None:
    agent = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RUN_ID": "none"}
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = {"RANK": "0", "MASTER_PORT": str(other.getsockname()[1])}
        for variables in (
            taken,
            {"RANK": "0", "MASTER_PORT": free_port()},
            {"RANK": "1", "MASTER_PORT": free_port()},
            {"RANK": "1", "MASTER_PORT": free_port(), "MASTER_ADDR": "no-such-host.invalid", "LOCAL_RANK": "0"},
            {"RANK": "0", "MASTER_PORT": free_port(), **agent},
        ):
            answers: Queue[str] = FORK.Queue()
            process = start(1, answers, **variables)
            error = answers.get(timeout=30)
            process.join(timeout=30)
            assert process.exitcode == 0 and "\n" not in error
            assert f"RANK={variables['RANK']} and WORLD_SIZE=2: this process was to meet the others at" in error
            assert "left over from a job" in error


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "n" * 300])
def test_a_host_that_is_not_known_is_one_line(host: str, capfd: pytest.CaptureFixture[str]) -> None:
    for rank in "01":
        answers: Queue[str] = FORK.Queue()
        process = start(1, answers, RANK=rank, MASTER_PORT=free_port(), MASTER_ADDR=host, LOCAL_RANK="0")
        assert "was to meet the others at" in answers.get(timeout=30)
        process.join(timeout=30)
    assert "Exception" not in capfd.readouterr().err  # torch's, with a trace of C++


def test_processes_that_come_late_meet() -> None:
    answers: Queue[str] = FORK.Queue()
    port = free_port()
    processes = [start(30, answers, RANK="1", MASTER_PORT=port)]
    time.sleep(0.5)
    processes.append(start(30, answers, RANK="0", MASTER_PORT=port))
    assert [answers.get(timeout=30) for _ in processes] == ["2", "2"]
    for process in processes:
        process.join()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_process_that_waits_heeds_sigterm(rank: str) -> None:
    process = start(60, FORK.Queue(), RANK=rank, MASTER_PORT=free_port())
    time.sleep(1)
    process.terminate()
    process.join(timeout=10)
    assert process.exitcode == 3


@pytest.mark.parametrize("variables", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}])
def test_a_left_over_world_size_is_refused_at_once(variables: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, *command(REPOSITORY, "lumbar-tiny", "x")],
        cwd=REPOSITORY,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert "WORLD_SIZE=2, but" in done.stderr and "unset them" in done.stderr
