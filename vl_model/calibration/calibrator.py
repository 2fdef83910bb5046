"""Calibrators: from a model's probabilities to calibrated ones, and from these to metric-optimal ones.

A calibrator is fitted on studies from which the model did not learn. Its probabilities are *calibrated*, for people.
From them, *metric-optimal* ones follow by rule (`scoring.metric_optimum`), so that the two cannot contradict another.

Legend: N rows, F files (one, if there is a single model), D parameters, K = 3 conditions, L = 5 levels,
C = 3 severities, 2 logits against Normal/Mild.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from data_prep.sites import SITES, Severity
from vl_model.calibration.neighbours import NEIGHBOURS, Neighbours
from vl_model.data.site_table import CONDITIONS, LEVELS, Bools, Floats, Ints, SiteTable
from vl_model.scoring.metric_optimum import MetricRule, fit_metric_rule, metric_optimal
from vl_model.scoring.pulled_regression import Regression, Solution, fit, left_out_losses, log_proba

#: A severity with fewer labelled rows in a condition keeps its biases at zero.
FEWEST_EXAMPLES = 10
#: Pull of the common slope towards one.
_COMMON_PULL = 3.0
#: The biases of a level are pulled this many times as strongly as those of its condition.
_LEVEL_PULL = 3.0
#: The simplest strength is chosen whose loss is within this many standard errors of the lowest.
_ALLOWED_ERRORS = 0.5
#: Pulls of the coefficients of a site's neighbours towards zero, from strong to weak.
RIDGES = (10000.0, 3000.0, 1000.0, 300.0, 100.0)
_BIASES = 2 * (1 + len(LEVELS))


@dataclass(frozen=True)
class Strength:
    """How much a calibrator may change.

    slope: whether the slope that all conditions share is fitted. pull: how strongly the slope and the biases of each
    condition are pulled back; None if they are not fitted.
    """

    slope: bool
    pull: float | None

    def __str__(self) -> str:
        if self.pull is not None:
            return f"temperatures and biases, pull {self.pull:g}"
        return "one temperature" if self.slope else "nothing"


#: From "change nothing" up.
STRENGTHS = (
    Strength(slope=False, pull=None),
    Strength(slope=True, pull=None),
    *(Strength(slope=True, pull=pull) for pull in (100.0, 30.0, 10.0, 3.0, 1.0)),
)


class Calibrator:
    """A temperature and two biases per condition, and small biases per level of the condition.

    The logit of severity c at level l becomes  a ln p_c + b_c + o_lc,  with b and o zero for Normal/Mild. All minimise
    the unweighted log loss plus pulls (`pulled_regression`): a slope that the conditions share (one over a
    temperature) towards one; the slope a of each condition towards that; b and o towards zero. Of several files, each
    has a slope a_f in the sum over files of a_f ln p_fc, all pulled to an equal share of the common slope.

    How strong the pulls are, from "change nothing" and "one temperature" up, is chosen by the loss of each study
    under a fit without it: the simplest strength whose loss exceeds the lowest by at most half a standard error
    (paired by study). A severity with fewer than ten labelled rows in a condition keeps its biases at zero.

    With `context`, the logits of the neighbours of each site are added (`neighbours`), with one coefficient for each
    of their logits and each logit of the site. Their pull towards zero (the ridge) is then chosen per condition in the
    same way, from "no context" up. All rows of a study are required at once.

    Learned attributes: `strength_`, `slope_KF_` (a), `bias_KC_` (b), `level_bias_KLC_` (o), `examples_KC_` (labelled
    rows), `rule_`, for metric-optimal probabilities, and, with context, `neighbours_`, `context_K2J2_` (the logit of
    the site, the neighbour, its logit) and `ridge_K_` (infinite: no context). `left_out_loss_PS_`, the loss of each
    labelled study under a fit of each strength without it, is not saved.
    """

    def __init__(self, strengths: Sequence[Strength] = STRENGTHS, context: bool = False) -> None:
        self.strengths = tuple(strengths)
        self.context = context

    def fit(self, log_prob: Floats, table: SiteTable) -> "Calibrator":
        """Fit on the labelled rows; a condition without any keeps the identity.

        log_prob: (N, 3), or (N, F, 3) of F files. Without a labelled row, the calibrator changes nothing.
        """
        labelled_N = table.labelled_N
        rows_K = _regressions(log_odds(log_prob)[labelled_N], table.take(labelled_N))
        self.examples_KC_: Ints = np.stack([np.bincount(rows.severity_N, minlength=len(Severity)) for rows in rows_K])

        common, common_step_S = _common_slope(rows_K)
        fits_PK: list[list[Solution]] = []
        loss_PS: list[Floats] = []
        for strength in self.strengths:
            slope, step_S = (common, common_step_S) if strength.slope else (1.0, np.zeros_like(common_step_S))
            before = fits_PK[-1] if fits_PK and strength.pull else [None] * len(rows_K)
            solutions = [_fitted(rows, slope, strength.pull, start) for rows, start in zip(rows_K, before, strict=True)]
            losses = [_left_out(rows, solution, step_S) for rows, solution in zip(rows_K, solutions, strict=True)]
            fits_PK.append(solutions)
            loss_PS.append(np.sum(losses, axis=0))
        self.left_out_loss_PS_: Floats = np.array(loss_PS)
        chosen = simplest(self.left_out_loss_PS_)
        self.strength_: Strength = self.strengths[chosen]
        solutions = fits_PK[chosen]
        self._learn(np.stack([solution.theta_D for solution in solutions]))
        if self.context:
            step_S = common_step_S if self.strength_.slope else np.zeros_like(common_step_S)
            self._add_context(log_prob, table, rows_K, solutions, step_S)
        self.rule_: MetricRule = fit_metric_rule(self.predict_proba(log_prob, table), table)
        return self

    def predict_proba(self, log_prob: Floats, table: SiteTable) -> Floats:
        """Return calibrated probabilities (N, 3); each row sums to one."""
        slope_NF1 = self.slope_KF_[table.condition_N][..., None]
        bias_N3 = self.bias_KC_[table.condition_N] + self.level_bias_KLC_[table.condition_N, table.level_N]
        odds_NF2 = log_odds(log_prob)
        logit_N2 = (slope_NF1 * odds_NF2).sum(axis=1) + bias_N3[:, 1:]
        if self.context:
            feature_NJ2 = self.neighbours_.features(odds_NF2.mean(axis=1), table)
            logit_N2 = logit_N2 + np.einsum("nojc,njc->no", self.context_K2J2_[table.condition_N], feature_NJ2)
        return np.exp(log_proba(logit_N2.T)).T

    def metric_optimal(self, prob_N3: Floats, table: SiteTable) -> Floats:
        """Return metric-optimal probabilities (N, 3) from calibrated ones of whole studies."""
        return metric_optimal(table, prob_N3, self.rule_)

    @property
    def left_alone_KC(self) -> Bools:
        """Return the severities of each condition whose biases stayed at zero for want of examples."""
        return _left_alone(self.examples_KC_)

    def as_dict(self) -> dict[str, Any]:
        """Return the learned attributes as plain values for JSON."""
        return {
            "strength": asdict(self.strength_),
            "slope": self.slope_KF_.tolist(),
            "bias": self.bias_KC_.tolist(),
            "level_bias": self.level_bias_KLC_.tolist(),
            "examples": self.examples_KC_.tolist(),
            "rule": asdict(self.rule_),
            "context": {
                "column_means": self.neighbours_.mean_X2_.tolist(),
                "coefficients": self.context_K2J2_.tolist(),
                "ridge": [float(ridge) if np.isfinite(ridge) else None for ridge in self.ridge_K_],
            }
            if self.context
            else None,
        }

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "Calibrator":
        """Return the calibrator of `as_dict`. Raises LookupError, TypeError or ValueError for anything else."""
        conditions, levels, grades = len(CONDITIONS), len(LEVELS), len(Severity)
        calibrator = cls(context=saved["context"] is not None)
        calibrator.strength_ = Strength(**saved["strength"])
        calibrator.slope_KF_ = _numbers(saved, "slope", conditions, None)
        calibrator.bias_KC_ = _numbers(saved, "bias", conditions, grades)
        calibrator.level_bias_KLC_ = _numbers(saved, "level_bias", conditions, levels, grades)
        calibrator.examples_KC_ = _numbers(saved, "examples", conditions, grades).astype(np.int64)
        calibrator.rule_ = MetricRule(**{name: float(_numbers(saved["rule"], name)) for name in saved["rule"]})
        if (context := saved["context"]) is not None:
            calibrator.neighbours_ = Neighbours()
            calibrator.neighbours_.mean_X2_ = _numbers(context, "column_means", len(SITES), 2)
            calibrator.context_K2J2_ = _numbers(context, "coefficients", conditions, 2, len(NEIGHBOURS), 2)
            calibrator.ridge_K_ = np.array([np.inf if ridge is None else float(ridge) for ridge in context["ridge"]])
        return calibrator

    def _learn(self, theta_KD: Floats) -> None:
        files = theta_KD.shape[1] - _BIASES
        self.slope_KF_: Floats = theta_KD[:, :files]
        self.bias_KC_: Floats = np.pad(theta_KD[:, files : files + 2], ((0, 0), (1, 0)))
        level_bias_KL2 = theta_KD[:, files + 2 :].reshape(-1, len(LEVELS), 2)
        self.level_bias_KLC_: Floats = np.pad(level_bias_KL2, ((0, 0), (0, 0), (1, 0)))

    def _add_context(
        self,
        log_prob: Floats,
        table: SiteTable,
        rows_K: Sequence[Regression],
        solutions: Sequence[Solution],
        common_step_S: Floats,
    ) -> None:
        """Choose the ridge of each condition, and fit its coefficients together with what is fitted already."""
        odds_N2 = log_odds(log_prob).mean(axis=1)
        self.neighbours_ = Neighbours().fit(odds_N2, table)
        feature_NJ2 = self.neighbours_.features(odds_N2, table)[table.labelled_N]
        condition_N = table.condition_N[table.labelled_N]
        self.context_K2J2_: Floats = np.zeros((len(CONDITIONS), 2, len(NEIGHBOURS), 2))
        self.ridge_K_: Floats = np.full(len(CONDITIONS), np.inf)
        theta_KD = np.stack([solution.theta_D for solution in solutions])
        for condition, (rows, solution) in enumerate(zip(rows_K, solutions, strict=True)):
            if not len(rows.severity_N):
                continue
            wider = _with_context(rows, feature_NJ2[condition_N == condition])
            path = [solution, *_ridge_path(wider, solution)]
            losses = [_left_out(rows if one is solution else wider, one, common_step_S, _files(rows)) for one in path]
            chosen = simplest(np.array(losses))
            if chosen:
                self.ridge_K_[condition] = RIDGES[chosen - 1]
                theta_KD[condition] = path[chosen].theta_D[: theta_KD.shape[1]]
                self.context_K2J2_[condition] = path[chosen].theta_D[theta_KD.shape[1] :].reshape(2, -1, 2)
        self._learn(theta_KD)


def log_odds(log_prob: Floats) -> Floats:
    """(N, 3) or (N, F, 3) log probabilities -> (N, F, 2): those of Moderate and Severe minus that of Normal/Mild."""
    log_prob_NF3 = log_prob if log_prob.ndim == 3 else log_prob[:, None]
    odds: Floats = log_prob_NF3[..., 1:] - log_prob_NF3[..., :1]
    return odds


def simplest(loss_PS: Floats) -> int:
    """Return the first of P strengths whose loss is within half a standard error of the lowest, paired by study."""
    worse_PS = loss_PS - loss_PS[loss_PS.sum(axis=1).argmin()]
    error_P = worse_PS.std(axis=1, ddof=1) * np.sqrt(worse_PS.shape[1]) if worse_PS.shape[1] > 1 else np.inf
    return int(np.flatnonzero(worse_PS.sum(axis=1) <= _ALLOWED_ERRORS * error_P)[0])


def _regressions(odds_NF2: Floats, labelled: SiteTable) -> list[Regression]:
    """Return the rows of each condition, with the slopes, the two biases and the ten level biases as parameters."""
    studies, study_N = np.unique(labelled.study_N, return_inverse=True)
    rows_K = []
    for condition in range(len(CONDITIONS)):
        rows = np.flatnonzero(labelled.condition_N == condition)
        files = odds_NF2.shape[1]
        design_2MD = np.zeros((2, len(rows), files + _BIASES))
        design_2MD[:, :, :files] = odds_NF2[rows].transpose(2, 0, 1)
        level_M = labelled.level_N[rows]
        for logit in range(2):
            design_2MD[logit, :, files + logit] = 1.0
            design_2MD[logit, np.arange(len(rows)), files + 2 + 2 * level_M + logit] = 1.0
        rows_K.append(Regression(design_2MD, labelled.severity_N[rows], study_N[rows], len(studies)))
    return rows_K


def _common_slope(rows_K: Sequence[Regression]) -> tuple[float, Floats]:
    """Return the slope that the conditions share, and how it moves if each study (S) is left out."""
    mean_2N1 = np.concatenate([_slopes(rows).mean(axis=2, keepdims=True) for rows in rows_K], axis=1)
    columns = ("severity_N", "study_N")
    severity_N, study_N = (np.concatenate([getattr(rows, name) for rows in rows_K]) for name in columns)
    pooled = Regression(mean_2N1, severity_N, study_N, rows_K[0].studies)
    solution = fit(pooled, np.array([_COMMON_PULL]), np.ones(1), np.ones(1, dtype=bool))
    _, step_S1 = left_out_losses(pooled, solution)
    return float(solution.theta_D[0]), step_S1[:, 0]


def _fitted(rows: Regression, slope: float, pull: float | None, before: Solution | None) -> Solution:
    """Fit the parameters of one condition around the common slope; without rows or a pull, they are the centre."""
    files = _files(rows)
    centre_D = np.zeros(files + _BIASES)
    centre_D[:files] = slope / files
    pull_D = np.full(len(centre_D), np.inf)
    examples_C = np.bincount(rows.severity_N, minlength=len(Severity))
    if pull is not None and len(rows.severity_N):
        pull_D[:files] = pull
        for logit in np.flatnonzero(~_left_alone(examples_C)[1:]):
            pull_D[files + logit] = pull
            pull_D[files + 2 + logit :: 2] = _LEVEL_PULL * pull
    return fit(rows, pull_D, centre_D, np.arange(len(centre_D)) < files, before.theta_D if before else None)


def _with_context(rows: Regression, feature_MJ2: Floats) -> Regression:
    """Return the rows with 2 x J x 2 parameters more: each logit of the site by each logit of each neighbour."""
    flat_MX = feature_MJ2.reshape(len(feature_MJ2), -1)
    width = flat_MX.shape[1]
    context_2MD = np.zeros((2, len(flat_MX), 2 * width))
    context_2MD[0, :, :width] = context_2MD[1, :, width:] = flat_MX
    return replace(rows, design_2ND=np.concatenate([rows.design_2ND, context_2MD], axis=2))


def _ridge_path(wider: Regression, solution: Solution) -> list[Solution]:
    """Return the fits with context, from the strongest ridge down; other parameters are pulled as before."""
    more = wider.design_2ND.shape[2] - len(solution.theta_D)
    pull_D = np.where(solution.held_D, np.inf, solution.pull_D)
    centre_D = np.concatenate([solution.centre_D, np.zeros(more)])
    not_negative_D = np.zeros(len(centre_D), dtype=bool)
    theta_D, path = np.concatenate([solution.theta_D, np.zeros(more)]), []
    for ridge in RIDGES:
        found = fit(wider, np.concatenate([pull_D, np.full(more, ridge)]), centre_D, not_negative_D, theta_D)
        path.append(found)
        theta_D = found.theta_D
    return path


def _left_out(rows: Regression, solution: Solution, common_step_S: Floats, files: int | None = None) -> Floats:
    """Return the loss of each study (S) by a fit without it; the common slope is fitted without it, too."""
    files = _files(rows) if files is None else files
    centre_step_SD = np.zeros((rows.studies, len(solution.theta_D)))
    centre_step_SD[:, :files] = common_step_S[:, None] / files
    loss_S, _ = left_out_losses(rows, solution, centre_step_SD)
    return loss_S


def _left_alone(examples_XC: Ints) -> Bools:
    """Return which severities (..., C) have too few examples; without enough Normal/Mild ones, all have."""
    few_XC = examples_XC < FEWEST_EXAMPLES
    return few_XC | few_XC[..., :1]


def _numbers(saved: Mapping[str, Any], name: str, *shape: int | None) -> Floats:
    """Return saved numbers of this shape; a length of None is free. Raises ValueError for another or if not finite."""
    found = np.array(saved[name], dtype=np.float64)
    lengths_match = all(wanted in (None, length) for length, wanted in zip(found.shape, shape, strict=False))
    if found.ndim != len(shape) or not lengths_match or not np.isfinite(found).all():
        raise ValueError(f"{name!r} has other than finite numbers in the shape {shape}")
    return found


def _files(rows: Regression) -> int:
    return rows.design_2ND.shape[2] - _BIASES


def _slopes(rows: Regression) -> Floats:
    return rows.design_2ND[:, :, : _files(rows)]
