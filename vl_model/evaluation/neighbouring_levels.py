"""What the neighbouring levels say about a site that no image shows.

Legend: N rows, S studies, K = 3 conditions, X = 25 sites, 2 logits against Normal/Mild.
"""

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from data_prep.sites import SITES, Severity
from vl_model.calibration.calibrator import log_odds
from vl_model.data.site_table import CONDITIONS, SITE_INDEX, Bools, Floats, Ints, SiteTable
from vl_model.scoring.pulled_regression import log_proba

#: A pull of the weight towards zero, in nats: without many graded sites the neighbours say nothing.
_PULL = 10.0
#: Smaller probabilities count as this one.
_LEAST = 1e-6


def _adjacent_levels() -> Floats:
    """Return (X, X): 1 where the column is the same condition and side as the row, one level above or below."""
    adjacent_XX = np.zeros((len(SITES), len(SITES)))
    for site in SITES:
        for other in SITES:
            is_same = (site.condition, site.side) == (other.condition, other.side)
            steps = abs(list(type(site.level)).index(site.level) - list(type(site.level)).index(other.level))
            adjacent_XX[SITE_INDEX[site], SITE_INDEX[other]] = is_same and steps == 1
    return adjacent_XX


_ADJACENT_XX = _adjacent_levels()


class NeighbouringLevels:
    """Probabilities of a site from those of the levels above and below, of the same condition and side.

    The logits of the site are those of its column's frequencies, plus w times the mean deviation of its neighbours'
    logits from those of their columns. The weight w of each condition minimises the log loss of graded sites whose own
    image is left out of account, plus a pull towards zero: between 0, only the frequencies, and 1.

    Learned attribute: `weight_K_`.
    """

    def fit(self, prob_N3: Floats, imaged_N: Bools, prior_X3: Floats, table: SiteTable) -> "NeighbouringLevels":
        """Learn from calibrated probabilities of sites; labels of `table` count, and imaged neighbours."""
        self.weight_K_: Floats = np.zeros(len(CONDITIONS))
        prior_N2, deviation_N2, known_N = self._read(prob_N3, imaged_N, prior_X3, table)
        for condition in range(len(CONDITIONS)):
            rows = np.flatnonzero(known_N & table.labelled_N & (table.condition_N == condition))

            def loss(weight: float, rows: Ints = rows) -> float:
                log_prob_M3 = log_proba((prior_N2[rows] + weight * deviation_N2[rows]).T).T
                chosen_M = log_prob_M3[np.arange(len(rows)), table.severity_N[rows]]
                return float(_PULL * weight**2 / 2 - chosen_M.sum())

            if len(rows):
                found = minimize_scalar(loss, bounds=(0.0, 1.0), method="bounded", options={"xatol": 1e-4})
                self.weight_K_[condition] = found.x if loss(found.x) < loss(0.0) else 0.0
        return self

    def predict_proba(self, prob_N3: Floats, imaged_N: Bools, prior_X3: Floats, table: SiteTable) -> Floats:
        """Return (N, 3) for every row, whether an image shows it or not; of whole studies."""
        prior_N2, deviation_N2, _ = self._read(prob_N3, imaged_N, prior_X3, table)
        probabilities: Floats = np.exp(log_proba((prior_N2 + self.weight_K_[table.condition_N, None] * deviation_N2).T))
        return probabilities.T

    def speaks_for(self, imaged_N: Bools, table: SiteTable) -> Bools:
        """Return whether each row has an imaged neighbour that says something about it."""
        no_prior_X3 = np.full((len(SITES), len(Severity)), 1 / len(Severity))
        _, _, known_N = self._read(no_prior_X3[table.site_N], imaged_N, no_prior_X3, table)
        speaks: Bools = known_N & (self.weight_K_[table.condition_N] > 0)
        return speaks

    def as_list(self) -> list[float]:
        """Return the weights as plain values for JSON."""
        return [float(weight) for weight in self.weight_K_]

    @classmethod
    def from_list(cls, saved: Any) -> "NeighbouringLevels":
        """Return the weights of `as_list`; None, of an earlier version, has the weight zero. Raises ValueError."""
        levels = cls()
        levels.weight_K_ = np.zeros(len(CONDITIONS)) if saved is None else np.array(saved, dtype=np.float64)
        if (
            levels.weight_K_.shape != (len(CONDITIONS),)
            or not ((levels.weight_K_ >= 0) & (levels.weight_K_ <= 1)).all()
        ):
            raise ValueError(f"weights of neighbouring levels {saved!r}: expected three numbers between 0 and 1")
        return levels

    @staticmethod
    def _read(prob_N3: Floats, imaged_N: Bools, prior_X3: Floats, table: SiteTable) -> tuple[Floats, Floats, Bools]:
        """Return each row's logits of its column, mean deviation of its imaged neighbours, and whether it has any."""
        prior_X2 = log_odds(np.log(prior_X3))[:, 0]
        studies, study_N = np.unique(table.study_N, return_inverse=True)
        deviation_SX2 = np.zeros((len(studies), len(SITES), 2))
        known_SX = np.zeros((len(studies), len(SITES)))
        rows = np.flatnonzero(imaged_N)
        site_M = table.site_N[rows]
        deviation_SX2[study_N[rows], site_M] = (
            log_odds(np.log(np.maximum(prob_N3[rows], _LEAST)))[:, 0] - prior_X2[site_M]
        )
        known_SX[study_N[rows], site_M] = 1.0
        count_SX = known_SX @ _ADJACENT_XX
        mean_SX2 = np.einsum("xy,syc->sxc", _ADJACENT_XX, deviation_SX2) / np.maximum(count_SX, 1.0)[..., None]
        return prior_X2[table.site_N], mean_SX2[study_N, table.site_N], count_SX[study_N, table.site_N] > 0
