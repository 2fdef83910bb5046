"""The competition's tables: read tolerantly, once; what cannot be used becomes a fault, never a grade or a path.

`checked_csv` says what is forgiven and how each cell is checked. Two rows about one thing that say the same
count once. Where they contradict each other neither is believed, in whatever order they stand: a study graded
in two rows keeps the grades that they share, a series with two descriptions is what its images say. Marks are
the exception: of two that differ, `regions` keeps the first that its image bears out.
"""

import hashlib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.faults import Fault, FaultKind
from data_prep.sites import (
    SITES,
    Severity,
    Site,
    View,
    parse_condition,
    parse_level,
    parse_row_id_site,
    parse_severity,
    parse_view,
)
from data_prep.studies.checked_csv import Cell, CheckedTable, read_checked

#: Up to 18 digits fit 64 bits. ``007`` would be a second name of ``7``.
_WHOLE_NUMBER = re.compile(r"(0|[1-9][0-9]{0,17})(\.0+)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Mark:
    """A reader's point: (x, y) is (column, row) in the pixels of that instance."""

    site: Site
    series_id: int
    instance_number: int
    x: float
    y: float


@dataclass(frozen=True)
class Tables:
    """What the tables say, by study id. `study_ids` are in the order in which the table names them."""

    study_ids: tuple[int, ...] = ()
    severities: dict[int, dict[Site, Severity]] = field(default_factory=dict)
    views: dict[int, dict[int, View]] = field(default_factory=dict)
    marks: dict[int, list[Mark]] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    hashes: dict[str, str] = field(default_factory=dict)


def _whole_number(text: str) -> int:
    if not _WHOLE_NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is no plain whole number")
    return int(text.split(".")[0])


def _coordinate(text: str) -> float:
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is no finite number")
    return number


def _grade(text: str) -> Severity | None:
    """None where nobody graded the site."""
    return None if text.lower() in ("", "nan") else parse_severity(text)


def _row_id(text: str) -> tuple[int, str]:
    """``<study_id>_<site>``"""
    study_id, _, site = text.partition("_")
    return _whole_number(study_id), site.lower()


_ID = Cell(FaultKind.BAD_ID, _whole_number)
_POINT = Cell(FaultKind.BAD_MARK, _coordinate)
_GRADES = {"study_id": _ID, **{site.key: Cell(FaultKind.BAD_LABEL, _grade, optional=True) for site in SITES}}
_DESCRIPTIONS = {
    "study_id": _ID,
    "series_id": _ID,
    "series_description": Cell(FaultKind.BAD_LABEL, parse_view, optional=True),
}
_COORDINATES = {
    "study_id": _ID,
    "series_id": _ID,
    "instance_number": _ID,
    "condition": Cell(FaultKind.BAD_LABEL, parse_condition),
    "level": Cell(FaultKind.BAD_LABEL, parse_level),
    "x": _POINT,
    "y": _POINT,
}
_SAMPLE = {"row_id": Cell(FaultKind.BAD_ID, _row_id)}


def read_train_tables(dataset: Path) -> Tables:
    """train.csv, train_series_descriptions.csv and, where it is there, train_label_coordinates.csv.

    Raises ValueError or OSError where one of the first two cannot be read.
    """
    grades = read_checked(dataset / "train.csv", _GRADES)
    descriptions = read_checked(dataset / "train_series_descriptions.csv", _DESCRIPTIONS)
    tables = [grades, descriptions]
    severities, views = _severities(grades), _views(descriptions)
    marks: dict[int, list[Mark]] = {}
    faults: list[Fault] = []
    path = dataset / "train_label_coordinates.csv"
    if path.exists():
        tables.append(read_checked(path, _COORDINATES))
        marks = _marks(tables[-1])
    else:
        faults.append(
            _missing(path, "no positions are known: the atlas that ships, of synthetic spines, places all sites")
        )
    study_ids = tuple(dict.fromkeys([*severities, *views, *marks]))
    return Tables(study_ids, severities, views, marks, (*_faults(tables), *faults), _hashes(tables))


def read_test_tables(dataset: Path) -> Tables:
    """test_series_descriptions.csv and sample_submission.csv; both may be missing.

    Every study that either names is one to answer for: in the sample's order where it names them all, else by id.
    """
    tables: list[CheckedTable] = []
    faults: list[Fault] = []
    views: dict[int, dict[int, View]] = {}
    order: list[int] = []
    path = dataset / "test_series_descriptions.csv"
    if path.exists():
        tables.append(read_checked(path, _DESCRIPTIONS))
        views = _views(tables[-1])
    else:
        faults.append(_missing(path, "orientation and times say what the series are"))
    path = dataset / "sample_submission.csv"
    if path.exists():
        tables.append(read_checked(path, _SAMPLE))
        order = _submission_order(tables[-1])
    study_ids = tuple(order if set(views) <= set(order) else sorted({*views, *order}))
    return Tables(study_ids, {}, views, {}, (*faults, *_faults(tables)), _hashes(tables))


def read_description_table(path: Path) -> Tables:
    """A table of series descriptions alone, as it may come with new studies. Raises ValueError, OSError."""
    table = read_checked(path, _DESCRIPTIONS)
    views = _views(table)
    return Tables(tuple(views), {}, views, {}, tuple(table.faults), _hashes([table]))


def _severities(table: CheckedTable) -> dict[int, dict[Site, Severity]]:
    """study_id -> site -> grade, where all rows of the study agree."""
    first: dict[int, dict[Site, Severity]] = {}
    severities: dict[int, dict[Site, Severity]] = {}
    for line, study_id, *grades in table.rows:
        row = {site: grade for site, grade in zip(SITES, grades, strict=True) if grade is not None}
        if first.setdefault(study_id, row) is row:
            severities[study_id] = row
            continue
        against = [site.key for site in SITES if first[study_id].get(site) is not row.get(site)]
        if against:
            message = f"graded otherwise in an earlier row: {', '.join(against)}"
            table.skip(line, study_id, FaultKind.CONTRADICTION, message)
        else:
            table.skip(line, study_id, FaultKind.DUPLICATE_ROW, "a second row of this study")
        agreed = severities[study_id].items() & row.items()
        severities[study_id] = {site: row[site] for site, _ in sorted(agreed)}
    return severities


def _views(table: CheckedTable) -> dict[int, dict[int, View]]:
    """study_id -> series_id -> view. A study whose every description is unknown is still named, without views."""
    views: dict[int, dict[int, View]] = {}
    stated: dict[tuple[int, int], View] = {}
    for line, study_id, series_id, view in table.rows:
        known = views.setdefault(study_id, {})
        if view is None:
            continue
        first = stated.get((study_id, series_id))
        if first is None:
            stated[study_id, series_id] = known[series_id] = view
        elif first is view:
            table.skip(line, study_id, FaultKind.DUPLICATE_ROW, "a second row of this series", series_id)
        else:
            known.pop(series_id, None)
            message = f"{view.words} here, {first.words} in an earlier row"
            table.skip(line, study_id, FaultKind.CONTRADICTION, message, series_id)
    return views


def _marks(table: CheckedTable) -> dict[int, list[Mark]]:
    """study_id -> marks in the table's order; of equal ones the first."""
    marks: dict[int, dict[Mark, None]] = {}
    for line, study_id, series_id, instance_number, (condition, side), level, x, y in table.rows:
        mark = Mark(Site(condition, side, level), series_id, instance_number, x, y)
        known = marks.setdefault(study_id, {})
        if mark in known:
            table.skip(line, study_id, FaultKind.DUPLICATE_ROW, "a second row of this mark", series_id)
        known[mark] = None
    return {study_id: list(known) for study_id, known in marks.items()}


def _submission_order(table: CheckedTable) -> list[int]:
    """Study ids in the order of their first row."""
    order: dict[int, None] = {}
    seen: set[tuple[int, str]] = set()
    for line, (study_id, site) in table.rows:
        order[study_id] = None
        if (study_id, site) in seen:
            table.skip(line, study_id, FaultKind.DUPLICATE_ROW, f"a second row of {site}")
        seen.add((study_id, site))
        try:
            parse_row_id_site(site)
        except ValueError as error:
            table.skip(line, study_id, FaultKind.BAD_LABEL, f"row_id: {error}")
    return list(order)


def _missing(path: Path, message: str) -> Fault:
    return Fault(None, None, path.name, FaultKind.MISSING_TABLE, "skipped", message)


def _faults(tables: list[CheckedTable]) -> tuple[Fault, ...]:
    """What was wrong with the tables, each one's faults in the order of its lines."""
    return tuple(fault for table in tables for fault in sorted(table.faults, key=_line))


def _line(fault: Fault) -> int:
    return int(fault.path.rpartition(":")[2])


def _hashes(tables: list[CheckedTable]) -> dict[str, str]:
    """sha256 of each table's bytes, by name."""
    return {table.path.name: hashlib.sha256(table.path.read_bytes()).hexdigest() for table in tables}
