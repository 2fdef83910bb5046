"""How good probabilities are: the competition's metric, AUC, calibration error, Brier score.

Legend: N rows (sites of studies), S studies, C = 3 severities, G = 4 parts of the metric. Probabilities are
(N, 3) float64, severities 0, 1, 2 or UNLABELLED; rows without a label are dropped.

The metric is the RSNA 2024 Lumbar Spine Degenerative Classification's: the mean of four weighted log losses,
weights 1, 2, 4 for Normal/Mild, Moderate, Severe. Three pool all rows of a condition; the fourth asks, once a
study, whether any spinal level is severe: its prediction is the largest `severe` probability of the study's labelled
spinal rows, its weight the largest of their weights.
"""

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from scipy.stats import rankdata

from data_prep.sites import Condition, Severity
from vl_model.data.site_table import CONDITIONS, Bools, Floats, Ints, SiteTable
from vl_model.evaluation.priors import ColumnPrior

SEVERITY_WEIGHTS = (1.0, 2.0, 4.0)
PARTS = ("spinal", "foraminal", "subarticular", "any_severe")
DEFAULT_BINS = 15

#: scikit-learn's log_loss, which the official metric calls, clips to this.
_EPSILON = float(np.finfo(np.float64).eps)
_SPINAL = CONDITIONS.index(Condition.SPINAL_CANAL_STENOSIS)


@dataclass(frozen=True)
class CompetitionMetric:
    """The score and its four parts; nan for a part without a labelled row, and then for the score."""

    score: float
    spinal: float
    foraminal: float
    subarticular: float
    any_severe: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class StudySums:
    """What each study adds to the metric's four fractions: enough to score any resampling of studies."""

    study_S: Ints
    loss_SG: Floats
    weight_SG: Floats


def study_sums(table: SiteTable, prob_N3: Floats) -> StudySums:
    """Weighted losses and weights of each study, by part. Raises ValueError where nothing is labelled."""
    assert prob_N3.shape == (len(table), len(Severity))
    keep_N = table.labelled_N
    if not keep_N.any():
        raise ValueError("no labelled row to score: the metric needs severities")
    labelled, prob_N3 = table.take(keep_N), prob_N3[keep_N]
    study_S, study_of_N = np.unique(labelled.study_N, return_inverse=True)
    weight_N = np.asarray(SEVERITY_WEIGHTS)[labelled.severity_N]

    loss_SG = np.zeros((len(study_S), len(PARTS)))
    weight_SG = np.zeros_like(loss_SG)
    cell = (study_of_N, labelled.condition_N)
    np.add.at(loss_SG, cell, weight_N * row_losses(labelled.severity_N, prob_N3))
    np.add.at(weight_SG, cell, weight_N)

    spinal = labelled.condition_N == _SPINAL
    prob_S, truth_S, worst_S = np.zeros(len(study_S)), np.zeros(len(study_S)), np.zeros(len(study_S))
    np.maximum.at(prob_S, study_of_N[spinal], prob_N3[spinal, Severity.SEVERE])
    np.maximum.at(truth_S, study_of_N[spinal], labelled.severity_N[spinal] == Severity.SEVERE)
    np.maximum.at(worst_S, study_of_N[spinal], weight_N[spinal])
    prob_S = np.clip(prob_S, _EPSILON, 1 - _EPSILON)
    loss_SG[:, -1] = -worst_S * np.log(np.where(truth_S == 1, prob_S, 1 - prob_S))
    weight_SG[:, -1] = worst_S
    return StudySums(study_S, loss_SG, weight_SG)


def row_losses(severity_N: Ints, prob_N3: Floats) -> Floats:
    """-ln of the probability that each row gave to its truth, unweighted."""
    true_N = prob_N3[np.arange(len(severity_N)), severity_N]
    losses: Floats = -np.log(np.clip(true_N, _EPSILON, 1.0))
    return losses


def scores_of(loss_G: Floats, weight_G: Floats) -> Floats:
    """(..., 4) sums of losses and weights -> (..., 5): the score, then its four parts."""
    with np.errstate(invalid="ignore", divide="ignore"):
        part_G = loss_G / weight_G
    return np.concatenate([part_G.mean(axis=-1, keepdims=True), part_G], axis=-1)


def competition_metric(table: SiteTable, prob_N3: Floats) -> CompetitionMetric:
    """The competition's metric with its four parts; lower is better. Raises ValueError where nothing is labelled."""
    sums = study_sums(table, prob_N3)
    return CompetitionMetric(*scores_of(sums.loss_SG.sum(axis=0), sums.weight_SG.sum(axis=0)).tolist())


def constant_baseline(train: SiteTable, held_out: SiteTable) -> Floats:
    """(N, 3): the best constant of each column, learned on `train`, for the rows of `held_out`.

    Best for the three pooled parts of the metric. The any-severe part is left out of the fit: it would tie the five
    spinal columns together, and one severe probability for both purposes is what models have to live with too.
    """
    return ColumnPrior(SEVERITY_WEIGHTS).fit(train).predict_proba(held_out)


def weighted_log_loss(table: SiteTable, prob_N3: Floats) -> float:
    """The metric's log loss pooled over whatever labelled rows there are; nan where there are none."""
    keep = table.labelled_N
    weight_N = np.asarray(SEVERITY_WEIGHTS)[table.severity_N[keep]]
    if not len(weight_N):
        return float("nan")
    return float(np.average(row_losses(table.severity_N[keep], prob_N3[keep]), weights=weight_N))


def log_loss(severity_N: Ints, prob_N3: Floats) -> float:
    """Mean unweighted log loss of labelled rows: proper, so least for calibrated and sharp probabilities."""
    return _mean(row_losses(severity_N, prob_N3))


def brier(severity_N: Ints, prob_N3: Floats) -> float:
    """Mean over labelled rows of the squared distance to the one-hot truth, summed over the classes (0 to 2)."""
    return _mean(((prob_N3 - np.eye(len(Severity))[severity_N]) ** 2).sum(axis=1))


def auc(positive_N: Bools, score_N: Floats) -> float:
    """Area under the ROC curve (Mann-Whitney, ties count half); nan unless both kinds of row are there."""
    positives, negatives = int(positive_N.sum()), int((~positive_N).sum())
    if not positives or not negatives:
        return float("nan")
    rank_sum = rankdata(score_N)[positive_N].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def severity_aucs(severity_N: Ints, prob_N3: Floats) -> dict[str, float]:
    """The two ordinal cuts, and each severity against the rest."""
    areas = {"at_least_moderate": auc(severity_N >= Severity.MODERATE, 1 - prob_N3[:, Severity.NORMAL_MILD])}
    areas |= {grade.key: auc(severity_N == grade, prob_N3[:, grade]) for grade in Severity}
    return areas


@dataclass(frozen=True)
class Reliability:
    """Bins of a reliability diagram, empty ones left out: what was promised, what happened, how many rows."""

    confidence: tuple[float, ...]
    frequency: tuple[float, ...]
    count: tuple[int, ...]

    @property
    def error(self) -> float:
        """Expected calibration error: mean |promise - outcome|, each bin by its rows (Naeini et al., 2015)."""
        if not self.count:
            return float("nan")
        gap = np.abs(np.subtract(self.confidence, self.frequency))
        return float(np.average(gap, weights=self.count))


Binning = Literal["width", "mass"]


def reliability(confidence_N: Floats, hit_N: Bools, bins: int = DEFAULT_BINS, binning: Binning = "mass") -> Reliability:
    """Bins of equal width over [0, 1], or of equal mass (equally many rows, ties wherever the sort leaves them)."""
    order = np.argsort(confidence_N, kind="stable")
    if binning == "mass":
        groups = np.array_split(order, min(bins, len(order))) if len(order) else []
    else:
        bin_of = np.minimum((confidence_N[order] * bins).astype(int), bins - 1)
        groups = [order[bin_of == index] for index in range(bins) if (bin_of == index).any()]
    return Reliability(
        tuple(float(confidence_N[group].mean()) for group in groups),
        tuple(float(hit_N[group].mean()) for group in groups),
        tuple(len(group) for group in groups),
    )


def ece(severity_N: Ints, prob_N3: Floats, bins: int = DEFAULT_BINS, binning: Binning = "mass") -> float:
    """Top-label calibration error: the largest probability against whether that class was right."""
    return reliability(prob_N3.max(axis=1), prob_N3.argmax(axis=1) == severity_N, bins, binning).error


def classwise_ece(
    severity_N: Ints, prob_N3: Floats, bins: int = DEFAULT_BINS, binning: Binning = "mass"
) -> dict[str, float]:
    """Each class's probability against whether that class was the truth (Kull et al., 2019, before averaging)."""
    return {grade.key: reliability(prob_N3[:, grade], severity_N == grade, bins, binning).error for grade in Severity}


def confusion(severity_N: Ints, prob_N3: Floats) -> Ints:
    """(3, 3) counts: row the truth, column the most probable class."""
    count_CC = np.zeros((len(Severity), len(Severity)), dtype=np.int64)
    np.add.at(count_CC, (severity_N, prob_N3.argmax(axis=1)), 1)
    return count_CC


def _mean(value_N: Floats) -> float:
    return float(value_N.mean()) if len(value_N) else float("nan")
