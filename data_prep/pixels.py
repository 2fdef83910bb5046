"""One DICOM file to one grey image, the window of a series, and the limits against hostile files.

Whatever is wrong with a file is a `PixelFault` with its kind; no other exception leaves this room.
pydicom raises many kinds for a malformed file, and for some returns something that looks well: so
what comes back is checked against what the header promised.
"""

import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.pixels import get_decoder
from pydicom.uid import RLELossless

from data_prep.faults import FaultKind

Grey = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.number[Any]]

#: The largest image that is decoded; the competition's are at most 1024 x 1024.
MAX_PIXELS = 4096 * 4096
#: The window of a series runs between these percentiles of all its pixels: a few bright vessels do not darken it.
WINDOW_PERCENTILES = (0.5, 99.5)
#: RLE writes at most 128 equal bytes as two.
_RLE_RATIO = 64
#: What pydicom and its decoders were seen to raise for malformed files.
READ_ERRORS = (
    InvalidDicomError,
    AttributeError,
    EOFError,
    KeyError,
    IndexError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


class PixelFault(Exception):
    """A file that gives no image, and why."""

    def __init__(self, kind: FaultKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


def read_dicom(path: Path) -> Dataset:
    """The parsed file. Raises PixelFault for what is no DICOM file or has no pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's remarks on values; what matters is checked below
            dataset = dcmread(path)
            has_pixels = "PixelData" in dataset
    except InvalidDicomError:
        raise PixelFault(FaultKind.NOT_DICOM, "no DICOM file (its preamble is missing)") from None
    except READ_ERRORS as error:
        raise PixelFault(FaultKind.UNREADABLE, _one_line(error)) from None
    if not has_pixels:
        raise PixelFault(FaultKind.NO_PIXELS, "no pixel data: cut short, or not an image")
    return dataset


def grey_image(dataset: Dataset, max_pixels: int = MAX_PIXELS) -> tuple[Pixels, FaultKind | None]:
    """(rows, columns) of one grey frame in native byte order, bright for much signal; and what had to be repaired.

    Raises PixelFault. Nothing is decoded before the header's promise was held against `max_pixels`
    and against the bytes that are there.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape = _promised_shape(dataset, max_pixels)
            repaired = _check_length(dataset, shape)
            image = np.asarray(dataset.pixel_array)
            image = _checked(image, dataset, shape)
            return _to_signal(image, dataset), repaired
    except PixelFault:
        raise
    except READ_ERRORS as error:
        raise PixelFault(FaultKind.UNDECODABLE, _one_line(error)) from None


def _promised_shape(dataset: Dataset, max_pixels: int) -> tuple[int, int]:
    """(rows, columns) of a header that describes one grey frame that a decoder here can read."""
    samples, photometric = int(dataset.get("SamplesPerPixel", 1)), str(dataset.get("PhotometricInterpretation", ""))
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise PixelFault(FaultKind.NOT_GREY, f"{samples} sample(s) a pixel, {photometric!r}: not a grey MR image")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise PixelFault(FaultKind.MULTI_FRAME, f"{frames} frames in one file")
    if dataset.BitsAllocated not in (8, 16, 32):
        raise PixelFault(FaultKind.UNDECODABLE, f"{dataset.BitsAllocated} bits allocated: expected 8, 16 or 32")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if rows < 1 or columns < 1:
        raise PixelFault(FaultKind.NO_PIXELS, f"{rows} x {columns} pixels")
    if rows * columns > max_pixels:
        raise PixelFault(FaultKind.TOO_MANY_PIXELS, f"{rows} x {columns} pixels: more than --max-pixels {max_pixels}")
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    if not decoder.is_available:
        missing = "; ".join(" ".join(text.split()) for text in decoder.missing_dependencies)
        raise PixelFault(FaultKind.NO_DECODER, f"{decoder.UID.name} needs one of: {missing}")
    return rows, columns


def _check_length(dataset: Dataset, shape: tuple[int, int]) -> FaultKind | None:
    """Hold the promised pixels against the bytes that are there; cuts surplus bytes of uncompressed pixels off."""
    promised = shape[0] * shape[1] * int(dataset.BitsAllocated) // 8
    held = len(dataset.PixelData)
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        if syntax == RLELossless and promised > held * _RLE_RATIO:
            raise PixelFault(FaultKind.TRUNCATED, f"{promised} bytes promised, {held} of RLE cannot hold them")
        return None
    if held < promised:
        raise PixelFault(FaultKind.TRUNCATED, f"{promised} bytes of pixels promised, {held} there")
    if held <= promised + promised % 2:  # an odd length is padded to an even one
        return None
    # pydicom would take surplus bytes for more frames.
    dataset.PixelData = dataset.PixelData[: promised + promised % 2]
    return FaultKind.SURPLUS_BYTES


def _checked(image: Pixels, dataset: Dataset, shape: tuple[int, int]) -> Pixels:
    """The decoded array in native byte order, if it is what the header promised."""
    if image.shape != shape:
        raise PixelFault(FaultKind.WRONG_SHAPE, f"decoded to {image.shape}, promised {shape}")
    if image.dtype.kind not in "iu":
        raise PixelFault(FaultKind.UNDECODABLE, f"decoded to {image.dtype}: expected whole numbers")
    image = image.astype(image.dtype.newbyteorder("="), copy=False)
    bits, signed = int(dataset.get("BitsStored", dataset.BitsAllocated)), image.dtype.kind == "i"
    lowest, highest = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    if image.min() < lowest or image.max() > highest:
        raise PixelFault(FaultKind.UNDECODABLE, f"values {image.min()} to {image.max()} in {bits} stored bits")
    return image


def _to_signal(image: Pixels, dataset: Dataset) -> Pixels:
    """Apply the modality rescale where it changes anything, and turn MONOCHROME1 round."""
    slope, intercept = float(dataset.get("RescaleSlope", 1) or 1), float(dataset.get("RescaleIntercept", 0) or 0)
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        slope, intercept = 1.0, 0.0
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        slope, intercept = -slope, -intercept
    if (slope, intercept) == (1.0, 0.0):
        return image
    with np.errstate(over="ignore", invalid="ignore"):
        signal = image.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if not np.isfinite(signal).all():
        raise PixelFault(FaultKind.UNDECODABLE, f"rescale slope {slope:g}, intercept {intercept:g}: beyond all numbers")
    return signal


def series_window(images: Sequence[Pixels]) -> tuple[float, float]:
    """(low, high): `WINDOW_PERCENTILES` of all pixels of a series, from one histogram.

    Whole numbers are counted one by one; other values, and ranges beyond 16 bits, in 65,536 bins.
    """
    smallest = min(float(image.min()) for image in images)
    largest = max(float(image.max()) for image in images)
    whole = all(image.dtype.kind in "iu" for image in images) and largest - smallest < 65536
    step = 1.0 if whole else max(largest - smallest, 1e-6) / 65535
    counts = np.zeros(65536, dtype=np.int64)
    for image in images:
        bins = (image.astype(np.int64) - int(smallest)) if whole else ((image - smallest) / step).astype(np.int64)
        counts += np.bincount(bins.ravel(), minlength=65536)
    places = np.searchsorted(np.cumsum(counts), np.array(WINDOW_PERCENTILES) / 100 * counts.sum())
    low, high = smallest + step * places
    return float(low), float(high)


def to_grey(image: Pixels, window: tuple[float, float]) -> Grey:
    """Map a window linearly to 0 to 255, rounded; a constant series becomes 0."""
    low, high = window
    if high <= low:
        return np.zeros(image.shape, dtype=np.uint8)
    scaled = (image.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _one_line(error: BaseException) -> str:
    """An exception's kind and the beginning of its message: never pixel data or a whole header."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
