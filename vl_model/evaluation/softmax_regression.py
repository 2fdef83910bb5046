"""Multinomial logistic regression with a penalty on the squared weights, by preconditioned L-BFGS.

The search runs in coordinates in which the second derivatives at its start are about the identity, and its first step
is Newton's: from the weights of a like problem (a neighbouring penalty, or most of the rows) a few steps are enough.
The weights of the classes have the sum zero in each input, which the penalty wants and the probabilities do not depend
on; so the search is for C - 1 contrasts.

Legend: N rows, G inputs, of which the last one is constant (its weight is the bias), C classes, V = C - 1 contrasts,
P = V * G parameters, contrast by contrast.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.linalg import cholesky, qr, solve_triangular
from scipy.optimize import minimize

from vl_model.data.site_table import Floats, Ints

#: The largest derivative in the search's coordinates at which it ends. The summed loss is then within about half the
#: sum of their squares of the lowest one.
TOLERANCE = 1e-3
#: In nearly separable data, a search that stops early is only more regular.
_MOST_STEPS = 300
#: A penalty on the bias for the coordinates only, where no row is near the border between two classes.
_BIAS_RIDGE = 1e-3
#: Bytes of the rows that are looked at together: they are read once for the loss and its gradient, from the cache.
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows that a regression learns from: those of `input_NG` that lie in `parts`, which are ranges of rows.

    class_N: the class of each row, 0 to classes - 1.
    """

    input_NG: Floats
    class_N: Ints
    classes: int
    parts: Sequence[slice]

    @property
    def count_C(self) -> Ints:
        """The number of rows of each class."""
        count_C: Ints = np.sum([np.bincount(self.class_N[part], minlength=self.classes) for part in self.parts], axis=0)
        return count_C

    def blocks(self) -> Iterator[tuple[Floats, Ints]]:
        """Return inputs and classes of a few hundred rows at a time."""
        size = max(16, _BLOCK_BYTES // (8 * self.input_NG.shape[1]))
        for part in self.parts:
            for start in range(part.start, part.stop, size):
                block = slice(start, min(start + size, part.stop))
                yield self.input_NG[block], self.class_N[block]


def prior_weights(rows: Rows) -> Floats:
    """Return the weights (C, G) that give every row the shares of the classes; each class has a row."""
    weight_CG = np.zeros((rows.classes, rows.input_NG.shape[1]))
    log_C = np.log(rows.count_C)
    weight_CG[:, -1] = log_C - log_C.mean()
    return weight_CG


def curvature(rows: Rows, weight_CG: Floats) -> Floats:
    """Return the second derivatives (P, P) of the summed loss, without a penalty, at these weights.

    Those by the logits, diag(p) - p p^T, are the sum over pairs of classes of p_c p_d (e_c - e_d)(e_c - e_d)^T.
    """
    basis_CV, inputs = _contrasts(rows.classes), rows.input_NG.shape[1]
    pairs = list(combinations(range(rows.classes), 2))
    gram_of = {pair: np.zeros((inputs, inputs)) for pair in pairs}
    for input_BG, _ in rows.blocks():
        prob_CB = _probabilities(weight_CG @ input_BG.T)[0]
        for (c, d), gram_GG in gram_of.items():
            scaled_BG = input_BG * np.sqrt(prob_CB[c] * prob_CB[d])[:, None]
            gram_GG += scaled_BG.T @ scaled_BG
    found_PP = np.zeros((basis_CV.shape[1] * inputs,) * 2)
    for (c, d), gram_GG in gram_of.items():
        difference_V = basis_CV[c] - basis_CV[d]
        found_PP += np.kron(np.outer(difference_V, difference_V), gram_GG)
    return found_PP


def fit_weights(
    rows: Rows, penalty_G: Floats, start_CG: Floats, curvature_PP: Floats, tolerance: float = TOLERANCE
) -> Floats:
    """Return the weights (C, G) of the lowest summed log loss plus half the penalties times the squared weights.

    Args:
        rows: what is learned from; each class has a row.
        penalty_G: the penalty of each input; 0 for the bias.
        start_CG: where the search begins.
        curvature_PP: about the second derivatives of the summed loss there (`curvature`), as of like rows.
        tolerance: the largest derivative in the search's coordinates at which it ends.
    """
    basis_CV = _contrasts(rows.classes)
    ridge_G = penalty_G + _BIAS_RIDGE * (penalty_G == 0)
    factor_PP = cholesky(curvature_PP + np.diag(np.tile(ridge_G, basis_CV.shape[1])), lower=True)
    start_VG = basis_CV.T @ start_CG

    def loss_at(move_P: Floats) -> tuple[float, Floats]:
        moved_P = solve_triangular(factor_PP, move_P, lower=True, trans="T", check_finite=False)
        loss, by_weight_VG = _penalised_loss(rows, penalty_G, start_VG + moved_P.reshape(start_VG.shape), basis_CV)
        return loss, solve_triangular(factor_PP, by_weight_VG.ravel(), lower=True, check_finite=False)

    # L-BFGS begins with a step of length one. In units of the gradient's length, this is Newton's step.
    unit = float(np.linalg.norm(loss_at(np.zeros(len(factor_PP)))[1]))
    if unit <= tolerance:
        return basis_CV @ start_VG

    def loss_in_units(move_P: Floats) -> tuple[float, Floats]:
        loss, by_move_P = loss_at(unit * move_P)
        return loss, unit * by_move_P

    found = minimize(
        loss_in_units,
        np.zeros(len(factor_PP)),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _MOST_STEPS, "gtol": tolerance * unit},
    )
    moved_P = solve_triangular(factor_PP, unit * found.x, lower=True, trans="T", check_finite=False)
    weight_CG: Floats = basis_CV @ (start_VG + moved_P.reshape(start_VG.shape))
    return weight_CG


def _penalised_loss(rows: Rows, penalty_G: Floats, weight_VG: Floats, basis_CV: Floats) -> tuple[float, Floats]:
    """Return the summed log loss plus half the penalties times the squared weights, and its gradient (V, G)."""
    loss = float((penalty_G * weight_VG**2).sum() / 2)
    gradient_VG = penalty_G * weight_VG
    for input_BG, class_B in rows.blocks():
        row_B = np.arange(len(class_B))
        logit_CB = basis_CV @ (weight_VG @ input_BG.T)
        prob_CB, log_sum_B = _probabilities(logit_CB)
        loss += float((log_sum_B - logit_CB[class_B, row_B]).sum())
        prob_CB[class_B, row_B] -= 1
        gradient_VG += (basis_CV.T @ prob_CB) @ input_BG
    return loss, gradient_VG


def _probabilities(logit_CB: Floats) -> tuple[Floats, Floats]:
    """Return the probabilities (C, B) and the logarithm of the sum of the exponentials (B)."""
    highest_B = logit_CB.max(axis=0)
    prob_CB = np.exp(logit_CB - highest_B)
    sum_B = prob_CB.sum(axis=0)
    prob_CB /= sum_B
    return prob_CB, highest_B + np.log(sum_B)


def _contrasts(classes: int) -> Floats:
    """Return an orthonormal basis (C, V) of the weights of the classes whose sum is zero."""
    basis_CC, _ = qr(np.column_stack([np.ones(classes), np.eye(classes)[:, 1:]]))
    basis_CV: Floats = basis_CC[:, 1:]
    return basis_CV
