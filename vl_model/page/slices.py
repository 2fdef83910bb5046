"""The slices of a split or kept set for the viewer: their places in the patient, and their pictures by number.

A slice's number is its row in ``slices.csv``: no path is ever taken from a request.
"""

import csv
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data_prep.conversion.slice_frames import frame_of

_WINDOW = ("window_low", "window_high")
#: The columns that the viewer needs besides those of a slice's place.
_COLUMNS = ("study_id", "series_id", "instance_number", "image", "view", "stack", "rows", "columns", *_WINDOW)
#: The end of every whole PNG.
_PNG_END = b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class SliceTable:
    """The slices of one ``processed_data`` folder; the table is read at the first use."""

    processed: Path

    def of_study(self, study_id: int) -> list[dict[str, Any]]:
        """Return the slices of a study, each with its number, its series, and its place if that is known.

        Raises ValueError if the table cannot be read.
        """
        return [_slice_json(number, self._row(number)) for number in self._numbers_of.get(study_id, [])]

    def number_of(self, study_id: int, series_id: int, instance_number: int) -> int | None:
        """Return the number of a slice; None if there is no such slice."""
        for number in self._numbers_of.get(study_id, []):
            row = self._row(number)
            if (int(row["series_id"]), int(row["instance_number"])) == (series_id, instance_number):
                return number
        return None

    def picture(self, number: int) -> Path | None:
        """Return the path of a slice's PNG; None if there is none, or if its file is not there or not whole."""
        if not 0 <= number < len(self._lines) or not self._is_whole(number):
            return None
        path = (self.processed / self._row(number)["image"]).resolve()
        return path if path.is_relative_to(self.processed.resolve()) and _is_whole_png(path) else None

    def _is_whole(self, number: int) -> bool:
        """Whether a line of the table has all cells; others are left out, and cost their slice only."""
        line = self._lines[number]
        return line.count(",") == len(self._header) - 1 and line.partition(",")[0].isdecimal()

    def _row(self, number: int) -> dict[str, str]:
        [cells] = csv.reader([self._lines[number]])
        return dict(zip(self._header, cells, strict=True))

    @property
    def _header(self) -> list[str]:
        return self._table[0]

    @property
    def _lines(self) -> list[str]:
        return self._table[1]

    @cached_property
    def _table(self) -> tuple[list[str], list[str]]:
        path = self.processed / "slices.csv"
        try:
            header, *lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: cannot be read ({error}); prepare_data.py writes it") from None
        columns = next(csv.reader([header]))
        if missing := [name for name in _COLUMNS if name not in columns]:
            raise ValueError(f"{path}: has no column {', '.join(missing)}; prepare_data.py writes it")
        return columns, lines

    @cached_property
    def _numbers_of(self) -> dict[int, list[int]]:
        numbers: dict[int, list[int]] = {}
        for number, line in enumerate(self._lines):
            if self._is_whole(number):
                numbers.setdefault(int(line.partition(",")[0]), []).append(number)
        return numbers


def _is_whole_png(path: Path) -> bool:
    """Whether a file is there and ends as a PNG does: a browser shows a truncated one partly black, without a word."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_PNG_END), os.SEEK_END)
            return file.read() == _PNG_END
    except OSError:
        return False


def _slice_json(number: int, row: dict[str, str]) -> dict[str, Any]:
    frame = frame_of(row)
    low, high = (float(row[name]) if row[name] else None for name in _WINDOW)
    return {
        "number": number,
        "series_id": int(row["series_id"]),
        "instance_number": int(row["instance_number"]),
        "view": row["view"],
        "stack": int(row["stack"] or 0),
        "rows": int(row["rows"]),
        "columns": int(row["columns"]),
        "window": None if low is None or high is None else [low, high],
        "place": None
        if frame is None
        else {
            "position_mm": list(frame.position_mm),
            "row_direction": [float(x) for x in frame.row_direction],
            "column_direction": [float(x) for x in frame.column_direction],
            "spacing_mm": list(frame.spacing_mm),
        },
    }
