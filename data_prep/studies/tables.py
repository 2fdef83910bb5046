"""Read the competition's tables once and tolerantly; what cannot be used becomes a fault, never a grade or a path.

`checked_csv` defines what is tolerated and how each cell is checked. Two equal rows about one thing count once. If two
rows contradict each other, neither is used, whatever their order: a study that is graded in two rows keeps the grades
that they share, and the view of a series with two descriptions is guessed from its images. Marks are the exception: of
two that differ, `regions` keeps the first one that its image confirms.
"""

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Mapping
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
from data_prep.studies.checked_csv import LONGEST_REASON, Cell, CheckedTable, read_checked

#: Numbers of up to 18 digits fit into 64 bits. ``007`` is rejected: it would be a second name of ``7``.
_WHOLE_NUMBER = re.compile(r"(0|[1-9][0-9]{0,17})(\.0+)?", re.ASCII)
_UNIQUE_IDENTIFIER = re.compile(r"[0-9]+(\.[0-9]+)*", re.ASCII)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Mark:
    """A point that a reader placed for a site: (x, y) is (column, row) in the pixels of one slice."""

    site: Site
    series_id: int
    instance_number: int
    x: float
    y: float


@dataclass(frozen=True)
class Tables:
    """The content of the tables, by study id. `study_ids` are in the order of the tables."""

    study_ids: tuple[int, ...] = ()
    severities: dict[int, dict[Site, Severity]] = field(default_factory=dict)
    views: dict[int, dict[int, View]] = field(default_factory=dict)
    marks: dict[int, list[Mark]] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    hashes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyNames:
    """What a table of descriptions may call a new study and its series instead of their ids.

    These are StudyInstanceUID, SeriesInstanceUID, and the names and paths of folders.

    names: of the study. series_ids: of all its series. series: name -> id of a series.
    """

    names: frozenset[str] = field(default=frozenset(), repr=False)
    series_ids: frozenset[int] = frozenset()
    series: dict[str, int] = field(default_factory=dict, repr=False)


def _whole_number(text: str) -> int:
    if not _WHOLE_NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a plain whole number")
    return int(text.split(".")[0])


def _coordinate(text: str) -> float:
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is not a finite number")
    return number


def _grade(text: str) -> Severity | None:
    """Return the severity; None for an ungraded site."""
    return None if text.lower() in ("", "nan") else parse_severity(text)


def _row_id(text: str) -> tuple[int, str]:
    """Split ``<study_id>_<site>``."""
    study_id, _, site = text.partition("_")
    return _whole_number(study_id), site.lower()


_ID = Cell(FaultKind.BAD_ID, _whole_number)
#: An id of a new study or series in any spelling; which one it means depends on the studies.
_NAME = Cell(FaultKind.BAD_ID, str)
_POINT = Cell(FaultKind.BAD_MARK, _coordinate)
_GRADES = {"study_id": _ID, **{site.key: Cell(FaultKind.BAD_LABEL, _grade, optional=True) for site in SITES}}
_DESCRIPTIONS = {
    "study_id": _ID,
    "series_id": _ID,
    "series_description": Cell(FaultKind.BAD_LABEL, parse_view, optional=True),
}
_DESCRIPTIONS_BY_NAME = {**_DESCRIPTIONS, "study_id": _NAME, "series_id": _NAME}
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
    """Read train.csv, train_series_descriptions.csv and, if it exists, train_label_coordinates.csv.

    Raises ValueError or OSError if one of them cannot be read, or if one of the first two does not exist.
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
        faults.append(_missing(path, "all sites are unannotated: the shipped atlas, of synthetic spines, places them"))
    study_ids = tuple(dict.fromkeys([*severities, *views, *marks]))
    return Tables(study_ids, severities, views, marks, (*_faults(tables), *faults), _hashes(tables))


def read_test_tables(dataset: Path) -> Tables:
    """Read test_series_descriptions.csv and sample_submission.csv; both may be missing.

    Every study that either table names belongs to the split: in the order of the sample submission if that names all
    of them, else by id.
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
        faults.append(_missing(path, "the view of each series is guessed from its orientation and echo times"))
    path = dataset / "sample_submission.csv"
    if path.exists():
        tables.append(read_checked(path, _SAMPLE))
        order = _submission_order(tables[-1])
    study_ids = tuple(order if set(views) <= set(order) else sorted({*views, *order}))
    return Tables(study_ids, {}, views, {}, (*faults, *_faults(tables)), _hashes(tables))


def read_description_table(path: Path, studies: Mapping[int, StudyNames]) -> Tables:
    """Read a table of series descriptions that comes with new studies.

    Its ids are those of `studies`, their UIDs, or the names of their folders. Rows about other studies are one fault.
    Raises ValueError if it is not such a table, OSError if it cannot be read.
    """
    table = read_checked(path, _DESCRIPTIONS_BY_NAME)
    meant = defaultdict(set)
    for study_id, names in studies.items():
        for name in names.names:
            meant[name].add(study_id)
    rows, unknown = [], 0
    for line, study, series, view in table.rows:
        try:
            found = _meant_study(study, studies, meant)
            unknown += found is None
            if found is not None:
                rows.append((line, found, _meant_series(series, studies[found]), view))
        except ValueError as error:
            table.skip(line, None, FaultKind.BAD_ID, str(error))
    table.rows = rows
    views = _views(table)
    others = []
    if unknown:
        message = f"{unknown} rows name no study of the image folder"
        others.append(Fault(None, None, path.name, FaultKind.MISSING_STUDY, "skipped", message))
    return Tables(tuple(views), {}, views, {}, (*table.faults, *others), _hashes([table]))


def _meant_study(text: str, studies: Mapping[int, StudyNames], meant: Mapping[str, set[int]]) -> int | None:
    """Return the study that a table's text means, None if it is none of `studies`.

    Raises ValueError for a text that is neither a number nor an identifier nor a folder's name.
    """
    if _WHOLE_NUMBER.fullmatch(text) and _whole_number(text) in studies:
        return _whole_number(text)
    found = meant.get(text, set())
    if len(found) == 1:
        return next(iter(found))
    if found or not _UNIQUE_IDENTIFIER.fullmatch(text):
        what = f"names {len(found)} studies" if found else "neither a number, a StudyInstanceUID nor a study's folder"
        raise ValueError(f"study_id: {text!r}: {what}"[:LONGEST_REASON])
    return None


def _meant_series(text: str, study: StudyNames) -> int:
    """Return the series of a study that a table's text means. Raises ValueError if it may mean none."""
    if _WHOLE_NUMBER.fullmatch(text) and (_whole_number(text) in study.series_ids or text not in study.series):
        return _whole_number(text)
    if text not in study.series:
        raise ValueError(f"series_id: {text!r}: the study has no series of this identifier or folder"[:LONGEST_REASON])
    return study.series[text]


def _severities(table: CheckedTable) -> dict[int, dict[Site, Severity]]:
    """Return study_id -> site -> severity, for the grades that all rows of the study share."""
    first: dict[int, dict[Site, Severity]] = {}
    severities: dict[int, dict[Site, Severity]] = {}
    for line, study_id, *grades in table.rows:
        row = {site: grade for site, grade in zip(SITES, grades, strict=True) if grade is not None}
        if first.setdefault(study_id, row) is row:
            severities[study_id] = row
            continue
        against = [site.key for site in SITES if first[study_id].get(site) is not row.get(site)]
        if against:
            message = f"an earlier row of this study has other grades: {', '.join(against)}"
            table.skip(line, study_id, FaultKind.CONTRADICTION, message)
        else:
            table.skip(line, study_id, FaultKind.DUPLICATE_ROW, "repeats an earlier row of this study")
        agreed = severities[study_id].items() & row.items()
        severities[study_id] = {site: row[site] for site, _ in sorted(agreed)}
    return severities


def _views(table: CheckedTable) -> dict[int, dict[int, View]]:
    """Return study_id -> series_id -> view. A study is included even if all its descriptions are unknown."""
    views: dict[int, dict[int, View]] = {}
    described: dict[tuple[int, int], View] = {}
    for line, study_id, series_id, view in table.rows:
        known = views.setdefault(study_id, {})
        if view is None:
            continue
        first = described.get((study_id, series_id))
        if first is None:
            described[study_id, series_id] = known[series_id] = view
        elif first is view:
            table.skip(line, study_id, FaultKind.DUPLICATE_ROW, "repeats an earlier row of this series", series_id)
        else:
            known.pop(series_id, None)
            message = f"described as {view.words}, but as {first.words} in an earlier row"
            table.skip(line, study_id, FaultKind.CONTRADICTION, message, series_id)
    return views


def _marks(table: CheckedTable) -> dict[int, list[Mark]]:
    """Return study_id -> marks in the order of the table, without duplicates."""
    marks: dict[int, dict[Mark, None]] = {}
    for line, study_id, series_id, instance_number, (condition, side), level, x, y in table.rows:
        mark = Mark(Site(condition, side, level), series_id, instance_number, x, y)
        known = marks.setdefault(study_id, {})
        if mark in known:
            table.skip(line, study_id, FaultKind.DUPLICATE_ROW, "repeats an earlier row of this mark", series_id)
        known[mark] = None
    return {study_id: list(known) for study_id, known in marks.items()}


def _submission_order(table: CheckedTable) -> list[int]:
    """Return the study ids in the order of their first row."""
    order: dict[int, None] = {}
    earlier: set[tuple[int, str]] = set()
    for line, (study_id, site) in table.rows:
        order[study_id] = None
        if (study_id, site) in earlier:
            table.skip(line, study_id, FaultKind.DUPLICATE_ROW, f"repeats an earlier row of {site}")
        earlier.add((study_id, site))
        try:
            parse_row_id_site(site)
        except ValueError as error:
            table.skip(line, study_id, FaultKind.BAD_LABEL, f"row_id: {error}")
    return list(order)


def _missing(path: Path, message: str) -> Fault:
    return Fault(None, None, path.name, FaultKind.MISSING_TABLE, "skipped", message)


def _faults(tables: list[CheckedTable]) -> tuple[Fault, ...]:
    """Return the faults of all tables, those of each table in the order of its lines."""
    return tuple(fault for table in tables for fault in sorted(table.faults, key=_line))


def _line(fault: Fault) -> int:
    return int(fault.path.rpartition(":")[2])


def _hashes(tables: list[CheckedTable]) -> dict[str, str]:
    """Return the sha256 of each table's bytes, by file name."""
    return {table.path.name: hashlib.sha256(table.path.read_bytes()).hexdigest() for table in tables}
