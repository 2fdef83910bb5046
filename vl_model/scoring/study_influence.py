"""Figures of graded rows together with each study's influence on them, from which their intervals follow.

The influence of a study is what the figure changes by, to first order, as the study's rows get more weight. Over
independent studies a figure's standard error is the root of the sum of their squares (the delta method). Influences on
an AUC are exact, by leaving each study out: to first order they are too small where few studies have an event.

Legend: N rows, S studies.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import logit
from scipy.stats import rankdata

from vl_model.data.site_table import Bools, Floats, Ints


@dataclass(frozen=True)
class Figure:
    """A figure and the influence (S,) of each study that has a row in it; nan and empty if it has no value.

    fewest: the number of studies to which its degrees of freedom belong, if that is below S. Of an AUC these are the
    studies with the scarcer outcome: if all severe sites are in one study, nothing tells how others would vary.
    """

    value: float
    influence_S: Floats
    fewest: int | None = None

    @property
    def independent_studies(self) -> int:
        """Return `fewest`, or the number of studies."""
        return len(self.influence_S) if self.fewest is None else self.fewest


NO_FIGURE = Figure(float("nan"), np.zeros(0))


def weighted_mean(value_N: Floats, weight_N: Floats, study_N: Ints) -> Figure:
    """Return the weighted mean of a row's value, such as a loss."""
    total = weight_N.sum()
    if not total > 0:
        return NO_FIGURE
    mean = float((weight_N * value_N).sum() / total)
    return Figure(mean, _by_study(weight_N * (value_N - mean) / total, study_N))


def auc(positive_N: Bools, score_N: Floats, study_N: Ints) -> Figure:
    """Return the area under the ROC curve (Mann-Whitney, ties count half).

    The influences are those on the logit of the area, on which scale its interval is symmetric, times the slope of the
    area by its logit. Each is the change without the study (the jackknife) or, if an area without some study is zero,
    one or none, to first order (Obuchowski, 1997).
    """
    positives, negatives = int(positive_N.sum()), int((~positive_N).sum())
    if not positives or not negatives:
        return NO_FIGURE
    above_N = rankdata(score_N)
    above_N[positive_N] -= rankdata(score_N[positive_N])  # the negatives below each positive row, ties half
    above_N[~positive_N] = positives - (above_N[~positive_N] - rankdata(score_N[~positive_N]))
    share_N = above_N / np.where(positive_N, negatives, positives)
    area = float(share_N[positive_N].mean())
    fewest = min(len(np.unique(study_N[positive_N])), len(np.unique(study_N[~positive_N])))
    without_S = _auc_without_each(positive_N, score_N, study_N, above_N)
    if ((without_S > 0) & (without_S < 1)).all():
        logit_S, studies = logit(without_S), len(without_S)
        return Figure(area, area * (1 - area) * (studies - 1) / studies * (logit_S.mean() - logit_S), fewest)
    influence_S = _by_study((share_N - area) / np.where(positive_N, positives, negatives), study_N)
    return Figure(area, influence_S, fewest)


def _auc_without_each(positive_N: Bools, score_N: Floats, study_N: Ints, above_N: Floats) -> Floats:
    """Return the area without each study (S); nan where the others have rows of one kind only.

    above_N: of a positive row the number of negatives below it, of a negative row the number of positives above it.
    """
    studies, study_of_N = np.unique(study_N, return_inverse=True)
    count_S, positive_S = np.bincount(study_of_N), np.bincount(study_of_N[positive_N], minlength=len(studies))
    # Ranks by study, then by score, minus the rows of the studies before, are ranks within the study.
    key_N = study_of_N * (len(score_N) + 1.0) + rankdata(score_N)
    negatives_before_S = (count_S - positive_S).cumsum() - (count_S - positive_S)
    of_positive_M = study_of_N[positive_N]
    own_M = rankdata(key_N)[positive_N] - rankdata(key_N[positive_N]) - negatives_before_S[of_positive_M]
    within_S = np.bincount(of_positive_M, own_M, len(studies))
    pairs_S = above_N[positive_N].sum() - np.bincount(study_of_N, above_N) + within_S
    all_S = (positive_S.sum() - positive_S) * (count_S.sum() - positive_S.sum() - count_S + positive_S)
    with np.errstate(divide="ignore", invalid="ignore"):
        without_S: Floats = pairs_S / all_S
    return without_S


def quadratic_kappa(severity_N: Ints, predicted_N: Ints, study_N: Ints) -> Figure:
    """Return Cohen's kappa with quadratic weights: 1 - E[(y - p)^2] / E[(y - p')^2], p' of an independent row."""
    if not len(severity_N):
        return NO_FIGURE
    y_N, p_N = severity_N.astype(np.float64), predicted_N.astype(np.float64)
    y, p, observed = y_N.mean(), p_N.mean(), ((y_N - p_N) ** 2).mean()
    by_chance = (y_N**2).mean() + (p_N**2).mean() - 2 * y * p
    if by_chance < 1e-12:  # all true and all predicted severities are one
        return NO_FIGURE
    chance_N = (y_N**2 + p_N**2 - (y_N**2 + p_N**2).mean()) - 2 * p * (y_N - y) - 2 * y * (p_N - p)
    change_N = -((y_N - p_N) ** 2 - observed) / by_chance + observed / by_chance**2 * chance_N
    return Figure(float(1 - observed / by_chance), _by_study(change_N / len(y_N), study_N))


def mean_figure(figures: list[Figure]) -> Figure:
    """Return the mean of those figures of the same studies that have a value."""
    valued = [figure for figure in figures if np.isfinite(figure.value)]
    if not valued:
        return NO_FIGURE
    return Figure(
        float(np.mean([figure.value for figure in valued])),
        np.mean([figure.influence_S for figure in valued], axis=0),
        min(figure.independent_studies for figure in valued),
    )


def _by_study(value_N: Floats, study_N: Ints) -> Floats:
    _, study_of_N = np.unique(study_N, return_inverse=True)
    return np.bincount(study_of_N, weights=value_N).astype(np.float64)
