"""Who is fitted on what: heads on the training studies, calibrators cross-fitted over the held-out ones.

Adapters and heads learn from the folds that a run did not hold out. Calibrators learn from the held-out studies,
each study's from the others, so every reported number is about studies that nothing behind it has seen. For new
studies the calibrators are then fitted once more, on all held-out ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vl_model.data.site_table import Bools, Floats, SiteTable
from vl_model.evaluation.calibrate import Calibrator, cross_fit, study_groups
from vl_model.evaluation.embeddings import Embeddings
from vl_model.evaluation.grader import HEADS, KIND_WEIGHTS, KINDS, Grader, HeadName, Kind, column_priors
from vl_model.evaluation.heads import LinearProbe, ZeroShotHead
from vl_model.evaluation.metrics import competition_metric, constant_baseline, weighted_log_loss
from vl_model.evaluation.priors import ColumnPrior


@dataclass(frozen=True)
class Split:
    """Rows of the studies that adapters and heads learn from, and of those that they never saw."""

    train: SiteTable
    held_out: SiteTable


@dataclass(frozen=True)
class HeldOut:
    """Cross-fitted probabilities (N, 3) of the held-out studies: all 25 sites of each, graded or not.

    seen_N: whether any image shows the site (where none does, it got its column's constant).
    baseline_N3: the best constants of the training studies.
    """

    table: SiteTable
    seen_N: Bools
    baseline_N3: Floats
    prob_N3: Mapping[tuple[HeadName, Kind], Floats]


def split_studies(table: SiteTable, fold_of: Mapping[int, int], held_out_folds: Sequence[int]) -> Split:
    """Rows by their study's fold. Raises ValueError where one side, or its labels, would be missing."""
    held_out = [study for study, fold in fold_of.items() if fold in held_out_folds]
    train = [study for study, fold in fold_of.items() if fold not in held_out_folds]
    split = Split(table.take(table.of_studies(train)), table.take(table.of_studies(held_out)))
    folds = ", ".join(map(str, sorted(set(fold_of.values())))) or "none"
    if not split.held_out.labelled_N.any():
        raise ValueError(
            f"held-out folds {list(held_out_folds)}: no graded study in them; the data set's folds are {folds}"
        )
    if not split.train.labelled_N.any():
        raise ValueError(
            f"held-out folds {list(held_out_folds)}: no graded study is left to learn from (folds {folds})"
        )
    both = set(split.train.study_ids) & set(split.held_out.study_ids)
    assert not both, f"studies {sorted(both)} are in training and held out"
    return split


def fit_heads(
    train: SiteTable, embeddings: Embeddings, text_SCD: NDArray[np.float32], logit_scale: float
) -> dict[HeadName, ZeroShotHead | LinearProbe]:
    """Both heads; the probe learns from the training rows that an image shows."""
    places_N = embeddings.places_of(train)
    seen = places_N >= 0
    probe = LinearProbe().fit(train.take(seen), embeddings.image_ND[places_N[seen]])
    return {"zero_shot": ZeroShotHead(logit_scale).fit(text_SCD), "linear_probe": probe}


def predict_held_out(
    heads: Mapping[HeadName, ZeroShotHead | LinearProbe], split: Split, embeddings: Embeddings, seed: int
) -> HeldOut:
    """Every head and kind of probability for the held-out rows, calibrators cross-fitted by study."""
    table, priors = split.held_out, column_priors(split.train)
    places_N = embeddings.places_of(table)
    seen = places_N >= 0
    shown = table.take(seen)
    groups = study_groups(shown, seed=seed)
    prob_N3: dict[tuple[HeadName, Kind], Floats] = {}
    for head in HEADS:
        log_prob_M3 = heads[head].predict_log_proba(shown, embeddings.image_ND[places_N[seen]])
        for kind in KINDS:
            prob = priors[kind].predict_proba(table)
            raw = kind == "raw"
            prob[seen] = np.exp(log_prob_M3) if raw else cross_fit(log_prob_M3, shown, KIND_WEIGHTS[kind], groups)
            prob_N3[head, kind] = prob
    return HeldOut(table, seen, constant_baseline(split.train, table), prob_N3)


def better_head(held_out: HeldOut) -> HeadName:
    """The head whose cross-fitted, metric-optimal probabilities score better (pooled, if a part has no rows)."""

    def score(head: HeadName) -> float:
        prob_N3 = held_out.prob_N3[head, "metric_optimal"]
        whole = competition_metric(held_out.table, prob_N3).score
        return whole if np.isfinite(whole) else weighted_log_loss(held_out.table, prob_N3)

    return min(HEADS, key=score)


def fit_grader(
    heads: Mapping[HeadName, ZeroShotHead | LinearProbe],
    split: Split,
    embeddings: Embeddings,
    best: HeadName,
) -> Grader:
    """For new studies: the heads, with calibrators fitted on all held-out studies."""
    places_N = embeddings.places_of(split.held_out)
    seen = places_N >= 0
    shown = split.held_out.take(seen)
    priors: dict[Kind, ColumnPrior] = column_priors(split.train)
    calibrators: dict[HeadName, dict[Kind, Calibrator]] = {}
    for head in HEADS:
        log_prob_M3 = heads[head].predict_log_proba(shown, embeddings.image_ND[places_N[seen]])
        calibrators[head] = {
            kind: Calibrator(KIND_WEIGHTS[kind]).fit(log_prob_M3, shown) for kind in KINDS if kind != "raw"
        }
    return Grader(heads, calibrators, priors, best, embeddings.fingerprint)
