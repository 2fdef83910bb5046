"""Bootstrap intervals over studies: of one model's score, and of the difference of two models on the same studies.

The rows of one study are not independent (its levels and sides correlate), so studies are drawn, not rows. Each
study enters the metric only through the sums of `metrics.StudySums`. A resampling is therefore a vector of counts,
and a thousand resamplings are one matrix product.

Legend: B resamplings, S studies, G = 4 parts, 6 = the score, its parts, and the mean of the parts that are graded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from vl_model.data.site_table import Floats
from vl_model.scoring.metrics import PARTS, StudySums, mean_of_graded, scores_of

DEFAULT_RESAMPLES = 1000
_NAMES = ("score", *PARTS, "graded_parts")


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval: the 2.5th and the 97.5th percentile of the bootstrap."""

    value: float
    low: float
    high: float


def metric_intervals(sums: StudySums, resamples: int = DEFAULT_RESAMPLES, seed: int = 0) -> dict[str, Interval]:
    """Return the score, its parts, and `graded_parts`, the mean of those that are graded, each with its interval."""
    return _intervals(_scores(sums), _resampled_scores(sums, _draws(sums, resamples, seed)))


def paired_differences(
    ours: StudySums, theirs: StudySums, resamples: int = DEFAULT_RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Return our scores minus theirs on the same resampled studies; below zero, ours is better."""
    _check_paired(ours, theirs)
    draw_BS = _draws(ours, resamples, seed)
    return _intervals(
        _scores(ours) - _scores(theirs), _resampled_scores(ours, draw_BS) - _resampled_scores(theirs, draw_BS)
    )


def paired_ratios(
    ours: StudySums, theirs: StudySums, resamples: int = DEFAULT_RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Return our scores divided by theirs on the same resampled studies; below one, ours is better."""
    _check_paired(ours, theirs)
    draw_BS = _draws(ours, resamples, seed)
    return _intervals(
        _scores(ours) / _scores(theirs), _resampled_scores(ours, draw_BS) / _resampled_scores(theirs, draw_BS)
    )


def mean_intervals(runs: Sequence[StudySums], resamples: int = DEFAULT_RESAMPLES, seed: int = 0) -> dict[str, Interval]:
    """Return scores averaged over runs (seeds) on the same studies; the interval is over studies, not over seeds."""
    for run in runs:
        _check_paired(run, runs[0])
    draw_BS = _draws(runs[0], resamples, seed)
    return _intervals(_mean([_scores(run) for run in runs]), _mean([_resampled_scores(run, draw_BS) for run in runs]))


def paired_mean_differences(
    ours: Sequence[StudySums], theirs: Sequence[StudySums], resamples: int = DEFAULT_RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Return `paired_differences` averaged over runs (seeds); the runs are paired in their order."""
    for one, other in zip(ours, theirs, strict=True):
        _check_paired(one, other)
    draw_BS = _draws(ours[0], resamples, seed)
    pairs = list(zip(ours, theirs, strict=True))
    return _intervals(
        _mean([_scores(one) - _scores(other) for one, other in pairs]),
        _mean([_resampled_scores(one, draw_BS) - _resampled_scores(other, draw_BS) for one, other in pairs]),
    )


def _check_paired(ours: StudySums, theirs: StudySums) -> None:
    same = np.array_equal(ours.study_S, theirs.study_S) and np.allclose(ours.weight_SG, theirs.weight_SG)
    assert same, "two models can be compared only on the same studies and labels"


def _draws(sums: StudySums, resamples: int, seed: int) -> Floats:
    studies = len(sums.study_S)
    draws = np.random.default_rng(seed).multinomial(studies, np.full(studies, 1 / studies), size=resamples)
    return draws.astype(np.float64)  # (B, S): how often each study was drawn


def _scores(sums: StudySums) -> Floats:
    return _with_graded(scores_of(sums.loss_SG.sum(axis=0), sums.weight_SG.sum(axis=0)))


def _resampled_scores(sums: StudySums, draw_BS: Floats) -> Floats:
    return _with_graded(scores_of(draw_BS @ sums.loss_SG, draw_BS @ sums.weight_SG))  # (B, 6)


def _with_graded(score_5: Floats) -> Floats:
    """(..., 5): the score and its parts -> (..., 6), with the mean of the graded parts."""
    return np.concatenate([score_5, mean_of_graded(score_5[..., 1:])[..., None]], axis=-1)


def _mean(values: Sequence[Floats]) -> Floats:
    return np.stack(values).mean(axis=0)


def _intervals(score_6: Floats, resampled_B6: Floats) -> dict[str, Interval]:
    return {
        name: Interval(float(score_6[index]), *_percentiles(resampled_B6[:, index]))
        for index, name in enumerate(_NAMES)
    }


def _percentiles(value_B: ArrayLike) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of the finite values.

    A draw without any labelled row of a part has no value for that part.
    """
    finite = np.asarray(value_B, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)
