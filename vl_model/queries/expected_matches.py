"""How many of the studies searched match a query, as far as studies with known grades tell it.

The number of matches among N studies is estimated by the prediction-powered mean (Angelopoulos et al., 2023):

    N (mean of f over the N + mean of (y - f) over M known studies),

f being the recalibrated probability and y the known match. Its interval is of the *number itself*, which another draw
of studies with the same probabilities would vary: the residuals y - f have the variance s^2 both among the known and
among those searched, so the share is wrong by  s^2 (1/M + 1/N).  To fit f makes the residuals of its own studies too
small; each is divided by one minus its leverage, as if f had been fitted without its study (MacKinnon and White, 1985).

Fewer than ten known matches, or others, do not tell s^2. Then f is the pulled fit, the variance is that of the fit and
of independent draws, and nothing is added: the pull stands for pseudo-counts, which the residuals would undo. On the
studies of `benchmarks.query_truth`, intervals of the raw score with its residuals contain the truth in 84 to 93 %,
these in 93 to 99 %; and no estimate falls below zero where no match is known.

Legend: N studies searched, M known studies.
"""

from dataclasses import dataclass

from vl_model.calibration.recalibration import Recalibration, fit_recalibration, pulled_recalibration
from vl_model.data.site_table import Bools, Floats
from vl_model.queries.estimates import Estimate, count_estimate

#: The mean probability of the answers counts as so many known studies above the cut. On simulated studies (the mean of
#: four cases of `benchmarks.query_truth`) the told precision of ten answers is wrong by 0.048, of which 0.036 are the
#: chance of ten answers, and by query by 0.016 on average. The mean probability alone: 0.047 and 0.018; the known
#: studies above the cut alone: 0.066 and 0.013, because often there is none or one; mean scores: 0.056 and 0.042.
_PROBABILITY_COUNTS = 10


@dataclass(frozen=True)
class Forecast:
    """What M known studies tell of a query's matches among studies whose grades are not known.

    score_M, match_M: of the known studies, without nan.
    shown: the function whose probabilities are shown; None if too few studies of one kind are known.
    fitted: `shown`, or the pulled fit to these few.
    """

    score_M: Floats
    match_M: Bools
    shown: Recalibration | None
    fitted: Recalibration

    def matches_among(self, score_N: Floats, certain: int = 0) -> Estimate:
        """Return how many of N studies, which are like the known ones, match; `certain` matches are added."""
        if not len(score_N):
            return count_estimate(0.0, 0, 0.0, certain)
        prob_N = self.fitted.probability(score_N)
        share, variance = float(prob_N.mean()), self._model_variance(score_N, prob_N)
        if self.shown is not None:
            residual_M = self.match_M - self.fitted.probability(self.score_M)
            share = min(max(share + float(residual_M.mean()), 0.0), 1.0)
            honest_M = residual_M / (1 - self.fitted.leverage(self.score_M))
            known = len(residual_M)
            variance = float(honest_M @ honest_M) / (known - 1) * (1 / known + 1 / len(prob_N))
        return count_estimate(share, len(prob_N), _effective(share, prob_N, variance), certain)

    def matches_above(self, score_K: Floats, cut: float, certain: int = 0) -> Estimate:
        """Return how many of the K best studies match: those with the scores `score_K`, of which `cut` is the least.

        The estimate is the mean probability, corrected by the known studies above the cut as far as they are many: by
        the sum of their residuals over their number and ten.
        """
        if not len(score_K):
            return count_estimate(0.0, 0, 0.0, certain)
        prob_K = self.fitted.probability(score_K)
        above_M = self.score_M >= cut
        residual = float((self.match_M[above_M] - self.fitted.probability(self.score_M[above_M])).sum())
        share = float(prob_K.mean()) + residual / (int(above_M.sum()) + _PROBABILITY_COUNTS)
        share = min(max(share, 0.0), 1.0)
        variance = self._model_variance(score_K, prob_K)
        return count_estimate(share, len(prob_K), _effective(share, prob_K, variance), certain)

    def _model_variance(self, score_N: Floats, prob_N: Floats) -> float:
        """Return the variance of the share of matches: of the fit, and of independent draws."""
        return self.fitted.variance_of_mean(score_N) + float((prob_N * (1 - prob_N)).sum()) / len(prob_N) ** 2


def forecast(score_M: Floats, match_M: Bools) -> Forecast:
    """Return what known studies, whose scores are not nan, tell of others."""
    shown = fit_recalibration(score_M, match_M)
    return Forecast(score_M, match_M, shown, pulled_recalibration(score_M, match_M) if shown is None else shown)


def _effective(share: float, prob_N: Floats, variance: float) -> float:
    """Return the number of independent studies whose share would have this variance."""
    spread = max(share * (1 - share), float((prob_N * (1 - prob_N)).mean()))
    return spread / variance if variance > 0 else float(len(prob_N))
