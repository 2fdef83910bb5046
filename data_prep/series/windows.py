"""Compute the window of a series, the values that become black and white, from one histogram of all its images."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np

from data_prep.dicom.pixels import Grey, Pixels

#: The window of a series lies between these percentiles of all its pixels, so that a few bright vessels do not darken
#: the rest.
WINDOW_PERCENTILES = (0.5, 99.5)
_BINS = 65536
#: Index of the value 0 in the counts of whole numbers from -32768 to 65535.
_ZERO = 32768
#: Number of values processed at once: numpy widens them to 8 bytes each, which then fits into the processor's cache.
_BLOCK = 1 << 15


def visible(image: Pixels) -> Pixels:
    """Return the pixels of an image; of a masked image those that are not padding, as one row."""
    return image.compressed() if isinstance(image, np.ma.MaskedArray) else image


class SeriesHistogram:
    """Counts the values of a series, image by image, so that no image has to be kept.

    Whole numbers of at most 16 bits are counted exactly when an image is added. For other values the range must be
    known first: `window` then reads the images again and counts them in 65,536 bins.
    """

    def __init__(self) -> None:
        self.smallest, self.largest = np.inf, -np.inf
        self._counts = np.zeros(_ZERO + _BINS, dtype=np.int64)
        self._integers = self._narrow = True

    def add(self, image: Pixels) -> tuple[float, float]:
        """Count the pixels of an image, without padding; return its smallest and largest value."""
        image = visible(image)
        if not image.size:
            return 0.0, 0.0
        smallest, largest = image.min(), image.max()
        self.smallest, self.largest = min(self.smallest, float(smallest)), max(self.largest, float(largest))
        self._integers &= image.dtype.kind in "iu"
        self._narrow &= self._integers and image.dtype.itemsize <= 2
        if self._narrow:
            first = min(int(smallest), 0)
            for block in _blocks(image):
                # Usually no value is negative: then nothing is subtracted, which saves a copy.
                counts = np.bincount(np.subtract(block, first, dtype=np.intp) if first else block)
                self._counts[_ZERO + first :][: len(counts)] += counts
        return float(smallest), float(largest)

    def window(self, reread: Callable[[], Iterable[Pixels]]) -> tuple[float, float]:
        """Return (low, high), the `WINDOW_PERCENTILES` of all added pixels; `reread` must yield the same images."""
        if self.smallest > self.largest:  # only padding
            return 0.0, 0.0
        smallest, span = self.smallest, self.largest - self.smallest
        exact = self._integers and span < _BINS
        step = 1.0 if exact else max(span, 1e-6) / (_BINS - 1)
        if exact and self._narrow:
            counts = self._counts[_ZERO + int(smallest) :]
        else:
            counts = np.zeros(_BINS, dtype=np.int64)
            for image in reread():
                for block in _blocks(visible(image)):
                    bins = block.astype(np.int64) - int(smallest) if exact else (block - smallest) / step
                    counts += np.bincount(bins.astype(np.int64), minlength=_BINS)
        running = np.cumsum(counts)
        low, high = smallest + step * np.searchsorted(running, np.array(WINDOW_PERCENTILES) / 100 * running[-1])
        return float(low), float(high)


def series_window(images: Sequence[Pixels]) -> tuple[float, float]:
    """Return (low, high), the `WINDOW_PERCENTILES` of all pixels of a series."""
    histogram = SeriesHistogram()
    for image in images:
        histogram.add(image)
    return histogram.window(lambda: images)


def to_grey(image: Pixels, window: tuple[float, float]) -> Grey:
    """Map the values of a window linearly to 0 to 255, rounded; padding and constant series become 0."""
    low, high = window
    grey = np.zeros(image.shape, dtype=np.uint8)
    if high <= low:
        return grey
    data = np.ma.getdata(image)
    for block, out in zip(_blocks(data), _blocks(grey), strict=True):
        if data.dtype == np.uint16:
            _grey_table(low, high).take(block.astype(np.intp), out=out, mode="clip")
        else:
            out[...] = _scaled(block, low, high)
    if isinstance(image, np.ma.MaskedArray):
        grey[image.mask] = 0
    return grey


@lru_cache(maxsize=2)
def _grey_table(low: float, high: float) -> Grey:
    """Return the grey values of all whole numbers of 16 bits; to look them up is faster than to compute them."""
    return _scaled(np.arange(_BINS), low, high).astype(np.uint8)


def _scaled(values: Pixels, low: float, high: float) -> Pixels:
    scaled: Pixels = (values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.clip(np.rint(scaled), 0, 255)


def _blocks(image: Pixels) -> Iterator[Pixels]:
    """Yield the values of an image in order, as views of at most `_BLOCK` values."""
    flat = image.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        yield flat[start : start + _BLOCK]
