"""The choice of a regression's penalty by cross-validation over studies.

For each penalty the regression is fitted on all rows first, from the weights of the nearest penalty so far. There the
second derivatives are computed once, and the fits that leave a fold out begin there too.

Legend: N rows, G inputs, of which the last ones are the levels and the constant, C classes, S studies, P penalties.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from scipy.special import log_softmax
from sklearn.model_selection import GroupKFold

from vl_model.data.site_table import LEVELS, Floats, Ints
from vl_model.evaluation.softmax_regression import Rows, curvature, fit_weights, prior_weights

#: A grid whose end is chosen is extended by this factor, within these bounds.
STEP, WEAKEST, STRONGEST = 10**0.5, 1e3, 1e-3
#: The penalty on the weights of the level, whatever that on the embedding is: a level has many rows, and what it
#: teaches does not depend on how much the embedding is trusted. It is above zero for levels of only one severity. If
#: there are too few studies for cross-validation, the level is penalised like the embedding.
LEVEL_PENALTY = 0.1
#: Of the fits that leave a fold out (`softmax_regression.TOLERANCE`): the losses of two penalties differ by much more.
_TOLERANCE = 1e-2
#: The probability of a class that a fit did not see.
_UNSEEN = 1e-3


class PenaltySearch:
    """The regressions of one condition, by their inverse penalty on the embedding (`strength`).

    Args:
        feature_NF: embedding and one-hot level of each row.
        class_N: its class, 0 to C - 1; each of them occurs, and there are two at least.
        study_N: its study.
        folds: of studies, for cross-validation.
    """

    def __init__(self, feature_NF: Floats, class_N: Ints, study_N: Ints, folds: int) -> None:
        self.folds = folds if len(np.unique(study_N)) >= 2 * folds else 0
        fold_N = np.zeros(len(study_N), dtype=np.int64)
        if self.folds:
            for fold, (_, held_out) in enumerate(GroupKFold(folds).split(feature_NF, groups=study_N)):
                fold_N[held_out] = fold
        # With the rows of a fold side by side, those of the others are ranges too, which need no copy.
        order = np.argsort(fold_N, kind="stable")
        self._bounds = np.searchsorted(fold_N[order], np.arange(self.folds + 1))
        self.studies, self._study_N = np.unique(study_N[order], return_inverse=True)
        input_NG = np.empty((len(order), feature_NF.shape[1] + 1))
        input_NG[:, :-1], input_NG[:, -1] = feature_NF[order], 1.0
        classes = int(class_N.max()) + 1
        self._rows = Rows(input_NG, class_N[order], classes, [slice(0, len(order))])
        self._weights: dict[float, Floats] = {}
        start_CG = prior_weights(self._rows)
        self._start = start_CG, curvature(self._rows, start_CG)

    def fit(self, strength: float, level_penalty: float = LEVEL_PENALTY) -> Floats:
        """Return the weights (C, G) of all rows; the last input is the constant."""
        return fit_weights(self._rows, self._penalties(strength, level_penalty), *self._start)

    def choose(self, strengths: Sequence[float]) -> tuple[float, float, Floats]:
        """Return the chosen inverse penalty, its cross-validated loss per row, and its weights (C, G) of all rows.

        strengths: ascending; the grid is extended where its end is chosen or the best.
        """
        loss_of: dict[float, Floats] = {}
        wanted: Sequence[float] = strengths
        while wanted:
            loss_of |= {strength: self._losses(strength) for strength in wanted}
            grid = sorted(loss_of)
            best, chosen = best_and_chosen(np.stack([loss_of[strength] for strength in grid], axis=1))
            wanted = []
            if chosen == 0 and grid[0] > STRONGEST:
                wanted = [max(grid[0] / STEP, STRONGEST)]
            elif best == len(grid) - 1 and grid[-1] < WEAKEST:
                wanted = [min(grid[-1] * STEP, WEAKEST)]
        strength = grid[chosen]
        return strength, float(loss_of[strength].sum() / len(self._study_N)), self._weights[strength]

    def _losses(self, strength: float) -> Floats:
        """Return the summed loss of each study (S,) under the fit on the other folds of studies."""
        if self._weights:
            nearest = min(self._weights, key=lambda other: abs(np.log(other / strength)))
            if nearest != list(self._weights)[-1]:
                self._start = self._weights[nearest], curvature(self._rows, self._weights[nearest])
        weight_CG = self._weights[strength] = self.fit(strength)
        self._start = weight_CG, curvature(self._rows, weight_CG)
        penalty_G = self._penalties(strength, LEVEL_PENALTY)
        loss_N = np.empty(len(self._study_N))
        for start, stop in pairwise(self._bounds.tolist()):
            fitted = replace(self._rows, parts=[slice(0, start), slice(stop, len(loss_N))])
            classes, fold_CG = self._fit_part(fitted, penalty_G)
            log_prob_BC = np.full((stop - start, self._rows.classes), np.log(_UNSEEN))
            log_prob_BC[:, classes] = log_softmax(self._rows.input_NG[start:stop] @ fold_CG.T, axis=1)
            loss_N[start:stop] = -log_prob_BC[np.arange(stop - start), self._rows.class_N[start:stop]]
        loss_S: Floats = np.bincount(self._study_N, loss_N, len(self.studies)).astype(np.float64)
        return loss_S

    def _fit_part(self, rows: Rows, penalty_G: Floats) -> tuple[Ints, Floats]:
        """Return the classes that have a row, and their weights; a single one has the probability one."""
        classes = np.flatnonzero(rows.count_C)
        if len(classes) == rows.classes:
            return classes, fit_weights(rows, penalty_G, *self._start, _TOLERANCE)
        if len(classes) == 1:
            return classes, np.zeros((1, len(penalty_G)))
        number_C = np.full(rows.classes, -1)
        number_C[classes] = np.arange(len(classes))
        fewer = replace(rows, class_N=number_C[rows.class_N], classes=len(classes))
        start_CG = prior_weights(fewer)
        return classes, fit_weights(fewer, penalty_G, start_CG, curvature(fewer, start_CG))

    def _penalties(self, strength: float, level_penalty: float) -> Floats:
        penalty_G = np.full(self._rows.input_NG.shape[1], 1 / strength)
        penalty_G[-1 - len(LEVELS) : -1], penalty_G[-1] = level_penalty, 0.0  # the last one is the bias's
        return penalty_G


def best_and_chosen(loss_SP: Floats) -> tuple[int, int]:
    """Return the column of the lowest loss, and the first one within one standard error of it."""
    best = int(loss_SP.sum(axis=0).argmin())
    worse_SP = loss_SP - loss_SP[:, [best]]
    allowed_P = worse_SP.std(axis=0, ddof=1) / np.sqrt(len(loss_SP))
    return best, int(np.flatnonzero(worse_SP.mean(axis=0) <= allowed_P)[0])
