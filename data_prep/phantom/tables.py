"""Simulate a reader's labels and marks, and write the competition's tables."""

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

#: Standard deviation of a reader's click, in mm along each axis of the image.
MARK_SCATTER_MM = 0.7
#: A site further than this from every slice is not marked.
IMAGED_WITHIN_MM = 5.0
#: Share of subarticular marks that are placed on the second nearest slice.
_NEXT_SLICE = 0.2
#: Share of labels that are missing at random.
_LABEL_LOST = 0.001

TRUTH_COLUMNS = ("study_id", "split", *SITE_COLUMNS, "grade", "severity", "label", *POSITION_COLUMNS)


@dataclass(frozen=True)
class WrittenStudy:
    """The content of a written study that the tables need."""

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
    """Draw the labels and marks of a study. `exact`: whether labels are the true severities and none is missing."""
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
    """Draw a reader's click in the view that the site is marked in; None if no slice shows the site."""
    scatter, chance = generator.normal(0, MARK_SCATTER_MM, 2), generator.uniform()
    slices = [
        (series_id, number, frame)
        for plan, series_id in zip(plans, series_ids, strict=True)
        if plan.view is site.views[0]
        for number, frame in zip(plan.instance_numbers, plan.frames, strict=True)
    ]
    if not slices:
        return None
    chosen = nearest([frame for _, _, frame in slices], point_mm)
    if site.condition is Condition.SUBARTICULAR_STENOSIS and chance < _NEXT_SLICE:
        others = [other for index, other in enumerate(slices) if index != chosen]
        second = nearest([frame for _, _, frame in others], point_mm)
        if abs(others[second][2].distance_mm(point_mm)) <= IMAGED_WITHIN_MM:
            slices, chosen = others, second
    series_id, number, frame = slices[chosen]
    if abs(frame.distance_mm(point_mm)) > IMAGED_WITHIN_MM or not frame.contains(point_mm):
        return None
    column, row = frame.to_pixel(point_mm) + scatter / (frame.spacing_mm[1], frame.spacing_mm[0])
    return Mark(site, series_id, number, float(column), float(row))


def write_tables(dataset: Path, studies: Sequence[WrittenStudy]) -> None:
    """Write the competition's tables for each split that has studies."""
    studies = sorted(studies, key=lambda study: study.study_id)
    train = [study for study in studies if study.split == "train"]
    test = [study for study in studies if study.split == "test"]
    if train:
        _write(
            dataset / "train.csv",
            ("study_id", *(site.key for site in SITES)),
            (
                (study.study_id, *(study.labels[site].label if site in study.labels else "" for site in SITES))
                for study in train
            ),
        )
        _write(
            dataset / "train_label_coordinates.csv",
            ("study_id", "series_id", "instance_number", "condition", "level", "x", "y"),
            ((study.study_id, *_coordinates(mark)) for study in train for mark in study.marks),
        )
        _write_descriptions(dataset / "train_series_descriptions.csv", train)
    if test:
        third = 1 / 3
        _write(
            dataset / "sample_submission.csv",
            ("row_id", "normal_mild", "moderate", "severe"),
            ((f"{study.study_id}_{site.key}", third, third, third) for study in test for site in SUBMISSION_SITES),
        )
        _write_descriptions(dataset / "test_series_descriptions.csv", test)


def _write_descriptions(path: Path, studies: Sequence[WrittenStudy]) -> None:
    _write(
        path,
        ("study_id", "series_id", "series_description"),
        ((study.study_id, series_id, view.words) for study in studies for series_id, view in study.series),
    )


def _coordinates(mark: Mark) -> tuple[Any, ...]:
    """Return the cells of a mark as the real table writes them: ``Left Neural Foraminal Narrowing``, ``L4/L5``, ..."""
    condition = mark.site.condition_key.replace("_", " ").title()
    level = mark.site.level.words.replace("-", "/")
    return (mark.series_id, mark.instance_number, condition, level, mark.x, mark.y)


def write_truth(path: Path, studies: Sequence[WrittenStudy]) -> None:
    """Write each site's hidden grade, true severity, label and true position; the file must not be in ``dataset/``."""
    _write(path, TRUTH_COLUMNS, (row for study in studies for row in _truth_rows(study)))


def _truth_rows(study: WrittenStudy) -> Iterable[tuple[Any, ...]]:
    for site in SITES:
        grade, label = study.grades[site], study.labels.get(site)
        yield (
            study.study_id, study.split, *site.columns.values(),
            round(grade, 4), Severity.to_column(severity_of(grade)), Severity.to_column(label),
            *(round(value, 3) for value in study.positions_mm[site]),
        )  # fmt: skip


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
