"""Metrics of probabilities: the competition's metric, AUC, expected calibration error, Brier score.

Legend: N rows (sites of studies), S studies, C = 3 severities, G = 4 parts of the metric. Probabilities are
(N, 3) float64, severities 0, 1, 2 or UNLABELLED; rows without a label are dropped.

The metric is the RSNA 2024 Lumbar Spine Degenerative Classification's: the mean of four weighted log losses,
weights 1, 2, 4 for Normal/Mild, Moderate, Severe. Three pool all rows of a condition. The fourth has one row per
study: whether any spinal level is severe. Its prediction is the largest `severe` probability of the study's labelled
spinal rows, its weight the largest of their weights.
"""

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from scipy.stats import rankdata

from data_prep.sites import Condition, Severity
from vl_model.data.site_table import CONDITIONS, Bools, Floats, Ints, SiteTable

SEVERITY_WEIGHTS = (1.0, 2.0, 4.0)
#: The columns of probabilities in files, in the order of `Severity`.
GRADES = tuple(severity.key for severity in Severity)
PARTS = ("spinal", "foraminal", "subarticular", "any_severe")
DEFAULT_BINS = 15

#: scikit-learn's log_loss, which the official metric calls, clips to this.
EPSILON = float(np.finfo(np.float64).eps)
_SPINAL = CONDITIONS.index(Condition.SPINAL_CANAL_STENOSIS)


@dataclass(frozen=True)
class CompetitionMetric:
    """The score and its four parts. A part without a labelled row is nan, and so is the score then."""

    score: float
    spinal: float
    foraminal: float
    subarticular: float
    any_severe: float

    @property
    def graded_parts(self) -> float:
        """The mean of the parts that have a labelled row."""
        return float(mean_of_graded(np.array([getattr(self, part) for part in PARTS])))

    def as_dict(self) -> dict[str, float]:
        """Return the score and its four parts."""
        return asdict(self)


@dataclass(frozen=True)
class StudySums:
    """Each study's contribution to the four parts of the metric, from which any resampling of studies is scored."""

    study_S: Ints
    loss_SG: Floats
    weight_SG: Floats


def study_sums(table: SiteTable, prob_N3: Floats) -> StudySums:
    """Return the weighted losses and the weights of each study, by part.

    Raises ValueError if no row is labelled, or if there are not three probabilities per row.
    """
    if prob_N3.shape != (len(table), len(Severity)):
        raise ValueError(f"probabilities of shape {prob_N3.shape}: expected ({len(table)}, 3)")
    keep_N = table.labelled_N
    if not keep_N.any():
        raise ValueError("no labelled row: the metric requires severities")
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
    prob_S = np.clip(prob_S, EPSILON, 1 - EPSILON)
    loss_SG[:, -1] = -worst_S * np.log(np.where(truth_S == 1, prob_S, 1 - prob_S))
    weight_SG[:, -1] = worst_S
    return StudySums(study_S, loss_SG, weight_SG)


def row_losses(severity_N: Ints, prob_N3: Floats) -> Floats:
    """Return -ln of each row's probability of its true severity, unweighted.

    As in scikit-learn 1.2, with which the competition was scored, values are clipped to [eps, 1 - eps] and each row is
    then divided by its sum.
    """
    clipped_N3 = np.clip(prob_N3, EPSILON, 1 - EPSILON)
    losses: Floats = np.log(clipped_N3.sum(axis=1)) - np.log(clipped_N3[np.arange(len(severity_N)), severity_N])
    return losses


def scores_of(loss_G: Floats, weight_G: Floats) -> Floats:
    """(..., 4) sums of losses and weights -> (..., 5): the score, then its four parts."""
    with np.errstate(invalid="ignore", divide="ignore"):
        part_G = loss_G / weight_G
    return np.concatenate([part_G.mean(axis=-1, keepdims=True), part_G], axis=-1)


def mean_of_graded(part_G: Floats) -> Floats:
    """(..., 4) parts of the metric -> the mean (...) of those that are not nan everywhere; nan if all are."""
    is_graded_G = np.isfinite(part_G.reshape(-1, len(PARTS))).any(axis=0)
    if not is_graded_G.any():
        return np.full(part_G.shape[:-1], np.nan)
    mean: Floats = part_G[..., is_graded_G].mean(axis=-1)
    return mean


def competition_metric(table: SiteTable, prob_N3: Floats) -> CompetitionMetric:
    """Return the competition's metric with its four parts; lower is better. Raises ValueError if no row is labelled."""
    sums = study_sums(table, prob_N3)
    return CompetitionMetric(*scores_of(sums.loss_SG.sum(axis=0), sums.weight_SG.sum(axis=0)).tolist())


def weighted_log_loss(table: SiteTable, prob_N3: Floats) -> float:
    """Return the metric's log loss pooled over all labelled rows; nan if there are none."""
    keep = table.labelled_N
    weight_N = np.asarray(SEVERITY_WEIGHTS)[table.severity_N[keep]]
    if not len(weight_N):
        return float("nan")
    return float(np.average(row_losses(table.severity_N[keep], prob_N3[keep]), weights=weight_N))


def log_loss(severity_N: Ints, prob_N3: Floats) -> float:
    """Return the mean unweighted log loss of labelled rows (a proper score: calibrated, sharp probabilities win)."""
    return _mean(row_losses(severity_N, prob_N3))


def brier(severity_N: Ints, prob_N3: Floats) -> float:
    """Return the mean over labelled rows of the squared distance to the one-hot truth, summed over classes (0 to 2)."""
    return _mean(((prob_N3 - np.eye(len(Severity))[severity_N]) ** 2).sum(axis=1))


def auc(positive_N: Bools, score_N: Floats) -> float:
    """Return the area under the ROC curve (Mann-Whitney, ties count half); nan unless both classes have rows."""
    positives, negatives = int(positive_N.sum()), int((~positive_N).sum())
    if not positives or not negatives:
        return float("nan")
    rank_sum = rankdata(score_N)[positive_N].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def severity_aucs(severity_N: Ints, prob_N3: Floats) -> dict[str, float]:
    """Return the AUC of `at_least_moderate`, and of each severity against the rest."""
    areas = {"at_least_moderate": auc(severity_N >= Severity.MODERATE, 1 - prob_N3[:, Severity.NORMAL_MILD])}
    areas |= {grade.key: auc(severity_N == grade, prob_N3[:, grade]) for grade in Severity}
    return areas


@dataclass(frozen=True)
class Reliability:
    """The non-empty bins of a reliability diagram: mean confidence, observed frequency and number of rows."""

    confidence: tuple[float, ...]
    frequency: tuple[float, ...]
    count: tuple[int, ...]

    @property
    def error(self) -> float:
        """Expected calibration error: mean |confidence - frequency|, weighted by rows (Naeini et al., 2015)."""
        if not self.count:
            return float("nan")
        gap = np.abs(np.subtract(self.confidence, self.frequency))
        return float(np.average(gap, weights=self.count))


Binning = Literal["width", "mass"]


def reliability(confidence_N: Floats, hit_N: Bools, bins: int = DEFAULT_BINS, binning: Binning = "mass") -> Reliability:
    """Return bins of equal width over [0, 1], or of equal mass (equally many rows, equal values in one bin)."""
    bin_N = bins_of_equal_mass(confidence_N, bins) if binning == "mass" else bins_of_equal_width(confidence_N, bins)
    count_X = np.bincount(bin_N)
    filled_X = count_X > 0
    confidence_X, hit_X = (np.bincount(bin_N, value_N)[filled_X] for value_N in (confidence_N, hit_N))
    count_X = count_X[filled_X]
    return Reliability(
        tuple((confidence_X / count_X).tolist()), tuple((hit_X / count_X).tolist()), tuple(count_X.tolist())
    )


def bins_of_equal_mass(value_N: Floats, bins: int) -> Ints:
    """Return the bin of each row, in ascending order of the values; equal values are in one bin."""
    first_N = np.searchsorted(np.sort(value_N), value_N)  # how many rows are below
    return np.asarray(first_N * min(bins, len(value_N)) // max(len(value_N), 1))


def bins_of_equal_width(value_N: Floats, bins: int) -> Ints:
    """Return the bin of each row, of equally wide ones over [0, 1]."""
    return np.minimum((value_N * bins).astype(np.int64), bins - 1)


def ece(severity_N: Ints, prob_N3: Floats, bins: int = DEFAULT_BINS, binning: Binning = "mass") -> float:
    """Return the top-label calibration error: the largest probability against the accuracy of that class."""
    return reliability(prob_N3.max(axis=1), prob_N3.argmax(axis=1) == severity_N, bins, binning).error


def classwise_ece(
    severity_N: Ints, prob_N3: Floats, bins: int = DEFAULT_BINS, binning: Binning = "mass"
) -> dict[str, float]:
    """Return the calibration error of each class's probability (Kull et al., 2019, before averaging)."""
    return {grade.key: reliability(prob_N3[:, grade], severity_N == grade, bins, binning).error for grade in Severity}


def confusion(severity_N: Ints, prob_N3: Floats) -> Ints:
    """Return (3, 3) counts: rows are true severities, columns the most probable ones."""
    count_CC = np.zeros((len(Severity), len(Severity)), dtype=np.int64)
    np.add.at(count_CC, (severity_N, prob_N3.argmax(axis=1)), 1)
    return count_CC


def _mean(value_N: Floats) -> float:
    return float(value_N.mean()) if len(value_N) else float("nan")
