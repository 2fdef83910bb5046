"""The metric against a row-by-row version of its definition, and against scikit-learn as the official code uses it."""

import math

import numpy as np
import pytest
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from data_prep.sites import SITES, Condition, Severity
from vl_model.data.site_table import UNLABELLED, SiteTable, full_table, site_table
from vl_model.scoring.constant_baseline import constant_baseline
from vl_model.scoring.intervals import paired_differences
from vl_model.scoring.metrics import (
    SEVERITY_WEIGHTS,
    auc,
    brier,
    classwise_ece,
    competition_metric,
    confusion,
    ece,
    log_loss,
    reliability,
    severity_aucs,
    study_sums,
    weighted_log_loss,
)
from vl_model.scoring.priors import ColumnPrior


def random_table(studies: int, seed: int, unlabelled: float = 0.1) -> tuple[SiteTable, np.ndarray]:
    """Return shuffled rows of complete studies, some unlabelled, with probabilities biased to the true severity."""
    rng = np.random.default_rng(seed)
    table = full_table(range(100, 100 + studies), site_table([]))
    severity_N = rng.choice(3, size=len(table), p=[0.75, 0.16, 0.09])
    logits_N3 = rng.normal(size=(len(table), 3)) + 1.5 * np.eye(3)[severity_N]
    prob_N3 = np.exp(logits_N3) / np.exp(logits_N3).sum(axis=1, keepdims=True)
    severity_N[rng.random(len(table)) < unlabelled] = UNLABELLED
    order = rng.permutation(len(table))
    shuffled = SiteTable(table.study_N[order], table.site_N[order], severity_N[order])
    return shuffled, prob_N3[order]


def slow_metric(table: SiteTable, prob_N3: np.ndarray) -> list[float]:
    """Compute the metric row by row, as the competition's page defines it."""
    parts = []
    for condition in Condition:
        total = weight_total = 0.0
        for row in range(len(table)):
            severity = int(table.severity_N[row])
            if severity == UNLABELLED or SITES[table.site_N[row]].condition is not condition:
                continue
            weight = {0: 1, 1: 2, 2: 4}[severity]
            total += weight * -math.log(prob_N3[row, severity])
            weight_total += weight
        parts.append(total / weight_total)
    total = weight_total = 0.0
    for study in set(table.study_N.tolist()):
        severities, predictions = [], []
        for row in range(len(table)):
            spinal = SITES[table.site_N[row]].condition is Condition.SPINAL_CANAL_STENOSIS
            if table.study_N[row] == study and spinal and table.severity_N[row] != UNLABELLED:
                severities.append(int(table.severity_N[row]))
                predictions.append(prob_N3[row, 2])
        if severities:
            weight = {0: 1, 1: 2, 2: 4}[max(severities)]
            probability = max(predictions) if max(severities) == 2 else 1 - max(predictions)
            total += weight * -math.log(probability)
            weight_total += weight
    parts.append(total / weight_total)
    return [sum(parts) / 4, *parts]


def test_metric_equals_the_slow_version() -> None:
    table, prob_N3 = random_table(studies=12, seed=1, unlabelled=0.3)
    fast = competition_metric(table, prob_N3)
    assert list(fast.as_dict().values()) == pytest.approx(slow_metric(table, prob_N3), rel=1e-12)


def test_metric_equals_scikit_learn_with_weights() -> None:
    table, prob_N3 = random_table(studies=30, seed=2, unlabelled=0.0)
    # As the official code: rows grouped by condition, then one row a study for the spinal canal.
    weight_N = np.asarray(SEVERITY_WEIGHTS)[table.severity_N]
    parts = []
    for condition in range(3):
        rows = table.condition_N == condition
        parts.append(sklearn_log_loss(np.eye(3)[table.severity_N[rows]], prob_N3[rows], sample_weight=weight_N[rows]))
    truth, prediction, weight = [], [], []
    for study in table.study_ids:
        rows = (table.study_N == study) & (table.condition_N == 0)
        truth.append(int((table.severity_N[rows] == 2).any()))
        prediction.append(prob_N3[rows, 2].max())
        weight.append(weight_N[rows].max())
    parts.append(sklearn_log_loss(truth, prediction, sample_weight=weight))
    fast = competition_metric(table, prob_N3)
    assert fast.score == pytest.approx(np.mean(parts), rel=1e-12)
    assert fast.any_severe == pytest.approx(parts[3], rel=1e-12)


def test_a_true_class_of_probability_zero_has_scikit_learns_loss() -> None:
    table = site_table([(1, SITES[0], Severity.SEVERE)])
    loss = competition_metric(table, np.array([[1.0, 0.0, 0.0]])).spinal
    assert loss == pytest.approx(-math.log(np.finfo(np.float64).eps))


def test_a_part_without_rows_is_not_a_number_and_no_labels_are_an_error() -> None:
    table = site_table([(1, SITES[0], Severity.SEVERE)])
    metric = competition_metric(table, np.full((1, 3), 1 / 3))
    assert math.isnan(metric.foraminal) and math.isnan(metric.score) and not math.isnan(metric.any_severe)
    with pytest.raises(ValueError, match=r"shape \(2, 3\): expected \(1, 3\)"):
        competition_metric(table, np.full((2, 3), 1 / 3))
    with pytest.raises(ValueError, match="no labelled row"):
        competition_metric(site_table([(1, SITES[0], None)]), np.full((1, 3), 1 / 3))


def test_no_other_constant_beats_the_constant_baseline() -> None:
    table, _ = random_table(studies=200, seed=3, unlabelled=0.0)
    baseline_N3 = constant_baseline(table, table)
    best = competition_metric(table, baseline_N3)
    rng = np.random.default_rng(0)
    for _ in range(50):
        other_N3 = baseline_N3 * np.exp(rng.normal(scale=0.1, size=(25, 3)))[table.site_N]
        other = competition_metric(table, other_N3 / other_N3.sum(axis=1, keepdims=True))
        # The shrinkage of small counts costs a little, never more than this.
        for part in ("score", "foraminal", "subarticular"):
            assert getattr(best, part) < getattr(other, part) + 1e-4


def test_constant_baseline_is_the_weighted_frequency() -> None:
    rows = [(study, SITES[7], Severity(grade)) for study, grade in enumerate([0] * 60 + [1] * 30 + [2] * 10)]
    prior = ColumnPrior((1.0, 2.0, 4.0), pseudo_count=0.0001).fit(site_table(rows))
    assert prior.prob_SC_[7] == pytest.approx(np.array([60, 60, 40]) / 160, abs=1e-5)


def test_a_column_that_was_never_severe_has_a_probability_above_zero() -> None:
    rows = [(study, SITES[0], Severity.NORMAL_MILD) for study in range(20)]
    rows += [(study, SITES[3], Severity(study % 3)) for study in range(20)]
    prior = ColumnPrior().fit(site_table(rows))
    assert 0.003 < prior.prob_SC_[0, Severity.SEVERE] < 0.03
    assert prior.prob_SC_.sum(axis=1) == pytest.approx(np.ones(25))
    assert prior.prob_SC_[10] == pytest.approx(np.full(3, 1 / 3))  # a condition nobody graded: even


def test_auc_equals_pair_counting_and_scikit_learn() -> None:
    rng = np.random.default_rng(4)
    positive_N = rng.random(60) < 0.3
    score_N = np.round(rng.random(60) + 0.3 * positive_N, 1)  # ties
    wins = [
        (score_N[i] > score_N[j]) + 0.5 * (score_N[i] == score_N[j])
        for i in np.flatnonzero(positive_N)
        for j in np.flatnonzero(~positive_N)
    ]
    assert auc(positive_N, score_N) == pytest.approx(np.mean(wins))
    assert auc(positive_N, score_N) == pytest.approx(roc_auc_score(positive_N, score_N))
    assert math.isnan(auc(np.zeros(3, dtype=bool), np.zeros(3)))


def test_ordinal_aucs_cut_at_moderate() -> None:
    severity_N = np.array([0, 1, 2])
    prob_N3 = np.array([[0.9, 0.05, 0.05], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2]])
    areas = severity_aucs(severity_N, prob_N3)
    assert areas["at_least_moderate"] == 1.0
    assert areas["severe"] == 0.5
    assert areas["moderate"] == 0.5


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_ece_equals_a_slow_version(binning: str) -> None:
    table, prob_N3 = random_table(studies=40, seed=5, unlabelled=0.0)
    confidence, hit = prob_N3.max(axis=1), prob_N3.argmax(axis=1) == table.severity_N
    ranked = sorted(range(len(table)), key=lambda row: confidence[row])
    total = 0.0
    for index in range(10):
        if binning == "width":
            rows = [r for r in ranked if index / 10 <= confidence[r] < (index + 1) / 10]
        else:
            rows = ranked[index * len(ranked) // 10 : (index + 1) * len(ranked) // 10]
        if rows:
            expected = sum(confidence[r] for r in rows) / len(rows)
            observed = sum(bool(hit[r]) for r in rows) / len(rows)
            total += len(rows) / len(ranked) * abs(expected - observed)
    assert ece(table.severity_N, prob_N3, bins=10, binning=binning) == pytest.approx(total)


def test_calibrated_probabilities_have_a_small_error_and_overconfident_ones_a_large() -> None:
    rng = np.random.default_rng(6)
    prob_N3 = rng.dirichlet((2, 1, 1), size=20_000)
    severity_N = (rng.random(len(prob_N3))[:, None] > prob_N3.cumsum(axis=1)).sum(axis=1)
    sharp_N3 = prob_N3**3 / (prob_N3**3).sum(axis=1, keepdims=True)
    assert ece(severity_N, prob_N3) < 0.015 < 0.1 < ece(severity_N, sharp_N3)
    assert max(classwise_ece(severity_N, prob_N3).values()) < 0.015
    assert brier(severity_N, prob_N3) < brier(severity_N, sharp_N3)
    assert log_loss(severity_N, prob_N3) < log_loss(severity_N, sharp_N3)
    bins = reliability(prob_N3[:, 2], severity_N == 2, bins=10)
    assert sum(bins.count) == len(prob_N3) and max(bins.count) - min(bins.count) <= 1


def test_equal_confidences_are_in_one_bin() -> None:
    confidence_N = np.repeat([0.5, 0.7, 0.9], [40, 50, 10])
    hit_N = np.random.default_rng(1).random(100) < 0.5
    bins = reliability(confidence_N, hit_N, bins=10)
    assert bins.count == (40, 50, 10) and bins.confidence == pytest.approx((0.5, 0.7, 0.9))
    shuffled = np.random.default_rng(2).permutation(100)
    assert reliability(confidence_N[shuffled], hit_N[shuffled], bins=10).error == pytest.approx(bins.error)


def test_confusion_has_truth_in_rows() -> None:
    counts = confusion(np.array([2, 2, 0]), np.array([[0.8, 0.1, 0.1], [0.1, 0.2, 0.7], [0.5, 0.3, 0.2]]))
    assert counts.tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 1]]


def test_weighted_log_loss_of_a_condition_is_that_part() -> None:
    table, prob_N3 = random_table(studies=20, seed=7)
    rows = table.condition_N == 1
    assert weighted_log_loss(table.take(rows), prob_N3[rows]) == pytest.approx(
        competition_metric(table, prob_N3).foraminal
    )


def test_only_the_same_studies_are_compared() -> None:
    table, prob_N3 = random_table(studies=5, seed=10)
    fewer = table.study_N != 100
    with pytest.raises(ValueError, match="same studies"):
        paired_differences(study_sums(table, prob_N3), study_sums(table.take(fewer), prob_N3[fewer]))
