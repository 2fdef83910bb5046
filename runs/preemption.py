"""Preemption: a job whose time runs out writes a checkpoint, ends early and is started again later.

Any of three things makes a run stop after the current step:

- a file ``STOP`` in the run's folder, created by the trap of a batch script (``#SBATCH --signal=B:USR1@300``) or by a
  person;
- SIGTERM to any of its processes; torchrun passes its own SIGTERM on to all of them, `accelerate launch` does not pass
  it on to a single process;
- the end of the Slurm job (`runs.job_clock`), as soon as it is less than a margin away.

The first process checks the file and the clock. The processes exchange what each has found, so that all of them stop
after the same step: every step communicates among all processes. Each loop over batches checks after every batch.
"""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from accelerate import Accelerator

from runs.accelerators import true_in_any_process
from runs.job_clock import JobClock, end_of_job
from runs.run_folder import STOP_FILE
from workspace.interrupts import noted

CLOCK = "the end of the Slurm job"


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

    def should_stop(self) -> bool:
        """Return whether to stop, the same in every process. Every process must call it. Once true it stays true."""
        if self.reason is None:
            found = self._found_here()
            self._decide(found, true_in_any_process(self._accelerator, list(found.values())))
        return self.reason is not None

    def should_first_process_stop(self) -> bool:
        """Return whether to stop while only the first process works; no other process may call it."""
        found = self._found_here()
        self._decide(found, list(found.values()))
        return self.reason is not None

    def _decide(self, found: dict[str, bool], found_anywhere: list[bool]) -> None:
        self.reason = next((name for name, is_so in zip(found, found_anywhere, strict=True) if is_so), self.reason)

    def _found_here(self) -> dict[str, bool]:
        is_first = self._accelerator.is_main_process
        return {
            "SIGTERM": self._is_terminated,
            f"the file {self._file.name}": is_first and self._file.exists(),
            CLOCK: is_first and self._is_late(),
        }

    def _is_late(self) -> bool:
        """Return whether the deadline has come; Slurm is asked then, because the job may have been extended."""
        if self._deadline is None or time.time() < self._deadline:
            return False
        end = end_of_job()
        if end is not None and end - self._margin > max(time.time(), self._deadline + 1):
            self._deadline = end - self._margin
        return time.time() >= self._deadline

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While the block runs, SIGTERM is noted and does not end the process."""
        with noted(signal.SIGTERM, self._note):
            yield

    def _note(self) -> None:
        self._is_terminated = True


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
