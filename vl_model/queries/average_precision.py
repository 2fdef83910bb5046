"""The average precision of a ranking of known studies, with its interval.

Average precision is the mean, over the studies that match, of the precision among the studies with at least their
score; studies of one score count together (the definition of scikit-learn). Its variance is the jackknife's (Efron
and Stein, 1981): of its values without each study, which are computed exactly and all at once.

Legend: M known studies, G distinct scores in descending order.
"""

from dataclasses import dataclass

import numpy as np

from vl_model.data.site_table import Bools, Floats
from vl_model.queries.estimates import Estimate, wilson


@dataclass(frozen=True)
class _Ranking:
    """Studies by their score: how many match and do not match at each score, and how many have at least that score."""

    match_G: Floats
    other_G: Floats
    matches_above_G: Floats
    above_G: Floats


def average_precision(score_M: Floats, match_M: Bools) -> Estimate | None:
    """Return the average precision; None if no study matches.

    The interval is Wilson's with the effective number of studies that the jackknife's variance is worth, at most the
    number of matches: few matches that happen to rank first, and so vary little, do not prove a perfect ranking.

    Args:
        score_M: scores without nan.
        match_M: whether the studies match.
    """
    matches = int(match_M.sum())
    if not matches:
        return None
    ranking = _ranking(score_M, match_M)
    value = float((ranking.match_G * ranking.matches_above_G / ranking.above_G).sum() / matches)
    variance = _jackknife_variance(ranking, matches) if matches > 1 else 0.0
    effective = float(matches)
    if variance > 0 and value < 1:
        effective = min(value * (1 - value) / variance, effective)
    return Estimate(value, *wilson(value, effective))


def average_precision_without_each(score_M: Floats, match_M: Bools) -> tuple[Floats, Floats]:
    """Return, at each distinct score, the average precision without a study that does not match or that matches.

    Returns two arrays (G,), by descending score; a value counts only if there is such a study.
    """
    return _without_each(_ranking(score_M, match_M), int(match_M.sum()))


def _ranking(score_M: Floats, match_M: Bools) -> _Ranking:
    order = np.argsort(-score_M, kind="stable")
    score_M, match_M = score_M[order], match_M[order]
    last_G = np.flatnonzero(np.append(score_M[1:] != score_M[:-1], True))
    above_G = last_G.astype(np.float64) + 1
    matches_above_G = match_M.cumsum()[last_G].astype(np.float64)
    match_G: Floats = np.diff(matches_above_G, prepend=0.0)
    return _Ranking(match_G, np.diff(above_G, prepend=0.0) - match_G, matches_above_G, above_G)


def _without_each(ranking: _Ranking, matches: int) -> tuple[Floats, Floats]:
    match_G, matches_above_G = ranking.match_G, ranking.matches_above_G
    fewer_G = np.maximum(ranking.above_G - 1, 1)
    before_G = _sums_before(match_G * matches_above_G / ranking.above_G)  # these scores are higher: nothing changes
    below_other_G = _sums_before((match_G * matches_above_G / fewer_G)[::-1])[::-1]
    below_match_G = _sums_before((match_G * (matches_above_G - 1) / fewer_G)[::-1])[::-1]
    without_other_G = (before_G + match_G * matches_above_G / fewer_G + below_other_G) / matches
    own_G = (match_G - 1) * (matches_above_G - 1) / fewer_G
    without_match_G = (before_G + own_G + below_match_G) / max(matches - 1, 1)
    return without_other_G, without_match_G


def _sums_before(value_G: Floats) -> Floats:
    """Return the sum of all values before each one."""
    return np.asarray(value_G.cumsum() - value_G)


def _jackknife_variance(ranking: _Ranking, matches: int) -> float:
    without_other_G, without_match_G = _without_each(ranking, matches)
    studies = ranking.above_G[-1]
    mean = (ranking.other_G @ without_other_G + ranking.match_G @ without_match_G) / studies
    squares = ranking.other_G @ (without_other_G - mean) ** 2 + ranking.match_G @ (without_match_G - mean) ** 2
    return float((studies - 1) / studies * squares)
