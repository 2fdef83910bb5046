"""Read how a header describes its pixels, and reject what is not read at all. Nothing is decoded here."""

from dataclasses import dataclass

from pydicom import Dataset

from data_prep.dicom.header_values import PHOTOMETRIC_TERMS, quoted_term, value_of, whole_number
from data_prep.faults import FaultKind, FileFault

#: The largest image that is decoded by default; those of the competition have at most 1024 x 1024 pixels.
MAX_PIXELS = 4096 * 4096
#: The largest number of frames in a file: frame k of file N has the instance number N * 1000 + k.
MAX_FRAMES = 999


@dataclass(frozen=True)
class PixelDescription:
    """A header's description of its pixels: `frames` grey images of (`rows`, `columns`).

    Each value takes `bits_stored` bits of a cell of `bits_allocated` bits; the highest of them is bit `high_bit`. The
    other bits of the cell may hold anything.
    """

    rows: int
    columns: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.columns * self.bits_allocated // 8


def read_pixel_description(header: Dataset, max_pixels: int) -> PixelDescription:
    """Read and check the description of the pixels.

    Raises:
        FileFault: if the image is not grey, its description is impossible, or it is larger than `max_pixels`.
        HeaderError: if a number is missing or not a whole number.
    """
    samples, photometric = whole_number(header, "SamplesPerPixel", 1), photometric_of(header)
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        term = quoted_term(photometric, PHOTOMETRIC_TERMS)
        message = f"{samples} sample(s) per pixel, PhotometricInterpretation {term}: not a grey MR image"
        raise FileFault(FaultKind.NOT_GREY, message)
    allocated = whole_number(header, "BitsAllocated")
    if allocated not in (8, 16, 32):
        raise FileFault(FaultKind.UNDECODABLE, f"BitsAllocated {allocated}: expected 8, 16 or 32")
    stored = whole_number(header, "BitsStored", allocated)
    high = whole_number(header, "HighBit", stored - 1)
    if not (1 <= stored <= allocated and stored - 1 <= high < allocated):
        message = f"BitsStored {stored}, HighBit {high}: impossible with BitsAllocated {allocated}"
        raise FileFault(FaultKind.UNDECODABLE, message)
    rows, columns = whole_number(header, "Rows"), whole_number(header, "Columns")
    if rows < 1 or columns < 1:
        raise FileFault(FaultKind.NO_PIXELS, f"{rows} x {columns} pixels: expected at least 1 x 1")
    if rows * columns > max_pixels:
        raise FileFault(FaultKind.TOO_MANY_PIXELS, f"{rows} x {columns} pixels: more than max_pixels {max_pixels}")
    frames = whole_number(header, "NumberOfFrames", 1) or 1
    if not 1 <= frames <= MAX_FRAMES:
        raise FileFault(FaultKind.MULTI_FRAME, f"{frames} frames in one file: expected 1 to {MAX_FRAMES}")
    signed = whole_number(header, "PixelRepresentation", 0)
    if signed not in (0, 1):
        raise FileFault(FaultKind.UNDECODABLE, f"PixelRepresentation {signed}: expected 0 or 1")
    return PixelDescription(rows, columns, frames, allocated, stored, high, bool(signed))


def photometric_of(header: Dataset) -> str:
    """Return the PhotometricInterpretation; empty if it is missing."""
    return str(value_of(header, "PhotometricInterpretation") or "")
