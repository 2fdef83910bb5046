"""What a threshold on a probability does: ROC and precision-recall curves, sensitivity at a specificity, net benefit.

Legend: N rows (or studies), P points of a curve, B draws.
"""

import numpy as np
from scipy.stats import norm

from vl_model.data.site_table import Bools, Floats, Ints
from vl_model.scoring.intervals import Interval, wilson_bounds

#: Points that a curve keeps at most; between them it is straight.
MOST_POINTS = 80
_DRAWS = 1000


def roc_curve(event_N: Bools, score_N: Floats) -> tuple[Floats, Floats]:
    """Return the false positive rate and the sensitivity (P,) of falling thresholds, from (0, 0) to (1, 1)."""
    true_P, false_P = _counts(event_N, score_N)
    rows = _thinned(len(true_P))
    return (false_P / max(false_P[-1], 1))[rows], (true_P / max(true_P[-1], 1))[rows]


def precision_recall_curve(event_N: Bools, score_N: Floats) -> tuple[Floats, Floats]:
    """Return the recall and the precision (P,) of falling thresholds; a tie is one threshold."""
    true_P, false_P = (counts[1:] for counts in _counts(event_N, score_N))
    rows = _thinned(len(true_P))
    return (true_P / max(true_P[-1], 1))[rows], (true_P / (true_P + false_P))[rows]


def average_precision(event_N: Bools, score_N: Floats) -> float:
    """Return the precision, averaged over the steps of the recall; nan without an event."""
    if not event_N.any():
        return float("nan")
    true_P, false_P = _counts(event_N, score_N)
    return float((np.diff(true_P) / true_P[-1] * true_P[1:] / (true_P + false_P)[1:]).sum())


def sensitivity_at(specificity: float, event_N: Bools, score_N: Floats, seed: int = 0) -> Interval:
    """Return the largest sensitivity of a threshold with at least this specificity, for independent rows.

    The interval is Wilson's. Its number of events is divided by how much more a bootstrap of the events and of the
    others varies than the events alone would: the threshold, too, depends on the rows (Zhou and Qin, 2005).
    """
    events, others = score_N[event_N], np.sort(score_N[~event_N])
    if not len(events) or not len(others):
        return Interval(float("nan"), float("nan"), float("nan"))
    share = float((events > _threshold(others, specificity)).mean())
    rng = np.random.default_rng(seed)
    drawn_B = np.empty(_DRAWS)
    for number in range(_DRAWS):
        threshold = _threshold(np.sort(rng.choice(others, len(others))), specificity)
        drawn_B[number] = (rng.choice(events, len(events)) > threshold).sum()
    z = float(norm.ppf(0.975))
    centre = (share * len(events) + z * z / 2) / (len(events) + z * z)
    expected = centre * (1 - centre) / len(events)
    effect = max(float(np.var(drawn_B / len(events))) / expected, 1.0)
    low, high = wilson_bounds(share, len(events) / effect, z)
    return Interval(share, low, high)


def net_benefit(event_N: Bools, prob_N: Floats, threshold_P: Floats) -> tuple[Floats, Floats]:
    """Return the net benefit (P,) of acting on probabilities of at least each threshold, and that of acting on all.

    It is the share of rows with a true alarm minus that with a false one, weighted by the odds of the threshold; that
    of acting on none is zero (Vickers and Elkin, 2006).
    """
    odds_P = threshold_P / (1 - threshold_P)
    acted_PN = prob_N >= threshold_P[:, None]
    true_P, false_P = (acted_PN & event_N).mean(axis=1), (acted_PN & ~event_N).mean(axis=1)
    return true_P - odds_P * false_P, event_N.mean() - odds_P * (~event_N).mean()


def _counts(event_N: Bools, score_N: Floats) -> tuple[Ints, Ints]:
    """Return how many events and others are at or above each distinct score, from the highest; the first is zero."""
    order = np.argsort(-score_N, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score_N[order])), len(order) - 1) if len(order) else np.zeros(0, dtype=int)
    true_P, false_P = (np.cumsum(hit_N[order])[ends] for hit_N in (event_N, ~event_N))
    return np.concatenate([[0], true_P]), np.concatenate([[0], false_P])


def _thinned(points: int) -> Ints:
    return np.unique(np.linspace(0, points - 1, min(points, MOST_POINTS)).round().astype(np.int64))


def _threshold(others_sorted: Floats, specificity: float) -> float:
    """Return the smallest score that at least this share of the others does not exceed."""
    return float(others_sorted[int(np.ceil(specificity * len(others_sorted) - 1e-9)) - 1])
