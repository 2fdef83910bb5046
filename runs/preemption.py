"""Preemption: a job whose time runs out writes a checkpoint, ends early and is started again later.

Any of three things makes a run stop after the current step:

- a file ``STOP`` in the run's folder, created by the trap of a batch script (``#SBATCH --signal=B:USR1@300``) or by a
  person;
- SIGTERM to any of its processes; torchrun passes its own SIGTERM on to all of them, `accelerate launch` does not pass
  it on to a single process;
- the end of the Slurm job (`runs.job_clock`), as soon as it is less than a margin away.

The first process checks the file and the clock. The processes exchange what each has found, so that all of them stop
after the same step: every step communicates among all processes. Each loop over batches checks after every batch.

Waits heed the same three: a process that waits for its next batch looks at them itself and ends the wait, and one that
waits in vain for another process is ended (`runs.processes.peers`).
"""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from accelerate import Accelerator

from runs.job_clock import JobClock, end_of_job
from runs.processes.accelerators import true_in_any_process
from runs.processes.peers import Lookout
from runs.run_folder import STOP_FILE
from workspace.interrupts import noted

CLOCK = "the end of the Slurm job"
#: A start of a run takes a step even if the end of its job is near, unless the first batch takes longer than this.
SECONDS_FOR_FIRST_BATCH = 10.0


class Preemption:
    """Whether a run must stop early, and why."""

    def __init__(self, run: Path, margin: float, accelerator: Accelerator, clock: JobClock) -> None:
        """Args: the run's folder; the seconds to stop before the end of the job; the processes; the end of the job."""
        self._file = run / STOP_FILE
        self._accelerator = accelerator
        self._is_terminated = False
        self._margin = margin
        self._deadline = None if clock.end is None else clock.end - margin
        self.reason: str | None = None
        #: The error of this process that stops the run; the others only know that there is one.
        self.failure: ChildProcessError | None = None
        self._seen: set[str] = set()
        self._is_interrupted = False
        self._has_begun = False
        self._clock_counts_from = time.monotonic() + SECONDS_FOR_FIRST_BATCH
        self._lookout: Lookout | None = None

    def should_stop(self) -> bool:
        """Return whether to stop, the same in every process. Every process must call it. Once true it stays true."""
        if self.reason is None:
            if self._lookout:
                self._lookout.progress()
            found = self._found_here(self._accelerator.is_main_process)
            self._decide(found, true_in_any_process(self._accelerator, list(found.values())))
            self._has_begun = True
            if self._lookout:
                self._lookout.progress()
        return self.reason is not None

    def should_first_process_stop(self) -> bool:
        """Return whether to stop while only the first process works; no other process may call it."""
        found = self._found_here(True)
        self._decide(found, list(found.values()))
        return self.reason is not None

    def should_end_wait(self) -> bool:
        """Return whether this process should end its wait for a batch; then it has to call `should_stop`."""
        if self._lookout:
            self._lookout.progress()
        return self.reason is not None or any(self._found_here(True).values())

    def patient(self) -> AbstractContextManager[None]:
        """While the block runs, the first process writes and the others may wait for it."""
        return self._lookout.patient() if self._lookout else nullcontext()

    def _decide(self, found: dict[str, bool], found_anywhere: list[bool]) -> None:
        self.reason = next((name for name, is_so in zip(found, found_anywhere, strict=True) if is_so), self.reason)

    def _found_here(self, looks: bool) -> dict[str, bool]:
        """Return what asks the run to stop, as far as this process knows; `looks`: look at the file and the clock."""
        clock = self._has_begun or time.monotonic() >= self._clock_counts_from
        found = {
            "SIGTERM": self._is_terminated,
            f"the file {self._file.name}": looks and self._file.exists(),
            CLOCK: looks and clock and CLOCK not in self._seen and self._is_late(),
            "the loss of a loader worker": self.failure is not None,
        }
        self._seen |= {name for name, is_so in found.items() if is_so}
        return {name: name in self._seen for name in found}

    def _is_late(self) -> bool:
        """Return whether the deadline has come; Slurm is asked then, because the job may have been extended."""
        if self._deadline is None or time.time() < self._deadline:
            return False
        end = end_of_job()
        if end is not None and end - self._margin > max(time.time(), self._deadline + 1):
            self._deadline = end - self._margin
        return time.time() >= self._deadline

    @contextmanager
    def listening(self, give_up: Callable[[str], NoReturn]) -> Iterator[None]:
        """While the block runs, SIGTERM is noted and does not end the process.

        give_up: ends a process that was asked to stop and waits in vain for another one; it takes what asked it.
        """
        with noted(signal.SIGTERM, self._note):
            if self._accelerator.num_processes == 1:
                yield
                return
            is_idle = self._accelerator.device.type == "cpu"
            self._lookout = Lookout(self._request_here, give_up, is_idle_when_waiting=is_idle)
            with self._lookout.watching(self._note_in_thread):
                yield
            self._lookout = None

    def _request_here(self) -> str | None:
        """Return what asks this process to stop, if anything does."""
        if self._is_interrupted:
            return "Ctrl-C"
        return next((name for name, is_so in self._found_here(True).items() if is_so), self.reason)

    def _note(self) -> None:
        self._is_terminated = True

    def _note_in_thread(self, number: int) -> None:
        """Note a signal whose handler waits for the end of an exchange."""
        if number == signal.SIGTERM:
            self._is_terminated = True
        elif number == signal.SIGINT:
            self._is_interrupted = True


def leave_signals_to_the_parent(worker: int) -> None:  # noqa: ARG001
    """Ignore SIGTERM and SIGINT in a worker of a data loader: `worker_init_fn` of torch's DataLoader.

    Launchers and Slurm send signals to whole groups of processes, but the run needs further batches until it stops. A
    worker ends when its loader is closed, and within seconds if its parent is killed. It prints no traceback if the
    parent is interrupted while it receives a batch, which breaks the connection.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _print_unless_disconnected


def _print_unless_disconnected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
