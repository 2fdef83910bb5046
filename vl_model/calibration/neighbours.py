"""What the other sites of a study say about a site: their logits, as further features of a calibrator.

Legend: N rows, S studies, X = 25 sites, J = 7 neighbours, 2 logits against Normal/Mild.
"""

import numpy as np

from data_prep.sites import SITES, Site
from vl_model.data.site_table import CONDITIONS, LEVELS, SITE_INDEX, Floats, SiteTable

NEIGHBOURS = ("other side", "level above", "level below", *(condition.words for condition in CONDITIONS), "study mean")


class Neighbours:
    """The logits of a site's neighbours, each as its deviation from the mean of its column.

    The neighbours are the other side, the levels above and below, each other condition at the level (of the same side
    or, from or to the spinal canal, the mean of both sides), and the mean of the study. A neighbour that does not
    exist, or that nobody predicted, says nothing: zero.

    Learned attribute: `mean_X2_`, the mean logits of each of the 25 columns.
    """

    def fit(self, odds_N2: Floats, table: SiteTable) -> "Neighbours":
        """Learn the means of the columns; a column without any row has none, and its deviations are zero."""
        count_X = np.maximum(np.bincount(table.site_N, minlength=len(SITES)), 1)
        total_X2 = np.stack([np.bincount(table.site_N, odds_N, len(SITES)) for odds_N in odds_N2.T], axis=1)
        self.mean_X2_: Floats = total_X2 / count_X[:, None]
        return self

    def features(self, odds_N2: Floats, table: SiteTable) -> Floats:
        """Return (N, J, 2) for the rows of whole studies."""
        studies, study_N = np.unique(table.study_N, return_inverse=True)
        deviation_SX2 = np.zeros((len(studies), len(SITES), 2))
        deviation_SX2[study_N, table.site_N] = odds_N2 - self.mean_X2_[table.site_N]
        known_SX = np.zeros((len(studies), len(SITES)))
        known_SX[study_N, table.site_N] = 1.0
        feature_SXJ2 = np.einsum("xjy,syc->sxjc", _WEIGHT_XJX, deviation_SX2)
        feature_SXJ2[:, :, -1] *= (len(SITES) / known_SX.sum(axis=1))[:, None, None]  # the mean of the rows there are
        features: Floats = feature_SXJ2[study_N, table.site_N]
        return features


def _neighbours_of(site: Site) -> list[list[Site]]:
    """Return the sites that each neighbour of a site is the mean of; none if there is no such neighbour."""
    other_side = [other for other in SITES if _same(site, other, "condition", "level") and other != site]
    beside = [
        [other for other in SITES if _same(site, other, "condition", "side") and _step(site, other) == step]
        for step in (-1, 1)
    ]
    conditions = [
        [
            other
            for other in SITES
            if other.condition is condition
            and condition is not site.condition
            and other.level is site.level
            and (other.side is site.side or None in (other.side, site.side))
        ]
        for condition in CONDITIONS
    ]
    return [other_side, *beside, *conditions, list(SITES)]


def _same(one: Site, other: Site, *names: str) -> bool:
    return all(getattr(one, name) is getattr(other, name) for name in names)


def _step(site: Site, other: Site) -> int:
    return LEVELS.index(other.level) - LEVELS.index(site.level)


def _weights() -> Floats:
    """Return the weight of each site (the last axis) in each neighbour of each site: (25, J, 25)."""
    weight_XJX = np.zeros((len(SITES), len(NEIGHBOURS), len(SITES)))
    for row, site in enumerate(SITES):
        for number, others in enumerate(_neighbours_of(site)):
            for other in others:
                weight_XJX[row, number, SITE_INDEX[other]] = 1 / len(others)
    return weight_XJX


_WEIGHT_XJX = _weights()
