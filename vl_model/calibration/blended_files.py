"""Files of predictions of the same studies as one array, for a calibrator that blends them.

Legend: N rows (25 sites of each study), F files, K = 3 conditions, 3 severities.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.sites import SITES
from vl_model.calibration.calibrator import log_odds
from vl_model.data.site_table import CONDITIONS, Bools, Floats, SiteTable, full_table
from vl_model.scoring.prediction_table import PredictionTable

#: Probabilities below this are raised to it: the logarithm of zero would outweigh everything.
_SMALLEST = 1e-6


@dataclass(frozen=True)
class BlendedFiles:
    """All 25 sites of each study that a file predicts.

    log_prob_NF3: of each file; where a file has no prediction, the mean log odds of the others stand in. covered_N:
    whether any file predicts the site; the others have no meaning. covers_KF: whether the file predicts a site of the
    condition. given_N3: the mean of what the metric reads of each file (`PredictionTable.given_N3`).
    """

    table: SiteTable
    log_prob_NF3: Floats
    covered_N: Bools
    covers_KF: Bools
    given_N3: Floats

    @property
    def written_N(self) -> Bools:
        """Return the sites of the conditions that some file predicts."""
        return np.isin(self.table.condition_N, np.unique(self.table.condition_N[self.covered_N]))


def blended_files(files: Sequence[PredictionTable], truth: SiteTable) -> BlendedFiles:
    """Put files together, for the studies that any of them predicts; severities are those of `truth`."""
    studies = sorted(set().union(*(file.study_N.tolist() for file in files)))
    table = full_table(studies, truth)
    odds_NF2, given_N3 = np.full((len(table), len(files), 2), np.nan), np.zeros((len(table), 3))
    for number, file in enumerate(files):
        row_N = np.searchsorted(studies, file.study_N) * len(SITES) + file.site_N
        given_N3[row_N] += file.given_N3
        odds_NF2[row_N, number] = log_odds(np.log(np.maximum(file.prob_N3, _SMALLEST)))[:, 0]
    known_NF1 = np.isfinite(odds_NF2[..., :1])
    count_N11 = known_NF1.sum(axis=1, keepdims=True)
    mean_N12 = np.nansum(odds_NF2, axis=1, keepdims=True) / np.maximum(count_N11, 1)
    odds_NF2 = np.where(known_NF1, odds_NF2, mean_N12)
    log_prob_NF3 = np.concatenate([np.zeros_like(odds_NF2[..., :1]), odds_NF2], axis=-1)
    given_N3 /= np.maximum(count_N11[:, 0], 1)
    covers_KF = np.stack([known_NF1[table.condition_N == index].any(axis=(0, 2)) for index in range(len(CONDITIONS))])
    return BlendedFiles(table, log_prob_NF3, count_N11[:, 0, 0] > 0, covers_KF, given_N3)
