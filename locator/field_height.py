"""How high the lumbar spine lies in the field of view: evidence for the count of levels beside the heatmaps.

Whoever plans a sagittal lumbar series centres its field on the middle of the lumbar spine. A chain of levels that lies
one level too high lies a tenth of the field too high. The height of a chain is that of its middle above the middle of
the field, as a share of the field's height. How heights are distributed is learned from marked studies.

Dimensions: S shifts of a chain (`level_evidence`), N = 25 sites, K studies.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.geometry import Array, Frame
from data_prep.placement.pose import ONE_LEVEL_MM, fit_pose
from locator.marked_studies import MarkedStudy

#: Heights of fewer studies are not described by a distribution.
MIN_STUDIES = 20
#: Degrees of freedom: the tails are so heavy that a field which was planned otherwise does not outweigh clear heatmaps.
DEGREES = 5
#: The smallest deviation, as a share of the field: other hospitals plan less evenly than synthetic cohorts.
MIN_DEVIATION = 0.03
#: A longer field shows more than the lumbar spine and is not centred on it, mm.
LONGEST_FIELD_MM = 450.0


@dataclass(frozen=True)
class FieldHeight:
    """The distribution of the height of marked spines in their fields: Student's t.

    Attributes:
        mean: The mean height, as a share of the field's height; positive is above the middle of the field.
        deviation: The standard deviation of the heights. It is the scale of the t distribution, whose own deviation is
            1.29 times as large: fields of other hospitals may vary more.
        studies: The number of studies.
    """

    mean: float
    deviation: float
    studies: int

    @property
    def is_valid(self) -> bool:
        """Whether its numbers are possible."""
        return bool(np.isfinite([self.mean, self.deviation]).all()) and self.deviation > 0 and self.studies > 0

    def log_density(self, height: Array) -> Array:
        """Return the logarithm of the density of heights, relative to its maximum; 0 for an unknown height (NaN)."""
        distance = (height - self.mean) / self.deviation
        result: Array = -(DEGREES + 1) / 2 * np.log1p(distance**2 / DEGREES)
        return np.where(np.isnan(height), 0.0, result)

    def to_json(self) -> dict[str, Any]:
        """Return its numbers, as `read_field_height` reads them."""
        return {"mean": round(self.mean, 5), "deviation": round(self.deviation, 5), "studies": self.studies}


def read_field_height(content: dict[str, Any] | None) -> FieldHeight | None:
    """Read what `FieldHeight.to_json` returned; None for None.

    Raises:
        KeyError, TypeError, ValueError: The content is damaged.
    """
    if content is None:
        return None
    height = FieldHeight(float(content["mean"]), float(content["deviation"]), int(content["studies"]))
    if not height.is_valid:
        raise ValueError(f"field_height is {content}; its numbers should be finite, the last two positive")
    return height


def learn_field_height(studies: Sequence[MarkedStudy], processed: Path, shape_N3: Array) -> FieldHeight | None:
    """Learn the distribution of heights from marked studies; None if it would be of fewer than `MIN_STUDIES`.

    Args:
        studies: The studies. One whose marks are all of one level or fit no plausible pose, or whose fields are all
            longer than a lumbar one, tells nothing.
        processed: The folder ``processed_data`` that they are from.
        shape_N3: The mean spine, which is aligned with the marks: the middle of a spine does not depend on which of its
            sites are marked.

    Raises:
        ValueError: A line of slices.csv is damaged.
    """
    found = []
    for study in studies:
        marked_mm = study.position_N3[np.isfinite(study.position_N3[:, 2]), 2]
        if not len(marked_mm) or np.ptp(marked_mm) <= ONE_LEVEL_MM:
            continue
        pose = fit_pose(shape_N3, study.position_N3)
        if pose.is_plausible:
            found.append(heights(study.sagittal_frames(processed), pose.apply(shape_N3)))
    known = np.array(found)[np.isfinite(found)]
    if len(known) < MIN_STUDIES:
        return None
    return FieldHeight(float(known.mean()), max(float(known.std(ddof=1)), MIN_DEVIATION), len(known))


def heights(series: Sequence[Collection[Frame]], position_SN3: Array) -> Array:
    """Return the height of each chain in the fields of sagittal series: the mean over the series.

    Args:
        series: The frames of each series.
        position_SN3: The positions of the sites of each chain, (..., N, 3), mm.

    Returns:
        Shares of the height of a field, (...); NaN if there is no series, or every one has a longer field than a lumbar
        series.
    """
    middle_S = position_SN3[..., 2].mean(axis=-1)
    fields = [_field(frames) for frames in series if frames]
    own = [(middle_S - middle_mm) / height_mm for middle_mm, height_mm in fields if height_mm <= LONGEST_FIELD_MM]
    return np.mean(own, axis=0) if own else np.full(middle_S.shape, np.nan)


def _field(frames: Collection[Frame]) -> tuple[float, float]:
    """Return the patient's z of the middle of a series, and the length of its slices along the patient, mm."""
    middles = [frame.centre_mm[2] for frame in frames]
    return float(min(middles) + max(middles)) / 2, next(iter(frames)).length_mm
