"""Figures of graded rows together with each study's influence on them, from which their intervals follow.

The influence of a study is what the figure changes by, to first order, as the study's rows get more weight. Over
independent studies a figure's standard error is the root of the sum of their squares (the delta method).

Legend: N rows, S studies.
"""

from dataclasses import dataclass

import numpy as np
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
    """Return the area under the ROC curve; its influences are those of Obuchowski (1997), for clustered rows."""
    positives, negatives = int(positive_N.sum()), int((~positive_N).sum())
    if not positives or not negatives:
        return NO_FIGURE
    above_N = rankdata(score_N)
    above_N[positive_N] -= rankdata(score_N[positive_N])  # the negatives below each positive row, ties half
    above_N[~positive_N] = positives - (above_N[~positive_N] - rankdata(score_N[~positive_N]))
    share_N = above_N / np.where(positive_N, negatives, positives)
    area = float(share_N[positive_N].mean())
    fewest = min(len(np.unique(study_N[positive_N])), len(np.unique(study_N[~positive_N])))
    return Figure(area, _by_study((share_N - area) / np.where(positive_N, positives, negatives), study_N), fewest)


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
