"""``metrics.csv``: the metrics of each step of a training."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from workspace.whole_files import replacing


class MetricsFile:
    """``metrics.csv``, with one row per step.

    Args:
        path: the file. Its folder is made if it is missing.
        start: the step that the run resumes from; 0: a new run. Rows of later steps are dropped.
        columns: the columns, in order.

    Raises ValueError if the file of a resumed run is damaged.
    """

    def __init__(self, path: Path, start: int, columns: Sequence[str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept: list[dict[str, Any]] = []
        if start and path.is_file():
            try:
                with path.open(newline="", encoding="utf-8") as file:
                    kept = [row for row in csv.DictReader(file) if int(row["step"]) <= start]
            except (KeyError, TypeError, ValueError, csv.Error) as error:
                raise ValueError(f"{path}: is damaged ({error!r}); delete it and resume again") from None
        self._kept = kept
        self._path, self._columns = path, columns
        self._open()

    def is_missing(self, column: str) -> bool:
        """Return whether the last row of a resumed run has no value in this column. A new run has no last row."""
        return bool(self._kept) and not self._kept[-1].get(column)

    def first(self, column: str) -> float | None:
        """Return the value of the run's first step in this column; None for a new run, or if there is no value."""
        value = self._kept[0].get(column) if self._kept else None
        try:
            return float(value) if value else None
        except ValueError:
            problem = f"its first {column} is {value!r}"
            raise ValueError(f"{self._path}: is damaged ({problem}); delete it and resume again") from None

    def amend(self, values: dict[str, Any]) -> None:
        """Add values to the last row of a resumed run, before any other row is written."""
        self._kept[-1] |= values
        self._file.close()
        self._open()

    def _open(self) -> None:
        """Write the kept rows anew and open the file for more.

        The file is replaced by rename, so that no row is lost if the disk is full.
        """
        with replacing(self._path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = self._writer_of(file)
            writer.writeheader()
            writer.writerows(self._kept)
        self._file = self._path.open("a", newline="", encoding="utf-8", buffering=1)
        self._writer = self._writer_of(self._file)

    def _writer_of(self, file: TextIO) -> "csv.DictWriter[str]":
        return csv.DictWriter(file, self._columns, restval="", extrasaction="ignore", lineterminator="\n")

    def write(self, row: dict[str, Any]) -> None:
        self._writer.writerow(row)

    def close(self) -> None:
        self._file.close()
