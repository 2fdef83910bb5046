"""Calibrators: gradient, optimum, little data, and cross-fitting without leakage."""

import numpy as np
import pytest
from scipy.optimize import check_grad, minimize
from scipy.special import log_softmax

from vl_model.data.site_table import SiteTable, full_table, site_table
from vl_model.evaluation.calibrate import Calibrator, cross_fit, study_groups
from vl_model.scoring.metrics import SEVERITY_WEIGHTS, competition_metric, ece, log_loss, weighted_log_loss


def overconfident(studies: int, seed: int, sharpening: float = 3.0) -> tuple[SiteTable, np.ndarray, np.ndarray]:
    """Return rows drawn from known probabilities, and a head's overconfident version biased to Normal/Mild."""
    rng = np.random.default_rng(seed)
    table = full_table(range(studies), site_table([]))
    log_true_N3 = log_softmax(rng.normal(size=(len(table), 3)) * 1.5 + np.array([1.5, 0.0, -1.0]), axis=1)
    table.severity_N[:] = (rng.random(len(table))[:, None] > np.exp(log_true_N3).cumsum(axis=1)).sum(axis=1)
    log_head_N3 = log_softmax(sharpening * log_true_N3 + np.array([1.0, 0.0, 0.0]), axis=1)
    return table, log_head_N3, np.exp(log_true_N3)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), SEVERITY_WEIGHTS])
def test_gradient_equals_finite_differences(weights: tuple[float, ...]) -> None:
    table, log_prob_N3, _ = overconfident(4, seed=0)
    calibrator = Calibrator(weights)
    data = (log_prob_N3, table.level_N, table.severity_N)
    for seed in range(3):
        point = np.random.default_rng(seed).normal(scale=0.5, size=13)
        error = check_grad(
            lambda p: calibrator._objective(p, *data)[0], lambda p: calibrator._objective(p, *data)[1], point
        )
        assert error < 1e-3 * np.abs(calibrator._objective(point, *data)[1]).max()


def test_fit_equals_a_slow_optimiser_of_the_written_formula() -> None:
    table, log_prob_N3, _ = overconfident(20, seed=1)
    weights = np.array(SEVERITY_WEIGHTS)
    fitted = Calibrator(SEVERITY_WEIGHTS, pull=2.0, level_pull=1e6).fit(log_prob_N3, table)  # no level biases
    rows = table.condition_N == 2
    weight_N = weights[table.severity_N[rows]] / weights[table.severity_N[rows]].mean()

    def loss(p: np.ndarray) -> float:
        total = (p**2).sum()  # pull 2, halved
        for log_prob, truth, weight in zip(log_prob_N3[rows], table.severity_N[rows], weight_N, strict=True):
            logits = np.exp(p[0]) * log_prob + np.array([0, p[1], p[2]]) + np.log(weights)
            total -= weight * (logits[truth] - np.log(np.exp(logits).sum()))
        return float(total)

    slow = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-8})
    assert fitted.slope_K_[2] == pytest.approx(np.exp(slow.x[0]), abs=2e-3)
    assert fitted.bias_KC_[2] == pytest.approx([0, slow.x[1], slow.x[2]], abs=5e-3)
    assert np.abs(fitted.level_bias_KLC_).max() < 1e-3


def test_calibration_recovers_the_true_probabilities() -> None:
    table, log_prob_N3, _ = overconfident(400, seed=2)
    new, log_new_N3, true_new_N3 = overconfident(200, seed=3)
    calibrator = Calibrator().fit(log_prob_N3, table)
    assert calibrator.slope_K_ == pytest.approx(np.full(3, 1 / 3), abs=0.03)
    prob_N3 = calibrator.predict_proba(log_new_N3, new)
    assert np.abs(prob_N3 - true_new_N3).mean() < 0.02
    assert ece(new.severity_N, prob_N3) < 0.02 < ece(new.severity_N, np.exp(log_new_N3))


def test_metric_optimal_is_bayes_rule_for_calibrated_input_and_no_data() -> None:
    table, _, true_N3 = overconfident(3, seed=4)
    unlabelled = full_table([9], site_table([]))
    prob_N3 = Calibrator(SEVERITY_WEIGHTS).fit(np.log(true_N3[:25]), unlabelled).predict_proba(np.log(true_N3), table)
    weighed_N3 = true_N3 * np.array(SEVERITY_WEIGHTS)
    assert prob_N3 == pytest.approx(weighed_N3 / weighed_N3.sum(axis=1, keepdims=True))
    same_N3 = Calibrator().fit(np.log(true_N3[:25]), unlabelled).predict_proba(np.log(true_N3), table)
    assert same_N3 == pytest.approx(true_N3)


def test_each_kind_is_best_by_its_own_loss() -> None:
    table, log_prob_N3, _ = overconfident(300, seed=5)
    new, log_new_N3, _ = overconfident(300, seed=6)
    calibrated_N3 = Calibrator().fit(log_prob_N3, table).predict_proba(log_new_N3, new)
    optimal_N3 = Calibrator(SEVERITY_WEIGHTS).fit(log_prob_N3, table).predict_proba(log_new_N3, new)
    assert weighted_log_loss(new, optimal_N3) < weighted_log_loss(new, calibrated_N3) - 0.01
    assert log_loss(new.severity_N, calibrated_N3) < log_loss(new.severity_N, optimal_N3) - 0.01
    assert competition_metric(new, optimal_N3).score < competition_metric(new, np.exp(log_new_N3)).score


def test_level_biases_are_learned_from_much_data_and_hardly_from_little() -> None:
    table, log_prob_N3, _ = overconfident(400, seed=7, sharpening=1.0)
    table.severity_N[table.level_N == 0] = 0
    much = Calibrator().fit(log_prob_N3, table).level_bias_KLC_
    few = table.of_studies([0, 1])
    little = Calibrator().fit(log_prob_N3[few], table.take(few)).level_bias_KLC_
    assert (much[:, 0, 2] < -0.5).all() and (much[:, 4, 2] > much[:, 0, 2] + 0.5).all()
    assert np.abs(little).max() < 0.5


def test_five_rows_move_a_calibrator_only_a_little() -> None:
    table, log_prob_N3, _ = overconfident(1, seed=8)
    rows = np.flatnonzero(table.condition_N == 0)
    calibrator = Calibrator().fit(log_prob_N3[rows], table.take(rows))
    assert (np.abs(np.log(calibrator.slope_K_)) < 1.5).all() and np.abs(calibrator.bias_KC_).max() < 1.5
    assert calibrator.slope_K_[1] == 1 and not calibrator.bias_KC_[1].any()


def test_a_calibrator_that_was_saved_and_read_is_the_same() -> None:
    table, log_prob_N3, _ = overconfident(5, seed=9)
    calibrator = Calibrator(SEVERITY_WEIGHTS).fit(log_prob_N3, table)
    again = Calibrator.from_dict(calibrator.as_dict())
    assert np.array_equal(calibrator.predict_proba(log_prob_N3, table), again.predict_proba(log_prob_N3, table))


def test_groups_cover_the_studies_and_divide_severe_ones_evenly() -> None:
    table, _, _ = overconfident(23, seed=10)
    groups = study_groups(table, 5)
    assert sorted(groups) == table.study_ids and set(groups.values()) == set(range(5))
    severe = [
        sum((table.severity_N[table.study_N == s] == 2).sum() for s in groups if groups[s] == g) for g in range(5)
    ]
    assert max(severe) < 2 * min(severe)
    assert groups == study_groups(table, 5) and set(study_groups(table.take(table.of_studies([1, 2])), 5).values()) == {
        0,
        1,
    }
    with pytest.raises(ValueError, match="requires at least two"):
        study_groups(table.take(table.of_studies([1])))


def test_a_study_is_not_predicted_by_a_calibrator_fitted_on_it() -> None:
    """Other labels of one study change the predictions of all groups but its own."""
    table, log_prob_N3, _ = overconfident(20, seed=11)
    groups = study_groups(table)
    before = cross_fit(log_prob_N3, table, (1, 1, 1), groups)
    changed = SiteTable(table.study_N, table.site_N, table.severity_N.copy())
    changed.severity_N[table.study_N == 3] = 2
    after = cross_fit(log_prob_N3, changed, (1, 1, 1), groups)
    same = table.of_studies(study for study in groups if groups[study] == groups[3])
    assert np.array_equal(before[same], after[same])
    assert (np.abs(before[~same] - after[~same]).max(axis=1) > 0).all()


def test_unlabelled_studies_are_predicted_too() -> None:
    table, log_prob_N3, _ = overconfident(6, seed=12)
    table.severity_N[table.study_N == 5] = -1
    prob_N3 = cross_fit(log_prob_N3, table, (1, 1, 1), study_groups(table))
    assert prob_N3.sum(axis=1) == pytest.approx(np.ones(len(table)))
