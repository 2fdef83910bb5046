"""Tables of truths: the known grades of sites, read from either of two formats.

- One row per site, with the columns `TRUTH_COLUMNS`, and possibly ``x_mm``, ``y_mm``, ``z_mm`` (the site's true
  position in the patient) and ``split``. The phantom's ``truth.csv`` is such a table.
- One row per study with one column per site: the competition's ``train.csv``. Whole conditions may be left out.

A byte-order mark, ``nan`` or ``NA`` for an unknown grade, and ids such as ``123.0`` are what pandas makes of such
tables; they are read as what they were. A site that appears twice counts once if both rows agree, else the table is
refused, and so is a row that has fewer or more cells than the heading: cells that are cut off would pass for unknown
grades.
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.geometry import Vector
from data_prep.sites import SITE_COLUMNS, SITES, Severity, Site

TRUTH_COLUMNS = ("study_id", *SITE_COLUMNS, "severity")
POSITION_COLUMNS = ("x_mm", "y_mm", "z_mm")
#: What programs write for a cell without a value, in lower case.
NO_VALUE = ("", "nan", "na", "n/a", "<na>", "none", "null")
#: The number of digits that fit into 64 bits.
_LONGEST_ID = 18


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
            table = csv.DictReader(file)
            columns = _site_columns(path, table.fieldnames or ())
            found: dict[tuple[int, Site], TrueSite] = {}
            for row in table:
                try:
                    check_cells(row)
                    if split is not None and row.get("split", split) != split:
                        continue
                    _add_once(found, _graded_columns(row, columns) if columns else [_true_site(row)])
                except ValueError as error:
                    raise ValueError(f"{path}: line {table.line_num}: {error}") from None
            return list(found.values())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); expected a table of known grades") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8 ({error})") from None


def read_grades(path: Path) -> dict[tuple[int, Site], Severity]:
    """Read the known grades of a table of truths, by study and site; ungraded sites are left out.

    Raises ValueError as `read_truth` does.
    """
    return {(one.study_id, one.site): one.severity for one in read_truth(path) if one.severity is not None}


def parse_study_id(text: str) -> int:
    """Return the number of a cell such as ``123`` or ``123.0``. Raises ValueError for other text."""
    match = re.fullmatch(r"([0-9]+)(\.0*)?", text.strip())
    if match is None or len(match[1]) > _LONGEST_ID:
        raise ValueError(f"study_id {text!r}: not a whole number")
    return int(match[1])


def check_cells(row: Mapping[str | None, object]) -> None:
    """Raise ValueError if a row of `csv.DictReader` has fewer or more cells than the heading.

    A comma within a cell, such as a decimal comma, moves all cells after it into other columns.
    """
    columns = sum(name is not None for name in row)
    extra, missing = len(row.get(None, ())), sum(cell is None for cell in row.values())  # type: ignore[arg-type]
    if extra or missing:
        raise ValueError(
            f"has {columns + extra - missing} cells, but the heading has {columns}; a row should have as many, with "
            "points as decimal separators"
        )


def _site_columns(path: Path, found: Sequence[str]) -> list[Site]:
    """Return the sites that are columns, as in ``train.csv``; none if there is one row per site.

    Raises ValueError for columns of neither format.
    """
    if not found:
        raise ValueError(f"{path}: not a CSV file in UTF-8 (it is empty)")
    if twice := [name for name in found if found.count(name) > 1]:
        raise ValueError(f"{path}: {found.count(twice[0])} columns are named {twice[0]!r}; expected one")
    sites = [site for site in SITES if site.key in found]
    if "study_id" in found and sites:
        conditions = {site.condition for site in sites}
        missing = [site.key for site in SITES if site.condition in conditions and site not in sites]
        if missing:
            raise ValueError(f"{path}: no column {missing[0]!r} beside {sites[0].key!r}; expected train.csv's columns")
        return sites
    if absent := [name for name in TRUTH_COLUMNS if name not in found]:
        raise ValueError(
            f"{path}: no column {absent[0]!r} among {', '.join(found[:6])}{' ...' if len(found) > 6 else ''}; "
            f"expected {', '.join(TRUTH_COLUMNS)}, or train.csv's columns"
        )
    return []


def _add_once(found: dict[tuple[int, Site], TrueSite], sites: Iterable[TrueSite]) -> None:
    """Add sites. Raises ValueError for a site that was added before with another grade or position."""
    for one in sites:
        earlier = found.setdefault((one.study_id, one.site), one)
        if earlier != one:
            grades = [grade.label if grade is not None else "no grade" for grade in (earlier.severity, one.severity)]
            differ = " and ".join(grades) if grades[0] != grades[1] else "two positions"
            raise ValueError(f"study {one.study_id}: appears twice, with {differ} for {one.site.words}")


def _graded_columns(row: Mapping[str, str], columns: Sequence[Site]) -> list[TrueSite]:
    study_id = parse_study_id(row["study_id"])
    return [TrueSite(study_id, site, _grade(row[site.key])) for site in columns]


def _true_site(row: Mapping[str, str]) -> TrueSite:
    position = None
    if all(row.get(name) for name in POSITION_COLUMNS):
        x, y, z = (float(row[name]) for name in POSITION_COLUMNS)
        position = (x, y, z)
    return TrueSite(parse_study_id(row["study_id"]), Site.from_columns(row), _grade(row["severity"]), position)


def _grade(cell: str) -> Severity | None:
    return None if cell.strip().lower() in NO_VALUE else Severity.from_column(cell)
