"""Folds by study, stratified over all 25 labels."""

from collections.abc import Mapping

import numpy as np

from data_prep.sites import SITES, Severity, Site


def assign_folds(severities: Mapping[int, Mapping[Site, Severity]], folds: int, seed: int) -> dict[int, int]:
    """study id -> fold, 0 to `folds` - 1: each label's severities are spread as evenly as its studies allow.

    Iterative stratification (Sechidis, Tsoumakas & Vlahavas 2011, "On the stratification of multi-label
    data", algorithm 1) over 75 classes, 25 sites times three severities: the rarest class that still has
    studies goes first, each of its studies to the fold that lacks most of that class, then to the one that
    lacks most studies, then by chance (`seed`). Studies without a label come last. With fewer studies than
    folds some folds are empty. Raises ValueError for fewer than two folds.
    """
    if folds < 2:
        raise ValueError(f"--folds {folds}: at least 2 are needed")
    study_ids = sorted(severities)
    has_SC = np.zeros((len(study_ids), 3 * len(SITES)), dtype=bool)  # studies, classes
    for row, study_id in enumerate(study_ids):
        for site, severity in severities[study_id].items():
            has_SC[row, 3 * SITES.index(site) + severity] = True

    random = np.random.default_rng(seed)
    wanted_FC = np.tile(has_SC.sum(axis=0) / folds, (folds, 1))  # what each fold still lacks
    wanted_F = np.full(folds, len(study_ids) / folds)
    fold_S = np.full(len(study_ids), -1)

    def place(study: int, desire_F: np.ndarray) -> None:
        order = np.lexsort((random.random(folds), -wanted_F, -desire_F))
        fold = order[0]
        fold_S[study] = fold
        wanted_FC[fold] -= has_SC[study]
        wanted_F[fold] -= 1

    while True:
        open_S = fold_S < 0
        left_C = has_SC[open_S].sum(axis=0)
        if not left_C.any():
            break
        rarest = int(np.argmin(np.where(left_C > 0, left_C, len(study_ids) + 1)))
        for study in random.permutation(np.flatnonzero(open_S & has_SC[:, rarest])):
            place(study, wanted_FC[:, rarest])
    for study in random.permutation(np.flatnonzero(fold_S < 0)):
        place(study, np.zeros(folds))
    return {study_id: int(fold) for study_id, fold in zip(study_ids, fold_S, strict=True)}
