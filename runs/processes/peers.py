"""The other processes of a run: what is said if one is lost, and the end of a wait for one that does not answer.

The processes exchange gradients and flags in every step. torch waits for an exchange in C++, where Python handles no
signal: a process whose peer hangs would notice SIGTERM, the file STOP and the end of the job only after hours. A thread
of this process notices them. If the process was asked to stop, and its exchange is not done some seconds later, the
thread ends it; nothing but the steps since the newest checkpoint is lost.
"""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import torch.distributed as dist

#: Seconds that an exchange may last after a request to stop. Launchers and Slurm kill the processes after 30 seconds.
PATIENCE = 10.0
#: The same while the first process writes a checkpoint, which the others wait for.
PATIENCE_WHILE_WRITING = 120.0
#: On a GPU a waiting process uses the CPU, so that a long step cannot be told from a hung one: a step may then last
#: this many times as long as the longest before it. A process on a CPU that computes is not waiting.
LONGEST_STEPS = 3.0
#: The share of a core that a process uses at most while it waits on a CPU.
IDLE_SHARE = 0.1
POLL_SECONDS = 0.5

_SIGNS_OF_A_LOST_PEER = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Timed out waiting")


class LostPeer(ConnectionError):
    """Another process of the run ended, or its machine cannot be reached."""


@contextmanager
def lost_peers_named(newest_checkpoint: Callable[[], str]) -> Iterator[None]:
    """Raise LostPeer in place of torch's error about a lost process, with what `newest_checkpoint` says."""
    try:
        yield
    except RuntimeError as error:
        if not _is_about_a_peer(error):
            raise
        raise LostPeer(
            "the connection to another process of the run was lost: it ended, or was killed (its own message, or that "
            f"of its machine, says why); {newest_checkpoint()}"
        ) from error


def _is_about_a_peer(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in _SIGNS_OF_A_LOST_PEER)


class Lookout:
    """A thread that ends this process if it waits in vain for another one after it was asked to stop.

    Args:
        find_request: returns what asks the run to stop, None if nothing does. It is called in the thread.
        give_up: ends the process; it takes what asked the run to stop. It is called in the thread.
        is_idle_when_waiting: whether a waiting process uses no CPU, as with gloo.
    """

    def __init__(
        self,
        find_request: Callable[[], str | None],
        give_up: Callable[[str], NoReturn],
        *,
        is_idle_when_waiting: bool,
    ) -> None:
        self._find_request = find_request
        self._give_up = give_up
        self._is_idle_when_waiting = is_idle_when_waiting
        self._patience = PATIENCE
        self._progressed_at = time.monotonic()
        self._longest = 0.0
        self._is_over = threading.Event()

    def progress(self) -> None:
        """Note that the process has just been in Python: it does not wait for anybody."""
        now = time.monotonic()
        self._longest = max(self._longest, now - self._progressed_at)
        self._progressed_at = now

    @contextmanager
    def patient(self) -> Iterator[None]:
        """While the block runs, one process writes and the others wait for it: be more patient."""
        self._patience = PATIENCE_WHILE_WRITING
        try:
            yield
        finally:
            self._progressed_at = time.monotonic()
            self._patience = PATIENCE

    @contextmanager
    def watching(self, note: Callable[[int], None]) -> Iterator[None]:
        """Watch while the block runs. `note` takes the signals that come, at once, in the thread."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        previous = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        self._progressed_at = time.monotonic()
        thread = threading.Thread(target=self._watch, args=(ours, note), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            signal.set_wakeup_fd(previous)
            thread.join()
            ours.close()
            theirs.close()

    def _watch(self, signals: socket.socket, note: Callable[[int], None]) -> None:
        signals.settimeout(POLL_SECONDS)
        requested_at = None
        used, busy_at = time.process_time(), time.monotonic()
        while not self._is_over.is_set():
            polled_at = time.monotonic()
            with suppress(TimeoutError):
                for number in signals.recv(64):
                    note(number)
            now, used_before, used = time.monotonic(), used, time.process_time()
            if used - used_before > IDLE_SHARE * (now - polled_at):
                busy_at = now
            request = self._find_request()
            if request is None:
                continue
            requested_at = requested_at or now
            since = max(requested_at, self._progressed_at, busy_at if self._is_idle_when_waiting else 0.0)
            longest = 0.0 if self._is_idle_when_waiting else LONGEST_STEPS * self._longest
            if now - since > max(self._patience, longest) and not self._is_over.is_set():
                self._give_up(request)
