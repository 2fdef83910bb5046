"""Draw hidden continuous grades of the 25 sites, and the labels that a reader would give them.

A grade is a number in [0, 3): below 1 Normal/Mild, below 2 Moderate, from 2 on Severe. Grades come from 25 correlated
Gaussian latents with thresholds at the label frequencies of the RSNA 2024 set, so that a synthetic cohort has the
prior of that set and its correlations across levels, sides and conditions.
"""

from collections.abc import Mapping
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from data_prep.sites import SITES, Condition, Level, Severity, Site

Grades = dict[Site, float]

#: Normal/Mild, Moderate and Severe in % of studies, from L1-L2 to L5-S1; the rest is unlabelled.
LABEL_PERCENT: dict[Condition, tuple[tuple[float, float, float], ...]] = {
    Condition.SPINAL_CANAL_STENOSIS: (
        (95.5, 3.4, 1.1),
        (89.6, 7.6, 2.7),
        (82.1, 11.6, 6.2),
        (75.0, 12.0, 12.9),
        (96.4, 2.6, 1.0),
    ),
    Condition.NEURAL_FORAMINAL_NARROWING: (
        (96.6, 3.2, 0.1),
        (90.7, 8.7, 0.6),
        (77.1, 20.8, 2.0),
        (61.0, 31.8, 7.1),
        (63.1, 26.3, 10.4),
    ),
    Condition.SUBARTICULAR_STENOSIS: (
        (85.6, 4.7, 1.4),
        (78.7, 12.9, 4.2),
        (67.0, 23.0, 9.8),
        (44.9, 31.6, 23.3),
        (71.3, 20.7, 7.4),
    ),
}

# Latent correlations at one level: canal, foramina left and right, recesses left and right, the order of SITES. They
# are chosen so that the *labels*, whose ties weaken correlations, have the rank correlations of the real set.
_COLUMN_CORRELATION = np.array(
    [
        [1.00, 0.40, 0.40, 0.78, 0.78],
        [0.40, 1.00, 0.47, 0.42, 0.32],
        [0.40, 0.47, 1.00, 0.32, 0.42],
        [0.78, 0.42, 0.32, 1.00, 0.66],
        [0.78, 0.32, 0.42, 0.66, 1.00],
    ]
)
#: Latent correlation of one condition at neighbouring levels; it decays geometrically.
_LEVEL_CORRELATION = 0.62

# The range of grades within each class. It leaves gaps at the thresholds, because readers agree on most sites.
_CLASS_RANGE = {
    Severity.NORMAL_MILD: (0.0, 0.85),
    Severity.MODERATE: (1.1, 1.85),
    Severity.SEVERE: (2.1, 2.95),
}
#: The rank within Normal/Mild is raised to this power, because most sites of this class are plainly normal.
_NORMAL_SKEW = 1.6

#: Standard deviation of a reader's grade about the true one; only grades near a threshold change their severity.
READER_SCATTER = 0.07
#: In addition, this share of labels is a neighbouring severity, independently of the grade: about 2.5 % of all. The
#: share is small for Normal/Mild, which also keeps the frequencies of the labels near the true ones.
LABEL_NOISE = {Severity.NORMAL_MILD: 0.012, Severity.MODERATE: 0.08, Severity.SEVERE: 0.06}


def class_probabilities(site: Site) -> npt.NDArray[np.float64]:
    """Return the probabilities of Normal/Mild, Moderate and Severe of a site, given that it is labelled."""
    percent = np.array(LABEL_PERCENT[site.condition][list(Level).index(site.level)])
    return percent / percent.sum()


def latent_correlation() -> npt.NDArray[np.float64]:
    """Return the correlation matrix of the 25 latents, (25, 25), in the order of SITES."""
    steps = np.abs(np.subtract.outer(np.arange(len(Level)), np.arange(len(Level))))
    return np.kron(_COLUMN_CORRELATION, _LEVEL_CORRELATION**steps)


@cache
def _mixing() -> npt.NDArray[np.float64]:
    """Return the Cholesky factor L of the correlation, L L' = correlation: it turns independent numbers to latents."""
    return np.linalg.cholesky(latent_correlation()).astype(np.float64)


def draw_grades(generator: np.random.Generator) -> Grades:
    """Draw the 25 grades of one patient."""
    latent = _mixing() @ generator.standard_normal(len(SITES))
    return {site: _grade_at_rank(site, rank) for site, rank in zip(SITES, ndtr(latent).tolist(), strict=True)}


def forced_grades(severities: Mapping[Site, Severity], generator: np.random.Generator) -> Grades:
    """Draw grades of the given severities; a site that is not named is Normal/Mild."""
    return {
        site: grade_within(severities.get(site, Severity.NORMAL_MILD), float(rank))
        for site, rank in zip(SITES, generator.uniform(size=len(SITES)), strict=True)
    }


def grade_within(severity: Severity, rank: float) -> float:
    """Return the grade at a rank in [0, 1] among the sites of one severity."""
    low, high = _CLASS_RANGE[severity]
    share = rank**_NORMAL_SKEW if severity is Severity.NORMAL_MILD else rank
    return float(low + (high - low) * share)


def severity_of(grade: float) -> Severity:
    """Return the true severity of a grade."""
    return Severity(int(np.clip(np.floor(grade), 0, 2)))


def read_label(grade: float, generator: np.random.Generator) -> Severity:
    """Draw the severity that a reader assigns to a grade: with scatter, and sometimes a neighbouring severity."""
    scatter, chance, direction = generator.standard_normal(), generator.uniform(), generator.choice((-1, 1))
    severity = severity_of(grade)
    if chance >= LABEL_NOISE[severity]:
        return severity_of(max(grade + READER_SCATTER * scatter, 0.0))
    return Severity.MODERATE if severity is not Severity.MODERATE else Severity(severity + int(direction))


def _grade_at_rank(site: Site, rank: float) -> float:
    """Return the quantile `rank` of a site's grades over all patients."""
    normal, moderate, severe = _class_shares(site)
    if rank < normal:
        return grade_within(Severity.NORMAL_MILD, rank / normal)
    if rank < normal + moderate:
        return grade_within(Severity.MODERATE, (rank - normal) / moderate)
    return grade_within(Severity.SEVERE, min((rank - normal - moderate) / severe, 1.0))


@cache
def _class_shares(site: Site) -> tuple[float, float, float]:
    normal, moderate, severe = class_probabilities(site).tolist()
    return normal, moderate, severe
