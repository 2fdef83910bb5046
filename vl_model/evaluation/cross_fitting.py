"""Fits without leakage: heads on the training studies, calibrators cross-fitted over the held-out studies.

Adapters and heads learn from the folds that a run did not hold out. Each held-out study is predicted by a calibrator
that was fitted on the other held-out studies. No reported number is therefore about a study from which the adapters,
the head or the calibrator learned. For new studies, the calibrators are fitted again on all held-out studies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vl_model.calibration.calibrator import Calibrator
from vl_model.calibration.cross_fit import cross_fit, divisions_of, study_groups
from vl_model.calibration.prediction_sets import ALL_GRADES, Bits, PredictionSets, cross_fitted_sets
from vl_model.calibration.study_answers import StudyAnswers
from vl_model.data.site_table import Bools, Floats, SiteTable
from vl_model.evaluation.embeddings import Embeddings
from vl_model.evaluation.grader import HEADS, Grader, HeadName, Heads, Kind
from vl_model.evaluation.heads import LinearProbe, ZeroShotHead
from vl_model.evaluation.neighbouring_levels import NeighbouringLevels
from vl_model.evaluation.raw_predictions import RawHeldOut
from vl_model.evaluation.typicality import Typicality
from vl_model.scoring.constant_baseline import best_constants, constant_baseline
from vl_model.scoring.metrics import competition_metric
from vl_model.scoring.priors import ColumnPrior


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
        ColumnPrior().fit(split.train).predict_proba(table),
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

    A site without an image has the frequencies of its column in the training studies. Metric-optimal probabilities
    follow from the calibrated ones by rule.
    """
    shown, log_prob_M3 = raw.table.take(raw.imaged_N), log_prob_N3[raw.imaged_N]
    fitted = cross_fit(log_prob_M3, shown, divisions_of(shown, seed))
    raw_N3, calibrated_N3 = raw.prior_N3.copy(), raw.prior_N3.copy()
    raw_N3[raw.imaged_N], calibrated_N3[raw.imaged_N] = np.exp(log_prob_M3), fitted.prob_N3
    optimal_N3 = fitted.metric_optimal(calibrated_N3, raw.table)
    return {"raw": raw_N3, "calibrated": calibrated_N3, "metric_optimal": optimal_N3}


def better_head(held_out: HeldOut) -> HeadName:
    """Return the head with the better metric of cross-fitted, metric-optimal probabilities.

    If a part of the metric has no labelled row, the mean of the other parts decides.
    """

    def score(head: HeadName) -> float:
        return competition_metric(held_out.table, held_out.prob_N3[head, "metric_optimal"]).graded_parts

    return min(HEADS, key=score)


def fit_grader(
    models: Mapping[str, Heads],
    raw: RawHeldOut,
    graded: SiteTable,
    best: HeadName,
    fingerprint: Mapping[str, str],
    held_out: HeldOut | None = None,
    typicality: Mapping[str, Typicality] | None = None,
) -> Grader:
    """Return the grader for new studies, with calibrators, prediction sets and study answers of all held-out studies.

    Args:
        models: the heads of one run, or of the runs of all folds, by the run's name.
        raw: their held-out predictions.
        graded: the studies whose frequencies the sites without an image get.
        best: the head of the prediction sets and of the study answers.
        fingerprint: of the models and the data set.
        held_out: the cross-fitted probabilities of `raw`, which sets and answers are fitted on; None: made here.
        typicality: of the images of new studies, by the run's name, where it can be told.
    """
    held_out = held_out or cross_fit_heads(raw, seed=0)
    prob_N3, imaged_N = held_out.prob_N3[best, "calibrated"], held_out.imaged_N
    shown = raw.table.take(raw.imaged_N)
    calibrators = {head: Calibrator().fit(raw.log_prob_N3[head][raw.imaged_N], shown) for head in HEADS}
    prior = ColumnPrior().fit(graded)
    fitted_N3 = prior.predict_proba(raw.table)
    fitted_N3[raw.imaged_N] = calibrators[best].predict_proba(raw.log_prob_N3[best][raw.imaged_N], shown)
    return Grader(
        models=models,
        calibrators=calibrators,
        prior=prior,
        best=best,
        sets=PredictionSets().fit(prob_N3[imaged_N], held_out.table.take(imaged_N)),
        answers=StudyAnswers().fit(prob_N3, held_out.table),
        fingerprint=fingerprint,
        levels=NeighbouringLevels().fit(fitted_N3, raw.imaged_N, prior.prob_SC_, raw.table),
        constant_X3=best_constants(graded),
        typicality=typicality or {},
    )


def held_out_sets(held_out: HeldOut, head: HeadName, seed: int) -> dict[int, Bits]:
    """Return level -> the prediction sets (N,) of the held-out sites, by thresholds fitted without their own study.

    A site without an image has every grade in its set.
    """
    shown = held_out.table.take(held_out.imaged_N)
    prob_M3 = held_out.prob_N3[head, "calibrated"][held_out.imaged_N]
    found = {}
    for level, set_M in cross_fitted_sets(prob_M3, shown, study_groups(shown, seed=seed)).items():
        found[level] = np.full(len(held_out.table), ALL_GRADES, dtype=np.uint8)
        found[level][held_out.imaged_N] = set_M
    return found
