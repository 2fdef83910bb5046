"""Loaders whose workers hang, die, fail or have no shared memory: each wait ends in seconds, the order stays."""

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from runs.loading import LostWorker, WaitEnded, load_in_order

REPOSITORY = Path(__file__).parents[2]
#: A mount namespace of its own, in which the words are run after these lines.
IN_NAMESPACE = ("unshare", "--mount", "sh", "-c")


@dataclass
class Items:
    """Items of 2 MB; loading item `bad` fails in a way that is chosen by name."""

    fault: str = ""
    bad: int = 5

    def __getitem__(self, index: int) -> dict[str, object]:
        if index == self.bad and self.fault:
            _fail(self.fault)
        array = np.full((2_000_000,), index % 256, dtype=np.uint8)
        return {"index": torch.tensor(index), "tiles": torch.from_numpy(array), "none": torch.zeros(0, 3), "name": "x"}


class LargeItems:
    """Items of 512 MiB behind a first small one; they need no memory where they come from."""

    def __getitem__(self, index: int) -> np.ndarray:
        if not index:
            time.sleep(0.5)  # the large ones are not on their way yet
        return np.zeros(2**29 if index else 1, dtype=np.uint8)


def _fail(fault: str) -> None:
    if fault == "sleep":
        time.sleep(1000)
    elif fault == "raise":
        raise KeyError("no such row")
    elif fault == "memory":
        raise MemoryError
    elif fault == "exit":
        os._exit(3)
    else:
        os.kill(os.getpid(), getattr(signal, fault))


def after(seconds: float):  # type: ignore[no-untyped-def]
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("indices", [range(0), range(4, 5), range(7, 20)])
def test_the_order_does_not_depend_on_the_workers(workers: int, indices: range) -> None:
    loaded = list(load_in_order(Items(), indices, workers))
    assert [item["index"].item() for item in loaded] == list(indices)
    assert all((item["tiles"] == index % 256).all() for item, index in zip(loaded, indices, strict=True))
    assert all(item["none"].shape == (0, 3) and item["name"] == "x" for item in loaded)
    assert not active_children()


@pytest.mark.parametrize("fault", ["sleep", "SIGSTOP"])
def test_a_wait_for_a_hung_worker_can_be_ended(fault: str) -> None:
    began, seen = time.monotonic(), 0
    with closing(load_in_order(Items(fault), range(20), 2, should_end=after(1))) as items, pytest.raises(WaitEnded):
        for _ in items:
            seen += 1
    assert seen == 5 and time.monotonic() - began < 10
    assert not active_children()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("SIGKILL", "was killed by SIGKILL; if memory ran out, use fewer --dataloader_num_workers"),
        ("SIGBUS", "was killed by SIGBUS: a file that it read was cut short"),
        ("SIGUSR1", "was killed by SIGUSR1; use fewer --dataloader_num_workers"),
        ("exit", "ended unexpectedly, with status 3"),
        ("memory", "ran out of memory; use fewer --dataloader_num_workers"),
    ],
)
def test_a_lost_worker_is_one_line(fault: str, words: str) -> None:
    began = time.monotonic()
    with pytest.raises(LostWorker, match="loader worker 2 of 2") as caught:
        list(load_in_order(Items(fault), range(20), 2))
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert time.monotonic() - began < 10 and not active_children()


def test_an_item_for_which_the_memory_does_not_suffice_is_one_line() -> None:
    """The limit holds for the training process only: the workers have been started before."""
    loaded = load_in_order(LargeItems(), range(8), 1, should_end=after(20))
    with closing(loaded) as items:
        next(items)
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 2**28, limits[1]))
        try:
            with pytest.raises(LostWorker, match="memory ran out for an item of loader worker 1 of 1; use fewer"):
                list(items)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
    assert not active_children()


def test_the_error_of_an_item_is_raised_in_its_turn() -> None:
    seen = []
    with pytest.raises(KeyError, match="no such row"):
        for item in load_in_order(Items("raise"), range(20), 2):
            seen.append(item["index"].item())
    assert seen == [0, 1, 2, 3, 4]


def test_a_worker_that_stops_in_the_middle_of_a_message_does_not_block() -> None:
    """Messages are larger than the buffers of a socket, so the workers are always in the middle of one."""
    with closing(load_in_order(Items(), range(200), 2, ahead=40, should_end=after(3))) as items:
        next(items)
        for worker in active_children():
            os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(WaitEnded):
            list(items)
    assert not active_children()


LOAD = """
import sys
from tests.runs.test_loading import Items
from runs.loading import load_in_order
print(sum(item["index"].item() for item in load_in_order(Items(), range(12), 2)), flush=True)
"""


@pytest.mark.parametrize(
    "mount",
    ["-t tmpfs -o ro tmpfs", "-t tmpfs -o size=1m,nr_inodes=2 tmpfs"],
)
def test_no_shared_memory_is_needed(mount: str) -> None:
    permitted = subprocess.run([*IN_NAMESPACE, "mount -t tmpfs tmpfs /dev/shm"], capture_output=True, check=False)
    if permitted.returncode:
        pytest.skip("mounting another /dev/shm needs root and unshare")
    shell = f'mount {mount} /dev/shm && exec "$@"'
    words = [*IN_NAMESPACE, shell, "sh", sys.executable, "-c", LOAD]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"{sum(range(12))}\n"), done.stderr


def test_workers_end_when_the_training_process_is_killed() -> None:
    code = LOAD.replace("range(12), 2)", "range(100000), 2)")
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY) as process:
        parent = psutil.Process(process.pid)
        # An import may start a program for a moment: a single child need not be a worker.
        while len(parent.children()) < 2 and process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.3)
        workers = parent.children()
        process.kill()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert len(workers) >= 2 and not alive
