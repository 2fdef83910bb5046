"""Images that are unlike the others in their series' folder: of another examination, or of values far from theirs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.dicom.pixels import Pixels
from data_prep.studies.windows import WINDOW_PERCENTILES, visible

#: Most images of a folder must agree on an identifier before the others are odd.
MOST = 0.75
#: Values this many times further out than three quarters of a series' images reach are none of its anatomy.
ODD_FACTOR = 8.0
#: So many pixels of an image, some 4,096 on a grid, tell how far its values reach.
_SAMPLES_A_SIDE = 64


@dataclass(frozen=True)
class Reach:
    """`WINDOW_PERCENTILES` of an image, roughly, and the slope that its header rescales it by."""

    low: float
    high: float
    slope: float


def reach_of(image: Pixels, slope: float) -> Reach:
    """From pixels on a grid; of an image that is all padding, nothing."""
    rows, columns = (max(1, length // _SAMPLES_A_SIDE) for length in image.shape)
    ordered = np.sort(visible(image[::rows, ::columns]), axis=None)
    if not ordered.size:
        return Reach(0.0, 0.0, slope)
    low, high = (float(ordered[round((ordered.size - 1) * part / 100)]) for part in WINDOW_PERCENTILES)
    return Reach(low, high, slope)


def odd_reaches(reaches: Sequence[Reach]) -> list[int]:
    """Which images reach far beyond the others, or are next to nothing beside them because of their slope.

    The series' own reach is what three quarters of its images, blank ones apart, stay within: so the slices at a
    stack's end, which show air, are no measure, and at most a quarter can be odd on either side.
    """
    shown = [reach for reach in reaches if reach.low < reach.high]
    if len(shown) < 3:
        return []
    quarter = (len(shown) - 1) - int(MOST * (len(shown) - 1))
    low = sorted(reach.low for reach in shown)[quarter]
    high = sorted(reach.high for reach in shown)[-1 - quarter]
    slope = float(np.median([abs(reach.slope) for reach in shown]))
    span = high - low

    def is_odd(reach: Reach) -> bool:
        beyond = max(low - reach.low, reach.high - high)
        faint = 0 < reach.high - reach.low < span / ODD_FACTOR and abs(reach.slope) < slope / ODD_FACTOR
        return beyond > ODD_FACTOR * span or faint

    return [index for index, reach in enumerate(reaches) if is_odd(reach)] if span > 0 else []


def others(identifiers: Sequence[str]) -> list[int]:
    """Which images have another identifier than most; none where most do not agree. An empty one says nothing."""
    known = Counter(identifier for identifier in identifiers if identifier)
    usual, count = known.most_common(1)[0] if known else ("", 0)
    if count < MOST * known.total() or not count:
        return []
    return [index for index, identifier in enumerate(identifiers) if identifier not in ("", usual)]
