"""Calibrators: from a head's probabilities to calibrated or to metric-optimal ones.

A calibrator is fitted on held-out studies, from which neither the adapters nor the head learned. With the weights
(1, 1, 1) its probabilities are *calibrated*, for people. With the metric's weights (1, 2, 4) they are
*metric-optimal*, for the submission: the weighted loss is lowest at probabilities proportional to w_c p(c | x).

Legend: N rows, K = 3 conditions, L = 5 levels, C = 3 severities.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from data_prep.sites import Severity
from vl_model.data.site_table import CONDITIONS, LEVELS, Floats, Ints, SiteTable

UNWEIGHTED = (1.0, 1.0, 1.0)
DEFAULT_GROUPS = 5
_CLASSES = len(Severity)
_PARAMETERS = 3 + 2 * len(LEVELS)


class Calibrator:
    """A temperature and two biases per condition, and small biases per level of the condition.

    The logit of class c at level l becomes  a ln p_c + b_c + o_lc + ln w_c,  with b and o zero for Normal/Mild.
    The temperature 1 / a and the biases minimise the log loss, weighted by `weights` (mean weight one), plus an L2
    penalty: `pull` / 2 times the squares of ln a and b, and `level_pull` / 2 times the squares of o. Without data, a
    calibrator with the weights (1, 1, 1) is therefore the identity, one with other weights multiplies the
    probabilities by its weights (Bayes' rule for calibrated input), and each row moves the parameters away from
    there. The defaults are uncritical: in simulated cohorts of 24 to 300 held-out studies, pulls from 1 to 10 and
    level pulls from 3 to 30 score within 0.01 of one another.

    Learned attributes: `slope_K_` (a), `bias_KC_` (b), `level_bias_KLC_` (o).
    """

    def __init__(self, weights: Sequence[float] = UNWEIGHTED, pull: float = 3.0, level_pull: float = 10.0) -> None:
        self.weights = tuple(weights)
        self.pull = pull
        self.level_pull = level_pull

    def fit(self, log_prob_N3: Floats, table: SiteTable) -> "Calibrator":
        """Fit on the labelled rows (N, 3); a condition without any keeps the identity."""
        keep = table.labelled_N
        labelled, log_prob_N3 = table.take(keep), log_prob_N3[keep]
        self.slope_K_: Floats = np.ones(len(CONDITIONS))
        self.bias_KC_: Floats = np.zeros((len(CONDITIONS), _CLASSES))
        self.level_bias_KLC_: Floats = np.zeros((len(CONDITIONS), len(LEVELS), _CLASSES))
        for condition in range(len(CONDITIONS)):
            rows = labelled.condition_N == condition
            if rows.any():
                data = (log_prob_N3[rows], labelled.level_N[rows], labelled.severity_N[rows])
                found = minimize(self._objective, np.zeros(_PARAMETERS), args=data, jac=True, method="L-BFGS-B")
                log_slope, bias_C, level_bias_LC = _unpacked(found.x)
                self.slope_K_[condition] = np.exp(log_slope)
                self.bias_KC_[condition] = bias_C
                self.level_bias_KLC_[condition] = level_bias_LC
        return self

    def predict_proba(self, log_prob_N3: Floats, table: SiteTable) -> Floats:
        """Return (N, 3) probabilities; each row sums to one."""
        slope_N1 = self.slope_K_[table.condition_N, None]
        bias_N3 = self.bias_KC_[table.condition_N] + self.level_bias_KLC_[table.condition_N, table.level_N]
        return np.exp(log_softmax(slope_N1 * log_prob_N3 + bias_N3 + np.log(self.weights), axis=1))

    def as_dict(self) -> dict[str, Any]:
        """Return the settings and the learned attributes as plain values for JSON."""
        return {
            "weights": list(self.weights),
            "pull": self.pull,
            "level_pull": self.level_pull,
            "slope": self.slope_K_.tolist(),
            "bias": self.bias_KC_.tolist(),
            "level_bias": self.level_bias_KLC_.tolist(),
        }

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "Calibrator":
        calibrator = cls(saved["weights"], saved["pull"], saved["level_pull"])
        calibrator.slope_K_ = np.array(saved["slope"])
        calibrator.bias_KC_ = np.array(saved["bias"])
        calibrator.level_bias_KLC_ = np.array(saved["level_bias"])
        return calibrator

    def _objective(
        self, parameters: Floats, log_prob_N3: Floats, level_N: Ints, severity_N: Ints
    ) -> tuple[float, Floats]:
        """Return the penalised loss of one condition and its gradient."""
        log_slope, bias_C, level_bias_LC = _unpacked(parameters)
        slope, weight_C = np.exp(log_slope), np.asarray(self.weights)
        logits_N3 = slope * log_prob_N3 + bias_C + level_bias_LC[level_N] + np.log(weight_C)
        log_new_N3 = log_softmax(logits_N3, axis=1)
        weight_N = weight_C[severity_N] / weight_C[severity_N].mean()
        truth_N3 = np.eye(_CLASSES)[severity_N]

        pull = np.full(_PARAMETERS, self.pull)
        pull[3:] = self.level_pull
        loss = -(weight_N * (log_new_N3 * truth_N3).sum(axis=1)).sum() + (pull * parameters**2).sum() / 2

        by_logit_N3 = weight_N[:, None] * (np.exp(log_new_N3) - truth_N3)
        by_level_LC = np.zeros((len(LEVELS), _CLASSES))
        np.add.at(by_level_LC, level_N, by_logit_N3)
        gradient = np.concatenate(
            [
                [slope * (by_logit_N3 * log_prob_N3).sum()],
                by_logit_N3.sum(axis=0)[1:],
                by_level_LC[:, 1:].ravel(),
            ]
        )
        return float(loss), gradient + pull * parameters


def _unpacked(parameters: Floats) -> tuple[float, Floats, Floats]:
    """(ln a, two biases, ten level biases) -> ln a, bias (3,), level bias (5, 3); Normal/Mild has zeros."""
    bias_C = np.concatenate([[0.0], parameters[1:3]])
    level_bias_LC = np.zeros((len(LEVELS), _CLASSES))
    level_bias_LC[:, 1:] = parameters[3:].reshape(len(LEVELS), 2)
    return float(parameters[0]), bias_C, level_bias_LC


def check_enough(studies: int) -> None:
    """Raise ValueError for fewer than two labelled held-out studies: one cannot be both fitted on and predicted."""
    if studies < 2:
        raise ValueError(
            f"{studies} labelled held-out studies: cross-fitting a calibrator requires at least two; "
            "hold out more folds, or prepare more studies"
        )


def study_groups(table: SiteTable, groups: int = DEFAULT_GROUPS, seed: int = 0) -> dict[int, int]:
    """Return study -> group, with severe and moderate sites distributed evenly; every group has a study.

    Raises ValueError for fewer than two labelled studies.
    """
    labelled = table.take(table.labelled_N)
    studies = labelled.study_ids
    check_enough(len(studies))
    burden = {study: labelled.severity_N[labelled.study_N == study] for study in studies}
    shuffled = np.random.default_rng(seed).permutation(studies).tolist()
    worst_first = sorted(shuffled, key=lambda study: (-(burden[study] == 2).sum(), -(burden[study] == 1).sum()))
    return {study: position % min(groups, len(studies)) for position, study in enumerate(worst_first)}


def cross_fit(log_prob_N3: Floats, table: SiteTable, weights: Sequence[float], group_of: dict[int, int]) -> Floats:
    """Return (N, 3): each study's probabilities from a calibrator that was fitted on the other groups of studies.

    Studies that are missing from `group_of` (they have no label) are predicted by a calibrator that was fitted on all
    groups.
    """
    grouped_N = table.of_studies(group_of)
    prob_N3 = Calibrator(weights).fit(log_prob_N3[grouped_N], table.take(grouped_N)).predict_proba(log_prob_N3, table)
    for group in sorted(set(group_of.values())):
        applied_N = table.of_studies(study for study, other in group_of.items() if other == group)
        fitted_N = grouped_N & ~applied_N
        both = set(table.study_N[applied_N].tolist()) & set(table.study_N[fitted_N].tolist())
        assert not both, f"studies {sorted(both)} are both fitted on and predicted by a calibrator"
        calibrator = Calibrator(weights).fit(log_prob_N3[fitted_N], table.take(fitted_N))
        prob_N3[applied_N] = calibrator.predict_proba(log_prob_N3[applied_N], table.take(applied_N))
    return prob_N3
