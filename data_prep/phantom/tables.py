"""What readers would have written down: marks and labels; and the competition's tables."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.geometry import nearest
from data_prep.phantom.anatomy import Patient
from data_prep.phantom.grades import read_label, severity_of
from data_prep.phantom.protocols import SeriesPlan
from data_prep.sites import SITE_COLUMNS, SITES, SUBMISSION_SITES, Condition, Severity, Site, View
from data_prep.studies.tables import Mark
from data_prep.truth import POSITION_COLUMNS
from workspace.layout import Split

Array = npt.NDArray[np.float64]

#: A reader's click scatters by this much, mm, along each axis of the image.
MARK_SCATTER_MM = 0.7
#: A level further than this from every axial slice is not imaged.
IMAGED_WITHIN_MM = 5.0
#: Share of subarticular marks that lie on the slice next to the nearest.
_NEXT_SLICE = 0.2
#: Labels lost for no reason.
_LABEL_LOST = 0.001

TRUTH_COLUMNS = ("study_id", "split", *SITE_COLUMNS, "grade", "severity", "label", *POSITION_COLUMNS)


@dataclass(frozen=True)
class StudyRecord:
    """A written study, as the tables need it."""

    study_id: int
    split: Split
    series: tuple[tuple[int, View], ...]
    grades: dict[Site, float]
    positions_mm: dict[Site, tuple[float, float, float]]
    labels: dict[Site, Severity]
    marks: tuple[Mark, ...]


def read_study(
    patient: Patient,
    plans: Sequence[SeriesPlan],
    series_ids: Sequence[int],
    generator: np.random.Generator,
    exact: bool = False,
) -> tuple[dict[Site, Severity], tuple[Mark, ...]]:
    """The labels and marks of a study. `exact`: labels are the true severities, none is lost."""
    labels: dict[Site, Severity] = {}
    marks: list[Mark] = []
    for site in SITES:
        grade = patient.grades[site]
        label = read_label(grade, generator)
        lost = generator.uniform() < _LABEL_LOST
        mark = _mark(site, patient.position_mm(site), plans, series_ids, generator)
        if site.condition is Condition.SUBARTICULAR_STENOSIS and mark is None:
            continue
        if exact or not lost:
            labels[site] = severity_of(grade) if exact else label
            marks.extend([mark] if mark else [])
    return labels, tuple(marks)


def _mark(
    site: Site,
    point_mm: Array,
    plans: Sequence[SeriesPlan],
    series_ids: Sequence[int],
    generator: np.random.Generator,
) -> Mark | None:
    """Where a reader clicks, in the view that the site is marked in; None where no slice shows it."""
    scatter, chance = generator.normal(0, MARK_SCATTER_MM, 2), generator.uniform()
    places = [
        (series_id, number, frame)
        for plan, series_id in zip(plans, series_ids, strict=True)
        if plan.view is site.views[0]
        for number, frame in zip(plan.instance_numbers, plan.frames, strict=True)
    ]
    if not places:
        return None
    chosen = nearest([frame for _, _, frame in places], point_mm)
    if site.condition is Condition.SUBARTICULAR_STENOSIS and chance < _NEXT_SLICE:
        others = [place for index, place in enumerate(places) if index != chosen]
        second = nearest([frame for _, _, frame in others], point_mm)
        if abs(others[second][2].distance_mm(point_mm)) <= IMAGED_WITHIN_MM:
            places, chosen = others, second
    series_id, number, frame = places[chosen]
    if abs(frame.distance_mm(point_mm)) > IMAGED_WITHIN_MM or not frame.contains(point_mm):
        return None
    column, row = frame.to_pixel(point_mm) + scatter / (frame.spacing_mm[1], frame.spacing_mm[0])
    return Mark(site, series_id, number, float(column), float(row))


def write_tables(dataset: Path, records: Sequence[StudyRecord]) -> None:
    """The competition's tables of the splits that have studies."""
    records = sorted(records, key=lambda record: record.study_id)
    train = [record for record in records if record.split == "train"]
    test = [record for record in records if record.split == "test"]
    if train:
        _write(
            dataset / "train.csv",
            ("study_id", *(site.key for site in SITES)),
            ((r.study_id, *(r.labels[s].label if s in r.labels else "" for s in SITES)) for r in train),
        )
        _write(
            dataset / "train_label_coordinates.csv",
            ("study_id", "series_id", "instance_number", "condition", "level", "x", "y"),
            ((r.study_id, *_coordinates(mark)) for r in train for mark in r.marks),
        )
        _write_descriptions(dataset / "train_series_descriptions.csv", train)
    if test:
        third = 1 / 3
        _write(
            dataset / "sample_submission.csv",
            ("row_id", "normal_mild", "moderate", "severe"),
            ((f"{r.study_id}_{site.key}", third, third, third) for r in test for site in SUBMISSION_SITES),
        )
        _write_descriptions(dataset / "test_series_descriptions.csv", test)


def _write_descriptions(path: Path, records: Sequence[StudyRecord]) -> None:
    _write(
        path,
        ("study_id", "series_id", "series_description"),
        ((r.study_id, series_id, view.words) for r in records for series_id, view in r.series),
    )


def _coordinates(mark: Mark) -> tuple[Any, ...]:
    """``Left Neural Foraminal Narrowing``, ``L4/L5`` and the pixel, as the real table writes them."""
    condition = mark.site.condition_key.replace("_", " ").title()
    level = mark.site.level.words.replace("-", "/")
    return (mark.series_id, mark.instance_number, condition, level, mark.x, mark.y)


def write_truth(path: Path, records: Sequence[StudyRecord]) -> None:
    """Every site's hidden grade, true severity, label and true place: never inside ``dataset/``."""
    _write(path, TRUTH_COLUMNS, (row for record in records for row in _truth_rows(record)))


def _truth_rows(record: StudyRecord) -> Iterable[tuple[Any, ...]]:
    for site in SITES:
        grade, label = record.grades[site], record.labels.get(site)
        yield (
            record.study_id, record.split, *site.columns.values(),
            round(grade, 4), Severity.to_column(severity_of(grade)), Severity.to_column(label),
            *(round(value, 3) for value in record.positions_mm[site]),
        )  # fmt: skip


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
