"""95 % intervals over studies: of a score, and of the difference or ratio of two scores on the same studies.

The rows of one study are not independent (its levels and sides correlate), so the studies are what is counted. A
study's influence on a number is how the number changes without that study (the jackknife: Efron and Stein, 1981).
The standard error follows from the influences, and the interval is that of Student's t with S - 1 degrees of freedom.
S counts the studies that have a row of the part; of the score, and of means of parts, those of the part with the
fewest.
Losses, which cannot be negative and are skewed, have their interval on the logarithmic scale; so have ratios.

The intervals say how the number would vary with other studies, graded by the same fitted model. They leave out what
another training, another seed or another fit of heads and calibrators would change.

Legend: S studies, G = 4 parts, 6 = the score, its parts, and the mean of the parts that are graded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

from vl_model.data.site_table import Bools, Floats, Ints
from vl_model.scoring.metrics import PARTS, StudySums, scores_of

_NAMES = ("score", *PARTS, "graded_parts")
_LEVEL = 0.95
#: Scale on which an interval is symmetric, and its inverse.
_Scale = tuple[Callable[[Floats], Floats], Callable[[Floats], Floats]]


def _same(value: Floats) -> Floats:
    return value


LINEAR: _Scale = (_same, _same)
LOG: _Scale = (np.log, np.exp)


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval; nan where there is none."""

    value: float
    low: float
    high: float


def interval_without_each(
    value: float, without_S: Floats, scale: _Scale = LINEAR, fewest: int | None = None
) -> Interval:
    """Return the interval of a number from its values without each study (S).

    fewest: the number of studies to which the degrees of freedom belong, if a part of the number has fewer than S. The
    interval is nan if there are fewer than two studies, or if the number does not exist without one of them.
    """
    to_scale, from_scale = scale
    studies = len(without_S)
    freedom = (studies if fewest is None else fewest) - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled_S = to_scale(np.asarray(without_S, dtype=np.float64))
        deviation_S = scaled_S - scaled_S.mean() if studies else scaled_S
        error = np.sqrt((studies - 1) / studies * (deviation_S**2).sum()) if studies > 1 else np.nan
        half = student_t.ppf((1 + _LEVEL) / 2, max(freedom, 1)) * error
        low, high = (float(from_scale(to_scale(np.array(value)) + sign * half)) for sign in (-1, 1))
    has_interval = freedom > 0 and np.isfinite([low, high]).all()
    return Interval(float(value), low, high) if has_interval else Interval(float(value), np.nan, np.nan)


def wilson_bounds(share: float, rows: float, z: float) -> tuple[float, float]:
    """Return Wilson's interval (1927) of a share of so many independent rows; z: its half width in standard errors."""
    centre = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    reach = z / (1 + z**2 / rows) * np.sqrt(share * (1 - share) / rows + (z / (2 * rows)) ** 2)
    return float(centre - reach), float(centre + reach)


def mean_interval(loss_N: Floats, study_N: Ints, scale: _Scale = LOG) -> Interval:
    """Return the mean of a loss over rows, with its interval over studies."""
    studies, study_of_N = np.unique(study_N, return_inverse=True)
    sum_S, count_S = np.bincount(study_of_N, loss_N), np.bincount(study_of_N)
    with np.errstate(divide="ignore", invalid="ignore"):
        without_S = (sum_S.sum() - sum_S) / (count_S.sum() - count_S)
    return interval_without_each(float(loss_N.mean()) if len(studies) else np.nan, without_S, scale)


def metric_intervals(sums: StudySums) -> dict[str, Interval]:
    """Return the score, its parts, and `graded_parts`, the mean of those that are graded, each with its interval."""
    return _intervals(_scores(sums), _scores_without_each(sums), sums, LOG)


def paired_differences(ours: StudySums, theirs: StudySums) -> dict[str, Interval]:
    """Return our scores minus theirs on the same studies; below zero, ours is better."""
    _check_paired(ours, theirs)
    without_S6 = _scores_without_each(ours) - _scores_without_each(theirs)
    return _intervals(_scores(ours) - _scores(theirs), without_S6, ours, LINEAR)


def paired_ratios(ours: StudySums, theirs: StudySums) -> dict[str, Interval]:
    """Return our scores divided by theirs on the same studies; below one, ours is better."""
    _check_paired(ours, theirs)
    without_S6 = _scores_without_each(ours) / _scores_without_each(theirs)
    return _intervals(_scores(ours) / _scores(theirs), without_S6, ours, LOG)


def mean_intervals(runs: Sequence[StudySums]) -> dict[str, Interval]:
    """Return scores averaged over runs (seeds) on the same studies; the interval is over studies, not over seeds."""
    for run in runs:
        _check_paired(run, runs[0])
    without_S6 = _mean([_scores_without_each(run) for run in runs])
    return _intervals(_mean([_scores(run) for run in runs]), without_S6, runs[0], LOG)


def paired_mean_differences(ours: Sequence[StudySums], theirs: Sequence[StudySums]) -> dict[str, Interval]:
    """Return `paired_differences` averaged over runs (seeds); the runs are paired in their order."""
    for one, other in zip(ours, theirs, strict=True):
        _check_paired(one, other)
    pairs = list(zip(ours, theirs, strict=True))
    return _intervals(
        _mean([_scores(one) - _scores(other) for one, other in pairs]),
        _mean([_scores_without_each(one) - _scores_without_each(other) for one, other in pairs]),
        ours[0],
        LINEAR,
    )


def _check_paired(ours: StudySums, theirs: StudySums) -> None:
    same = np.array_equal(ours.study_S, theirs.study_S) and np.allclose(ours.weight_SG, theirs.weight_SG)
    if not same:
        raise ValueError("two models can be compared only on the same studies and labels")


def _scores(sums: StudySums) -> Floats:
    score_5 = scores_of(sums.loss_SG.sum(axis=0), sums.weight_SG.sum(axis=0))
    return _with_graded(score_5, _graded(sums))


def _scores_without_each(sums: StudySums) -> Floats:
    """Return the scores (S, 6) without each study."""
    loss_SG = sums.loss_SG.sum(axis=0) - sums.loss_SG
    weight_SG = sums.weight_SG.sum(axis=0) - sums.weight_SG
    weight_SG = np.where(weight_SG > 1e-9, weight_SG, np.nan)  # no other study has a row of this part
    return _with_graded(scores_of(loss_SG, weight_SG), _graded(sums))


def _graded(sums: StudySums) -> Bools:
    return np.asarray(sums.weight_SG.sum(axis=0) > 0)


def _with_graded(score_X5: Floats, graded_G: Bools) -> Floats:
    """(..., 5): the score and its parts -> (..., 6), with the mean of the parts that are graded."""
    mean_X = score_X5[..., 1:][..., graded_G].mean(axis=-1) if graded_G.any() else score_X5[..., 0]
    return np.concatenate([score_X5, mean_X[..., None]], axis=-1)


def _mean(values: Sequence[Floats]) -> Floats:
    return np.stack(values).mean(axis=0)


def _intervals(score_6: Floats, without_S6: Floats, sums: StudySums, scale: _Scale) -> dict[str, Interval]:
    """Return the interval of each of the six numbers; `sums` says which studies have rows of a part."""
    has_rows_SG = sums.weight_SG > 0
    fewest = int(has_rows_SG.sum(axis=0)[_graded(sums)].min(initial=len(sums.study_S)))
    intervals = {}
    for index, name in enumerate(_NAMES):
        value, without_S = float(score_6[index]), without_S6[:, index]
        if name in PARTS:
            without_S = without_S[has_rows_SG[:, PARTS.index(name)]]
            intervals[name] = interval_without_each(value, without_S, scale)
        else:
            intervals[name] = interval_without_each(value, without_S, scale, fewest)
    return intervals
