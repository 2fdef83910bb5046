"""``metrics.csv``: what each step of a training measured."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any


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
        self._file = path.open("w", newline="", encoding="utf-8", buffering=1)
        self._table = csv.DictWriter(self._file, columns, restval="", extrasaction="ignore", lineterminator="\n")
        self._write_kept()

    def lacks(self, column: str) -> bool:
        """Whether the step that a resumed run goes on from was not measured in this respect."""
        return bool(self._kept) and not self._kept[-1].get(column)

    def amend(self, values: dict[str, Any]) -> None:
        """Add to the row of that step, before any other is written."""
        self._kept[-1] |= values
        self._file.seek(0)
        self._file.truncate()
        self._write_kept()

    def _write_kept(self) -> None:
        self._table.writeheader()
        self._table.writerows(self._kept)

    def write(self, row: dict[str, Any]) -> None:
        self._table.writerow(row)

    def close(self) -> None:
        self._file.close()
