"""The competition's tables: read tolerantly, once; what cannot be used becomes a fault, never a grade or a path.

Tolerated: a byte-order mark, CRLF, blank lines, spaces and case in headings and labels. An id is a
whole number or its row is set aside. Of rows about the same thing the first is kept.
"""

import csv
import hashlib
import math
import re
from collections.abc import Iterator, Sequence
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
    parse_severity,
    parse_view,
)

_WHOLE_NUMBER = re.compile(r"[0-9]{1,18}(\.0+)?", re.ASCII)


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


@dataclass
class _Reader:
    """One table being read: its rows with the ids parsed, and the faults met on the way."""

    path: Path
    faults: list[Fault] = field(default_factory=list)

    def rows(self, ids: Sequence[str], others: Sequence[str]) -> Iterator[tuple[tuple[int, ...], dict[str, str], str]]:
        """(ids, row, where) for each row whose ids are whole numbers. Raises ValueError for a table that is none."""
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                lines = csv.reader(file)
                heading = [name.strip().lower() for name in next(lines, [])]
                missing = [name for name in (*ids, *others) if name not in heading]
                if missing:
                    raise ValueError(f"{self.path}: no column {missing[0]!r}; it has {', '.join(heading) or 'none'}")
                for cells in lines:
                    row = dict(zip(heading, (cell.strip() for cell in cells), strict=False))
                    if not any(row.values()):
                        continue
                    where = f"{self.path.name}:{lines.line_num}"
                    numbers = [_whole_number(row.get(name, "")) for name in ids]
                    known = tuple(number for number in numbers if number is not None)
                    if len(known) == len(ids):
                        yield known, row, where
                        continue
                    name = ids[numbers.index(None)]
                    self.fault(None, where, FaultKind.BAD_ID, f"{name} {row.get(name, '')!r} is no whole number")
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{self.path}: not a CSV file in UTF-8 ({error})") from None

    def fault(self, study_id: int | None, where: str, kind: FaultKind, message: str) -> None:
        self.faults.append(Fault(study_id, None, where, kind, "skipped", message))


def _whole_number(text: str) -> int | None:
    return int(text.split(".")[0]) if _WHOLE_NUMBER.fullmatch(text) else None


def read_train_tables(dataset: Path) -> Tables:
    """train.csv, train_series_descriptions.csv and, where it is there, train_label_coordinates.csv.

    Raises ValueError or OSError where one of the first two cannot be read.
    """
    grades, descriptions = _Reader(dataset / "train.csv"), _Reader(dataset / "train_series_descriptions.csv")
    coordinates = _Reader(dataset / "train_label_coordinates.csv")
    severities = _read_severities(grades)
    views = _read_views(descriptions)
    marks: dict[int, list[Mark]] = {}
    readers = [grades, descriptions]
    if coordinates.path.is_file():
        marks = _read_marks(coordinates)
        readers.append(coordinates)
    else:
        message = "no positions are known: no atlas can be learned from this split"
        coordinates.fault(None, coordinates.path.name, FaultKind.MISSING_TABLE, message)
    faults = tuple(fault for reader in (grades, descriptions, coordinates) for fault in reader.faults)
    study_ids = tuple(dict.fromkeys([*severities, *views]))
    return Tables(study_ids, severities, views, marks, faults, _hashes(readers))


def read_test_tables(dataset: Path) -> Tables:
    """test_series_descriptions.csv and sample_submission.csv; both may be missing.

    Every study that either names is one to answer for: in the sample's order where it names them all, else by id.
    """
    descriptions, sample = _Reader(dataset / "test_series_descriptions.csv"), _Reader(dataset / "sample_submission.csv")
    views: dict[int, dict[int, View]] = {}
    if descriptions.path.is_file():
        views = _read_views(descriptions)
    else:
        message = "orientation and times say what the series are"
        descriptions.fault(None, descriptions.path.name, FaultKind.MISSING_TABLE, message)
    order = _read_submission_order(sample) if sample.path.is_file() else []
    study_ids = tuple(order if set(views) <= set(order) else sorted({*views, *order}))
    readers = [reader for reader in (descriptions, sample) if reader.path.is_file()]
    return Tables(study_ids, {}, views, {}, (*descriptions.faults, *sample.faults), _hashes(readers))


def read_description_table(path: Path) -> Tables:
    """A table of series descriptions alone, as it may come with new studies. Raises ValueError, OSError."""
    reader = _Reader(path)
    views = _read_views(reader)
    return Tables(tuple(views), {}, views, {}, tuple(reader.faults), _hashes([reader]))


def _read_severities(reader: _Reader) -> dict[int, dict[Site, Severity]]:
    severities: dict[int, dict[Site, Severity]] = {}
    for (study_id,), row, where in reader.rows(["study_id"], [site.key for site in SITES]):
        if study_id in severities:
            reader.fault(study_id, where, FaultKind.DUPLICATE_ROW, "a second row of this study: the first is kept")
            continue
        severities[study_id] = {}
        for site in SITES:
            label = row.get(site.key, "")
            if label.lower() in ("", "nan"):
                continue
            try:
                severities[study_id][site] = parse_severity(label)
            except ValueError as error:
                reader.fault(study_id, where, FaultKind.BAD_LABEL, f"{site.key}: {error}")
    return severities


def _read_views(reader: _Reader) -> dict[int, dict[int, View]]:
    """study_id -> series_id -> view. A study whose every description is unknown is still named, without views."""
    views: dict[int, dict[int, View]] = {}
    for (study_id, series_id), row, where in reader.rows(["study_id", "series_id"], ["series_description"]):
        known = views.setdefault(study_id, {})
        try:
            view = parse_view(row.get("series_description", ""))
        except ValueError as error:
            reader.fault(study_id, where, FaultKind.BAD_LABEL, str(error))
            continue
        if series_id in known:
            reader.fault(study_id, where, FaultKind.DUPLICATE_ROW, f"a second row of series {series_id}")
        known.setdefault(series_id, view)
    return views


def _read_marks(reader: _Reader) -> dict[int, list[Mark]]:
    marks: dict[int, list[Mark]] = {}
    for ids, row, where in reader.rows(["study_id", "series_id", "instance_number"], ["condition", "level", "x", "y"]):
        study_id, series_id, instance_number = ids
        try:
            condition, side = parse_condition(row.get("condition", ""))
            site = Site(condition, side, parse_level(row.get("level", "")))
        except ValueError as error:
            reader.fault(study_id, where, FaultKind.BAD_LABEL, str(error))
            continue
        point = [_coordinate(row.get(name, "")) for name in ("x", "y")]
        if not all(math.isfinite(number) for number in point):
            message = f"x {row.get('x', '')!r}, y {row.get('y', '')!r}: not two finite numbers"
            reader.fault(study_id, where, FaultKind.BAD_MARK, message)
            continue
        marks.setdefault(study_id, []).append(Mark(site, series_id, instance_number, *point))
    return marks


def _coordinate(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _read_submission_order(reader: _Reader) -> list[int]:
    """Study ids in the order of their first row: row_id is ``<study_id>_<condition>_<level>``."""
    order: dict[int, None] = {}
    for _, row, where in reader.rows([], ["row_id"]):
        study_id = _whole_number(row["row_id"].split("_")[0])
        if study_id is None:
            reader.fault(None, where, FaultKind.BAD_ID, f"row_id {row['row_id']!r} does not begin with a study id")
        else:
            order[study_id] = None
    return list(order)


def _hashes(readers: Sequence[_Reader]) -> dict[str, str]:
    """sha256 of each table's bytes, by name."""
    return {reader.path.name: hashlib.sha256(reader.path.read_bytes()).hexdigest() for reader in readers}
