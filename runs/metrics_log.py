"""What a training leaves in its logs' folder: a row a step, the trackers' events, and a picture of the run."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from runs.accelerators import told_to_all
from runs.collectives import gather_objects
from runs.metrics_csv import MetricsFile

METRICS_FILE = "metrics.csv"
PICTURE = "training.png"


class Records:
    """Every process has one and tells it of every step; the first process writes.

    Raises ValueError where the ``metrics.csv`` of the run that is gone on with is damaged.
    """

    def __init__(self, accelerator: Accelerator, logs: Path, start: int, columns: Sequence[str]) -> None:
        self._accelerator = accelerator
        self._logs = logs
        self._file = MetricsFile(logs / METRICS_FILE, start, columns) if accelerator.is_main_process else None
        self._began = time.perf_counter()
        self._evaluating = 0.0

    def write(self, row: dict[str, Any]) -> None:
        if self._file:
            self._file.write(row)
        self._publish(row["step"], {name: value for name, value in row.items() if name != "step"})

    def lack(self, column: str) -> bool:
        """Whether the step that a resumed run goes on from was not measured in this respect."""
        return told_to_all(self._accelerator, [self._file is not None and self._file.lacks(column)])[0]

    def first(self, column: str) -> float | None:
        """Of the run's first step, in every process; None where a new run begins."""
        value: float | None = gather_objects(self._file.first(column) if self._file else None)[0]
        return value

    def amend(self, step: int, values: dict[str, Any]) -> None:
        """Add to the row of that step, before any other is written."""
        if self._file and values:
            self._file.amend(values)
        self._publish(step, values)

    def evaluation_cost(self) -> str | None:
        """In words: how much of the time since this start went into held-out evaluation."""
        if not self._evaluating:
            return None
        share = self._evaluating / (time.perf_counter() - self._began)
        return f"held-out evaluation took {self._evaluating:.1f} s, {share:.1%} of the training"

    def _publish(self, step: int, values: dict[str, Any]) -> None:
        if values:
            self._accelerator.log(values, step=step)
        if "evaluation_seconds" in values:
            self._evaluating += values["evaluation_seconds"]
            if self._file:
                from runs.curves import write_run_picture  # matplotlib, in one process of all

                write_run_picture(self._logs / METRICS_FILE, self._logs / PICTURE)
