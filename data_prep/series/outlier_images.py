"""Find images that differ from the others in a series folder: of another examination, or with outlying values."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.dicom.pixels import Pixels
from data_prep.series.windows import WINDOW_PERCENTILES, visible

#: Share of the images in a folder that must have one identifier before the others count as foreign.
MOST = 0.75
#: An image is an outlier if its values lie beyond the usual range of its series by this many times that range.
OUTLIER_FACTOR = 8.0
#: The range of an image is estimated from a grid of about this many pixels per side.
_SAMPLES_PER_SIDE = 64


@dataclass(frozen=True)
class ValueRange:
    """The range of an image's values (`WINDOW_PERCENTILES`, estimated), and the rescale slope of its header."""

    low: float
    high: float
    slope: float


def value_range(image: Pixels, slope: float) -> ValueRange:
    """Estimate the range of an image from pixels on a grid; (0, 0) if all of them are padding."""
    rows, columns = (max(1, length // _SAMPLES_PER_SIDE) for length in image.shape)
    ordered = np.sort(visible(image[::rows, ::columns]), axis=None)
    if not ordered.size:
        return ValueRange(0.0, 0.0, slope)
    low, high = (float(ordered[round((ordered.size - 1) * part / 100)]) for part in WINDOW_PERCENTILES)
    return ValueRange(low, high, slope)


def outlier_ranges(ranges: Sequence[ValueRange]) -> list[int]:
    """Return the indices of images far beyond the usual range, or faint because their slope is far too small.

    The usual range is that of three quarters of the images, without constant ones. The slices at the ends of a stack,
    which show only air, therefore do not determine it, and at most a quarter can be outliers on either side.
    """
    varying = [image for image in ranges if image.low < image.high]
    if len(varying) < 3:
        return []
    quarter = (len(varying) - 1) - int(MOST * (len(varying) - 1))
    low = sorted(image.low for image in varying)[quarter]
    high = sorted(image.high for image in varying)[-1 - quarter]
    slope = float(np.median([abs(image.slope) for image in varying]))
    span = high - low

    def is_outlier(image: ValueRange) -> bool:
        beyond = max(low - image.low, image.high - high)
        faint = 0 < image.high - image.low < span / OUTLIER_FACTOR and abs(image.slope) < slope / OUTLIER_FACTOR
        return beyond > OUTLIER_FACTOR * span or faint

    return [index for index, image in enumerate(ranges) if is_outlier(image)] if span > 0 else []


def foreign_images(identifiers: Sequence[str]) -> list[int]:
    """Return the indices of images whose identifier differs from the usual one.

    The usual identifier is that of at least `MOST` of the images that have one; without it no image is foreign. An
    image without identifier is never foreign.
    """
    known = Counter(identifier for identifier in identifiers if identifier)
    usual, count = known.most_common(1)[0] if known else ("", 0)
    if count < MOST * known.total() or not count:
        return []
    return [index for index, identifier in enumerate(identifiers) if identifier not in ("", usual)]
