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
from scipy.special import log_softmax

from data_prep.sites import SITES, Severity
from vl_model.data.site_table import CONDITIONS, LEVELS, Floats, Ints, SiteTable
from vl_model.evaluation.penalty_search import PenaltySearch
from vl_model.scoring.priors import ColumnPrior

#: What a head saves: arrays by name, which are read without pickle.
Arrays = Mapping[str, NDArray[Any]]

_CLASSES = len(Severity)
#: Inverse penalties, from strong to weak, for features of norm one.
DEFAULT_STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


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
        classes, class_N = np.unique(severity_N, return_inverse=True)
        search = PenaltySearch(feature_NF, class_N, study_N, self.folds)
        if search.folds:
            strength, inner_loss, weight_CG = search.choose(self.strengths)
        else:
            strength, inner_loss = self.strengths[0], float("nan")
            weight_CG = search.fit(strength, level_penalty=1 / strength)
        self.strength_K_[condition], self.inner_loss_K_[condition] = strength, inner_loss
        self.weight_KCF_[condition, classes], self.bias_KC_[condition, classes] = weight_CG[:, :-1], weight_CG[:, -1]
