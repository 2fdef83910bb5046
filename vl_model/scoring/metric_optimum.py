"""The probabilities that minimise the competition's metric, computed from calibrated ones.

The three pooled parts are lowest at w_c P_c, normalised, where w is the weight of the severity and P the calibrated
probability (Bayes' rule). The spinal rows of a study also enter the any-severe part, by the largest of their `severe`
probabilities. Both parts are sums over studies. In expectation, and per study, they are

    sum over rows r and severities c of  a_rc (-ln q_rc)  +  A (-ln m)  +  B (-ln(1 - m)),    m = max over r of q_r2,

with a_rc = w_c P_rc / W_R, A = 4 pi / W_A and B = (P(all normal/mild) + 2 P(none severe, some moderate)) / W_A, where
pi = P(any severe), W_R is the mean over studies of the sum of the weights of their spinal rows, and W_A the mean
weight of the any-severe part. The minimum has a closed form (`_tops`).

Legend: N rows, S studies, R = 5 spinal rows of a study, 3 severities.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from data_prep.sites import Condition, Severity
from vl_model.data.site_table import CONDITION_OF_SITE, CONDITIONS, LEVELS, Bools, Floats, Ints, SiteTable
from vl_model.scoring.metrics import SEVERITY_WEIGHTS

_SPINAL = CONDITIONS.index(Condition.SPINAL_CANAL_STENOSIS)
#: Index in `SITES` of the five levels of the spinal canal.
SPINAL_SITES: Ints = np.flatnonzero(CONDITION_OF_SITE == _SPINAL)
_WEIGHT_C = np.array(SEVERITY_WEIGHTS)
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class MetricRule:
    """What the optimum depends on besides the probabilities, learned from labelled studies.

    spinal_weight, any_severe_weight: W_R and W_A. dependence: 0 if the levels of a study are independent given their
    probabilities, 1 if the study's largest `severe` probability is that of any level being severe.
    """

    spinal_weight: float
    any_severe_weight: float
    dependence: float


#: The weights of the training set of the RSNA 2024 competition: for a cohort without a labelled spinal row.
USUAL_RULE = MetricRule(spinal_weight=6.08, any_severe_weight=1.73, dependence=0.0)


@dataclass(frozen=True)
class Worst:
    """Probabilities (S) that the worst spinal row of a study is severe, moderate, or normal/mild."""

    severe_S: Floats
    moderate_S: Floats
    normal_S: Floats


def fit_metric_rule(prob_N3: Floats, table: SiteTable) -> MetricRule:
    """Learn the rule from calibrated probabilities (N, 3) and the labels of the same rows.

    The dependence minimises the log loss of "any level is severe" over the studies, plus half its square.
    """
    spinal_N = table.labelled_N & (table.condition_N == _SPINAL)
    if not spinal_N.any():
        return USUAL_RULE
    spinal, prob_M3 = table.take(spinal_N), prob_N3[spinal_N]
    row_SR, present_SR = _spinal_rows(spinal)
    weight_SR = np.where(present_SR, _WEIGHT_C[spinal.severity_N[row_SR]], 0.0)
    largest_S = weight_SR.max(axis=1)
    is_severe_S = largest_S == _WEIGHT_C[Severity.SEVERE]

    def loss(dependence: float) -> float:
        severe_S = worst_of(prob_M3[row_SR], present_SR, dependence).severe_S
        true_S = np.where(is_severe_S, severe_S, 1 - severe_S)
        return float(dependence**2 / 2 - np.log(np.maximum(true_S, _TINY)).sum())

    found = minimize_scalar(loss, bounds=(0.0, 1.0), method="bounded", options={"xatol": 1e-4})
    return MetricRule(float(weight_SR.sum(axis=1).mean()), float(largest_S.mean()), float(found.x))


def metric_optimal(table: SiteTable, prob_N3: Floats, rule: MetricRule | Mapping[int, MetricRule]) -> Floats:
    """Return the probabilities (N, 3) with the lowest expected metric, if `prob_N3` are calibrated.

    rule: of all studies, or of each study. Give all spinal rows of a study at once: they depend on one another.
    """
    optimal_N3 = by_bayes_rule(prob_N3)
    row_SR, present_SR = _spinal_rows(table)
    if len(row_SR):
        rules = [rule if isinstance(rule, MetricRule) else rule[int(study)] for study in table.study_N[row_SR[:, 0]]]
        worst = worst_of(prob_N3[row_SR], present_SR, np.array([one.dependence for one in rules]))
        optimal_SR3 = optimal_spinal(
            *(prob_N3[row_SR], present_SR, worst),
            spinal_weight=np.array([one.spinal_weight for one in rules]),
            any_severe_weight=np.array([one.any_severe_weight for one in rules]),
        )
        optimal_N3[row_SR[present_SR]] = optimal_SR3[present_SR]
    return optimal_N3


def by_bayes_rule(prob_N3: Floats) -> Floats:
    """Return w_c P_c, normalised: the optimum of the three pooled parts."""
    weighted_N3 = prob_N3 * _WEIGHT_C
    optimal_N3: Floats = weighted_N3 / weighted_N3.sum(axis=-1, keepdims=True)
    return optimal_N3


def worst_of(prob_SR3: Floats, present_SR: Bools, dependence: float | Floats) -> Worst:
    """Return the probabilities of a study's worst row, between independent levels and the most severe level alone."""
    severe_SR = np.where(present_SR, prob_SR3[..., Severity.SEVERE], 0.0)
    none_S = (1 - severe_SR).prod(axis=1)
    normal_S = np.where(present_SR, prob_SR3[..., Severity.NORMAL_MILD], 1.0).prod(axis=1)
    severe_S = (1 - dependence) * (1 - none_S) + dependence * severe_SR.max(axis=1)
    rest_S = (1 - severe_S) / np.maximum(none_S, _TINY)
    return Worst(severe_S, rest_S * np.maximum(none_S - normal_S, 0.0), rest_S * normal_S)


def optimal_spinal(
    prob_SR3: Floats, present_SR: Bools, worst: Worst, spinal_weight: float | Floats, any_severe_weight: float | Floats
) -> Floats:
    """Return the optimal probabilities (S, R, 3) of the spinal rows; those that are not present have no meaning.

    The weights, W_R and W_A, are those of all studies, or of each study (S).
    """
    mass_SR3 = np.where(present_SR[..., None], prob_SR3 * _WEIGHT_C / np.reshape(spinal_weight, (-1, 1, 1)), 0.0)
    severe_S = _WEIGHT_C[Severity.SEVERE] * worst.severe_S / any_severe_weight
    other_S = (worst.normal_S + _WEIGHT_C[Severity.MODERATE] * worst.moderate_S) / any_severe_weight
    top_SR = _tops(mass_SR3[..., Severity.SEVERE], mass_SR3.sum(axis=-1), present_SR, severe_S, other_S)

    below_SR2 = np.where(present_SR[..., None], mass_SR3[..., :2], 1.0)
    below_SR2 = below_SR2 / below_SR2.sum(axis=-1, keepdims=True)
    optimal: Floats = np.concatenate([below_SR2 * (1 - top_SR[..., None]), top_SR[..., None]], axis=-1)
    return optimal


def _tops(severe_SR: Floats, mass_SR: Floats, present_SR: Bools, any_S: Floats, none_S: Floats) -> Floats:
    """Return the optimal `severe` probability (S, R) of each row.

    On its own, a row would have severe / mass. One row, the top, also bears the any-severe part (any, none), which
    would be (severe + any) / (mass + any + none). A row above it cannot stay above it: it joins the top, and the rows
    that share the top have (sum of severe + any) / (sum of mass + any + none). Rows join from the largest down until
    none is above. Each row is tried as the top; the one with the lowest loss is taken. That is nearly always the row
    of the largest `severe` probability.
    """
    own_SR = np.divide(severe_SR, mass_SR, out=np.zeros_like(severe_SR), where=present_SR)
    studies, rows = severe_SR.shape
    best_SR, least_S = own_SR.copy(), np.full(studies, np.inf)
    for top in range(rows):
        joined_SR = np.zeros((studies, rows), dtype=bool)
        joined_SR[:, top] = True
        for _ in range(rows):
            level_S = np.where(joined_SR, severe_SR, 0.0).sum(axis=1) + any_S
            level_S = level_S / (np.where(joined_SR, mass_SR, 0.0).sum(axis=1) + any_S + none_S)
            above_SR = np.where(joined_SR, -1.0, own_SR)
            highest_S = above_SR.argmax(axis=1)
            joins_S = above_SR.max(axis=1) > level_S
            if not joins_S.any():
                break
            joined_SR[np.flatnonzero(joins_S), highest_S[joins_S]] = True
        value_SR = np.where(joined_SR, level_S[:, None], own_SR)
        loss_S = _loss(severe_SR, mass_SR, value_SR, any_S, none_S)
        better_S = (loss_S < least_S) & present_SR[:, top]
        best_SR[better_S], least_S[better_S] = value_SR[better_S], loss_S[better_S]
    return best_SR


def _loss(severe_SR: Floats, mass_SR: Floats, value_SR: Floats, any_S: Floats, none_S: Floats) -> Floats:
    """Return the expected loss of each study, without what does not depend on the `severe` probabilities."""
    log_SR, log_not_SR = np.log(np.maximum(value_SR, _TINY)), np.log(np.maximum(1 - value_SR, _TINY))
    of_rows_S = -(severe_SR * log_SR + (mass_SR - severe_SR) * log_not_SR).sum(axis=1)
    loss: Floats = of_rows_S - any_S * log_SR.max(axis=1) - none_S * log_not_SR.min(axis=1)
    return loss


def _spinal_rows(table: SiteTable) -> tuple[Ints, Bools]:
    """Return the row numbers of each study's spinal rows (S, R), by level, and whether there is such a row.

    A row that is missing has the number of another row of the study.
    """
    rows_M = np.flatnonzero(table.condition_N == _SPINAL)
    study_S, study_of_M = np.unique(table.study_N[rows_M], return_inverse=True)
    row_SR = np.full((len(study_S), len(LEVELS)), -1)
    row_SR[study_of_M, table.level_N[rows_M]] = rows_M
    present_SR = row_SR >= 0
    return np.where(present_SR, row_SR, row_SR.max(axis=1, keepdims=True)), present_SR
