"""The ranking of suspect labels, against a slow version that looks at one site at a time."""

import math

import numpy as np

from data_prep.sites import SITES, Severity
from vl_model.data.site_table import UNLABELLED, SiteTable
from vl_model.evaluation.cross_fitting import HeldOut
from vl_model.evaluation.label_ranking import rank_suspect_labels


def drawn_predictions(studies: int, seed: int = 0) -> HeldOut:
    """Draw predictions of all sites of some studies; some are unlabelled, some have no image, some are equal."""
    rng = np.random.default_rng(seed)
    rows = studies * len(SITES)
    severity_N = rng.choice([UNLABELLED, 0, 1, 2], rows, p=(0.1, 0.6, 0.2, 0.1))
    table = SiteTable(
        np.repeat(rng.permutation(1000)[:studies] + 1, len(SITES)), np.tile(np.arange(len(SITES)), studies), severity_N
    )
    prob_N3 = np.round(rng.dirichlet((1, 1, 1), rows), 2)
    prob_N3[:, 0] = 1 - prob_N3[:, 1:].sum(axis=1)
    prob_N3[5] = prob_N3[6] = (0.0, 1.0, 0.0)
    other_N3 = rng.dirichlet((1, 1, 1), rows)
    kinds = {("linear_probe", "calibrated"): prob_N3, ("linear_probe", "metric_optimal"): other_N3}
    return HeldOut(table, rng.random(rows) < 0.9, other_N3, kinds)  # type: ignore[arg-type]


def slow_ranking(held_out: HeldOut) -> list[tuple[int, int, int, float]]:
    """Return (study, site, known grade, margin) of all sites where another grade is more probable."""
    found = []
    for row in range(len(held_out.table)):
        grade = int(held_out.table.severity_N[row])
        if not held_out.imaged_N[row] or grade == UNLABELLED:
            continue
        known, *others = (
            max(float(p), 1e-9) for p in np.roll(held_out.prob_N3["linear_probe", "calibrated"][row], -grade)
        )
        if max(others) > known:
            key = int(held_out.table.study_N[row]), int(held_out.table.site_N[row])
            found.append((*key, grade, math.log(max(others) / known)))
    return sorted(found, key=lambda one: -round(one[-1], 12))


def test_labels_are_ranked_by_how_many_times_as_probable_another_grade_is() -> None:
    held_out = drawn_predictions(40)
    labels, graded = rank_suspect_labels(held_out, "linear_probe")
    expected = slow_ranking(held_out)
    assert graded == sum(
        held_out.imaged_N[row] and held_out.table.severity_N[row] != UNLABELLED for row in range(len(held_out.table))
    )
    assert 100 < len(labels) == len(expected) < graded
    assert [label.rank for label in labels] == list(range(1, len(labels) + 1))
    found = [(label.study_id, SITES.index(label.site), int(label.severity), label.margin) for label in labels]
    assert np.allclose([one[-1] for one in found], [one[-1] for one in expected], atol=1e-9)
    assert {one[:3] for one in found} == {one[:3] for one in expected}
    for label in labels:
        known = max(label.probabilities[label.severity], 1e-9)
        assert math.isclose(label.surprise, -math.log(known), abs_tol=1e-9)
        assert math.isclose(label.surprise - label.margin, -math.log(max(label.probabilities)), abs_tol=1e-9)


def test_a_certain_model_that_agrees_and_an_undecided_one_suspect_nothing() -> None:
    severity_N = np.tile([0, 1, 2, 0, 1], 5)
    table = SiteTable(np.full(25, 7), np.arange(25), severity_N)
    for prob_N3 in (np.eye(3)[severity_N], np.full((25, 3), 1 / 3)):
        held_out = HeldOut(table, np.ones(25, dtype=bool), prob_N3, {("zero_shot", "calibrated"): prob_N3})
        assert rank_suspect_labels(held_out, "zero_shot") == ([], 25)
    wrong = SiteTable(table.study_N, table.site_N, np.where(np.arange(25) == 3, int(Severity.SEVERE), severity_N))
    held_out = HeldOut(
        wrong, np.ones(25, dtype=bool), table.study_N, {("zero_shot", "calibrated"): np.eye(3)[severity_N]}
    )
    [label] = rank_suspect_labels(held_out, "zero_shot")[0]
    assert label.site == SITES[3] and label.severity is Severity.SEVERE and label.margin > 20
