"""The recalibration of a query's scores: scipy's minimum, the order of studies, and what cannot be fitted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, logit

from vl_model.calibration.recalibration import (
    INTERCEPT_PULL,
    LEAST_OF_EITHER_KIND,
    SLOPE_PULL,
    fit_recalibration,
    pulled_recalibration,
    score_logit,
)

SCORES = st.lists(st.floats(0, 1, allow_subnormal=True), min_size=1, max_size=40)


def draw(studies: int, a: float, b: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and matches whose probabilities are those of intercept a and slope b."""
    rng = np.random.default_rng(seed)
    logit_M = rng.normal(-2, 2, studies)
    return expit(logit_M), rng.random(studies) < expit(a + b * logit_M)


def objective(theta: np.ndarray, score_M: np.ndarray, match_M: np.ndarray) -> float:
    """Return what is minimised, as the module states it, at (a, b)."""
    a, b = theta
    prob_M = np.clip(expit(a + b * logit(score_M)), 1e-300, 1 - 1e-16)
    likelihood = np.where(match_M, np.log(prob_M), np.log1p(-prob_M)).sum()
    return float(-likelihood + INTERCEPT_PULL * a**2 / 2 + SLOPE_PULL * (b - 1 - np.log(b)))


def scipys_minimum(score_M: np.ndarray, match_M: np.ndarray) -> np.ndarray:
    found = minimize(
        lambda theta: objective(np.array([theta[0], np.exp(theta[1])]), score_M, match_M),
        np.zeros(2),
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-12},
    )
    return np.array([found.x[0], np.exp(found.x[1])])


def second_derivatives(theta: np.ndarray, score_M: np.ndarray, match_M: np.ndarray, step: float = 1e-3) -> np.ndarray:
    shift = step * np.eye(2)
    return np.array(
        [
            [
                sum(
                    sign * other * objective(theta + sign * shift[i] / 2 + other * shift[j] / 2, score_M, match_M)
                    for sign in (-1, 1)
                    for other in (-1, 1)
                )
                / step**2
                for j in range(2)
            ]
            for i in range(2)
        ]
    )


@pytest.mark.parametrize(
    ("studies", "a", "b"), [(60, 0.0, 1.0), (400, 0.7, 0.8), (400, -2.0, 3.0), (2000, 1.5, 0.3), (400, 3.0, -1.0)]
)
def test_it_is_scipys_minimum(studies: int, a: float, b: float) -> None:
    score_M, match_M = draw(studies, a, b)
    found = fit_recalibration(score_M, match_M)
    assert found is not None
    theta = np.array([found.intercept, found.slope])
    assert theta == pytest.approx(scipys_minimum(score_M, match_M), abs=1e-5)
    aa, ab, bb = found.variances
    unit = np.array([[aa, ab], [ab, bb]]) @ second_derivatives(theta, score_M, match_M)
    assert unit == pytest.approx(np.eye(2), abs=0.01)


def test_a_true_function_is_found() -> None:
    found = fit_recalibration(*draw(100_000, 0.7, 0.6))
    assert found is not None
    assert (found.intercept, found.slope) == pytest.approx((0.7, 0.6), abs=4 * max(found.variances) ** 0.5)


@given(score=SCORES, a=st.floats(-4, 4), b=st.floats(-1, 4), seed=st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_the_order_of_studies_never_changes(score: list[float], a: float, b: float, seed: int) -> None:
    """Also where the known studies contradict the scores (b below zero)."""
    known_score_M, known_match_M = draw(60, a, b, seed)
    found = pulled_recalibration(known_score_M, known_match_M)
    assert found.slope > 0
    score_N = np.sort(score)
    prob_N = found.probability(score_N)
    assert ((prob_N >= 0) & (prob_N <= 1)).all() and (np.diff(prob_N) >= 0).all()
    told_apart = (np.diff(score_logit(score_N)) * found.slope > 1e-9) & (prob_N[1:] < 1 - 1e-6)
    assert (np.diff(prob_N)[told_apart] > 0).all()


@given(order=st.permutations(range(30)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_known_studies_changes_no_bit(order: list[int]) -> None:
    score_M, match_M = draw(30, 0.5, 1.0, seed=3)
    score_M[:10] = 0.25  # ties
    assert pulled_recalibration(score_M[order], match_M[order]) == pulled_recalibration(score_M, match_M)


def test_scores_of_zero_and_one_are_finite_and_apart_from_all_others() -> None:
    score_N = np.array([0.0, 5e-324, 1e-300, 1e-9, 1e-6, 0.3, 1 - 1e-9, np.nextafter(1, 0), 1.0])
    logit_N = score_logit(score_N)
    assert np.isfinite(logit_N).all() and (np.diff(logit_N) > 0).all()
    assert logit_N[4:6] == pytest.approx(logit(score_N[4:6]))  # below 14, it is the logit
    assert logit_N[0] == pytest.approx(-14 - np.log1p(745.5 - 14))  # beyond, it hardly grows
    extreme_M, match_M = np.repeat([0.0, 1.0], 20), np.arange(40) % 10 == 0
    found = fit_recalibration(np.append(extreme_M, np.full(10, 0.5)), np.append(match_M, np.arange(10) < 8))
    assert found is not None and np.isfinite([found.intercept, found.slope]).all()
    # Two of the twenty studies of either extreme match: no extreme may be believed.
    assert found.probability(np.array([0.0, 1.0])) == pytest.approx([0.2, 0.3], abs=0.15)


def test_separable_studies_do_not_explode() -> None:
    score_M = np.concatenate([np.full(50, 0.2), np.full(50, 0.3)])
    found = fit_recalibration(score_M, score_M > 0.25)
    assert found is not None and found.slope < 15 and abs(found.intercept) < 15
    low, high = found.probability(np.array([0.2, 0.3]))
    assert 0.02 < low < 0.25 and 0.7 < high < 0.98  # no certainty from scores that hardly differ


def test_fewer_than_ten_of_either_kind_give_no_probability() -> None:
    score_M = np.linspace(0.01, 0.99, 60)
    for match_M in (score_M > 1, score_M > 0.9, score_M > 0.1, score_M > 0):
        assert min(match_M.sum(), (~match_M).sum()) < LEAST_OF_EITHER_KIND
        assert fit_recalibration(score_M, match_M) is None
    assert fit_recalibration(score_M, np.arange(60) < 10) is not None
    nine_M = np.where(np.arange(60) == 0, np.nan, score_M)  # one of the ten cannot be assessed
    assert fit_recalibration(nine_M, np.arange(60) < 10) is None


def test_by_no_known_study_scores_are_taken_as_they_are() -> None:
    found = pulled_recalibration(np.zeros(0), np.zeros(0, dtype=bool))
    assert (found.intercept, found.slope) == pytest.approx((0.0, 1.0), abs=1e-12)
    score_N = np.array([0.0, 0.001, 0.3, np.nan, 0.999])
    assert found.probability(score_N) == pytest.approx(score_N, abs=1e-6, nan_ok=True)


def test_the_variance_is_that_of_repeated_fits() -> None:
    score_N = draw(500, 0.0, 1.0, seed=77)[0]
    fits = [pulled_recalibration(*draw(300, 0.5, 1.2, seed)) for seed in range(200)]
    means = np.array([fit.probability(score_N).mean() for fit in fits])
    told = np.mean([fit.variance_of_mean(score_N) for fit in fits])
    # Known studies vary in their scores too, which the fit's variance leaves out.
    assert told**0.5 == pytest.approx(means.std(ddof=1), rel=0.15)


def test_leverages_are_how_probabilities_follow_their_matches() -> None:
    score_M, match_M = draw(40, 0.0, 1.0, seed=5)
    leverage_M = pulled_recalibration(score_M, match_M).leverage(score_M)
    assert ((leverage_M > 0) & (leverage_M < 1)).all() and leverage_M.sum() < 2
    for row in (0, 7):
        turned_M = match_M.copy()
        turned_M[row] = ~turned_M[row]
        before, after = (
            pulled_recalibration(score_M, m).probability(score_M[row : row + 1]) for m in (match_M, turned_M)
        )
        assert abs(float(after[0] - before[0])) == pytest.approx(leverage_M[row], rel=0.6)


@pytest.mark.parametrize(("score", "words"), [(1.5, "a score of 1.5, expected 0 to 1"), (-0.25, "a score of -0.25")])
def test_what_is_no_probability_is_refused(score: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fit_recalibration(np.array([score, 0.5]), np.array([True, False]))
    with pytest.raises(ValueError, match="3 scores and 2 matches"):
        fit_recalibration(np.array([0.1, 0.2, 0.3]), np.array([True, False]))


def test_the_rounding_of_a_composition_is_no_fault() -> None:
    score_M, match_M = draw(60, 0.0, 1.0)
    score_M[:2] = 1 + 2e-16, -1e-17
    assert pulled_recalibration(score_M, match_M) == pulled_recalibration(np.clip(score_M, 0, 1), match_M)
