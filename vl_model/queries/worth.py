"""What a query is worth, as far as held-out studies with known grades tell it.

The known studies are neither trained on nor chosen by the query, and the studies searched are taken to be like them.

Legend: N studies searched, M known studies, K answers shown.
"""

from dataclasses import dataclass

import numpy as np

from vl_model.calibration.recalibration import Recalibration, assessable, checked_scores
from vl_model.data.site_table import Bools, Floats, Ints
from vl_model.queries.average_precision import average_precision
from vl_model.queries.estimates import Estimate, share_estimate
from vl_model.queries.expected_matches import Forecast, forecast

#: `is_known_N` of a study whose grades are not known.
UNKNOWN = -1


@dataclass(frozen=True)
class Worth:
    """What a query is worth; None where nothing is known. Intervals are 95 %.

    searched: the studies searched that can be assessed. known: the known studies that can be. matches: those of them
        that match.
    recalibration: from scores to the probabilities that are shown; None if fewer than ten known studies match or fewer
        than ten do not, so that only ranks are shown.
    average_precision: of the known studies.
    cut: the lowest score among the answers shown.
    above, matches_above: the known studies with at least that score, and those of them that match.
    precision, recall: at the cut, of the known studies.
    told_precision: of the answers shown themselves. Those whose grades are known count as they are.
    expected_matches: among the studies searched. The interval is of their true number; its ends are whole numbers.
    """

    searched: int
    known: int
    matches: int
    recalibration: Recalibration | None = None
    average_precision: Estimate | None = None
    cut: float | None = None
    above: int = 0
    matches_above: int = 0
    precision: Estimate | None = None
    recall: Estimate | None = None
    told_precision: Estimate | None = None
    expected_matches: Estimate | None = None


def worth_of(
    score_N: Floats,
    known_score_M: Floats,
    known_match_M: Bools,
    is_known_N: Ints | None = None,
    shown_K: Ints | None = None,
    told: Forecast | None = None,
) -> Worth:
    """Return what a query is worth.

    Args:
        score_N: the composed score of each study searched, 0 to 1; nan if it cannot be assessed.
        known_score_M: the same of the held-out studies whose grades say whether they match.
        known_match_M: whether they match.
        is_known_N: the row in M of each study searched, or `UNKNOWN`; without it, none is known.
        shown_K: the rows in N of the answers shown.
        told: the forecast of the known studies that have a score, if it is there already.

    Raises:
        ValueError: a score is outside [0, 1], lengths differ, a row does not exist, or an answer cannot be assessed.
    """
    score_N, (score_M, match_M) = checked_scores(score_N), assessable(known_score_M, known_match_M)
    known_match_N = _known_matches(len(score_N), np.asarray(known_match_M, dtype=bool), is_known_N)
    shown_K = np.asarray([] if shown_K is None else shown_K, dtype=np.int64)
    if len(shown_K) and not (shown_K.min() >= 0 and shown_K.max() < len(score_N)):
        raise ValueError(f"answers {shown_K.tolist()}, expected rows of {len(score_N)} studies")
    if np.isnan(score_N[shown_K]).any():
        raise ValueError("an answer without a score")
    assessable_N = ~np.isnan(score_N)
    searched, known, matches = int(assessable_N.sum()), len(score_M), int(match_M.sum())
    cut = float(score_N[shown_K].min()) if len(shown_K) else None
    if not known:
        return Worth(searched, known, matches, cut=cut)
    told = told or forecast(score_M, match_M)
    above_M = score_M >= cut if cut is not None else np.zeros(known, dtype=bool)
    above, matches_above = int(above_M.sum()), int(match_M[above_M].sum())
    return Worth(
        searched,
        known,
        matches,
        told.shown,
        average_precision(score_M, match_M),
        cut,
        above,
        matches_above,
        share_estimate(matches_above, above),
        share_estimate(matches_above, matches) if cut is not None else None,
        None if cut is None else _told_precision(told, cut, score_N[shown_K], known_match_N[shown_K]),
        _expected_matches(told, score_N[assessable_N], known_match_N[assessable_N]),
    )


def _known_matches(studies: int, known_match_M: Bools, is_known_N: Ints | None) -> Ints:
    """Return 1 or 0 (N) for a study that is known to match or not, and `UNKNOWN` for the others."""
    if is_known_N is None:
        return np.full(studies, UNKNOWN)
    row_N = np.asarray(is_known_N, dtype=np.int64)
    if len(row_N) != studies or (studies and not (row_N.min() >= UNKNOWN and row_N.max() < len(known_match_M))):
        raise ValueError(f"is_known_N: expected {studies} rows of {len(known_match_M)} known studies, or {UNKNOWN}")
    return np.append(known_match_M.astype(np.int64), UNKNOWN)[row_N]  # row -1 is the last


def _expected_matches(told: Forecast, score_N: Floats, known_match_N: Ints) -> Estimate:
    return told.matches_among(score_N[known_match_N == UNKNOWN], int((known_match_N == 1).sum()))


def _told_precision(told: Forecast, cut: float, score_K: Floats, known_match_K: Ints) -> Estimate:
    count = told.matches_above(score_K[known_match_K == UNKNOWN], cut, int((known_match_K == 1).sum()))
    return Estimate(*(value / len(score_K) for value in (count.value, count.low, count.high)))
