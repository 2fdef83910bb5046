"""The benchmark of suspect labels: what it plants, and that its figures are those of the planted labels."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.planted_labels import copy_cohort, plant, take_folds, true_grades, write_grades
from benchmarks.suspect_labels import joined_sums, orders
from data_prep.conversion.pairs import read_dataset, write_dataset
from data_prep.phantom.cohort import write_cohort
from data_prep.sites import SITES, Severity
from data_prep.truth import read_grades
from vl_model.data.site_table import SiteTable
from vl_model.scoring.metrics import competition_metric, scores_of
from workspace.layout import DataRoot


def test_a_share_of_the_grades_is_moved_to_a_neighbour() -> None:
    rng = np.random.default_rng(0)
    grades = {(study, site): Severity(int(rng.choice(3, p=(0.7, 0.2, 0.1)))) for study in range(200) for site in SITES}
    moved = plant(grades, 0.03, seed=4)
    assert len(moved) == 150 and moved == plant(grades, 0.03, seed=4) != plant(grades, 0.03, seed=5)
    steps = Counter((grades[key], grade) for key, grade in moved.items())
    normal, moderate, severe = Severity
    assert set(steps) == {(normal, moderate), (moderate, normal), (moderate, severe), (severe, moderate)}
    assert steps[normal, moderate] / 150 == pytest.approx(0.7, abs=0.1)


def test_a_copy_has_the_true_grades_and_the_same_images(tmp_path: Path) -> None:
    write_cohort(tmp_path / "drawn", train=2, test=0, seed=3, size="small", workers=1, progress=False)
    source, copy = DataRoot(tmp_path / "drawn"), DataRoot(tmp_path / "copy")
    truth = true_grades(source)
    readers = read_grades(source.table("train.csv"))
    assert truth.keys() == readers.keys()
    copy_cohort(source, copy, truth)
    assert read_grades(copy.table("train.csv")) == truth
    header = source.table("train.csv").read_text().splitlines()[0]
    assert copy.table("train.csv").read_text().splitlines()[0] == header
    images = [sorted(path.relative_to(root.dataset) for path in root.dataset.rglob("*.dcm")) for root in (source, copy)]
    assert images[0] == images[1] and len(images[0]) > 10
    write_grades(tmp_path / "train.csv", readers)
    assert (tmp_path / "train.csv").read_text() == source.table("train.csv").read_text()


def test_a_copy_takes_the_folds_of_another(evaluated_root: Path, tmp_path: Path) -> None:
    source, copy = DataRoot(evaluated_root), DataRoot(tmp_path)
    written = source.processed("train") / "dataset.json"
    shutil.copytree(source.processed("train"), copy.processed("train"), ignore=shutil.ignore_patterns("images"))
    dataset = read_dataset(source.processed("train"))
    other = {study_id: (fold + 1) % 5 for study_id, fold in dataset.fold_of.items()}
    metadata = dataset.metadata | {"folds": dataset.metadata["folds"] | {"of_study": other}}
    pairs = [replace(pair, fold=other[pair.study_id]) for pair in dataset.pairs]
    crops = json.loads((source.processed("train") / "crops.json").read_text())["fingerprint"]
    write_dataset(copy.processed("train"), metadata, pairs, crops)
    assert read_dataset(copy.processed("train")).fold_of == other
    take_folds(source, copy)
    assert (copy.processed("train") / "dataset.json").read_bytes() == written.read_bytes()


def test_orders_agree_with_a_look_at_one_site() -> None:
    table = SiteTable(np.array([1, 1, 2]), np.array([0, 1, 0]), np.array([1, 0, 1]))
    prob_N3 = np.array([[0.7, 0.2, 0.1], [0.9, 0.06, 0.04], [0.1, 0.6, 0.3]])
    scores = orders(table, prob_N3)
    assert scores["margin"] == pytest.approx([np.log(3.5), 0, 0]) and scores["difference"] == pytest.approx([0.5, 0, 0])
    entropy = -(prob_N3[0] * np.log(prob_N3[0])).sum()
    assert scores["surprise"][0] == pytest.approx(-np.log(0.2))
    assert scores["excess"][0] == pytest.approx(-np.log(0.2) - entropy)
    assert scores["by grade"] == pytest.approx([(-np.log(0.2) + np.log(0.6)) / 2, 0, (-np.log(0.6) + np.log(0.2)) / 2])


def test_folds_are_joined_and_scored_against_the_true_grades() -> None:
    rng = np.random.default_rng(1)
    prob_N3 = rng.dirichlet((1, 1, 1), 75)
    true_N = rng.choice(3, 75)
    table = SiteTable(np.repeat([3, 5, 9], 25), np.tile(np.arange(25), 3), np.zeros(75, dtype=np.int64))
    truth = {(int(table.study_N[row]), SITES[table.site_N[row]]): Severity(int(true_N[row])) for row in range(75)}
    parts = [(table.take(np.arange(25, 75)), prob_N3[25:]), (table.take(np.arange(25)), prob_N3[:25])]
    sums = joined_sums(parts, truth)
    score = scores_of(sums.loss_SG.sum(axis=0), sums.weight_SG.sum(axis=0))[0]
    expected = competition_metric(SiteTable(table.study_N, table.site_N, true_N), prob_N3)
    assert score == pytest.approx(expected.score, abs=1e-12)
