"""The 95 % intervals of the score sheet, by study: of the metric, of its differences, and of other figures."""

import numpy as np
from scipy.special import expit, logit, stdtrit

from vl_model.scoring.intervals import Interval, metric_intervals, paired_differences
from vl_model.scoring.metrics import StudySums
from vl_model.scoring.study_influence import Figure

_TAIL = 0.975


def score_intervals(sums: StudySums) -> dict[str, Interval]:
    """Return the score, its parts and `graded_parts` with their intervals; a single study has no interval."""
    return _known(metric_intervals(sums), sums)


def score_differences(ours: StudySums, theirs: StudySums) -> dict[str, Interval]:
    """Return our scores minus theirs on the same rows, paired by study; below zero, ours is better."""
    return _known(paired_differences(ours, theirs), ours)


def loss_interval(figure: Figure) -> Interval:
    """Return the t-interval of a loss, on the log scale."""
    if not figure.value > 0:
        return _without_interval(figure)
    half = _half_width(figure) / figure.value
    return Interval(figure.value, float(figure.value * np.exp(-half)), float(figure.value * np.exp(half)))


def share_interval(figure: Figure) -> Interval:
    """Return the t-interval of a figure between zero and one, such as an AUC, on the logit scale."""
    if not 0 < figure.value < 1:
        return _without_interval(figure)
    half = _half_width(figure) / (figure.value * (1 - figure.value))
    centre = logit(figure.value)
    return Interval(figure.value, float(expit(centre - half)), float(expit(centre + half)))


def correlation_interval(figure: Figure) -> Interval:
    """Return the t-interval of a figure between minus one and one, such as kappa, on Fisher's z scale."""
    if not -1 < figure.value < 1:
        return _without_interval(figure)
    half = _half_width(figure) / (1 - figure.value**2)
    centre = np.arctanh(figure.value)
    return Interval(figure.value, float(np.tanh(centre - half)), float(np.tanh(centre + half)))


def _half_width(figure: Figure) -> float:
    """Return the half width on the figure's own scale; nan for fewer than two independent studies."""
    studies = len(figure.influence_S)
    if figure.independent_studies < 2:
        return float("nan")
    error = np.sqrt(studies / (studies - 1) * (figure.influence_S**2).sum())
    return float(stdtrit(figure.independent_studies - 1, _TAIL) * error)


def _known(intervals: dict[str, Interval], sums: StudySums) -> dict[str, Interval]:
    if len(sums.study_S) > 1:
        return intervals
    return {name: Interval(one.value, float("nan"), float("nan")) for name, one in intervals.items()}


def _without_interval(figure: Figure) -> Interval:
    return Interval(figure.value, float("nan"), float("nan"))
