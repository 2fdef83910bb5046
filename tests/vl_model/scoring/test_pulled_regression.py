"""The regression: gradient and minimum against slow versions, held and non-negative parameters, leaving studies out."""

import numpy as np
import pytest
from scipy.optimize import minimize

from vl_model.data.site_table import Floats
from vl_model.scoring.pulled_regression import Regression, fit, left_out_losses, log_proba

PULL_D = np.array([2.0, 0.5, 0.5, 5.0])
CENTRE_D = np.array([1.0, 0.0, 0.3, 0.0])
NONE_D = np.zeros(4, dtype=bool)


def drawn_rows(studies: int, seed: int, rows: int = 6) -> Regression:
    rng = np.random.default_rng(seed)
    design_2ND = rng.normal(size=(2, studies * rows, 4))
    design_2ND[:, :, 1:3] = np.eye(2)[:, None]
    prob_N3 = np.exp(log_proba(design_2ND @ np.array([0.8, -1.0, -1.5, 0.4]))).T
    severity_N = (rng.random(len(prob_N3))[:, None] > prob_N3.cumsum(axis=1)[:, :2]).sum(axis=1)
    return Regression(design_2ND, severity_N, np.repeat(np.arange(studies), rows), studies)


def written_loss(rows: Regression, theta_D: Floats) -> float:
    total = float((PULL_D * (theta_D - CENTRE_D) ** 2).sum() / 2)
    for row, severity in enumerate(rows.severity_N):
        logits = [0.0, *(rows.design_2ND[logit, row] @ theta_D for logit in range(2))]
        total += np.log(np.exp(logits).sum()) - logits[severity]
    return total


def without(rows: Regression, study: int) -> Regression:
    keep = rows.study_N != study
    return Regression(rows.design_2ND[:, keep], rows.severity_N[keep], rows.study_N[keep], rows.studies)


def test_the_fit_equals_a_slow_optimiser_of_the_written_formula() -> None:
    rows = drawn_rows(20, seed=0)
    found = fit(rows, PULL_D, CENTRE_D, NONE_D)
    slow = minimize(lambda theta_D: written_loss(rows, theta_D), CENTRE_D, method="Nelder-Mead", tol=1e-10)
    assert found.theta_D == pytest.approx(slow.x, abs=1e-4)
    assert written_loss(rows, found.theta_D) <= slow.fun + 1e-9


def test_a_parameter_with_an_infinite_pull_stays_and_the_others_are_fitted_around_it() -> None:
    rows = drawn_rows(20, seed=1)
    found = fit(rows, np.array([np.inf, 0.5, 0.5, np.inf]), np.array([0.2, 0.0, 0.3, -1.0]), NONE_D)
    assert found.theta_D[[0, 3]].tolist() == [0.2, -1.0] and found.held_D.tolist() == [True, False, False, True]

    def loss(free: Floats) -> float:
        theta_D = np.array([0.2, free[0], free[1], -1.0])
        fixed = PULL_D * (theta_D - CENTRE_D) ** 2 / 2
        return written_loss(rows, theta_D) - float(fixed[[0, 3]].sum())

    slow = minimize(loss, np.zeros(2), method="Nelder-Mead", tol=1e-10)
    assert found.theta_D[1:3] == pytest.approx(slow.x, abs=1e-4)


def test_a_slope_that_would_become_negative_is_zero() -> None:
    rows = drawn_rows(40, seed=2)
    turned = Regression(rows.design_2ND * np.array([-1.0, 1, 1, 1]), rows.severity_N, rows.study_N, rows.studies)
    slope_only_D = np.array([True, False, False, False])
    assert fit(turned, np.full(4, 0.1), CENTRE_D, NONE_D).theta_D[0] < -0.3
    found = fit(turned, np.full(4, 0.1), CENTRE_D, slope_only_D)
    assert found.theta_D[0] == 0 and found.held_D[0] and found.theta_D[1] < -0.3


def test_nothing_is_fitted_to_no_rows() -> None:
    empty = Regression(np.zeros((2, 0, 4)), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), 3)
    found = fit(empty, PULL_D, CENTRE_D, NONE_D)
    assert found.theta_D == pytest.approx(CENTRE_D)
    assert left_out_losses(empty, found)[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("studies", [12, 60])
def test_losses_of_left_out_studies_equal_those_of_fits_without_them(studies: int) -> None:
    rows = drawn_rows(studies, seed=3)
    solution = fit(rows, PULL_D, CENTRE_D, NONE_D)
    quick_S, step_SD = left_out_losses(rows, solution)
    inside = -np.log(np.exp(log_proba(rows.design_2ND @ solution.theta_D))[rows.severity_N, np.arange(6 * studies)])
    inside_S = np.bincount(rows.study_N, inside)
    slow_S = np.zeros(studies)
    for study in range(studies):
        theta_D = fit(without(rows, study), PULL_D, CENTRE_D, NONE_D).theta_D
        assert solution.theta_D + step_SD[study] == pytest.approx(theta_D, abs=0.05)
        log_prob_3N = log_proba(rows.design_2ND[:, rows.study_N == study] @ theta_D)
        slow_S[study] = -log_prob_3N[rows.severity_N[rows.study_N == study], np.arange(6)].sum()
    # What the study itself adds to the fit is seen almost entirely.
    assert quick_S.sum() - slow_S.sum() == pytest.approx(0, abs=0.03 * (slow_S.sum() - inside_S.sum()))


def test_a_moving_centre_moves_the_left_out_fits_with_it() -> None:
    rows = drawn_rows(30, seed=4)
    pull_D = np.array([50.0, 0.5, 0.5, np.inf])
    centre_step_SD = np.zeros((30, 4))
    centre_step_SD[:, 0], centre_step_SD[:, 3] = 0.1, 0.05
    moved_D = CENTRE_D + centre_step_SD[0]
    _, step_SD = left_out_losses(rows, fit(rows, pull_D, CENTRE_D, NONE_D), centre_step_SD)
    theta_D = fit(without(rows, 7), pull_D, moved_D, NONE_D).theta_D
    assert fit(rows, pull_D, CENTRE_D, NONE_D).theta_D + step_SD[7] == pytest.approx(theta_D, abs=0.02)
