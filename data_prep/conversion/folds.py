"""Folds: the division of the studies, stratified over all 25 labels."""

from collections.abc import Mapping

import numpy as np

from data_prep.sites import SITES, Severity, Site
from workspace.setting_error import SettingError


def assign_folds(severities: Mapping[int, Mapping[Site, Severity]], folds: int, seed: int) -> dict[int, int]:
    """Return the fold of each study, 0 to `folds` - 1, with each label's severities distributed evenly over folds.

    Iterative stratification (Sechidis, Tsoumakas & Vlahavas 2011, "On the stratification of multi-label
    data", algorithm 1) over 75 classes, 25 sites times three severities. The rarest class with unassigned
    studies is assigned first. Each of its studies is assigned to the fold that lacks most studies of that
    class, then to the one that lacks most studies, then at random (`seed`). Studies without labels are
    assigned last. With fewer studies than folds, some folds are empty. Raises ValueError for fewer than two folds.
    """
    if folds < 2:
        raise SettingError("folds", f"{folds}: at least 2 are required")
    study_ids = sorted(severities)
    has_SC = np.zeros((len(study_ids), 3 * len(SITES)), dtype=bool)  # studies, classes
    for row, study_id in enumerate(study_ids):
        for site, severity in severities[study_id].items():
            has_SC[row, 3 * SITES.index(site) + severity] = True

    random = np.random.default_rng(seed)
    # The numbers of studies that each fold still lacks, per class and in all.
    lacking_FC = np.tile(has_SC.sum(axis=0) / folds, (folds, 1))
    lacking_F = np.full(folds, len(study_ids) / folds)
    fold_S = np.full(len(study_ids), -1)

    def assign(study: int, lacking_class_F: np.ndarray) -> None:
        order = np.lexsort((random.random(folds), -lacking_F, -lacking_class_F))
        fold = order[0]
        fold_S[study] = fold
        lacking_FC[fold] -= has_SC[study]
        lacking_F[fold] -= 1

    while True:
        unassigned_S = fold_S < 0
        left_C = has_SC[unassigned_S].sum(axis=0)
        if not left_C.any():
            break
        rarest = int(np.argmin(np.where(left_C > 0, left_C, len(study_ids) + 1)))
        for study in random.permutation(np.flatnonzero(unassigned_S & has_SC[:, rarest])):
            assign(study, lacking_FC[:, rarest])
    for study in random.permutation(np.flatnonzero(fold_S < 0)):
        assign(study, np.zeros(folds))
    return {study_id: int(fold) for study_id, fold in zip(study_ids, fold_S, strict=True)}
