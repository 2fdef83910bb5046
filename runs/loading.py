"""Load the items of a data set in order, by worker processes, in a wait that can be ended at any time.

torch's DataLoader waits for its workers without an end in some cases: if shared memory is full (Docker gives /dev/shm
64 MB), a worker loses the item and goes on; if a worker stops in the middle of a message, the training process waits
for the rest of it. Here each worker has its own socket, which needs no shared memory, and a thread that reads it. The
training process itself only waits at a queue, and looks several times per second whether it should stop and whether
all workers are alive.

Worker w loads every W-th item. Items depend on their index alone, so their number and order do not depend on W.
"""

import multiprocessing
import pickle
import signal
import socket
import struct
import threading
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from multiprocessing.process import BaseProcess
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from runs.preemption import leave_signals_to_the_parent

#: Seconds between two looks at the requests to stop, while no item comes.
POLL_SECONDS = 0.25
#: Seconds after which a worker that was killed counts as gone, even if the system has not removed it.
PATIENCE_AT_END = 5.0
#: Items that each worker may load ahead.
AHEAD_PER_WORKER = 2
_LENGTH = struct.Struct("<Q")

Item = TypeVar("Item", covariant=True)


class Indexed(Protocol[Item]):
    """A data set: items by index."""

    def __getitem__(self, index: int, /) -> Item: ...


class LostWorker(ChildProcessError):
    """A worker ended, could not be started, or ran out of memory. The message has the cause and a remedy."""


class WaitEnded(Exception):
    """The run was asked to stop while it waited for an item."""


def load_in_order(
    data: Indexed[Item],
    indices: range,
    workers: int,
    *,
    ahead: int = 0,
    should_end: Callable[[], bool] = lambda: False,
) -> Generator[Item]:
    """Yield the items at `indices`, in order. Closing the generator ends the workers.

    Args:
        data: the items. The item at an index must depend on the index alone.
        indices: the indices of the items.
        workers: the number of processes; 0: this process loads each item when it is needed.
        ahead: the number of items that are loaded ahead, if that is more than `AHEAD_PER_WORKER` per worker.
        should_end: whether to end a wait; it is called several times per second while one lasts.

    Raises:
        WaitEnded: `should_end` returned true while an item was awaited.
        LostWorker: a worker is gone.
        Exception: whatever `data` raised, also in a worker.
    """
    if not workers:
        for index in indices:
            yield data[index]
        return
    crew = _Crew(data, min(workers, max(1, len(indices))), should_end)
    try:
        yield from crew.load(indices, max(ahead, AHEAD_PER_WORKER * workers))
    finally:
        crew.close()


@dataclass
class _Worker:
    """One worker process, and this process's end of its socket."""

    process: BaseProcess
    socket: socket.socket
    reader: threading.Thread | None = None


@dataclass
class _Crew:
    """The workers of one loader."""

    data: Indexed[Any]
    count: int
    should_end: Callable[[], bool]
    workers: list[_Worker] = field(default_factory=list)
    #: (worker, message) in the order of arrival; no message: none will come, see `_why_lost`.
    arrivals: "SimpleQueue[tuple[int, list[bytearray] | None]]" = field(default_factory=SimpleQueue)
    is_out_of_memory: bool = False

    def load(self, indices: range, ahead: int) -> Generator[Any]:
        self._start()
        arrived: list[list[Any]] = [[] for _ in self.workers]
        sent = 0
        for done in range(len(indices)):
            for number in range(sent, min(len(indices), done + ahead)):
                self._request(number % self.count, indices[number])
                sent = number + 1
            own = arrived[done % self.count]
            while not own:
                worker, message = self._next_arrival()
                arrived[worker].append(message)
            yield _opened(own.pop(0), done % self.count, self.count)

    def _start(self) -> None:
        context = multiprocessing.get_context()
        is_fork = context.get_start_method() == "fork"
        for number in range(self.count):
            try:
                ours, theirs = socket.socketpair()
                # A forked worker has copies of this process's ends, which would keep the sockets open after its end.
                others = [worker.socket for worker in self.workers] + [ours] if is_fork else []
                process = context.Process(target=_work, args=(self.data, theirs, others), daemon=True)
                with theirs:
                    process.start()
            except OSError as error:
                raise LostWorker(
                    f"loader worker {number + 1} of {self.count} could not be started ({error.strerror}): {_FEWER}"
                ) from None
            worker = _Worker(process, ours)
            self.workers.append(worker)
            worker.reader = threading.Thread(target=self._read, args=(number,), daemon=True)
            worker.reader.start()

    def _request(self, worker: int, index: int) -> None:
        with suppress(OSError):  # A worker that is gone closes its socket, which the wait for its items notices.
            self.workers[worker].socket.sendall(_LENGTH.pack(index))

    def _read(self, number: int) -> None:
        """Read the messages of one worker, in a thread of its own, until its socket is closed."""
        try:
            while True:
                self.arrivals.put((number, _receive(self.workers[number].socket)))
        except MemoryError:
            self.is_out_of_memory = True
        except (OSError, EOFError):  # the worker is gone, or the loader is closed
            pass
        self.arrivals.put((number, None))

    def _next_arrival(self) -> tuple[int, list[bytearray]]:
        while True:
            try:
                worker, message = self.arrivals.get(timeout=POLL_SECONDS)
            except Empty:
                if self.should_end():
                    raise WaitEnded from None
                continue
            if message is None:
                raise LostWorker(self._why_lost(worker))
            return worker, message

    def _why_lost(self, number: int) -> str:
        if self.is_out_of_memory:
            return f"memory ran out for an item of loader worker {number + 1} of {self.count}; {_FEWER}"
        process = self.workers[number].process
        process.join(PATIENCE_AT_END)
        return f"loader worker {number + 1} of {self.count} {_end_in_words(process.exitcode)}"

    def close(self) -> None:
        """End the workers, whatever they do: they write nothing. Processes that were stopped end as well."""
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.join(PATIENCE_AT_END)
            with suppress(OSError):
                worker.socket.shutdown(socket.SHUT_RDWR)  # ends the wait of the reader
            if worker.reader is not None:
                worker.reader.join(PATIENCE_AT_END)
            worker.socket.close()


_FEWER = "use fewer --dataloader_num_workers (0 loads in the training process)"


def _end_in_words(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else f"signal {-exit_code}"
        causes: dict[int, str] = {
            signal.SIGKILL: f"; if memory ran out, {_FEWER}",
            signal.SIGBUS: ": a file that it read was cut short, or memory ran out; check the disk and crops.npy",
        }
        return f"was killed by {name}{causes.get(-exit_code, f'; {_FEWER}')}"
    return f"ended unexpectedly, with status {exit_code}; {_FEWER}"


def _work(data: Indexed[Any], connection: socket.socket, others: Sequence[socket.socket]) -> None:
    """Load the items that this process is asked for, until the socket is closed."""
    for other in others:
        other.close()
    leave_signals_to_the_parent(0)
    torch.set_num_threads(1)
    with suppress(OSError, EOFError):
        while True:
            (index,) = _LENGTH.unpack(_receive_bytes(connection, _LENGTH.size))
            _send(connection, _loaded(data, index))


def _loaded(data: Indexed[Any], index: int) -> list[Any]:
    """Return the message with an item, or with the error that loading it raised."""
    try:
        return _packed((True, data[index], ""))
    except Exception as error:
        where = traceback.format_exc()
        try:
            message = _packed((False, error, where))
            pickle.loads(message[0], buffers=message[1:])
            return message
        except Exception:  # an exception that cannot be pickled
            return _packed((False, RuntimeError(f"{type(error).__name__}: {error}"), where))


def _opened(message: list[bytearray], worker: int, count: int) -> Any:
    """Return a message's item, or raise its error."""
    is_item, content, where = pickle.loads(message[0], buffers=message[1:])
    if is_item:
        return content
    if isinstance(content, MemoryError):
        raise LostWorker(f"loader worker {worker + 1} of {count} ran out of memory; {_FEWER}")
    content.add_note(f"in a loader worker: {where}")
    raise content


class _Pickler(pickle.Pickler):
    """Pickles tensors as arrays, whose values are sent from where they lie."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is Tensor and value.device.type == "cpu" and value.layout is torch.strided:
            with suppress(TypeError):  # a type that numpy does not have, such as bfloat16
                return torch.from_numpy, (value.detach().contiguous().numpy(),)
        return NotImplemented


def _packed(value: Any) -> list[Any]:
    buffers: list[pickle.PickleBuffer] = []
    stream = BytesIO()
    _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(value)
    return [stream.getbuffer(), *(buffer.raw() for buffer in buffers)]


def _send(connection: socket.socket, parts: Sequence[Any]) -> None:
    lengths = [len(parts), *(part.nbytes for part in parts)]
    connection.sendall(b"".join(map(_LENGTH.pack, lengths)))
    for part in parts:
        connection.sendall(part)


def _receive(connection: socket.socket) -> list[bytearray]:
    (count,) = _LENGTH.unpack(_receive_bytes(connection, _LENGTH.size))
    lengths = _LENGTH.iter_unpack(_receive_bytes(connection, count * _LENGTH.size))
    return [_receive_bytes(connection, length) for (length,) in lengths]


def _receive_bytes(connection: socket.socket, length: int) -> bytearray:
    """Return exactly that many bytes. Raises EOFError if the socket was closed before."""
    content = bytearray(length)
    rest = memoryview(content)
    while rest:
        received = connection.recv_into(rest)
        if not received:
            raise EOFError
        rest = rest[received:]
    return content
