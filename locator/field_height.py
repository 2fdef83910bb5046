"""Where the lumbar spine lies in the field of view: the second evidence for the count of levels.

Whoever plans a sagittal lumbar series centres its field on the middle of the lumbar spine. A chain of levels that lies
one level too high lies a tenth of the field too high. The height of a chain is that of its middle above the middle of
the field, as a share of the field's height. How heights are distributed is measured on marked studies.

Dimensions: S shifts of a chain (`level_evidence`), N = 25 sites, K studies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.geometry import Array
from data_prep.placement.template_matching import volume_middle
from data_prep.studies.studies import Series
from locator.slices import SliceImage

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
        deviation: The standard deviation of the heights.
        studies: The number of studies.
    """

    mean: float
    deviation: float
    studies: int

    @property
    def is_valid(self) -> bool:
        """Whether its numbers are possible."""
        return bool(np.isfinite(self.mean)) and self.deviation > 0 and self.studies >= MIN_STUDIES

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
        raise ValueError(f"the height in the field is {content}; it should be finite, of {MIN_STUDIES} studies or more")
    return height


def fit_field_height(height_K: Array) -> FieldHeight | None:
    """Return the distribution of heights, of which NaN are left out; None if it is of too few studies."""
    known = height_K[np.isfinite(height_K)]
    if len(known) < MIN_STUDIES:
        return None
    return FieldHeight(float(known.mean()), max(float(known.std(ddof=1)), MIN_DEVIATION), len(known))


def heights(images: Sequence[SliceImage], position_SN3: Array) -> Array:
    """Return the height of each chain in the fields of sagittal images, (S,): the mean over their series.

    Args:
        images: The images.
        position_SN3: The positions of the sites of each chain, mm.

    Returns:
        Shares of the height of a field; NaN if every series has a longer field than a lumbar one.
    """
    middle_S = position_SN3[..., 2].mean(axis=-1)
    series = {image.slices.series.series_id: image.slices.series for image in images}
    fields = [(volume_middle(one)[2], field_height_mm(one)) for _, one in sorted(series.items())]
    own = [(middle_S - middle) / height for middle, height in fields if height <= LONGEST_FIELD_MM]
    return np.mean(own, axis=0) if own else np.full(middle_S.shape, np.nan)


def field_height_mm(series: Series) -> float:
    """Return the length of the edge of a series' slices that is nearest to the patient's z axis, mm."""
    frame = next(iter(series.frames.values()))
    rows, columns = frame.shape
    down, across = abs(frame.column_direction[2]), abs(frame.row_direction[2])
    return rows * frame.spacing_mm[0] if down >= across else columns * frame.spacing_mm[1]
