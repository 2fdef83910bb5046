"""The constant baseline: the best answer for the metric that does not look at any image."""

import numpy as np

from data_prep.sites import Severity
from vl_model.data.site_table import Floats, SiteTable
from vl_model.scoring.metric_optimum import (
    SPINAL_SITES,
    Worst,
    by_bayes_rule,
    fit_metric_rule,
    optimal_spinal,
    worst_of,
)
from vl_model.scoring.priors import ColumnPrior

#: The share of studies with a severe level is shrunk by so many studies towards that of independent levels.
_PSEUDO_STUDIES = 1.0


def constant_baseline(train: SiteTable, held_out: SiteTable) -> Floats:
    """Return (N, 3): the best constant of each column, learned on `train`, for the rows of `held_out`."""
    return best_constants(train)[held_out.site_N]


def best_constants(train: SiteTable) -> Floats:
    """Return (25, 3): the best constant of each column, rows in the order of `SITES`.

    They are the metric-optimal probabilities of a model that gives each site the frequencies of its column, and knows
    how often a study has a severe level (which is less often than if the levels were independent).
    """
    prior = ColumnPrior().fit(train)
    rule = fit_metric_rule(prior.predict_proba(train), train)
    constant_SC = by_bayes_rule(prior.prob_SC_)
    spinal_SR3 = prior.prob_SC_[SPINAL_SITES][None]
    all_SR = np.ones(spinal_SR3.shape[:2], dtype=bool)
    worst = _observed_worst(train, worst_of(spinal_SR3, all_SR, dependence=0.0))
    weights = (rule.spinal_weight, rule.any_severe_weight)
    constant_SC[SPINAL_SITES] = optimal_spinal(spinal_SR3, all_SR, worst, *weights)[0]
    return constant_SC


def _observed_worst(train: SiteTable, independent: Worst) -> Worst:
    """Return how often the worst spinal row of a training study is normal/mild, moderate or severe."""
    spinal = train.take(train.labelled_N & np.isin(train.site_N, SPINAL_SITES))
    studies, study_of_M = np.unique(spinal.study_N, return_inverse=True)
    grade_S = np.zeros(len(studies), dtype=np.int64)
    np.maximum.at(grade_S, study_of_M, spinal.severity_N)
    count_C = np.bincount(grade_S, minlength=len(Severity))
    expected_C = np.concatenate([independent.normal_S, independent.moderate_S, independent.severe_S])
    share_C1 = ((count_C + _PSEUDO_STUDIES * expected_C) / (len(studies) + _PSEUDO_STUDIES))[:, None]
    return Worst(normal_S=share_C1[0], moderate_S=share_C1[1], severe_S=share_C1[2])
