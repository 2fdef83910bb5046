"""Copies of a phantom cohort whose grades are the true ones, or the true ones with a known share of wrong ones.

A copy shares the images of the cohort (hard links) and has its own ``train.csv``. Its simulated readers' own slips are
taken out first: they would be found as well, and nobody could say which of the two a listed site is.
"""

import csv
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.conversion.pairs import read_dataset, write_dataset
from data_prep.sites import SITES, Severity, Site
from data_prep.truth import read_grades
from workspace.json_files import read_object
from workspace.layout import DataRoot

Grades = dict[tuple[int, Site], Severity]


def true_grades(root: DataRoot) -> Grades:
    """Return the true grades of those sites that the cohort's ``train.csv`` grades."""
    truth = read_grades(root.path / "phantom_truth" / "truth.csv")
    return {key: truth[key] for key in read_grades(root.table("train.csv"))}


def plant(grades: Mapping[tuple[int, Site], Severity], share: float, seed: int) -> Grades:
    """Return the grades that are moved to a neighbouring grade: a `share` of all sites, drawn uniformly.

    A moderate grade moves up or down with the same probability.
    """
    random = np.random.default_rng(seed)
    keys = sorted(grades, key=lambda key: (key[0], SITES.index(key[1])))
    drawn = random.choice(len(keys), round(share * len(keys)), replace=False)
    moves = random.choice((-1, 1), len(drawn))
    return {keys[index]: _neighbour(grades[keys[index]], int(move)) for index, move in zip(drawn, moves, strict=True)}


def _neighbour(severity: Severity, move: int) -> Severity:
    return Severity(severity + move) if severity is Severity.MODERATE else Severity.MODERATE


def copy_cohort(root: DataRoot, copy: DataRoot, grades: Mapping[tuple[int, Site], Severity]) -> None:
    """Make a copy of the cohort's input with these grades in ``train.csv``; sites without one are left empty."""
    copy.dataset.mkdir(parents=True)
    shutil.copytree(root.images("train"), copy.images("train"), copy_function=os.link)
    for name in ("train_series_descriptions.csv", "train_label_coordinates.csv"):
        shutil.copy(root.table(name), copy.table(name))
    write_grades(copy.table("train.csv"), grades)


def write_grades(path: Path, grades: Mapping[tuple[int, Site], Severity]) -> None:
    """Write ``train.csv``, one row per study."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["study_id", *(site.key for site in SITES)])
        for study_id in sorted({study_id for study_id, _ in grades}):
            known = [grades.get((study_id, site)) for site in SITES]
            table.writerow([study_id, *("" if grade is None else grade.label for grade in known)])


def take_folds(source: DataRoot, copy: DataRoot) -> None:
    """Divide a prepared copy into the folds of another one.

    Folds are balanced by the grades, so two copies with different grades have different held-out studies otherwise.
    """
    fold_of, dataset = read_dataset(source.processed("train")).fold_of, read_dataset(copy.processed("train"))
    if dataset.fold_of == fold_of:
        return
    of_study = {str(study_id): fold for study_id, fold in fold_of.items()}
    metadata = {**dataset.metadata, "folds": {**dataset.metadata["folds"], "of_study": of_study}}
    pairs = (replace(pair, fold=fold_of[pair.study_id]) for pair in dataset.pairs)
    crops = read_object(copy.processed("train") / "crops.json", "prepare_data.py")["fingerprint"]
    write_dataset(copy.processed("train"), metadata, pairs, crops)
