"""Fits without leakage: heads on the training studies, calibrators cross-fitted over the held-out studies.

Adapters and heads learn from the folds that a run did not hold out. Each held-out study is predicted by a calibrator
that was fitted on the other held-out studies. No reported number is therefore about a study from which the adapters,
the head or the calibrator learned. For new studies, the calibrators are fitted again on all held-out studies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vl_model.data.site_table import Bools, Floats, SiteTable
from vl_model.evaluation.calibrate import Calibrator, check_enough, cross_fit, study_groups
from vl_model.evaluation.embeddings import Embeddings
from vl_model.evaluation.grader import HEADS, KIND_WEIGHTS, KINDS, Grader, HeadName, Kind, column_priors
from vl_model.evaluation.heads import LinearProbe, ZeroShotHead
from vl_model.scoring.metrics import competition_metric, constant_baseline
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
    check_enough(len(split.held_out.take(split.held_out.labelled_N).study_ids))
    return split


def fit_heads(
    train: SiteTable, embeddings: Embeddings, text_SCD: NDArray[np.float32], logit_scale: float
) -> dict[HeadName, ZeroShotHead | LinearProbe]:
    """Fit both heads; the linear probe learns from the training rows that an image shows."""
    row_N = embeddings.rows_of(train)
    imaged = row_N >= 0
    probe = LinearProbe().fit(train.take(imaged), embeddings.image_ND[row_N[imaged]])
    return {"zero_shot": ZeroShotHead(logit_scale).fit(text_SCD), "linear_probe": probe}


def predict_held_out(
    heads: Mapping[HeadName, ZeroShotHead | LinearProbe], split: StudySplit, embeddings: Embeddings, seed: int
) -> HeldOut:
    """Return each head's raw, calibrated and metric-optimal probabilities, with calibrators cross-fitted by study."""
    table = split.held_out
    row_N = embeddings.rows_of(table)
    imaged = row_N >= 0
    prob_N3: dict[tuple[HeadName, Kind], Floats] = {}
    for head in HEADS:
        log_prob_M3 = heads[head].predict_log_proba(table.take(imaged), embeddings.image_ND[row_N[imaged]])
        for kind, prob in cross_fit_kinds(log_prob_M3, split, imaged, seed).items():
            prob_N3[head, kind] = prob
    return HeldOut(table, imaged, constant_baseline(split.train, table), prob_N3)


def cross_fit_kinds(log_prob_M3: Floats, split: StudySplit, imaged_N: Bools, seed: int) -> dict[Kind, Floats]:
    """Return each kind's probabilities (N, 3) of the held-out sites, from those of the M that an image shows.

    A site without an image has the constant of its column.
    """
    shown, priors = split.held_out.take(imaged_N), column_priors(split.train)
    groups = study_groups(shown, seed=seed)
    prob_N3: dict[Kind, Floats] = {}
    for kind in KINDS:
        prob = priors[kind].predict_proba(split.held_out)
        raw = kind == "raw"
        prob[imaged_N] = np.exp(log_prob_M3) if raw else cross_fit(log_prob_M3, shown, KIND_WEIGHTS[kind], groups)
        prob_N3[kind] = prob
    return prob_N3


def better_head(held_out: HeldOut) -> HeadName:
    """Return the head with the better metric of cross-fitted, metric-optimal probabilities.

    If a part of the metric has no labelled row, the mean of the other parts decides.
    """

    def score(head: HeadName) -> float:
        return competition_metric(held_out.table, held_out.prob_N3[head, "metric_optimal"]).graded_parts

    return min(HEADS, key=score)


def fit_grader(
    heads: Mapping[HeadName, ZeroShotHead | LinearProbe],
    split: StudySplit,
    embeddings: Embeddings,
    best: HeadName,
) -> Grader:
    """Return the grader for new studies: the heads, with calibrators fitted on all held-out studies."""
    row_N = embeddings.rows_of(split.held_out)
    imaged = row_N >= 0
    shown = split.held_out.take(imaged)
    priors: dict[Kind, ColumnPrior] = column_priors(split.train)
    calibrators: dict[HeadName, dict[Kind, Calibrator]] = {}
    for head in HEADS:
        log_prob_M3 = heads[head].predict_log_proba(shown, embeddings.image_ND[row_N[imaged]])
        calibrators[head] = {
            kind: Calibrator(KIND_WEIGHTS[kind]).fit(log_prob_M3, shown) for kind in KINDS if kind != "raw"
        }
    return Grader(heads, calibrators, priors, best, embeddings.fingerprint)
