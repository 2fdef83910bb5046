"""Signals that end a command: Ctrl-C (SIGINT) and SIGTERM. Neither is ever lost, whenever it comes and however often.

A signal handler in Python raises its exception in whatever code the main thread is executing. Python drops an
exception that leaves a destructor or a callback of a weak reference or of the garbage collector, and a bare ``except``
drops it as well. Therefore this module counts its exceptions: if all of them are deleted and none has ended the
command, the signal is sent again. While a module is imported, no exception is raised: it would abort the process if the
module is C++ that calls Python, as torch's is. The signal is sent again until the import is done.

This module imports only the standard library: a script calls `end_at_ctrl_c` before the imports that take time.
"""

import _thread
import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from types import FrameType
from typing import Any

#: Seconds within which further signals count as the first one, so that they do not break off the cleanup after it.
PATIENCE = 5.0
#: Seconds until a lost signal is sent again: after the first loss, doubled by each further one, and at most.
FIRST_DELAY, LONGEST_DELAY = 0.01, 1.0
#: Seconds until a signal that came during an import is sent again, and after which it breaks the import off.
IMPORT_DELAY, LONGEST_IMPORT = 0.1, 5.0
#: The number of processes, as torch's launchers and those of mpirun give it (`runs.processes.world`).
_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


class _Stop(BaseException):
    """The common part of `Interrupted` and `Terminated`, which counts the exceptions that exist."""

    def __init__(self, command: "_Command", *arguments: object) -> None:
        command.exceptions += 1  # first: from here on a further signal counts as the same one
        self._command = command
        super().__init__(*arguments)

    def __del__(self) -> None:
        self._command.exceptions -= 1
        self._command.send_again_if_lost()


class Interrupted(_Stop, KeyboardInterrupt):
    """Ctrl-C."""


class Terminated(_Stop, SystemExit):
    """SIGTERM."""


class _Command:
    """The command that this process runs, and the signal that is to end it."""

    def __init__(self) -> None:
        self.stopped_by: int | None = None
        self.is_over = False
        #: The number of exceptions raised by the handler that still exist: propagating, being handled, or stored.
        self.exceptions = 0
        self._process = os.getpid()
        self._raised_at = -PATIENCE
        self._delay = FIRST_DELAY
        self._postponed_at: float | None = None

    def listen(self) -> None:
        """Install the handlers. An ignored Ctrl-C, as of a shell's background job, stays ignored.

        One of several processes of a launcher keeps the default action of SIGTERM, which ends it even while it waits
        for another one; so do forked processes.
        """
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._handle)
            # A process that ends restores the default action, which would give it another exit status.
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
        if not _is_one_of_several():
            signal.signal(signal.SIGTERM, self._handle)
            _reset_sigterm_in_forks()

    def silence_unraisable(self) -> None:
        """Print nothing about exceptions that Python drops once the command is to stop.

        A signal's exception comes again, and half-made objects, such as a progress bar, may fail when they are deleted.
        """
        previous = sys.unraisablehook
        sys.unraisablehook = lambda dropped: None if self.stopped_by is not None else previous(dropped)

    def end(self) -> None:
        """Send no signal again from here on, and ignore further ones for `PATIENCE` seconds: the process is ending."""
        self._raised_at = time.monotonic()
        self.is_over = True

    def raise_(self, number: int) -> None:
        """Raise the exception of a signal. No variable refers to it, so that it is deleted as soon as it is dropped."""
        self._raised_at = time.monotonic()
        self.stopped_by = number
        if number == signal.SIGINT:
            raise Interrupted(self)
        raise Terminated(self, 128 + number)

    def send_again_if_lost(self) -> None:
        """Send the signal again if no exception of it is left, after a delay in which the code that dropped it ends."""
        if self.exceptions or self.is_over or self.stopped_by is None or self._process != os.getpid():
            return
        delay, self._delay = self._delay, min(2 * self._delay, LONGEST_DELAY)
        with suppress(RuntimeError):  # If no thread can be started, `exit_status` still ends the command as stopped.
            _thread.start_new_thread(self._send_again, (self.stopped_by, delay))

    def _send_again(self, number: int, delay: float) -> None:
        time.sleep(delay)
        main = threading.main_thread().ident
        # `noted` may have taken the signal over meanwhile.
        if main is not None and not self.is_over and self.stopped_by is not None:
            signal.pthread_kill(main, number)  # to this thread, so that a system call in which it waits ends

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_same = self.exceptions or self.is_over
        if is_same and time.monotonic() - self._raised_at < PATIENCE:
            return
        if not (_is_importing(frame) and self._postpone(number)):
            self.raise_(number)

    def _postpone(self, number: int) -> bool:
        """Send the signal again later; return False if it has been postponed for long enough."""
        now = time.monotonic()
        self._postponed_at = self._postponed_at or now
        if now - self._postponed_at >= LONGEST_IMPORT:
            return False
        self.stopped_by = number
        with suppress(RuntimeError):  # If no thread can be started, `exit_status` still ends the command as stopped.
            _thread.start_new_thread(self._send_again, (number, IMPORT_DELAY))
        return True


def _is_importing(frame: FrameType | None) -> bool:
    """Return whether the code of a frame, or code that called it, imports a module."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _is_one_of_several() -> bool:
    """Return whether a launcher started several processes; a rank that a job left in the shell does not say so."""
    return any(os.environ.get(name, "").strip() not in ("", "-1", "0", "1") for name in _SIZES)


@cache
def _reset_sigterm_in_forks() -> None:
    """Give forked processes the default action of SIGTERM, except while `noted` or `held` handles it.

    Until that is done it is blocked, because Python forgets a signal that comes between the fork and its own hooks.
    """

    def reset() -> None:
        if signal.getsignal(signal.SIGTERM) == _command._handle:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM}),
        after_in_child=reset,
    )


#: The latest command of this process; tests run several.
_command = _Command()


def end_at_ctrl_c() -> None:
    """Let Ctrl-C end the process without a traceback, by the signal's default action; if it is ignored, it stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def exit_status(prog: str, work: Callable[[], int]) -> int:
    """Return what `work` returns, or 128 plus the signal's number if Ctrl-C or SIGTERM came meanwhile.

    SIGTERM and Ctrl-C raise an exception in `work`, so that every ``finally`` runs and no half-written file stays. All
    that `work` raises or returns after such a signal is taken for its consequence, unless $LUMBAR_TRACEBACK is set.
    Ctrl-C is reported in one line, with the arguments of the KeyboardInterrupt that arrives here.
    """
    global _command
    command = _command = _Command()
    hint: tuple[object, ...] = ()
    try:
        try:
            command.silence_unraisable()
            command.listen()
            status = work()
        finally:
            command.end()
    except BaseException as error:
        command.end()  # The signal may have come just before the first call.
        if isinstance(error, KeyboardInterrupt):
            command.stopped_by, hint = signal.SIGINT, error.args
        elif command.stopped_by is None or (isinstance(error, Exception) and os.environ.get("LUMBAR_TRACEBACK")):
            raise
    if command.stopped_by is None:
        return status
    if command.stopped_by == signal.SIGINT:
        print(f"{prog}: {'; '.join(['interrupted', *map(str, hint)])}", file=sys.stderr, flush=True)
    return 128 + command.stopped_by


def is_requested() -> bool:
    """Return whether Ctrl-C or SIGTERM has come and the command has not ended yet."""
    return _command.stopped_by is not None and not _command.is_over


def stop_if_requested() -> None:
    """Raise the exception of a signal once more if one has come; long loops call this after each item.

    It is for an exception that was caught and kept, as by a `concurrent.futures.Future`: as long as it exists, the
    signal is not sent again.
    """
    if _command.stopped_by is not None and not _command.is_over:
        _command.raise_(_command.stopped_by)


@contextmanager
def noted(number: int, note: Callable[[], None]) -> Iterator[None]:
    """Call `note` for a signal while the block runs, and raise nothing; also for one that was lost just before."""
    previous = signal.signal(number, lambda *_: note())
    if is_requested() and _command.stopped_by == number and not _command.exceptions:
        _command.stopped_by = None
        note()
    try:
        yield
    finally:
        signal.signal(number, previous)


@contextmanager
def held() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back while the block runs, and send those that came to this process at its end.

    Outside the main thread the block just runs: handlers are called in the main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        came.append(number)

    previous: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, keep)
        yield
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
        for each in came:
            signal.raise_signal(each)
