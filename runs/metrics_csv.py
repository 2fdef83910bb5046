"""``metrics.csv``: what each step of a training measured."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from workspace.whole_files import replacing


class MetricsFile:
    """``metrics.csv``, one row a step. A resumed run drops the rows of the steps that it does again."""

    def __init__(self, path: Path, start: int, columns: Sequence[str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept: list[dict[str, Any]] = []
        if start and path.is_file():
            try:
                with path.open(newline="", encoding="utf-8") as file:
                    kept = [row for row in csv.DictReader(file) if int(row["step"]) <= start]
            except (KeyError, TypeError, ValueError, csv.Error) as error:
                raise ValueError(f"{path}: cannot be gone on with ({error!r}); delete it and resume again") from None
        self._kept = kept
        self._path, self._columns = path, columns
        self._open()

    def lacks(self, column: str) -> bool:
        """Whether the step that a resumed run goes on from was not measured in this respect."""
        return bool(self._kept) and not self._kept[-1].get(column)

    def first(self, column: str) -> float | None:
        """Of the run's first step; None where a new run begins, or nothing is in that column."""
        value = self._kept[0].get(column) if self._kept else None
        try:
            return float(value) if value else None
        except ValueError:
            said = f"its first {column} is {value!r}"
            raise ValueError(f"{self._path}: cannot be gone on with ({said}); delete it and resume again") from None

    def amend(self, values: dict[str, Any]) -> None:
        """Add to the row of that step, before any other is written."""
        self._kept[-1] |= values
        self._file.close()
        self._open()

    def _open(self) -> None:
        """The rows so far are written anew by rename: a full disk, which may have ended the run, costs none."""
        with replacing(self._path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            table = self._table_of(file)
            table.writeheader()
            table.writerows(self._kept)
        self._file = self._path.open("a", newline="", encoding="utf-8", buffering=1)
        self._table = self._table_of(self._file)

    def _table_of(self, file: TextIO) -> "csv.DictWriter[str]":
        return csv.DictWriter(file, self._columns, restval="", extrasaction="ignore", lineterminator="\n")

    def write(self, row: dict[str, Any]) -> None:
        self._table.writerow(row)

    def close(self) -> None:
        self._file.close()
