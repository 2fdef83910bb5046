"""What a header promises of its pixels, held against what is read at all. Nothing is decoded here."""

from dataclasses import dataclass

from pydicom import Dataset

from data_prep.dicom.header_values import PHOTOMETRIC_TERMS, quoted_term, value_of, whole_number
from data_prep.faults import FaultKind, FileFault

#: The largest image that is decoded; the competition's are at most 1024 x 1024.
MAX_PIXELS = 4096 * 4096
#: Frames are numbered from 1 within a file's thousand.
MAX_FRAMES = 999


@dataclass(frozen=True)
class Promise:
    """What a header says of its pixels: `frames` grey images of (`rows`, `columns`).

    A value lies in `bits_stored` bits, the highest of them bit `high_bit`, of a cell of `bits_allocated`;
    the other bits may hold anything.
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


def promise_of(header: Dataset, max_pixels: int) -> Promise:
    """Raises FileFault for what is no grey image, cannot be stored as it says, or is larger than is read.

    Raises HeaderError where a number is missing, or none.
    """
    samples, photometric = whole_number(header, "SamplesPerPixel", 1), photometric_of(header)
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        message = f"{samples} sample(s) a pixel, {quoted_term(photometric, PHOTOMETRIC_TERMS)}: not a grey MR image"
        raise FileFault(FaultKind.NOT_GREY, message)
    allocated = whole_number(header, "BitsAllocated")
    if allocated not in (8, 16, 32):
        raise FileFault(FaultKind.UNDECODABLE, f"{allocated} bits allocated: expected 8, 16 or 32")
    stored = whole_number(header, "BitsStored", allocated)
    high = whole_number(header, "HighBit", stored - 1)
    if not (1 <= stored <= allocated and stored - 1 <= high < allocated):
        message = f"{stored} bits stored, the highest {high}, in {allocated}: not possible"
        raise FileFault(FaultKind.UNDECODABLE, message)
    rows, columns = whole_number(header, "Rows"), whole_number(header, "Columns")
    if rows < 1 or columns < 1:
        raise FileFault(FaultKind.NO_PIXELS, f"{rows} x {columns} pixels")
    if rows * columns > max_pixels:
        raise FileFault(FaultKind.TOO_MANY_PIXELS, f"{rows} x {columns} pixels: more than --max-pixels {max_pixels}")
    frames = whole_number(header, "NumberOfFrames", 1) or 1
    if not 1 <= frames <= MAX_FRAMES:
        raise FileFault(FaultKind.MULTI_FRAME, f"{frames} frames in one file: at most {MAX_FRAMES} are read")
    signed = whole_number(header, "PixelRepresentation", 0)
    if signed not in (0, 1):
        raise FileFault(FaultKind.UNDECODABLE, f"pixel representation {signed}: expected 0 or 1")
    return Promise(rows, columns, frames, allocated, stored, high, bool(signed))


def photometric_of(header: Dataset) -> str:
    """What black and white mean; empty where the header does not say."""
    return str(value_of(header, "PhotometricInterpretation") or "")
