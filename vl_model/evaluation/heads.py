"""Heads: from a site's embedding to the probabilities of its three severities.

`ZeroShotHead` compares the embedding with sentences and learns nothing. `LinearProbe` is one multinomial logistic
regression per condition. Both are fitted without weights, on the studies that the adapters were trained on. The
calibrators account for the weights of the metric, and for the overconfidence on new studies that follows from this.

Legend: N rows, D dimensions, S = 25 sites in the order of `SITES`, C = 3 severities, F features, K = 3 conditions.
Embeddings are (N, D), L2-normalised. Predictions are natural logarithms of probabilities, (N, 3).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.model_selection import GroupKFold

from data_prep.sites import SITES, Severity
from vl_model.data.site_table import CONDITIONS, LEVELS, Floats, Ints, SiteTable
from vl_model.scoring.priors import ColumnPrior

#: What a head saves: arrays by name, which are read without pickle.
Arrays = Mapping[str, NDArray[Any]]

_CLASSES = len(Severity)
#: Inverse penalties, from strong to weak, for features of norm one.
DEFAULT_STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
#: A grid whose end is chosen is extended by this factor, within these bounds.
STEP, WEAKEST, STRONGEST = 10**0.5, 1e3, 1e-3
#: The penalty on the weights of the level, whatever that on the embedding is: a level has many rows, and what it
#: teaches does not depend on how much the embedding is trusted. It is above zero for levels of only one severity. If
#: there are too few studies for cross-validation, the level is penalised like the embedding.
LEVEL_PENALTY = 0.1


class ZeroShotHead:
    """Softmax of the cosine similarities of a site's embedding with its three severities, times `logit_scale`.

    Learned attribute: `text_SCD_`, one L2-normalised text embedding per site and severity.
    """

    def __init__(self, logit_scale: float) -> None:
        self.logit_scale = logit_scale

    def fit(self, text_SCD: NDArray[Any]) -> "ZeroShotHead":
        """Set the text embeddings (25, 3, D), each the L2-normalised mean of its prompts (`embed.embed_ensembles`)."""
        if text_SCD.shape[:2] != (len(SITES), _CLASSES):
            raise ValueError(f"text embeddings of shape {text_SCD.shape}: expected (25, 3, D), sites by severities")
        self.text_SCD_ = text_SCD
        return self

    def predict_log_proba(self, table: SiteTable, image_ND: NDArray[Any]) -> Floats:
        """Return (N, 3) for the sites of `table`, whose embeddings are `image_ND`."""
        log_prob_N3 = np.empty((len(table), _CLASSES))
        for site in np.unique(table.site_N):
            rows = table.site_N == site
            cosine = image_ND[rows].astype(np.float64) @ self.text_SCD_[site].T
            log_prob_N3[rows] = log_softmax(self.logit_scale * cosine, axis=1)
        return log_prob_N3

    def arrays(self) -> Arrays:
        """Return the learned attributes, as they are saved."""
        return {"logit_scale": np.array(self.logit_scale), "text_SCD": self.text_SCD_}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "ZeroShotHead":
        return cls(float(arrays["logit_scale"])).fit(arrays["text_SCD"])


class LinearProbe:
    """Multinomial logistic regression on frozen site embeddings, one per condition.

    Features: the embedding, centred and scaled to a root mean square norm of one, and the level, one-hot and hardly
    penalised (`LEVEL_PENALTY`), so that the regression can learn that L1-L2 is rarely severe even if the embedding
    tells little. Left and right share a model: right-sided crops are mirrored.

    The penalty is chosen by cross-validation over studies. The adapters were trained on these studies, so that their
    embeddings separate better than those of new studies will. The strongest penalty is therefore chosen whose loss
    is within one standard error of the lowest (paired by study; Breiman et al., 1984). If that one, or the one of the
    lowest loss, is at an end of `strengths`, the grid is extended.

    Learned attributes: `mean_D_`, `scale_`, and per condition `weight_KCF_`, `bias_KC_`, `strength_K_` (nan if the
    condition has fewer than two severities in training) and `inner_loss_K_`, the log loss of that cross-validation per
    row (nan without one): if it is much lower than the loss on held-out studies, the embeddings are over-fitted to the
    training studies. A severity that is missing from a condition in training,
    and a condition with fewer than two severities, have the column frequencies `prior_`.
    """

    def __init__(self, strengths: Sequence[float] = DEFAULT_STRENGTHS, folds: int = 4) -> None:
        self.strengths = tuple(sorted(strengths))
        self.folds = folds

    def fit(self, table: SiteTable, image_ND: NDArray[Any]) -> "LinearProbe":
        """Fit on the labelled rows. Raises ValueError if there are none."""
        keep = table.labelled_N
        if not keep.any():
            raise ValueError("no labelled training site has an image: the linear probe cannot be fitted")
        labelled, image_ND = table.take(keep), image_ND[keep].astype(np.float64)
        self.prior_ = ColumnPrior().fit(labelled)
        self.mean_D_: Floats = image_ND.mean(axis=0)
        norm = np.sqrt(((image_ND - self.mean_D_) ** 2).sum(axis=1).mean())
        self.scale_ = float(norm) if norm > 0 else 1.0

        feature_NF = self._features(labelled, image_ND)
        self.weight_KCF_: Floats = np.zeros((len(CONDITIONS), _CLASSES, feature_NF.shape[1]))
        self.bias_KC_: Floats = np.full((len(CONDITIONS), _CLASSES), -np.inf)
        self.strength_K_: Floats = np.full(len(CONDITIONS), np.nan)
        self.inner_loss_K_: Floats = np.full(len(CONDITIONS), np.nan)
        for condition in range(len(CONDITIONS)):
            rows = labelled.condition_N == condition
            if len(np.unique(labelled.severity_N[rows])) > 1:
                self._fit_condition(condition, feature_NF[rows], labelled.severity_N[rows], labelled.study_N[rows])
        return self

    def predict_log_proba(self, table: SiteTable, image_ND: NDArray[Any]) -> Floats:
        """Return (N, 3) for the sites of `table`, whose embeddings are `image_ND`."""
        feature_NF = self._features(table, image_ND.astype(np.float64))
        log_prior_N3 = np.log(self.prior_.predict_proba(table))
        log_prob_N3 = log_prior_N3.copy()
        for condition in range(len(CONDITIONS)):
            trained_C = np.isfinite(self.bias_KC_[condition])
            if trained_C.any():
                rows = table.condition_N == condition
                logits = (
                    feature_NF[rows] @ self.weight_KCF_[condition, trained_C].T + self.bias_KC_[condition, trained_C]
                )
                # Classes that are missing from training keep their prior's share; the others divide the rest.
                rest = np.logaddexp.reduce(log_prior_N3[rows][:, trained_C], axis=1, keepdims=True)
                log_prob_N3[np.ix_(rows, trained_C)] = log_softmax(logits, axis=1) + rest
        return log_prob_N3

    def arrays(self) -> Arrays:
        """Return the learned attributes, as they are saved."""
        return {
            "mean_D": self.mean_D_,
            "scale": np.array(self.scale_),
            "weight_KCF": self.weight_KCF_,
            "bias_KC": self.bias_KC_,
            "strength_K": self.strength_K_,
            "inner_loss_K": self.inner_loss_K_,
            "prior_SC": self.prior_.prob_SC_,
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "LinearProbe":
        probe = cls()
        probe.mean_D_, probe.scale_ = arrays["mean_D"], float(arrays["scale"])
        probe.weight_KCF_, probe.bias_KC_ = arrays["weight_KCF"], arrays["bias_KC"]
        probe.strength_K_, probe.inner_loss_K_ = arrays["strength_K"], arrays["inner_loss_K"]
        probe.prior_ = ColumnPrior()
        probe.prior_.prob_SC_ = arrays["prior_SC"]
        return probe

    def _features(self, table: SiteTable, image_ND: Floats) -> Floats:
        level_NL = np.eye(len(LEVELS))[table.level_N]
        return np.concatenate([(image_ND - self.mean_D_) / self.scale_, level_NL], axis=1)

    def _fit_condition(self, condition: int, feature_NF: Floats, severity_N: Ints, study_N: Ints) -> None:
        strength, inner_loss = self._chosen_strength(feature_NF, severity_N, study_N)
        self.inner_loss_K_[condition] = inner_loss
        level_penalty = LEVEL_PENALTY if np.isfinite(inner_loss) else 1 / strength
        [model] = _regressions(feature_NF, severity_N, [strength], level_penalty)
        classes, weight, bias = model
        self.strength_K_[condition] = strength
        self.weight_KCF_[condition, classes] = weight
        self.bias_KC_[condition, classes] = bias

    def _chosen_strength(self, feature_NF: Floats, severity_N: Ints, study_N: Ints) -> tuple[float, float]:
        """Return the inverse penalty and its cross-validated loss per row; nan if there are too few studies."""
        studies = len(np.unique(study_N))
        if studies < 2 * self.folds:
            return self.strengths[0], float("nan")
        loss_of: dict[float, Floats] = {}
        wanted: Sequence[float] = self.strengths
        while wanted:
            loss_SP = self._inner_losses(feature_NF, severity_N, study_N, wanted)
            loss_of |= dict(zip(wanted, loss_SP.T, strict=True))
            grid = sorted(loss_of)
            best, chosen = _best_and_chosen(np.stack([loss_of[strength] for strength in grid], axis=1))
            wanted = []
            if chosen == 0 and grid[0] > STRONGEST:
                wanted = [max(grid[0] / STEP, STRONGEST)]
            elif best == len(grid) - 1 and grid[-1] < WEAKEST:
                wanted = [min(grid[-1] * STEP, WEAKEST)]
        return grid[chosen], float(loss_of[grid[chosen]].sum() / len(severity_N))

    def _inner_losses(self, feature_NF: Floats, severity_N: Ints, study_N: Ints, strengths: Sequence[float]) -> Floats:
        """Return the summed losses (studies, strengths) of each study under fits on the other folds of studies."""
        studies, study_of_N = np.unique(study_N, return_inverse=True)
        loss_SP = np.zeros((len(studies), len(strengths)))
        for fit, held_out in GroupKFold(self.folds).split(feature_NF, groups=study_N):
            for point, model in enumerate(_regressions(feature_NF[fit], severity_N[fit], strengths)):
                loss_N = _held_out_losses(model, feature_NF[held_out], severity_N[held_out])
                np.add.at(loss_SP[:, point], study_of_N[held_out], loss_N)
        return loss_SP


def _best_and_chosen(loss_SP: Floats) -> tuple[int, int]:
    """Return the column of the lowest loss, and the first one within one standard error of it."""
    best = int(loss_SP.sum(axis=0).argmin())
    worse_SP = loss_SP - loss_SP[:, [best]]
    allowed_P = worse_SP.std(axis=0, ddof=1) / np.sqrt(len(loss_SP))
    return best, int(np.flatnonzero(worse_SP.mean(axis=0) <= allowed_P)[0])


#: Classes present, their weights (C, F) and biases (C,).
_Regression = tuple[Ints, Floats, Floats]


def _regressions(
    feature_NF: Floats, severity_N: Ints, strengths: Sequence[float], level_penalty: float = LEVEL_PENALTY
) -> list[_Regression]:
    """Fit one regression per inverse penalty, in the order given, each started from the one before."""
    classes, class_N = np.unique(severity_N, return_inverse=True)
    if len(classes) < 2:
        # A fold of a small set may have only one class, which then has the probability one.
        return [(classes, np.zeros((1, feature_NF.shape[1])), np.zeros(1))] * len(strengths)
    truth_CN = np.eye(len(classes))[:, class_N]
    design_NG = np.concatenate([feature_NF, np.ones((len(feature_NF), 1))], axis=1)
    curvature_GG = _mean_variance(truth_CN) * (design_NG.T @ design_NG)
    weight_CG = np.zeros((len(classes), design_NG.shape[1]))
    path = []
    for strength in strengths:
        penalty_G = np.full(design_NG.shape[1], 1 / strength)
        penalty_G[-1 - len(LEVELS) : -1], penalty_G[-1] = level_penalty, 0.0  # the last one is the bias's
        factor_GG = cholesky(curvature_GG + np.diag(penalty_G), lower=True)
        # With a weak penalty the data may be nearly separable; a fit that stops early is then only more regular.
        found = minimize(
            _penalised_loss,
            (weight_CG @ factor_GG).ravel(),
            args=(factor_GG, design_NG, truth_CN, penalty_G),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 300, "gtol": 1e-3},
        )
        weight_CG = _weights(found.x, factor_GG)
        path.append((classes, weight_CG[:, :-1].copy(), weight_CG[:, -1].copy()))
    return path


def _penalised_loss(
    parameters: Floats, factor_GG: Floats, design_NG: Floats, truth_CN: Floats, penalty_G: Floats
) -> tuple[float, Floats]:
    """Return the summed log loss plus half the penalties times the squared weights, and its gradient.

    The parameters are the weights (C, G) times the Cholesky factor of about the second derivatives, by which the
    search takes a sixth of the steps: the directions of embeddings differ a thousandfold in their variance.
    """
    weight_CG = _weights(parameters, factor_GG)
    logit_CN = weight_CG @ design_NG.T
    logit_CN -= logit_CN.max(axis=0)
    prob_CN = np.exp(logit_CN)
    sum_N = prob_CN.sum(axis=0)
    loss = np.log(sum_N).sum() - (logit_CN * truth_CN).sum() + (penalty_G * weight_CG**2).sum() / 2
    prob_CN /= sum_N
    by_weight_CG = (prob_CN - truth_CN) @ design_NG + penalty_G * weight_CG
    by_parameter_GC = solve_triangular(factor_GG, by_weight_CG.T, lower=True, check_finite=False)
    return float(loss), by_parameter_GC.T.ravel()


def _weights(parameters: Floats, factor_GG: Floats) -> Floats:
    """Return the weights (C, G), the last of which are the biases."""
    parameter_CG = parameters.reshape(-1, len(factor_GG))
    weight_CG: Floats = solve_triangular(factor_GG, parameter_CG.T, lower=True, trans="T", check_finite=False).T
    return weight_CG


def _mean_variance(truth_CN: Floats) -> float:
    """Return the variance of a class among the rows, averaged over the classes."""
    share_C = truth_CN.mean(axis=1)
    return float((share_C * (1 - share_C)).mean())


def _held_out_losses(model: _Regression, feature_NF: Floats, severity_N: Ints) -> Floats:
    """Return -ln p of each row's true class; a class that is missing from this fit has the probability 0.001."""
    classes, weight, bias = model
    log_prob_N3 = np.full((len(severity_N), _CLASSES), np.log(1e-3))
    log_prob_N3[:, classes] = log_softmax(feature_NF @ weight.T + bias, axis=1)
    return -log_prob_N3[np.arange(len(severity_N)), severity_N]
