"""Fits without leakage: heads on the training studies, calibrators cross-fitted over the held-out studies.

Adapters and heads learn from the folds that a run did not hold out. Each held-out study is predicted by a calibrator
that was fitted on the other held-out studies. No reported number is therefore about a study from which the adapters,
the head or the calibrator learned. For new studies, the calibrators are fitted again on all held-out studies.

Which studies form a group is a matter of chance, which matters if they are few. Cross-fitting is therefore repeated
with several divisions into groups (`partitions_of`), and the predictions are averaged.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vl_model.data.site_table import Bools, Floats, SiteTable
from vl_model.evaluation.calibrate import Calibrator, cross_fit, study_groups
from vl_model.evaluation.embeddings import Embeddings
from vl_model.evaluation.grader import (
    HEADS,
    KIND_WEIGHTS,
    KINDS,
    Grader,
    HeadName,
    Heads,
    Kind,
    column_priors,
    mean_log_proba,
)
from vl_model.evaluation.heads import LinearProbe, ZeroShotHead
from vl_model.evaluation.raw_predictions import RawHeldOut
from vl_model.scoring.metrics import competition_metric, constant_baseline

#: The fewest and the most divisions into groups, and the number of predictions of studies that are enough for an
#: average. Of the demo's 66 held-out studies, one division moves the score by 0.003 (standard deviation over seeds),
#: five by 0.0015.
FEWEST_PARTITIONS, MOST_PARTITIONS, ENOUGH_PREDICTIONS = 2, 5, 1000


@dataclass(frozen=True)
class StudySplit:
    """Rows of the training studies, from which adapters and heads learn, and of the held-out studies."""

    train: SiteTable
    held_out: SiteTable


@dataclass(frozen=True)
class HeldOut:
    """Cross-fitted probabilities (N, 3) of the held-out studies: all 25 sites of each, graded or not.

    imaged_N: whether an image shows the site; a site without an image has the constant of its column.
    baseline_N3: the best constants of the training studies.
    """

    table: SiteTable
    imaged_N: Bools
    baseline_N3: Floats
    prob_N3: Mapping[tuple[HeadName, Kind], Floats]


def split_studies(table: SiteTable, fold_of: Mapping[int, int], held_out_folds: Sequence[int]) -> StudySplit:
    """Divide the rows by the fold of their study. Raises ValueError if too few are graded."""
    held_out = [study for study, fold in fold_of.items() if fold in held_out_folds]
    train = [study for study, fold in fold_of.items() if fold not in held_out_folds]
    split = StudySplit(table.take(table.of_studies(train)), table.take(table.of_studies(held_out)))
    folds = ", ".join(map(str, sorted(set(fold_of.values())))) or "none"
    if not split.held_out.labelled_N.any():
        raise ValueError(
            f"held_out_folds {list(held_out_folds)}: no graded study in them; the data set has the folds {folds}"
        )
    if not split.train.labelled_N.any():
        raise ValueError(
            f"held_out_folds {list(held_out_folds)}: no graded study is left to train on; the data set has the folds "
            f"{folds}"
        )
    return split


def fit_heads(train: SiteTable, embeddings: Embeddings, text_SCD: NDArray[np.float32], logit_scale: float) -> Heads:
    """Fit both heads; the linear probe learns from the training rows that an image shows."""
    row_N = embeddings.rows_of(train)
    imaged = row_N >= 0
    probe = LinearProbe().fit(train.take(imaged), embeddings.image_ND[row_N[imaged]])
    return {"zero_shot": ZeroShotHead(logit_scale).fit(text_SCD), "linear_probe": probe}


def predict_raw(
    heads: Heads, split: StudySplit, embeddings: Embeddings, others: Mapping[str, Floats] | None = None
) -> RawHeldOut:
    """Return each head's predictions of the held-out studies.

    others: further predictions by name, such as the plain baseline's: natural logarithms of the probabilities of the M
    held-out sites that an image shows.
    """
    table = split.held_out
    row_N = embeddings.rows_of(table)
    imaged_N = row_N >= 0
    shown, image_MD = table.take(imaged_N), embeddings.image_ND[row_N[imaged_N]]

    def spread(log_prob_M3: Floats) -> Floats:
        log_prob_N3 = np.full((len(table), 3), np.nan)
        log_prob_N3[imaged_N] = log_prob_M3
        return log_prob_N3

    log_prob_of: dict[str, Floats] = {head: heads[head].predict_log_proba(shown, image_MD) for head in HEADS}
    return RawHeldOut(
        table,
        imaged_N,
        constant_baseline(split.train, table),
        {kind: prior.predict_proba(table) for kind, prior in column_priors(split.train).items()},
        {name: spread(log_prob_M3) for name, log_prob_M3 in (log_prob_of | dict(others or {})).items()},
    )


def predict_held_out(heads: Heads, split: StudySplit, embeddings: Embeddings, seed: int) -> HeldOut:
    """Return each head's raw, calibrated and metric-optimal probabilities, with calibrators cross-fitted by study."""
    return cross_fit_heads(predict_raw(heads, split, embeddings), seed)


def cross_fit_heads(raw: RawHeldOut, seed: int) -> HeldOut:
    """Return each head's probabilities of every kind, with calibrators cross-fitted over all studies of `raw`."""
    prob_N3: dict[tuple[HeadName, Kind], Floats] = {}
    for head in HEADS:
        for kind, prob in cross_fit_kinds(raw.log_prob_N3[head], raw, seed).items():
            prob_N3[head, kind] = prob
    return HeldOut(raw.table, raw.imaged_N, raw.constant_N3, prob_N3)


def cross_fit_kinds(log_prob_N3: Floats, raw: RawHeldOut, seed: int) -> dict[Kind, Floats]:
    """Return each kind's probabilities (N, 3) of the held-out sites, from raw ones of the sites that an image shows.

    A site without an image has the constant of its column.
    """
    shown, log_prob_M3 = raw.table.take(raw.imaged_N), log_prob_N3[raw.imaged_N]
    seeds = range(seed * MOST_PARTITIONS, seed * MOST_PARTITIONS + partitions_of(len(raw.table.study_ids)))
    partitions = [study_groups(shown, seed=each) for each in seeds]
    prob_N3: dict[Kind, Floats] = {}
    for kind in KINDS:
        prob = raw.prior_N3[kind].copy()
        if kind == "raw":
            prob[raw.imaged_N] = np.exp(log_prob_M3)
        else:
            fitted = [cross_fit(log_prob_M3, shown, KIND_WEIGHTS[kind], groups) for groups in partitions]
            prob[raw.imaged_N] = _mean_proba(fitted)
        prob_N3[kind] = prob
    return prob_N3


def partitions_of(studies: int) -> int:
    """Return the number of divisions of this many held-out studies into groups."""
    return min(MOST_PARTITIONS, max(FEWEST_PARTITIONS, math.ceil(ENOUGH_PREDICTIONS / max(studies, 1))))


def _mean_proba(probabilities: Sequence[Floats]) -> Floats:
    """Return the mean in log-probability (N, 3), normalised."""
    tiny = np.finfo(np.float64).tiny
    prob_N3: Floats = np.exp(mean_log_proba([np.log(np.maximum(prob_N3, tiny)) for prob_N3 in probabilities]))
    return prob_N3


def better_head(held_out: HeldOut) -> HeadName:
    """Return the head with the better metric of cross-fitted, metric-optimal probabilities.

    If a part of the metric has no labelled row, the mean of the other parts decides.
    """

    def score(head: HeadName) -> float:
        return competition_metric(held_out.table, held_out.prob_N3[head, "metric_optimal"]).graded_parts

    return min(HEADS, key=score)


def fit_grader(
    models: Mapping[str, Heads], raw: RawHeldOut, graded: SiteTable, best: HeadName, fingerprint: Mapping[str, str]
) -> Grader:
    """Return the grader for new studies, with calibrators fitted on all held-out studies.

    models: the heads of one run, or of the runs of all folds, by the run's name. raw: their held-out predictions.
    graded: the studies whose frequencies the sites without an image get. fingerprint: of the models and the data set.
    """
    shown = raw.table.take(raw.imaged_N)
    calibrators: dict[HeadName, dict[Kind, Calibrator]] = {}
    for head in HEADS:
        log_prob_M3 = raw.log_prob_N3[head][raw.imaged_N]
        calibrators[head] = {
            kind: Calibrator(KIND_WEIGHTS[kind]).fit(log_prob_M3, shown) for kind in KINDS if kind != "raw"
        }
    return Grader(models, calibrators, column_priors(graded), best, fingerprint)
