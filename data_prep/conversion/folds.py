"""Folds: the division of the studies, stratified over all 25 labels."""

from collections.abc import Collection, Mapping

import numpy as np

from data_prep.sites import SITES, Severity, Site
from workspace.setting_error import SettingError


def assign_folds(
    severities: Mapping[int, Mapping[Site, Severity]], folds: int, seed: int, together: Collection[Collection[int]] = ()
) -> dict[int, int]:
    """Return the fold of each study, 0 to `folds` - 1, with each label's severities distributed evenly over folds.

    Iterative stratification (Sechidis, Tsoumakas & Vlahavas 2011, "On the stratification of multi-label
    data", algorithm 1) over 75 classes, 25 sites times three severities. The rarest class with unassigned
    studies is assigned first. Each of its studies is assigned to the fold that lacks most studies of that
    class, then to the one that lacks most studies, then at random (`seed`). Studies without labels are
    assigned last. With fewer studies than folds, some folds are empty. Raises ValueError for fewer than two folds.

    together: disjoint groups of studies, as those of one patient. The studies of a group have one fold: a group is
    assigned as one study with the sum of their labels.
    """
    if folds < 2:
        raise SettingError("folds", f"{folds}: at least 2 are required")
    alone = set(severities).difference(*together)
    units = sorted([*map(sorted, together), *([study_id] for study_id in alone)])  # by their first study
    count_UC = np.zeros((len(units), 3 * len(SITES)), dtype=int)  # units, classes
    for row, unit in enumerate(units):
        for study_id in unit:
            for site, severity in severities[study_id].items():
                count_UC[row, 3 * SITES.index(site) + severity] += 1

    random = np.random.default_rng(seed)
    # The numbers of studies that each fold still lacks, per class and in all.
    lacking_FC = np.tile(count_UC.sum(axis=0) / folds, (folds, 1))
    lacking_F = np.full(folds, len(severities) / folds)
    fold_U = np.full(len(units), -1)

    def assign(unit: int, lacking_class_F: np.ndarray) -> None:
        order = np.lexsort((random.random(folds), -lacking_F, -lacking_class_F))
        fold = order[0]
        fold_U[unit] = fold
        lacking_FC[fold] -= count_UC[unit]
        lacking_F[fold] -= len(units[unit])

    while True:
        unassigned_U = fold_U < 0
        left_C = count_UC[unassigned_U].sum(axis=0)
        if not left_C.any():
            break
        rarest = int(np.argmin(np.where(left_C > 0, left_C, len(severities) + 1)))
        for unit in random.permutation(np.flatnonzero(unassigned_U & (count_UC[:, rarest] > 0))):
            assign(unit, lacking_FC[:, rarest])
    for unit in random.permutation(np.flatnonzero(fold_U < 0)):
        assign(unit, np.zeros(folds))
    return dict(sorted((study_id, int(fold)) for unit, fold in zip(units, fold_U, strict=True) for study_id in unit))
