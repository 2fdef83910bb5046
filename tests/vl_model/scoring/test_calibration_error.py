"""Calibration measures: floors, slopes and intercepts that are known, the split of the log loss, and bands by study."""

import numpy as np
import pytest
from scipy.special import expit, logit

from tests.vl_model.calibration.drawn_studies import drawn_studies
from vl_model.scoring.calibration_error import bin_intervals, cut_calibration, ece_floor, loss_split
from vl_model.scoring.metrics import ece, log_loss


def test_the_floor_is_what_a_perfect_model_shows() -> None:
    drawn = drawn_studies(60, seed=0)
    prob_N3 = np.exp(drawn.log_true_N3)
    floor = ece_floor(prob_N3)
    shown = []
    for seed in range(200):
        uniform_N1 = np.random.default_rng(seed).random(len(prob_N3))[:, None]
        shown.append(ece((uniform_N1 > prob_N3.cumsum(axis=1)[:, :2]).sum(axis=1), prob_N3))
    assert floor.mean == pytest.approx(np.mean(shown), abs=0.0007)
    assert floor.high == pytest.approx(np.percentile(shown, 95), abs=0.0015)
    assert 0 < ece_floor(np.tile(prob_N3, (20, 1))).mean < floor.mean / 3
    assert np.isnan(ece_floor(np.zeros((0, 3))).mean)


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, 0.4), (1.6, -0.7)])
def test_a_known_slope_is_found(slope: float, intercept: float) -> None:
    rng = np.random.default_rng(1)
    prob_N = expit(rng.normal(size=20_000) * 1.5 - 1)
    event_N = rng.random(20_000) < expit(slope * logit(prob_N) + intercept)
    found = cut_calibration(event_N, prob_N, np.repeat(np.arange(2000), 10)).slope
    assert found.value == pytest.approx(slope, abs=0.05) and found.low < slope < found.high
    shifted_N = rng.random(20_000) < expit(logit(prob_N) + intercept)
    level = cut_calibration(shifted_N, prob_N, np.repeat(np.arange(2000), 10)).intercept
    assert level.value == pytest.approx(intercept, abs=0.05) and level.low < intercept < level.high
    # The intercept is that at a slope of one, whatever the slope is: the expected events are then as many as observed.
    held = cut_calibration(event_N, prob_N, np.repeat(np.arange(2000), 10)).intercept.value
    assert expit(logit(prob_N) + held).sum() == pytest.approx(event_N.sum(), abs=0.1)


def test_agreeing_rows_of_a_study_widen_the_intervals() -> None:
    rng = np.random.default_rng(2)
    prob_S = expit(rng.normal(size=150))
    event_S = rng.random(150) < prob_S
    once = cut_calibration(event_S, prob_S, np.arange(150)).slope
    copied = cut_calibration(np.repeat(event_S, 8), np.repeat(prob_S, 8), np.repeat(np.arange(150), 8)).slope
    taken_apart = cut_calibration(np.repeat(event_S, 8), np.repeat(prob_S, 8), np.arange(1200)).slope
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=0.05)
    assert taken_apart.high - taken_apart.low < (once.high - once.low) / 2
    bins = [
        bin_intervals(np.repeat(event_S, 8), np.zeros(1200, dtype=np.int64), studies)[0]
        for studies in (np.repeat(np.arange(150), 8), np.arange(1200))
    ]
    assert bins[0][1] - bins[0][0] == pytest.approx((bins[1][1] - bins[1][0]) * np.sqrt(8), rel=0.05)


def test_a_cut_without_both_outcomes_has_no_slope() -> None:
    found = cut_calibration(np.zeros(5, dtype=bool), np.full(5, 0.1), np.arange(5))
    assert found.events == 0 and np.isnan(found.slope.value) and np.isnan(found.intercept.low)
    # Events that a threshold separates have no finite slope: it would be what keeps the fit finite that is shown.
    event_N, prob_N = np.arange(40) % 4 == 0, np.where(np.arange(40) % 4 == 0, 0.6, 0.3)
    found = cut_calibration(event_N, prob_N, np.arange(40) // 4)
    assert found.events == 10 and np.isnan(found.slope.value) and np.isfinite(found.intercept.high)
    found = cut_calibration(np.roll(event_N, 1) & (np.arange(40) < 4), prob_N, np.arange(40) // 4)
    assert found.events == 1 and np.isfinite(found.slope.value) and np.isnan(found.slope.low)


def test_what_a_recalibration_would_remove_is_found_and_nothing_of_true_probabilities() -> None:
    drawn = drawn_studies(300, seed=3)
    head, true = (loss_split(drawn.table, np.exp(log_N3)) for log_N3 in (drawn.log_head_N3, drawn.log_true_N3))
    best = log_loss(drawn.table.severity_N, np.exp(drawn.log_true_N3))
    assert head.whole.value == pytest.approx(log_loss(drawn.table.severity_N, np.exp(drawn.log_head_N3)))
    assert head.whole.value == pytest.approx(head.removable.value + head.remaining.value)
    assert head.remaining.value == pytest.approx(best, abs=0.003)
    assert head.removable.low > 0.1
    assert -0.003 < true.removable.value < 0.001 and true.removable.low < 0
    assert true.whole.low < true.whole.value < true.whole.high
