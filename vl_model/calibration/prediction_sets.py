"""Prediction sets: the grades that a site may have, so that of the sites of each grade a stated share is covered.

A set is fitted by condition and grade (label-conditional conformal prediction: Vovk, Gammerman and Shafer, 2005,
section 4.5): a grade belongs to the set of a site if the site's probability of it is at least what all but a share
`alpha` of the graded sites of this condition and grade have. With n graded sites, the threshold is their k-th smallest
probability of their own grade, k = floor((n + 1) alpha): a further site of that grade is then covered with a
probability of at least 1 - alpha, whatever the probabilities are worth. With one threshold for all grades, the many
normal sites would set it, and two thirds of the severe ones would be covered.

Grades are ordered, and a set has no gap: Moderate belongs to it also where both others do. The threshold of Moderate
counts such sites as covered.

If k is zero, a grade has too few sites for its coverage to be bounded: it then belongs to every set. A set is empty
where a site is less typical than all but `alpha` of the graded sites of every grade, which happens if grades are told
apart with fewer errors than `alpha`. It is never filled up, because the coverage would then be more than is stated.

Legend: N rows, M graded rows, K = 3 conditions, C = 3 severities.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.sites import Severity
from vl_model.data.site_table import CONDITIONS, Floats, Ints, SiteTable

#: The stated shares, in percent. Columns and figures are named after them.
SET_LEVELS = (90, 95)
#: Every grade, as bits: what is known of a site without an image.
ALL_GRADES = 0b111
#: How an empty set is written.
NO_GRADE = "none"
Bits = NDArray[np.uint8]


def set_column(level: int) -> str:
    """Return the name of the column of the sets at one level: ``set_90``."""
    return f"set_{level}"


def fewest_sites(level: int) -> int:
    """Return how many graded sites of a grade bound its coverage at a level: 9 at 90 %, 19 at 95 %.

    >>> fewest_sites(90), fewest_sites(95)
    (9, 19)
    """
    return next(n for n in range(1, 1000) if _rank(n, level) > 0)


class PredictionSets:
    """The thresholds of each level, condition and grade.

    Learned attributes: `threshold_KC_`, level -> (K, C), zero where the grade belongs to every set; `sites_KC_`, the
    number of graded sites of each condition and grade.
    """

    def fit(self, prob_N3: Floats, table: SiteTable) -> "PredictionSets":
        """Fit on calibrated probabilities of the labelled rows, which no calibrator has learned from.

        A condition without a labelled row keeps every grade in its sets.
        """
        known = table.take(table.labelled_N)
        prob_M3 = prob_N3[table.labelled_N]
        groups = [known.condition_N == index for index in range(len(CONDITIONS))]
        self.sites_KC_: Ints = np.array(
            [np.bincount(known.severity_N[rows], minlength=len(Severity)) for rows in groups]
        )
        self.threshold_KC_: dict[int, Floats] = {
            level: np.array([_thresholds(prob_M3[rows], known.severity_N[rows], level) for rows in groups])
            for level in SET_LEVELS
        }
        return self

    def sets(self, prob_N3: Floats, table: SiteTable, level: int) -> Bits:
        """Return the grades (N,) that each site may have, as bits: 1 Normal/Mild, 2 Moderate, 4 Severe."""
        is_in_N3 = prob_N3 >= self.threshold_KC_[level][table.condition_N]
        is_in_N3[:, Severity.MODERATE] |= is_in_N3[:, Severity.NORMAL_MILD] & is_in_N3[:, Severity.SEVERE]
        return np.asarray(is_in_N3 @ np.array([1, 2, 4]), dtype=np.uint8)

    def always_in(self, level: int) -> dict[str, list[str]]:
        """Return, by condition that has graded sites, the grades that are in every set because they have too few."""
        return {
            condition.value: [grade.key for grade in Severity if _rank(int(sites_C[grade]), level) == 0]
            for condition, sites_C in zip(CONDITIONS, self.sites_KC_, strict=True)
            if sites_C.sum()
        }

    def as_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads, as plain values."""
        thresholds = {str(level): found_KC.tolist() for level, found_KC in self.threshold_KC_.items()}
        return {"thresholds": thresholds, "sites": self.sites_KC_.tolist()}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "PredictionSets":
        """Read saved thresholds. Raises KeyError, TypeError or ValueError if they are not such."""
        found = cls()
        found.sites_KC_ = np.array(saved["sites"], dtype=np.int64)
        found.threshold_KC_ = {
            level: np.array(saved["thresholds"][str(level)], dtype=np.float64) for level in SET_LEVELS
        }
        shape = (len(CONDITIONS), len(Severity))
        for array in (found.sites_KC_, *found.threshold_KC_.values()):
            if array.shape != shape or not np.isfinite(array).all():
                raise ValueError(f"prediction sets of the shape {array.shape}, expected finite numbers in {shape}")
        return found


def cross_fitted_sets(prob_N3: Floats, table: SiteTable, group_of: Mapping[int, int]) -> dict[int, Bits]:
    """Return level -> the sets (N,) of each row by thresholds that were fitted without its study.

    group_of: the group of each labelled study (`cross_fit.study_groups`). Thresholds of all groups together make the
    sets of the other studies.
    """
    group_N = np.array([group_of.get(study, -1) for study in table.study_N.tolist()], dtype=np.int64)
    found = {level: np.zeros(len(table), dtype=np.uint8) for level in SET_LEVELS}
    for group in np.unique(group_N):
        rows = group_N == group
        fitted = PredictionSets().fit(prob_N3[~rows], table.take(~rows))
        for level in SET_LEVELS:
            found[level][rows] = fitted.sets(prob_N3[rows], table.take(rows), level)
    return found


def contains(set_N: Bits, severity_N: Ints) -> NDArray[np.bool_]:
    """Return whether each set has the row's grade; rows without a grade are not to be asked."""
    return (set_N >> severity_N.astype(np.uint8)) & 1 > 0


def set_sizes(set_N: Bits) -> Ints:
    """Return the number of grades in each set."""
    return np.bitwise_count(set_N).astype(np.int64)


def set_words(bits: int) -> str:
    """Return a set as it is written in tables.

    >>> set_words(0b110), set_words(0b001), set_words(0)
    ('moderate|severe', 'normal_mild', 'none')
    """
    return "|".join(grade.key for grade in Severity if bits >> grade & 1) or NO_GRADE


def _rank(sites: int, level: int) -> int:
    """Return which of the smallest probabilities is the threshold; 0 if none bounds the coverage."""
    return (sites + 1) * (100 - level) // 100


def _thresholds(prob_M3: Floats, severity_M: Ints, level: int) -> Floats:
    """Return the threshold of each grade (C,) for the graded rows of one condition."""
    threshold_C = np.zeros(len(Severity))
    for grade in (Severity.NORMAL_MILD, Severity.SEVERE):
        threshold_C[grade] = _smallest(prob_M3[severity_M == grade, grade], level)
    moderate_M3 = prob_M3[severity_M == Severity.MODERATE]
    both_M = (moderate_M3 >= threshold_C)[:, [Severity.NORMAL_MILD, Severity.SEVERE]].all(axis=1)
    own_M = np.where(both_M, np.inf, moderate_M3[:, Severity.MODERATE])
    # A rank among those that the others cover already leaves no need of a threshold: one is then never reached.
    threshold_C[Severity.MODERATE] = min(_smallest(own_M, level), 1.0 + 1e-9)
    return threshold_C


def _smallest(prob_M: Floats, level: int) -> float:
    rank = _rank(len(prob_M), level)
    return float(np.sort(prob_M)[rank - 1]) if rank else 0.0
