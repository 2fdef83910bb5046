"""What is told of a question's worth beside what is true of the studies searched; used by query_quality.py.

Legend: N studies searched that can be assessed, K answers shown, R rows: all of these of several prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vl_model.queries.estimates import Estimate
from vl_model.queries.search import Found
from vl_model.queries.segment import Segment
from vl_model.scoring.metrics import DEFAULT_BINS, bins_of_equal_mass

_DRAWS = 200
PRECISION_AIM, ECE_AIM, COVERAGE_AIM = 0.05, 0.04, (0.90, 0.99)


@dataclass(frozen=True)
class Told:
    """One question.

    told, real: the precision of the answers shown. expected, matches: the number of matches among all studies.
    prob_N, match_N: the probability that is shown for each study, empty where a rank alone is shown, and its match.
    prob_K, match_K: the same of the answers shown.
    """

    kind: str
    told: Estimate
    real: float
    expected: Estimate
    matches: int
    prob_N: np.ndarray
    match_N: np.ndarray
    prob_K: np.ndarray
    match_K: np.ndarray


def told_of(kind: str, found: Found, everything: Found, searched: Segment, match_S: np.ndarray) -> Told:
    """Return what is told in a reply beside the truth.

    Args:
        kind: the kind of prompt.
        found: of the reply.
        everything: of the same question, all studies that can be assessed as answers.
        searched: the segment that was searched.
        match_S: whether each of its studies matches.
    """
    worth = found.worth
    assert worth.told_precision is not None and worth.expected_matches is not None
    of_study = dict(zip(searched.study_S.tolist(), match_S.tolist(), strict=True))
    score_N = np.array([answer.score for answer in everything.answers])
    match_N = np.array([of_study[answer.study_id] for answer in everything.answers])
    match_K = np.array([of_study[answer.study_id] for answer in found.answers])
    if (fitted := worth.recalibration) is None:
        prob_N = prob_K = np.empty(0)
    else:
        prob_N = fitted.probability(score_N)
        prob_K = np.array([answer.probability for answer in found.answers])
    return Told(
        kind,
        worth.told_precision,
        float(match_K.mean()),
        worth.expected_matches,
        int(match_N.sum()),
        prob_N,
        match_N,
        prob_K,
        match_K,
    )


def told_lines(told: Sequence[Told], kinds: Sequence[str]) -> list[str]:
    """Return the figures of all questions by kind, with those that have an aim beside it."""
    lines = [
        "what is told of a question's worth, beside the truth",
        f"{'kind':<20}{'asked':>7}{'told':>7}{'true':>7}{'signed':>8}{'absolute':>9}{'covered':>9}"
        f"{'with P':>8}{'ECE':>7}{'floor':>7}{'of answers':>12}{'floor':>7}",
    ]
    for kind in [*kinds, "all"]:
        of_kind = [one for one in told if kind in (one.kind, "all")]
        if of_kind:
            lines.append(f"{kind:<20}" + told_row(of_kind))
    return [*lines, *_aim_lines(told)]


def told_row(told: Sequence[Told]) -> str:
    difference = _differences(told)
    with_p = [one for one in told if len(one.prob_N)]
    figures = (
        f"{len(told):>7}{np.mean([one.told.value for one in told]):>7.2f}{np.mean([one.real for one in told]):>7.2f}"
        f"{difference.mean():>+8.3f}{np.abs(difference).mean():>9.3f}{coverage(told):>9.3f}{len(with_p):>8}"
    )
    if not with_p:
        return figures
    all_ece, all_floor = calibration_error([(one.prob_N, one.match_N) for one in with_p])
    shown_ece, shown_floor = calibration_error([(one.prob_K, one.match_K) for one in with_p])
    return f"{figures}{all_ece:>7.3f}{all_floor:>7.3f}{shown_ece:>12.3f}{shown_floor:>7.3f}"


def _differences(told: Sequence[Told]) -> np.ndarray:
    return np.array([one.told.value - one.real for one in told])


def coverage(told: Sequence[Told]) -> float:
    """Return how often the interval of the number of matches contains it."""
    return float(np.mean([one.expected.low <= one.matches <= one.expected.high for one in told]))


def calibration_error(groups: Sequence[tuple[np.ndarray, np.ndarray]], seed: int = 0) -> tuple[float, float]:
    """Return the calibration error of probabilities, in bins of equal mass, and that of labels drawn from them.

    The draws are independent, which the matches of one study are not: the floor is a low one.
    """
    prob_R, match_R = (np.concatenate(column) for column in zip(*groups, strict=True))
    bin_R = bins_of_equal_mass(prob_R, DEFAULT_BINS)

    def error(hit_R: np.ndarray) -> float:
        return float(np.abs(np.bincount(bin_R, hit_R - prob_R)).sum() / len(prob_R))

    rng = np.random.default_rng(seed)
    floor = np.mean([error(rng.random(len(prob_R)) < prob_R) for _ in range(_DRAWS)])
    return error(match_R), float(floor)


def _aim_lines(told: Sequence[Told]) -> list[str]:
    difference = _differences(told)
    signed, absolute, covered = float(difference.mean()), float(np.abs(difference).mean()), coverage(told)
    shown = [one for one in told if len(one.prob_N)]
    is_covered = COVERAGE_AIM[0] <= covered <= COVERAGE_AIM[1]
    lines = [
        f"aim: told precision within {PRECISION_AIM} of the true one on average: {signed:+.3f}, "
        f"{_word(abs(signed) <= PRECISION_AIM)}; the mean absolute difference is {absolute:.3f}",
        f"aim: intervals of the number of matches cover it at 90 to 99 %: {100 * covered:.1f} %, {_word(is_covered)}",
    ]
    if shown:
        error, floor = calibration_error([(one.prob_N, one.match_N) for one in shown])
        lines.append(
            f"aim: ECE of the shown probability at most {ECE_AIM}: {error:.3f} (floor {floor:.3f}), "
            f"{_word(error <= ECE_AIM)}"
        )
    return lines


def _word(is_met: bool) -> str:
    return "met" if is_met else "MISSED"
