"""The window of a series: which values become black and white, from one histogram of all its images."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from data_prep.dicom.pixels import Grey, Pixels

#: The window of a series runs between these percentiles of all its pixels: a few bright vessels do not darken it.
WINDOW_PERCENTILES = (0.5, 99.5)
_BINS = 65536
#: Where 0 lies in the counts of whole numbers from -32768 to 65535.
_ZERO = 32768
#: Values that are handled at once: what numpy widens to 8 bytes each on the way stays at 2 MB.
_BLOCK = 1 << 18


def visible(image: Pixels) -> Pixels:
    """All pixels of an image, or, of a masked one, those that are not padding, in one row."""
    return image.compressed() if isinstance(image, np.ma.MaskedArray) else image


class SeriesHistogram:
    """Counts the values of a series, image after image, so that none need be kept.

    Whole numbers of at most 16 bits are counted one by one as they come. Others need their range first:
    `window` then asks for the images once more, and counts them in 65,536 bins.
    """

    def __init__(self) -> None:
        self.smallest, self.largest = np.inf, -np.inf
        self._counts = np.zeros(_ZERO + _BINS, dtype=np.int64)
        self._whole = self._narrow = True

    def add(self, image: Pixels) -> tuple[float, float]:
        """Count an image but for its padding; its own smallest and largest value."""
        image = visible(image)
        if not image.size:
            return 0.0, 0.0
        smallest, largest = image.min(), image.max()
        self.smallest, self.largest = min(self.smallest, float(smallest)), max(self.largest, float(largest))
        self._whole &= image.dtype.kind in "iu"
        self._narrow &= self._whole and image.dtype.itemsize <= 2
        if self._narrow:
            first = min(int(smallest), 0)
            for block in _blocks(image):
                # Without a negative value there is nothing to subtract, which is the usual case.
                counts = np.bincount(np.subtract(block, first, dtype=np.intp) if first else block)
                self._counts[_ZERO + first :][: len(counts)] += counts
        return float(smallest), float(largest)

    def window(self, again: Callable[[], Iterable[Pixels]]) -> tuple[float, float]:
        """(low, high): `WINDOW_PERCENTILES` of all that was added; `again` yields the same images."""
        if self.smallest > self.largest:  # padding alone
            return 0.0, 0.0
        smallest, span = self.smallest, self.largest - self.smallest
        whole = self._whole and span < _BINS
        step = 1.0 if whole else max(span, 1e-6) / (_BINS - 1)
        if whole and self._narrow:
            counts = self._counts[_ZERO + int(smallest) :]
        else:
            counts = np.zeros(_BINS, dtype=np.int64)
            for image in again():
                for block in _blocks(visible(image)):
                    bins = block.astype(np.int64) - int(smallest) if whole else (block - smallest) / step
                    counts += np.bincount(bins.astype(np.int64), minlength=_BINS)
        running = np.cumsum(counts)
        low, high = smallest + step * np.searchsorted(running, np.array(WINDOW_PERCENTILES) / 100 * running[-1])
        return float(low), float(high)


def series_window(images: Sequence[Pixels]) -> tuple[float, float]:
    """(low, high): `WINDOW_PERCENTILES` of all pixels of a series."""
    histogram = SeriesHistogram()
    for image in images:
        histogram.add(image)
    return histogram.window(lambda: images)


def to_grey(image: Pixels, window: tuple[float, float]) -> Grey:
    """Map a window linearly to 0 to 255, rounded; a constant series, and padding, become 0."""
    low, high = window
    grey = np.zeros(image.shape, dtype=np.uint8)
    if high <= low:
        return grey
    # Arithmetic is as fast as a table here, and right for values that are no whole numbers.
    for block, out in zip(_blocks(np.ma.getdata(image)), _blocks(grey), strict=True):
        scaled = (block.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
        out[...] = np.clip(np.rint(scaled), 0, 255)
    if isinstance(image, np.ma.MaskedArray):
        grey[image.mask] = 0
    return grey


def _blocks(image: Pixels) -> Iterator[Pixels]:
    """Views of some million values each, in order."""
    flat = image.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        yield flat[start : start + _BLOCK]
