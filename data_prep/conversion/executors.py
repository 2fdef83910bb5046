"""Executors of the conversion: this process, processes of this machine, or a Dask cluster.

All three are `concurrent.futures.Executor`s. A `Pool` maps a function over items with any of them, in
the items' order, with a bounded queue and one progress bar.
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
from workspace.setting_error import SettingError

#: Queued chunks per worker: enough that no worker waits, few enough that little memory is used.
QUEUE_PER_WORKER = 3
#: Weight of a chunk, in slices: sending a chunk takes a millisecond, converting a slice some three.
CHUNK_WEIGHT = 32
#: Smallest number of queued chunks on a Dask cluster: an adaptive cluster grows by the length of its queue.
DASK_QUEUE = 64
#: Timeout for a Dask scheduler's answer, in seconds.
DASK_TIMEOUT = 5
#: Seconds between two updates of the progress bar if stderr is not a terminal, as in a batch job's log.
LOG_INTERVAL = 15.0

Item = TypeVar("Item")
Result = TypeVar("Result")


class InProcessExecutor(Executor):
    """Executor that runs each submitted call immediately, in the calling thread."""

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        future: Future[Result] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class _SpawnedExecutor(ProcessPoolExecutor):
    """Executor of spawned processes that do not receive Ctrl-C and that end with their parent, however it ends.

    The processes are spawned, because forking a process with threads (tqdm's, BLAS's) may hang.
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
    """Exit when the parent has ended, even by SIGKILL: otherwise a worker would wait for its next task forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass(frozen=True)
class Pool:
    """An executor, its present number of workers, and the number of chunks that may be queued."""

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
        """Yield the results of `work` in the order of `items`, with a progress bar.

        Args:
            work: The function; with an executor of processes it must be picklable.
            items: Its arguments.
            description: The label of the progress bar.
            name: Returns the name of an item for error messages.
            weight: Returns the weight of an item within a chunk (`CHUNK_WEIGHT`).
            done: Number of items that were finished before; the progress bar starts there.

        Raises:
            ChildProcessError: A worker was killed, or memory ran out.
            ConnectionError: The cluster is gone.
            Exception: Whatever `work` raises.
        """
        interval = 0.1 if sys.stderr.isatty() else LOG_INTERVAL
        total = done + len(items)
        waiting: deque[tuple[Sequence[Item], Future[list[Result]]]] = deque()
        with tqdm(total=total, initial=done, desc=description, unit="study", mininterval=interval) as bar:
            for chunk in _chunks(items, weight, most=len(items) // (4 * self.workers())):
                while len(waiting) >= self.queue():
                    yield from _oldest_results(waiting, name, self.workers(), bar)
                waiting.append((chunk, self._submit(partial(_each, work, chunk))))
            while waiting:
                yield from _oldest_results(waiting, name, self.workers(), bar)

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
    """Yield consecutive items in chunks of weight `CHUNK_WEIGHT`, or of `most` items."""
    chunk: list[Item] = []
    for item in items:
        chunk.append(item)
        if len(chunk) >= most or sum(map(weight, chunk)) >= CHUNK_WEIGHT:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _oldest_results(
    waiting: deque[tuple[Sequence[Item], Future[list[Result]]]],
    name: Callable[[Item], str],
    workers: int,
    bar: "tqdm[Any]",
) -> Iterator[Result]:
    """Wait for the oldest chunk, and yield its results."""
    chunk, future = waiting[0]
    try:
        results = future.result()
    except BrokenProcessPool:
        # Chunks are taken in order: the running ones are the oldest without a result.
        broken = [chunk for chunk, future in waiting if future.exception() is not None][:workers]
        raise ChildProcessError(_killed([name(item) for chunk in broken for item in chunk])) from None
    except MemoryError:
        raise ChildProcessError(f"out of memory at {_listed([name(item) for item in chunk])}") from None
    except CancelledError:
        raise ConnectionError("the Dask scheduler is gone, or it cancelled the work") from None
    except Exception as error:
        if type(error).__name__ == "KilledWorker":  # distributed's, which is not imported without Dask
            raise ChildProcessError(_killed([name(item) for item in chunk])) from None
        raise
    waiting.popleft()
    for result in results:
        yield result
        bar.update()
        stop_if_requested()


def _killed(names: Sequence[str]) -> str:
    at = _listed(names)
    return f"a worker process was killed at {at}; if memory ran out, use fewer workers"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names)}" if len(names) == 1 else f"one of {', '.join(names)}"


#: The pool of this process alone.
IN_PROCESS = Pool(InProcessExecutor(), workers=lambda: 1, queue=lambda: 1)


@contextmanager
def open_pool(workers: int, dask_scheduler: str | None = None) -> Iterator[Pool]:
    """Open a pool of `workers` processes (for 1, this process), or of the workers of a Dask cluster.

    Outstanding work is cancelled at once if the block raises. Raises SettingError if Dask is not installed, or if no
    Dask scheduler answers at the address.
    """
    if dask_scheduler is not None:
        with _dask_pool(dask_scheduler) as pool:
            yield pool
    elif workers == 1 or (executor := _executor(workers)) is None:
        yield IN_PROCESS
    else:
        with _process_pool(executor, workers) as pool:
            yield pool


def _executor(workers: int) -> _SpawnedExecutor | None:
    """Return an executor, or None if its processes cannot share locks, which lie in shared memory; this is said."""
    try:
        return _SpawnedExecutor(workers)
    except OSError as error:
        print(
            f"{workers} workers cannot share locks in /dev/shm ({error.strerror}): this process works alone; "
            "free shared memory, or allow more of it (docker --shm-size), to work with several",
            file=sys.stderr,
            flush=True,
        )
        return None


@contextmanager
def _process_pool(executor: _SpawnedExecutor, workers: int) -> Iterator[Pool]:
    # One thread per process, for libraries that read this variable when they are loaded.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    others = set(multiprocessing.active_children())
    try:
        yield Pool(executor, workers=lambda: workers, queue=lambda: QUEUE_PER_WORKER * workers)
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            # They write files by rename, so no file is left unfinished. SIGTERM would not end one that is suspended.
            process.kill()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def _dask_pool(address: str) -> Iterator[Pool]:
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise SettingError(
            "dask_scheduler", f"{address!r}: Dask is not installed; install it with pip install distributed"
        ) from None
    # Dask's loggers, each with a level of its own, would repeat the exceptions at length.
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("distributed")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        kind = asyncio.run(_dask_kind(address))
    except Exception as error:  # another program at this address may answer anything
        problem = " ".join(str(error).split()) or type(error).__name__
        raise SettingError(
            "dask_scheduler",
            f"{address!r}: no scheduler answers there ({problem}); "
            "give the address of a running one, such as tcp://10.0.0.1:8786",
        ) from None
    if kind != "Scheduler":
        raise SettingError("dask_scheduler", f"{address!r}: a Dask {kind.lower()} answers there, not a scheduler")

    with Client(address, timeout=DASK_TIMEOUT, set_as_default=False) as client:

        def threads() -> int:
            return max(1, sum(client.nthreads().values()))

        if not client.nthreads():
            print(f"{address}: the scheduler has no worker yet; waiting for the first one", flush=True)
        queue = partial(_dask_queue, threads)
        yield Pool(client.get_executor(pure=False), workers=threads, queue=queue)


def _dask_queue(threads: Callable[[], int]) -> int:
    return max(DASK_QUEUE, QUEUE_PER_WORKER * threads())


async def _dask_kind(address: str) -> str:
    """Return the type of the Dask process at an address: ``Scheduler``, ``Worker`` or ``Nanny``."""
    from distributed.core import rpc

    async with rpc(address, timeout=DASK_TIMEOUT) as there:
        identity = await asyncio.wait_for(there.identity(), DASK_TIMEOUT)
    return str(identity["type"])
