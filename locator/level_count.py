"""What a study shows of the count of its levels, which starts at the sacrum."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from data_prep.geometry import Array
from data_prep.placement.atlas import SACRUM_MM, UNSEEN_SACRUM_FACTOR
from data_prep.sites import SITES, Condition, Level, Site
from locator.level_evidence import NO_PRIOR_S, UNSHIFTED, LevelCalibration
from locator.slices import DARK_GREY, SliceImage

#: Expected error from miscounted levels if no sagittal slice shows the spine. Levels then lie at their usual height in
#: the volume, and one phantom study in twelve was off by a level (35 mm).
UNSEEN_SPINE_ERROR_MM = 11.0
#: The same if the images end at the lowest disc. The sacrum, from which levels are counted, is then not visible and the
#: lowest disc may be another one; the error is so large that a locator without level confidence leaves all sites to the
#: atlas.
UNSEEN_SACRUM_ERROR_MM = 25.0
#: Distance of neighbouring levels.
LEVEL_MM = 35.0
#: Level confidence if no sagittal slice shows the spine: one phantom study in twelve was off by a level.
UNSEEN_SPINE_CONFIDENCE = 11 / 12
#: Level confidence of the unmarked sites of a study with marks: the marks fix the levels.
MARKED_CONFIDENCE = 0.99
LOWEST_CANAL = SITES.index(Site(Condition.SPINAL_CANAL_STENOSIS, None, Level.L5_S1))


@dataclass(frozen=True)
class LevelCount:
    """What a study shows of the count of its levels.

    Attributes:
        error_mm: The expected error from miscounted levels, if no level confidence tells it.
        score_S: The score of each shift of the chain (`level_evidence`); None if the confidence does not depend on it.
        fixed_confidence: The level confidence in that case.
        prior_S: The logarithm of the prior probability of each shift, by its height in the field of view.
        chosen: The index of the shift that was chosen.
    """

    error_mm: float
    score_S: Array | None = None
    fixed_confidence: float | None = None
    prior_S: Array = field(default_factory=lambda: NO_PRIOR_S)
    chosen: int = UNSHIFTED

    def confidence(self, calibration: LevelCalibration | None) -> float | None:
        """Return the probability that the levels are counted rightly; None if it was never calibrated."""
        if calibration is None:
            return None
        if self.score_S is None:
            return self.fixed_confidence
        # A calibration with direction was fitted to complete studies only.
        factor = UNSEEN_SACRUM_FACTOR if calibration.has_direction and self.error_mm > 0 else 1.0
        return factor * calibration.confidence(self.score_S, self.prior_S, self.chosen)

    def untold_error_mm(self, calibration: LevelCalibration | None) -> float:
        """Return the expected error from miscounted levels that is not told by the level confidence."""
        return self.error_mm if calibration is None else 0.0


def level_count_error_mm(sagittal: Sequence[SliceImage], position_N3: Array) -> float:
    """Return the expected error from miscounted levels; levels are counted upwards from the sacrum.

    Args:
        sagittal: The sagittal images that show the spine; not empty.
        position_N3: Positions of `SITES`, mm.
    """
    lowest = min(_lowest_visible_mm(image) for image in sagittal)
    return 0.0 if position_N3[LOWEST_CANAL, 2] - lowest >= SACRUM_MM else UNSEEN_SACRUM_ERROR_MM


def _lowest_visible_mm(image: SliceImage) -> float:
    """Return the patient's z of the lowest row that is not dark; rows outside the network's grid do not count."""
    rows = np.flatnonzero((image.grey_3HW[1] > DARK_GREY).any(axis=1))
    return float(image.frame.to_patient(((image.frame.shape[1] - 1) / 2, rows[-1]))[2]) if len(rows) else np.inf
