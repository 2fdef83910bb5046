"""Ending early, on purpose: a job whose time runs out leaves a state behind and is started again later.

Any of three things asks a run to stop after the step that it is in:

- a file ``STOP`` in the run's folder, which a batch script's trap (``#SBATCH --signal=B:USR1@300``) or a person makes;
- SIGTERM to any of its processes; torchrun passes its own on to all of them, `accelerate launch` to a single one does
  not;
- ``$SLURM_JOB_END_TIME`` (seconds since 1970), once it is no further than a margin away.

The first process looks at the file and at the clock, and every process is told what any of them knows: they stop after
the same step, because each step is a conversation among all. Whoever loops over batches asks after each.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from accelerate import Accelerator

from runs.accelerators import true_in_any_process
from runs.run_folder import STOP_FILE

JOB_END = "SLURM_JOB_END_TIME"


class Preemption:
    """What asks a run to stop. `margin`: seconds before the end of the Slurm job."""

    def __init__(self, run: Path, margin: float, accelerator: Accelerator) -> None:
        self._file = run / STOP_FILE
        self._accelerator = accelerator
        self._terminated = False
        end = os.environ.get(JOB_END, "")
        self._deadline = float(end) - margin if end.isdigit() else None
        self.reason: str | None = None

    def is_asked(self) -> bool:
        """Whether to stop; the same answer in every process, so every process must ask. Once true it stays so."""
        if self.reason is None:
            found = self._found_here()
            self._decide(found, true_in_any_process(self._accelerator, list(found.values())))
        return self.reason is not None

    def is_asked_of_the_first(self) -> bool:
        """The same where only the first process still works."""
        found = self._found_here()
        self._decide(found, list(found.values()))
        return self.reason is not None

    def _decide(self, found: dict[str, bool], told: list[bool]) -> None:
        self.reason = next((name for name, is_so in zip(found, told, strict=True) if is_so), self.reason)

    def _found_here(self) -> dict[str, bool]:
        is_first = self._accelerator.is_main_process
        return {
            "SIGTERM": self._terminated,
            f"the file {self._file.name}": is_first and self._file.exists(),
            "the end of the Slurm job": is_first and self._deadline is not None and time.time() >= self._deadline,
        }

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While the block runs, SIGTERM is noted instead of ending the process."""
        previous = signal.signal(signal.SIGTERM, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._terminated = True


def leave_signals_to_the_parent(worker: int) -> None:  # noqa: ARG001
    """For a loader's worker: launchers and Slurm signal whole groups of processes, but a batch is still wanted.

    A worker ends when its loader is closed, and within seconds of a parent that was killed.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
