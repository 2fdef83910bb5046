"""Rows of ``slices.csv`` for tests of what reads it."""

import csv
from collections.abc import Sequence
from pathlib import Path

from data_prep.conversion.pairs import png_path
from data_prep.conversion.study_records import SLICE_COLUMNS


def slice_row(
    key: tuple[int, int, int],
    spacing: tuple[float, float] = (1.0, 1.0),
    shape: tuple[int, int] = (120, 100),
    directions: Sequence[float] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
) -> dict[str, str]:
    """Return the row of one slice, whose position depends on its instance number."""
    cells = [*key, png_path(*key), "axial_t2", 0, *shape, *spacing, -40.0, -50.0, 4.5 * key[2], *directions, 0, 255]
    return dict(zip(SLICE_COLUMNS, map(str, cells), strict=True))


def write_slices(processed: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write ``slices.csv``."""
    processed.mkdir(parents=True, exist_ok=True)
    with (processed / "slices.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, SLICE_COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
