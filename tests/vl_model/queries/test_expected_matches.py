"""The expected number of matches: a slow prediction-powered mean, the cover of its interval, and few known studies."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from vl_model.calibration.recalibration import fit_recalibration, pulled_recalibration
from vl_model.queries.estimates import wilson
from vl_model.queries.expected_matches import forecast


def draw(
    rng: np.random.Generator, studies: int, offset: float = 0.7, centre: float = -2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores, and matches that are more (or fewer) than the scores say by an offset of their logits."""
    logit_N = rng.normal(centre, 1.5, studies)
    return expit(logit_N), rng.random(studies) < expit(offset + logit_N)


def test_the_expected_number_is_the_prediction_powered_mean() -> None:
    rng = np.random.default_rng(0)
    score_M, match_M = draw(rng, 120)
    score_N, _ = draw(rng, 70)
    fitted = fit_recalibration(score_M, match_M)
    assert fitted is not None

    def f(score: float) -> float:
        return float(fitted.probability(np.array([score]))[0])

    predicted = sum(f(score) for score in score_N) / 70
    rectifier = sum(float(match) - f(score) for score, match in zip(score_M, match_M, strict=True)) / 120
    assert abs(rectifier) > 1e-4  # the pull leaves something to correct
    found = forecast(score_M, match_M).matches_among(score_N, certain=4)
    assert found.value == pytest.approx(4 + 70 * (predicted + rectifier))


@pytest.mark.parametrize("searched", [100, 100_000])
def test_the_interval_is_that_of_residuals_from_fits_without_their_study(searched: int) -> None:
    """A slow version leaves each known study out of the fit that its residual is taken from."""
    rng = np.random.default_rng(1)
    score_M, match_M = draw(rng, 80)
    score_N, _ = draw(rng, searched)
    left_out = []
    for row in range(80):
        rest = np.arange(80) != row
        without = fit_recalibration(score_M[rest], match_M[rest])
        assert without is not None
        left_out.append(float(match_M[row]) - float(without.probability(score_M[row : row + 1])[0]))
    variance = np.square(left_out).sum() / 79 * (1 / 80 + 1 / searched)
    found = forecast(score_M, match_M).matches_among(score_N)
    share = found.value / searched
    low, high = wilson(share, share * (1 - share) / variance)
    # Without the division by one minus the leverage, the ends would be wrong by 0.003 of the studies searched.
    assert (found.low, found.high) == pytest.approx((low * searched, high * searched), abs=0.5 + 0.001 * searched)


def test_few_known_studies_have_the_interval_of_the_fit_and_of_independent_draws() -> None:
    rng = np.random.default_rng(6)
    score_M, match_M = draw(rng, 30, centre=-4.0)
    match_M[:] = np.arange(30) < 2
    score_N = draw(rng, 20, centre=-1.0)[0]
    fit = pulled_recalibration(score_M, match_M)
    prob_N = fit.probability(score_N)
    share, draws = prob_N.mean(), (prob_N * (1 - prob_N)).sum() / 20**2
    step = 1e-4
    by_a, by_b = (
        (replace(fit, intercept=fit.intercept + a, slope=fit.slope + b).probability(score_N).mean() - share) / step
        for a, b in ((step, 0.0), (0.0, step))
    )
    aa, ab, bb = fit.variances
    variance = draws + by_a**2 * aa + 2 * by_a * by_b * ab + by_b**2 * bb
    low, high = wilson(share, share * (1 - share) / variance)
    found = forecast(score_M, match_M).matches_among(score_N)
    assert found.value == pytest.approx(20 * share)
    assert (found.low, found.high) == (round(20 * low), round(20 * high))
    without_draws = wilson(share, share * (1 - share) / (variance - draws))
    assert round(20 * without_draws[1]) < found.high  # so few studies vary by themselves


@pytest.mark.parametrize(
    ("known", "searched", "offset", "centre"),
    [
        (66, 300, 0.7, -2.0),  # some twenty matches are known
        (394, 2000, -1.0, 0.0),
        (66, 2000, 1.2, -5.0),  # mostly none to four
        (12, 300, 0.5, -3.0),
        (300, 40, 1.0, 4.5),  # nearly all match
    ],
)
def test_the_interval_contains_the_true_number(known: int, searched: int, offset: float, centre: float) -> None:
    rng = np.random.default_rng(2)
    covered, errors, simulations = 0, [], 300
    for _ in range(simulations):
        score_M, match_M = draw(rng, known, offset, centre)
        score_N, match_N = draw(rng, searched, offset, centre)
        found = forecast(score_M, match_M).matches_among(score_N)
        assert 0 <= found.low <= found.high <= searched
        covered += found.low <= match_N.sum() <= found.high
        errors.append(found.value - match_N.sum())
    assert 0.91 <= covered / simulations <= 1.0
    assert abs(np.mean(errors)) < 0.03 * searched


def test_no_known_match_leaves_some_to_expect() -> None:
    rng = np.random.default_rng(3)
    score_M, score_N = draw(rng, 60, centre=-4.0)[0], draw(rng, 500, centre=-4.0)[0]
    found = forecast(score_M, np.zeros(60, dtype=bool)).matches_among(score_N)
    assert 0 < found.value < score_N.sum()  # fewer than the scores say, but not none
    assert found.low <= 2 and score_N.sum() * 0.5 < found.high < 60


def test_the_best_answers_are_corrected_by_known_studies_above_their_cut() -> None:
    rng = np.random.default_rng(4)
    score_M, match_M = draw(rng, 400)
    told = forecast(score_M, match_M)
    score_K = np.sort(score_M)[-10:]
    cut = float(score_K.min())
    f_K = told.fitted.probability(score_K)
    residual = float((match_M[score_M >= cut] - f_K).sum())
    found = told.matches_above(score_K, cut)
    assert found.value == pytest.approx(10 * (f_K.mean() + residual / 20))
    assert found.low == int(found.low) <= found.value <= found.high <= 10
    assert told.matches_above(score_K, 2.0).value == pytest.approx(f_K.sum())  # no known study above
    assert told.matches_above(score_K[:0], cut, certain=3).value == 3
