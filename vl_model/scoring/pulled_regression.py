"""Multinomial regression of three severities whose parameters are pulled towards given values, by Newton's method.

The logits of Moderate and of Severe against Normal/Mild are linear in the parameters: z = design @ theta. The fit
minimises the log loss over the rows plus half the sum of pull * (theta - centre)^2. The sum is convex, so that there
is one minimum. A parameter with an infinite pull stays at its centre.

Legend: N rows, S studies, R rows of the largest study, D parameters, F of them fitted, 2 logits (the first axis,
because numpy is slow over short last axes), 3 severities.
"""

from dataclasses import dataclass

import numpy as np

from data_prep.sites import Severity
from vl_model.data.site_table import Bools, Floats, Ints

#: Newton's method ends when the next step would decrease the loss by less, in nats over all rows.
_TOLERANCE = 1e-8
_ITERATIONS = 60
#: Keeps a curvature invertible where neither rows nor pulls say anything.
_RIDGE = 1e-9


@dataclass(frozen=True)
class Regression:
    """The rows of one fit. study_N: the index of each row's study, below `studies`."""

    design_2ND: Floats
    severity_N: Ints
    study_N: Ints
    studies: int

    @property
    def truth_2N(self) -> Floats:
        """Return whether each row is Moderate, and whether it is Severe."""
        return np.stack([self.severity_N == grade for grade in (Severity.MODERATE, Severity.SEVERE)]).astype(float)


@dataclass(frozen=True)
class Solution:
    """Fitted parameters, and what pulled them. held_D: parameters that were not fitted."""

    theta_D: Floats
    pull_D: Floats
    centre_D: Floats
    held_D: Bools


def fit(
    rows: Regression, pull_D: Floats, centre_D: Floats, not_negative_D: Bools, start_D: Floats | None = None
) -> Solution:
    """Return the minimum; a parameter of `not_negative_D` that would become negative stays at zero."""
    held_D = np.isinf(pull_D)
    theta_D = np.where(held_D, centre_D, centre_D if start_D is None else start_D)
    while True:
        pulls_D = np.where(held_D, 0.0, pull_D)
        theta_D = _minimum(rows, pulls_D, centre_D, ~held_D, theta_D)
        negative_D = not_negative_D & ~held_D & (theta_D < 0)
        if not negative_D.any():
            return Solution(theta_D, pulls_D, centre_D, held_D)
        held_D = held_D | negative_D
        theta_D = np.where(negative_D, 0.0, theta_D)


def log_proba(logit_2N: Floats) -> Floats:
    """(2, ...) logits of Moderate and of Severe against Normal/Mild -> (3, ...) natural logs of probabilities."""
    moderate, severe = logit_2N
    largest = np.maximum(np.maximum(moderate, severe), 0.0)
    log_total = largest + np.log(np.exp(-largest) + np.exp(moderate - largest) + np.exp(severe - largest))
    return np.stack([-log_total, moderate - log_total, severe - log_total])


def left_out_losses(
    rows: Regression, solution: Solution, centre_step_SD: Floats | None = None
) -> tuple[Floats, Floats]:
    """Return the log loss of each study (S), summed over its rows, by a fit without it; and that fit's step (S, D).

    The fit without a study is one Newton step from the fit with it, with the gradient and the curvature of the other
    studies (approximate leave-one-out: Rad and Maleki, 2020). No fit is repeated for it. `centre_step_SD` says how
    the centres move if a study is left out.
    """
    free_D = ~solution.held_D
    row_SR, present_SR = _rows_by_study(rows)
    logit_2N = rows.design_2ND @ solution.theta_D
    step_SD = np.zeros((rows.studies, len(free_D)))
    if centre_step_SD is not None:
        follows_D = solution.held_D & (solution.theta_D == solution.centre_D)
        step_SD[:, follows_D] = centre_step_SD[:, follows_D]
    if free_D.any():
        design_2NF = rows.design_2ND[:, :, free_D]
        prob_2N = np.exp(log_proba(logit_2N)[1:])
        gradient_2NF = design_2NF * (prob_2N - rows.truth_2N)[..., None]
        force_SF = (_padded(gradient_2NF.sum(axis=0), row_SR, present_SR)).sum(axis=1)
        if centre_step_SD is not None:
            force_SF = force_SF + solution.pull_D[free_D] * centre_step_SD[:, free_D]
        hessian_SFF = np.zeros((rows.studies, design_2NF.shape[2], design_2NF.shape[2]))
        for design_NF, curved_NF in zip(design_2NF, _curved(design_2NF, prob_2N), strict=True):
            design_SRF = _padded(design_NF, row_SR, present_SR)
            hessian_SFF += design_SRF.transpose(0, 2, 1) @ curved_NF[row_SR]
        others_SFF = hessian_SFF.sum(axis=0) + np.diag(solution.pull_D[free_D] + _RIDGE) - hessian_SFF
        step_SD[:, free_D] = np.linalg.solve(others_SFF, force_SF[..., None])[..., 0]

    moved_2N = logit_2N + np.einsum("cnd,nd->cn", rows.design_2ND, step_SD[rows.study_N])
    loss_S: Floats = np.bincount(rows.study_N, _losses(moved_2N, rows.severity_N), rows.studies).astype(np.float64)
    return loss_S, step_SD


def _minimum(rows: Regression, pull_D: Floats, centre_D: Floats, free_D: Bools, theta_D: Floats) -> Floats:
    """Return the parameters at the minimum over the free ones."""
    if not free_D.any():
        return theta_D
    design_2NF, truth_2N = rows.design_2ND[:, :, free_D], rows.truth_2N
    flat_MF = design_2NF.reshape(-1, design_2NF.shape[2])
    fixed_2N = rows.design_2ND[:, :, ~free_D] @ theta_D[~free_D]
    pull_F, centre_F, theta_F = pull_D[free_D], centre_D[free_D], theta_D[free_D]

    def objective(theta_F: Floats) -> tuple[float, Floats]:
        logit_2N = fixed_2N + (flat_MF @ theta_F).reshape(fixed_2N.shape)
        log_prob_3N = log_proba(logit_2N)
        loss = -log_prob_3N[0].sum() - (logit_2N * truth_2N).sum()
        return float(loss + (pull_F * (theta_F - centre_F) ** 2).sum() / 2), np.exp(log_prob_3N[1:])

    loss, prob_2N = objective(theta_F)
    for _ in range(_ITERATIONS):
        gradient_F = flat_MF.T @ (prob_2N - truth_2N).ravel() + pull_F * (theta_F - centre_F)
        hessian_FF = flat_MF.T @ _curved(design_2NF, prob_2N).reshape(flat_MF.shape)
        step_F = np.linalg.solve(hessian_FF + np.diag(pull_F + _RIDGE), gradient_F)
        decrease = float(gradient_F @ step_F)
        if decrease < _TOLERANCE:
            break
        length = 1.0
        new, new_prob_2N = objective(theta_F - step_F)
        while new > loss - 1e-4 * length * decrease and length > 1e-6:
            length /= 2
            new, new_prob_2N = objective(theta_F - length * step_F)
        theta_F, loss, prob_2N = theta_F - length * step_F, new, new_prob_2N
    theta_D = theta_D.copy()
    theta_D[free_D] = theta_F
    return theta_D


def _curved(design_2NF: Floats, prob_2N: Floats) -> Floats:
    """Return the curvature of the loss by the two logits, diag(p) - p p', times the design (2, N, F)."""
    weighted_2NF = prob_2N[..., None] * design_2NF
    curved: Floats = weighted_2NF - prob_2N[..., None] * (weighted_2NF[0] + weighted_2NF[1])
    return curved


def _losses(logit_2N: Floats, severity_N: Ints) -> Floats:
    """Return -ln of each row's probability of its true severity."""
    losses: Floats = -log_proba(logit_2N)[severity_N, np.arange(len(severity_N))]
    return losses


def _rows_by_study(rows: Regression) -> tuple[Ints, Bools]:
    """Return the row numbers of each study (S, R), and which of them are rows; the others have the number 0."""
    count_S = np.bincount(rows.study_N, minlength=rows.studies)
    present_SR = np.arange(count_S.max(initial=0)) < count_S[:, None]
    row_SR = np.zeros(present_SR.shape, dtype=np.int64)
    row_SR[present_SR] = np.argsort(rows.study_N, kind="stable")
    return row_SR, present_SR


def _padded(value_NF: Floats, row_SR: Ints, present_SR: Bools) -> Floats:
    """Return the values of each study's rows (S, R, F), zero where there is no row."""
    padded: Floats = value_NF[row_SR] * present_SR[..., None]
    return padded
