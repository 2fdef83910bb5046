"""The logs of a training: metrics.csv, the trackers' events and training.png."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from runs.metrics_csv import MetricsFile
from runs.processes.accelerators import true_in_any_process
from runs.processes.collectives import gather_objects

METRICS_FILE = "metrics.csv"
CURVES_FILE = "training.png"


class MetricsLog:
    """The log of a training. Every process has one and calls the same methods; only the first process writes.

    Args:
        accelerator: the processes, with their trackers.
        logs: the folder of the run's logs.
        start: the step that the run resumes from; 0: a new run.
        columns: the columns of ``metrics.csv``, in order.

    Raises ValueError if the ``metrics.csv`` of a resumed run is damaged.
    """

    def __init__(self, accelerator: Accelerator, logs: Path, start: int, columns: Sequence[str]) -> None:
        self._accelerator = accelerator
        self._logs = logs
        self._file = MetricsFile(logs / METRICS_FILE, start, columns) if accelerator.is_main_process else None
        self._began = time.perf_counter()
        self._evaluation_seconds = 0.0

    def write(self, row: dict[str, Any]) -> None:
        """Write the row of one step."""
        if self._file:
            self._file.write(row)
        self._publish(row["step"], {name: value for name, value in row.items() if name != "step"})

    def is_missing(self, column: str) -> bool:
        """Return whether the step that the run resumes from has no value in this column; equal in every process."""
        return true_in_any_process(self._accelerator, [self._file is not None and self._file.is_missing(column)])[0]

    def first(self, column: str) -> float | None:
        """Return the value of the run's first step, equal in every process; None for a new run."""
        value: float | None = gather_objects(self._file.first(column) if self._file else None)[0]
        return value

    def amend(self, step: int, values: dict[str, Any]) -> None:
        """Add values to the row of the step that the run resumes from, before any other row is written."""
        if self._file and values:
            self._file.amend(values)
        self._publish(step, values)

    def evaluation_cost(self) -> str | None:
        """Return one line: the time since this start that held-out evaluation took. None if nothing was evaluated."""
        if not self._evaluation_seconds:
            return None
        share = self._evaluation_seconds / (time.perf_counter() - self._began)
        return f"held-out evaluation took {self._evaluation_seconds:.1f} s, {share:.1%} of the training"

    def close(self) -> None:
        """Close ``metrics.csv``, also if the training fails."""
        if self._file:
            self._file.close()

    def _publish(self, step: int, values: dict[str, Any]) -> None:
        """Log values to the trackers, and draw the curves after an evaluation."""
        if values:
            self._accelerator.log(values, step=step)
        if "evaluation_seconds" in values:
            self._evaluation_seconds += values["evaluation_seconds"]
            if self._file:
                from runs.curves import write_training_curves  # imports matplotlib, in the first process only

                write_training_curves(self._logs / METRICS_FILE, self._logs / CURVES_FILE)
