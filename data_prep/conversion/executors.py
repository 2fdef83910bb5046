"""Where work is done: in this process, in processes of this machine, or on a Dask cluster.

All three are `concurrent.futures.Executor`s; a `Pool` maps a function over items with any of them, in
the items' order, with a bounded queue and one bar of progress.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from tqdm import tqdm

from workspace.interrupts import held, stop_if_requested

#: Chunks given to each worker beforehand: enough that none waits, few enough that hardly anything is held in memory.
QUEUE_PER_WORKER = 3
#: Items are chunked until they weigh this much: sending a chunk costs a millisecond, a slice takes some three.
CHUNK_WEIGHT = 32
#: Chunks that a Dask scheduler has at least, so that an adaptive cluster sees a reason to grow.
DASK_QUEUE = 64
#: Seconds to wait for a Dask scheduler's answer.
DASK_TIMEOUT = 5
#: Seconds between two lines of progress where nobody sees a bar move, as in a batch job's log.
LOG_INTERVAL = 15.0

Item = TypeVar("Item")
Result = TypeVar("Result")


class HereExecutor(Executor):
    """Runs what is submitted at once, in this thread."""

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        future: Future[Result] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class _SpawnedExecutor(ProcessPoolExecutor):
    """Processes that a Ctrl-C does not reach, and that end with their parent, however it ends.

    They are spawned, because forking a process that has threads (tqdm's, BLAS's) may hang.
    """

    def __init__(self, workers: int) -> None:
        super().__init__(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent)

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        # The first calls start the processes; one whose start is broken off half way prints a traceback.
        with held(), _ctrl_c_blocked():
            return super().submit(fn, *args, **kwargs)


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Let processes that start in this block inherit a blocked Ctrl-C.

    Blocking alone does not hold it back from this process, where another thread may receive it.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _end_with_parent() -> None:
    """Leave when the parent has gone, even by SIGKILL: a worker would wait for its next task for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass(frozen=True)
class Pool:
    """An executor and how much may be given to it: `queue()` chunks beforehand, to `workers()` that work at once."""

    executor: Executor
    workers: Callable[[], int]
    queue: Callable[[], int]

    def map(
        self,
        work: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        description: str,
        name: Callable[[Item], str],
        weight: Callable[[Item], int],
        done: int = 0,
    ) -> Iterator[Result]:
        """Results in the order of `items`. The bar counts on from `done` items that needed no work.

        name: what an item is called if it must be spoken of; weight: of an item within a chunk.
        Raises ChildProcessError where a worker was killed, ConnectionError where the cluster went away, and what
        `work` raises.
        """
        interval = 0.1 if sys.stderr.isatty() else LOG_INTERVAL
        total = done + len(items)
        waiting: deque[tuple[Sequence[Item], Future[list[Result]]]] = deque()
        with tqdm(total=total, initial=done, desc=description, unit="study", mininterval=interval) as bar:
            for chunk in _chunks(items, weight, most=len(items) // (4 * self.workers())):
                while len(waiting) >= self.queue():
                    yield from _results(waiting, name, self.workers(), bar)
                waiting.append((chunk, self._submit(partial(_each, work, chunk))))
            while waiting:
                yield from _results(waiting, name, self.workers(), bar)

    def _submit(self, work: Callable[[], list[Result]]) -> Future[list[Result]]:
        try:
            return self.executor.submit(work)
        except BrokenProcessPool as error:  # a worker died since the last submission
            future: Future[list[Result]] = Future()
            future.set_exception(error)
            return future


def _each(work: Callable[[Item], Result], chunk: Sequence[Item]) -> list[Result]:
    return [work(item) for item in chunk]


def _chunks(items: Sequence[Item], weight: Callable[[Item], int], most: int) -> Iterator[Sequence[Item]]:
    """Consecutive items that weigh `CHUNK_WEIGHT` or are `most` in number."""
    chunk: list[Item] = []
    for item in items:
        chunk.append(item)
        if len(chunk) >= most or sum(map(weight, chunk)) >= CHUNK_WEIGHT:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _results(
    waiting: deque[tuple[Sequence[Item], Future[list[Result]]]],
    name: Callable[[Item], str],
    workers: int,
    bar: "tqdm[Any]",
) -> Iterator[Result]:
    """Those of the oldest chunk, when it is done."""
    chunk, future = waiting[0]
    try:
        results = future.result()
    except BrokenProcessPool:
        # Chunks are taken in order: those in work are the oldest that have no result.
        broken = [chunk for chunk, future in waiting if future.exception() is not None][:workers]
        raise ChildProcessError(_killed([name(item) for chunk in broken for item in chunk])) from None
    except MemoryError:
        raise ChildProcessError(f"out of memory at {_listed([name(item) for item in chunk])}") from None
    except CancelledError:
        raise ConnectionError("the Dask scheduler went away, or cancelled the work") from None
    except Exception as error:
        if type(error).__name__ == "KilledWorker":  # distributed's: not imported where nobody asked for Dask
            raise ChildProcessError(_killed([name(item) for item in chunk])) from None
        raise
    waiting.popleft()
    for result in results:
        yield result
        bar.update()
        stop_if_requested()


def _killed(names: Sequence[str]) -> str:
    at = _listed(names)
    return f"a worker process was killed at {at}; if memory ran out, fewer --workers need less of it"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names)}" if len(names) == 1 else f"one of {', '.join(names)}"


#: This process alone.
HERE = Pool(HereExecutor(), workers=lambda: 1, queue=lambda: 1)


@contextmanager
def open_pool(workers: int, dask_scheduler: str | None = None) -> Iterator[Pool]:
    """A pool of `workers` processes (this one, where that is 1), or of a Dask cluster's workers.

    Work that is left when the block fails is given up at once. Raises ValueError where Dask is not installed or its
    address is none, OSError where nobody answers there.
    """
    if dask_scheduler is not None:
        with _dask_pool(dask_scheduler) as pool:
            yield pool
    elif workers == 1:
        yield HERE
    else:
        with _process_pool(workers) as pool:
            yield pool


@contextmanager
def _process_pool(workers: int) -> Iterator[Pool]:
    # One thread a process, for the libraries that heed this when they are loaded: more would only get in the way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    others = set(multiprocessing.active_children())
    executor = _SpawnedExecutor(workers)
    try:
        yield Pool(executor, workers=lambda: workers, queue=lambda: QUEUE_PER_WORKER * workers)
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()  # what they write appears by rename, so nothing is left half done
        raise
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def _dask_pool(address: str) -> Iterator[Pool]:
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise ValueError("--dask-scheduler needs Dask: pip install distributed") from None
    # What goes wrong is said by the exceptions; Dask's logs, each with a level of its own, say it again at length.
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("distributed")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        kind = asyncio.run(_dask_kind(address))
    except Exception as error:  # whatever listens there may answer anything, and Dask reads it as its own
        problem = " ".join(str(error).split()) or type(error).__name__
        raise ConnectionError(f"--dask-scheduler {address!r}: no scheduler answers there ({problem})") from None
    if kind != "Scheduler":
        raise ConnectionError(f"--dask-scheduler {address!r}: a Dask {kind.lower()}, not a scheduler, answers there")

    with Client(address, timeout=DASK_TIMEOUT, set_as_default=False) as client:

        def threads() -> int:
            return max(1, sum(client.nthreads().values()))

        if not client.nthreads():
            print(f"{address}: no worker has come yet; the work waits for the first", flush=True)
        queue = partial(_dask_queue, threads)
        yield Pool(client.get_executor(pure=False), workers=threads, queue=queue)


def _dask_queue(threads: Callable[[], int]) -> int:
    return max(DASK_QUEUE, QUEUE_PER_WORKER * threads())


async def _dask_kind(address: str) -> str:
    """What says that it is at an address: ``Scheduler``, ``Worker`` or ``Nanny``."""
    from distributed.core import rpc

    async with rpc(address, timeout=DASK_TIMEOUT) as there:
        identity = await asyncio.wait_for(there.identity(), DASK_TIMEOUT)
    return str(identity["type"])
