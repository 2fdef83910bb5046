"""Turn the composed score of one query into a probability, by studies whose grades are known.

A study's score composes the probabilities of its sites as if they were independent. It orders studies well, but it is
not a probability: levels and sides of one patient go together. The probability of a query's match is

    p = 1 / (1 + exp(-(a + b x))),  x = logit(score),  b > 0   (Platt, 1999; Cox, 1958),

fitted to held-out studies by penalised maximum likelihood. A monotone function of the score never changes the order.

The penalty is  A a^2 / 2 + B (b - 1 - ln b).  It is least at a = 0, b = 1, where the score is taken as it is, and
infinite at b = 0. So the minimum is unique, because likelihood and penalty are convex, and finite, also if the score
separates the matches from the others perfectly. The second term is that of a gamma distribution with its mode at one.

Too few studies of one kind leave the fit to its pull. That is good enough to estimate how many studies match, with an
interval that knows of it, but is not shown as a probability.

Legend: N studies searched, M held-out studies whose grades say whether they match.
"""

from dataclasses import dataclass
from math import log

import numpy as np

from vl_model.data.site_table import Bools, Floats

#: A probability is fitted if so many known studies match and so many do not.
LEAST_OF_EITHER_KIND = 10
#: A and B of the penalty. As a prior, a has the standard deviation 1.4, and b lies between 0.36 and 2.9 with 95 %: weak
#: beside ten studies of either kind. With 66 known studies, simulated as in `benchmarks.query_truth`, the calibration
#: error is 0.032 to 0.035 for three graders; with A = 0.1 and B = 1 it is 0.036 to 0.037; with A = 1 and B = 10, 0.028
#: for a calibrated grader, but 0.036 for one that is too unsure.
INTERCEPT_PULL, SLOPE_PULL = 0.5, 3.0
#: Logits beyond this (scores below 1e-6, or above 1 - 1e-6) grow by their logarithm only, so that no study outweighs
#: all others.
_FAR = 14.0
#: Logits that stand for scores of zero and one: just beyond those of their neighbours in float64.
_ENDS = (-745.5, 37.0)
#: A composition of probabilities may be outside [0, 1] by so much.
_ROUNDING = 1e-9
_TOLERANCE = 1e-9
_MOST_STEPS = 100


@dataclass(frozen=True)
class Recalibration:
    """The function from the score of a query to the probability of its match.

    variances: of the intercept, of the intercept with the slope, and of the slope, as far as the known studies tell.
    """

    intercept: float
    slope: float
    variances: tuple[float, float, float]

    def probability(self, score_N: Floats) -> Floats:
        """Return the probability of a match for scores in [0, 1]; nan where the score is nan."""
        return _logistic(self.logit(score_N))

    def logit(self, score_N: Floats) -> Floats:
        """Return the logit of `probability`."""
        logit_N: Floats = self.intercept + self.slope * score_logit(score_N)
        return logit_N

    def variance_of_mean(self, score_N: Floats) -> float:
        """Return the variance of the mean probability of these studies that is due to the fit (the delta method)."""
        x_N = score_logit(score_N)
        p_N = _logistic(self.intercept + self.slope * x_N)
        weight_N = p_N * (1 - p_N)
        by_a, by_b = float(weight_N.mean()), float((weight_N * x_N).mean())
        aa, ab, bb = self.variances
        return by_a * by_a * aa + 2 * by_a * by_b * ab + by_b * by_b * bb

    def leverage(self, score_M: Floats) -> Floats:
        """Return by how much the probability of each known study follows its own match, 0 to 1."""
        x_M = score_logit(score_M)
        p_M = _logistic(self.intercept + self.slope * x_M)
        aa, ab, bb = self.variances
        leverage_M: Floats = p_M * (1 - p_M) * (aa + 2 * ab * x_M + bb * x_M**2)
        return leverage_M


def fit_recalibration(known_score_M: Floats, known_match_M: Bools) -> Recalibration | None:
    """Return the fitted function; None if fewer than ten known studies match, or fewer than ten do not.

    Args:
        known_score_M: scores in [0, 1] of studies whose grades are known; a study with the score nan is left out.
        known_match_M: whether they match.

    Raises:
        ValueError: a score is outside [0, 1], or the lengths differ.
    """
    score_M, match_M = assessable(known_score_M, known_match_M)
    matches = int(match_M.sum())
    if min(matches, len(match_M) - matches) < LEAST_OF_EITHER_KIND:
        return None
    return pulled_recalibration(score_M, match_M)


def pulled_recalibration(known_score_M: Floats, known_match_M: Bools) -> Recalibration:
    """Fit as `fit_recalibration` does, but to any number of known studies: by none, scores are taken as they are."""
    score_M, match_M = assessable(known_score_M, known_match_M)
    order = np.lexsort((match_M, score_M))  # sums, and so the last bits, do not depend on the order of the studies
    return _fit(score_logit(score_M[order]), match_M[order].astype(np.float64))


def assessable(known_score_M: Floats, known_match_M: Bools) -> tuple[Floats, Bools]:
    """Return the scores and matches of the known studies that have a score.

    Raises:
        ValueError: a score is outside [0, 1], or the lengths differ.
    """
    score_M, match_M = checked_scores(known_score_M), np.asarray(known_match_M, dtype=bool)
    if score_M.shape != match_M.shape:
        raise ValueError(f"{len(score_M)} scores and {match_M.size} matches of known studies, expected one of each")
    has_score_M = ~np.isnan(score_M)
    return score_M[has_score_M], match_M[has_score_M]


def checked_scores(score_N: Floats) -> Floats:
    """Return the scores within [0, 1], or nan. Raises ValueError if one is outside by more than rounding."""
    score_N = np.asarray(score_N, dtype=np.float64)
    if (outside_N := (score_N < -_ROUNDING) | (score_N > 1 + _ROUNDING)).any():
        raise ValueError(f"a score of {score_N[outside_N][0]!s}, expected 0 to 1")
    return np.clip(score_N, 0.0, 1.0)


def score_logit(score_N: Floats) -> Floats:
    """Return the logit of each score: strictly increasing, finite at 0 and 1, and slow beyond +-14."""
    with np.errstate(divide="ignore"):
        logit_N = np.log(score_N) - np.log1p(-np.asarray(score_N))
    logit_N = np.clip(logit_N, *_ENDS)
    beyond_N = np.maximum(np.abs(logit_N) - _FAR, 0.0)
    limited_N: Floats = np.copysign(np.minimum(np.abs(logit_N), _FAR) + np.log1p(beyond_N), logit_N)
    return limited_N


def _logistic(logit_N: Floats) -> Floats:
    smaller_N = np.exp(-np.abs(logit_N))
    return np.where(logit_N >= 0, 1.0, smaller_N) / (1.0 + smaller_N)


def _fit(x_M: Floats, y_M: Floats) -> Recalibration:
    """Minimise the penalised negative log likelihood by Newton's method, with shorter steps where it would rise."""
    a, b = 0.0, 1.0
    loss = _loss(a, b, x_M, y_M)
    for _ in range(_MOST_STEPS):
        gradient_2, covariance_22 = _derivatives(a, b, x_M, y_M)
        step_2 = covariance_22 @ gradient_2
        if gradient_2 @ step_2 < _TOLERANCE:  # the next step is exact, but too small for the loss to show it
            a, b = a - step_2[0], b - step_2[1]
            break
        size = min(1.0, 0.9 * b / max(step_2[1], 1e-300))  # the slope stays above zero
        while (tried := _loss(a - size * step_2[0], b - size * step_2[1], x_M, y_M)) > loss:
            size /= 2
        a, b, loss = a - size * step_2[0], b - size * step_2[1], tried
    (aa, ab), (_, bb) = _derivatives(a, b, x_M, y_M)[1].tolist()
    return Recalibration(float(a), float(b), (aa, ab, bb))


def _loss(a: float, b: float, x_M: Floats, y_M: Floats) -> float:
    logit_M = a + b * x_M
    likelihood = (np.maximum(logit_M, 0.0) + np.log1p(np.exp(-np.abs(logit_M)))).sum() - y_M @ logit_M
    return float(likelihood) + INTERCEPT_PULL * a * a / 2 + SLOPE_PULL * (b - 1 - log(b))


def _derivatives(a: float, b: float, x_M: Floats, y_M: Floats) -> tuple[Floats, Floats]:
    """Return the gradient (2,) by intercept and slope, and the inverse (2, 2) of the second derivatives."""
    p_M = _logistic(a + b * x_M)
    excess_M, weight_M = p_M - y_M, p_M * (1 - p_M)
    weighted_M = weight_M * x_M
    gradient_2 = np.array([excess_M.sum() + INTERCEPT_PULL * a, excess_M @ x_M + SLOPE_PULL * (1 - 1 / b)])
    aa, ab, bb = weight_M.sum() + INTERCEPT_PULL, weighted_M.sum(), weighted_M @ x_M + SLOPE_PULL / b**2
    return gradient_2, np.array([[bb, -ab], [-ab, aa]]) / (aa * bb - ab * ab)
