"""Tables of truths: the known grades of sites, read from either of two formats.

- One row per site, with the columns `TRUTH_COLUMNS`, and possibly ``x_mm``, ``y_mm``, ``z_mm`` (the site's true
  position in the patient) and ``split``. The phantom's ``truth.csv`` is such a table.
- One row per study with one column per site: the competition's ``train.csv``.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.geometry import Vector
from data_prep.sites import SITE_COLUMNS, SITES, Severity, Site

TRUTH_COLUMNS = ("study_id", *SITE_COLUMNS, "severity")
POSITION_COLUMNS = ("x_mm", "y_mm", "z_mm")


@dataclass(frozen=True)
class TrueSite:
    """A site of a study: its grade (None if ungraded), and its position in mm, LPS (None if the table has none)."""

    study_id: int
    site: Site
    severity: Severity | None
    position_mm: Vector | None = None


def read_truth(path: Path, split: str | None = None) -> list[TrueSite]:
    """Read a table of truths, in its order; of a table with a column ``split``, only the rows of `split` if given.

    Raises ValueError that quotes the file, and the line and cell, if the table cannot be read or has another format.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, restval="")
            wide = _is_wide(path, table.fieldnames or ())
            sites: list[TrueSite] = []
            for row in table:
                if split is not None and row.get("split", split) != split:
                    continue
                try:
                    sites += _graded_columns(row) if wide else [_true_site(row)]
                except ValueError as error:
                    raise ValueError(f"{path}: line {table.line_num}: {error}") from None
            return sites
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); expected a table of known grades") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8 ({error})") from None


def read_grades(path: Path) -> dict[tuple[int, Site], Severity]:
    """Read the known grades of a table of truths, by study and site; ungraded sites are left out.

    Raises ValueError as `read_truth` does.
    """
    return {(one.study_id, one.site): one.severity for one in read_truth(path) if one.severity is not None}


def _is_wide(path: Path, found: Sequence[str]) -> bool:
    """Return whether the columns are those of ``train.csv``. Raises ValueError for columns of neither format."""
    if not found:
        raise ValueError(f"{path}: not a CSV file in UTF-8 (it is empty)")
    if {"study_id", *(site.key for site in SITES)} <= set(found):
        return True
    if missing := [name for name in TRUTH_COLUMNS if name not in found]:
        raise ValueError(
            f"{path}: no column {missing[0]!r} among {', '.join(found[:6])}{' ...' if len(found) > 6 else ''}; "
            f"expected {', '.join(TRUTH_COLUMNS)}, or train.csv's columns"
        )
    return False


def _graded_columns(row: Mapping[str, str]) -> list[TrueSite]:
    study_id = _study_id(row)
    return [TrueSite(study_id, site, Severity.from_column(row[site.key])) for site in SITES]


def _true_site(row: Mapping[str, str]) -> TrueSite:
    position = None
    if all(row.get(name) for name in POSITION_COLUMNS):
        x, y, z = (float(row[name]) for name in POSITION_COLUMNS)
        position = (x, y, z)
    return TrueSite(_study_id(row), Site.from_columns(row), Severity.from_column(row["severity"]), position)


def _study_id(row: Mapping[str, str]) -> int:
    try:
        return int(row["study_id"])
    except ValueError:
        raise ValueError(f"study_id {row['study_id']!r}: not a whole number") from None
