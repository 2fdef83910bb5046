"""Simulated studies whose true probabilities are known, and what a prediction of them is expected to score.

- What the images of a study show of its 25 sites is 25 correlated normal numbers, the *view*.
- The grade of a site is  r view + sqrt(1 - r^2) noise,  with independent noise. Its severity follows from thresholds
  at the frequencies of the site's column in the RSNA 2024 training set: 78 % Normal/Mild, 16 % Moderate, 6 % Severe in
  all. So the probabilities given the view, the *truth*, are known (an ordinal probit). Severities are drawn from them.
  The noise is independent, so that the views bear all of the correlations over levels, sides and conditions. They are
  chosen such that the grades have the correlations of the phantom (`data_prep.phantom.grades`), as nearly as possible.
  The correlations r are chosen such that the best possible metric is near that of a strong ensemble on real images.
- A blurred view,  c view + sqrt(1 - c^2) noise,  is that of a less able predictor, whose probabilities are calibrated.
- A prediction is *distorted* by a slope (above one: overconfident), biases per condition and shifts per level.

Legend: S studies, X = 25 sites, N = 25 S rows, K = 3 conditions, L = 5 levels, C = 3 severities, G = 4 parts.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import log_softmax, ndtr, ndtri

from data_prep.phantom.grades import class_probabilities, latent_correlation
from data_prep.sites import SITES, Severity
from vl_model.data.site_table import CONDITION_OF_SITE, CONDITIONS, LEVEL_OF_SITE, LEVELS, Floats, SiteTable
from vl_model.scoring.metric_optimum import SPINAL_SITES, MetricRule, metric_optimal, worst_of
from vl_model.scoring.metrics import SEVERITY_WEIGHTS, scores_of

#: Correlation r of a site's grade with the view, by condition.
SKILL_K = np.array([0.94, 0.83, 0.85])
_WEIGHT_C = np.array(SEVERITY_WEIGHTS)
#: Probabilities below this are raised to it.
_SMALLEST = 1e-6


@dataclass(frozen=True)
class Distortion:
    """The logit of severity c at level l becomes  slope ln p_c + b_c + o_lc."""

    slope: float
    bias_KC: Floats
    level_bias_KLC: Floats

    def log_prob(self, true_SX3: Floats) -> Floats:
        """Return the natural logs of the distorted probabilities (S, X, 3)."""
        bias_X3 = self.bias_KC[CONDITION_OF_SITE] + self.level_bias_KLC[CONDITION_OF_SITE, LEVEL_OF_SITE]
        logs: Floats = log_softmax(self.slope * np.log(true_SX3) + bias_X3, axis=-1)
        return logs


def draw_distortion(rng: np.random.Generator, slope: float, bias: float, level_bias: float) -> Distortion:
    """Draw biases and level shifts with these standard deviations."""
    sizes = (len(CONDITIONS), len(Severity)), (len(CONDITIONS), len(LEVELS), len(Severity))
    return Distortion(slope, bias * rng.standard_normal(sizes[0]), level_bias * rng.standard_normal(sizes[1]))


def draw_views(rng: np.random.Generator, studies: int) -> Floats:
    """Return what the images show (S, X): normal numbers with mean 0 and variance 1, correlated within a study."""
    views: Floats = rng.standard_normal((studies, len(SITES))) @ _mixing().T
    return views


def blurred(rng: np.random.Generator, view_SX: Floats, kept: float) -> Floats:
    """Return a view that correlates with `view_SX` by `kept`."""
    other: Floats = kept * view_SX + np.sqrt(1 - kept**2) * rng.standard_normal(view_SX.shape)
    return other


def probabilities_given(view_SX: Floats, kept: float = 1.0) -> Floats:
    """Return P(severity | view), (S, X, 3), for a view that correlates with the full one by `kept`."""
    share_XC = np.array([class_probabilities(site) for site in SITES])
    cut_X2 = ndtri(share_XC.cumsum(axis=1)[:, :2])
    skill_X = kept * SKILL_K[CONDITION_OF_SITE]
    below_SX2 = ndtr((cut_X2 - (skill_X * view_SX)[..., None]) / np.sqrt(1 - skill_X**2)[:, None])
    edge_SX1 = np.zeros((*view_SX.shape, 1))
    prob_SX3 = np.diff(np.concatenate([edge_SX1, below_SX2, edge_SX1 + 1], axis=-1), axis=-1)
    prob_SX3 = np.maximum(prob_SX3, _SMALLEST)
    normalised: Floats = prob_SX3 / prob_SX3.sum(axis=-1, keepdims=True)
    return normalised


def draw_table(rng: np.random.Generator, true_SX3: Floats) -> SiteTable:
    """Return all sites of the studies 0 to S - 1, with severities drawn from the truth."""
    studies = len(true_SX3)
    above_SX2 = rng.random((studies, len(SITES), 1)) > true_SX3.cumsum(axis=-1)[..., :2]
    study_N, site_N = np.repeat(np.arange(studies), len(SITES)), np.tile(np.arange(len(SITES)), studies)
    return SiteTable(study_N, site_N, above_SX2.sum(axis=-1).ravel())


def expected_metric(true_SX3: Floats, prob_SX3: Floats) -> Floats:
    """Return the competition's metric and its four parts (5,), expected under the truth instead of drawn labels."""
    weight_SX3 = true_SX3 * _WEIGHT_C
    loss_SX = -(weight_SX3 * np.log(prob_SX3)).sum(axis=-1)
    loss_G, weight_G = np.zeros(4), np.zeros(4)
    for condition in range(len(CONDITIONS)):
        sites = condition == CONDITION_OF_SITE
        loss_G[condition], weight_G[condition] = loss_SX[:, sites].sum(), weight_SX3[:, sites].sum()
    severe_S, other_S = _any_severe(true_SX3)
    top_S = prob_SX3[:, SPINAL_SITES, Severity.SEVERE].max(axis=1)
    loss_G[-1] = -(severe_S * np.log(top_S) + other_S * np.log(1 - top_S)).sum()
    weight_G[-1] = (severe_S + other_S).sum()
    return scores_of(loss_G, weight_G)


def best_probabilities(true_SX3: Floats, table: SiteTable) -> Floats:
    """Return the probabilities (S, X, 3) with the lowest expected metric: those of whoever knows the truth."""
    spinal_weight = (true_SX3[:, SPINAL_SITES] * _WEIGHT_C).sum(axis=(1, 2)).mean()
    rule = MetricRule(float(spinal_weight), float(np.sum(_any_severe(true_SX3), axis=0).mean()), dependence=0.0)
    return metric_optimal(table, true_SX3.reshape(-1, 3), rule).reshape(true_SX3.shape)


def excess_log_loss(true_SX3: Floats, prob_SX3: Floats) -> float:
    """Return the expected unweighted log loss minus that of the truth: the mean divergence, in nats per row."""
    return float((true_SX3 * (np.log(true_SX3) - np.log(prob_SX3))).sum(axis=-1).mean())


@cache
def _mixing() -> Floats:
    """Return M (X, X) with M M' = the correlation of the views.

    Grades with the correlation G need views with the covariance G - diag(1 - r^2), over r r'. That is no covariance,
    because its least eigenvalues are negative. They become zero, and variances one again. Before
    that scaling M is the symmetric root: others depend on the signs of eigenvectors, which differ by processor.
    """
    skill_X = SKILL_K[CONDITION_OF_SITE]
    wanted_XX = (latent_correlation() - np.diag(1 - skill_X**2)) / np.outer(skill_X, skill_X)
    value_X, vector_XX = np.linalg.eigh(wanted_XX)
    mixing_XX = (vector_XX * np.sqrt(np.maximum(value_X, 0.0))) @ vector_XX.T
    unit_XX: Floats = mixing_XX / np.linalg.norm(mixing_XX, axis=1, keepdims=True)
    return unit_XX


def _any_severe(true_SX3: Floats) -> tuple[Floats, Floats]:
    """Return the expected weight of each study's any-severe row (S), if a level is severe and if none is."""
    spinal_SR3 = true_SX3[:, SPINAL_SITES]
    worst = worst_of(spinal_SR3, np.ones(spinal_SR3.shape[:2], dtype=bool), dependence=0.0)
    other_S = worst.normal_S + _WEIGHT_C[Severity.MODERATE] * worst.moderate_S
    return _WEIGHT_C[Severity.SEVERE] * worst.severe_S, other_S
