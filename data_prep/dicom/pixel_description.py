"""Read how a header describes its pixels, and reject what is not read at all. Nothing is decoded here."""

import re
from dataclasses import dataclass

from pydicom import Dataset

from data_prep.dicom.header_values import PHOTOMETRIC_TERMS, quoted_term, spelling_repairs, texts, whole_number
from data_prep.faults import FaultKind, FileFault, Repair

#: The largest image that is decoded by default; those of the competition have at most 1024 x 1024 pixels.
MAX_PIXELS = 4096 * 4096
#: The largest number of frames in a file: frame k of file N has the instance number N * 1000 + k.
MAX_FRAMES = 999
_MONOCHROME = re.compile("MONO(?:CHROME)?0?([12])")


@dataclass(frozen=True)
class PixelDescription:
    """A header's description of its pixels: `frames` grey images of (`rows`, `columns`).

    Each value takes `bits_stored` bits of a cell of `bits_allocated` bits; the highest of them is bit `high_bit`. The
    other bits of the cell may hold anything. In an `inverted` image (MONOCHROME1) larger values are darker. If the
    header does not state that the image is grey (`states_grey`), only the number of bytes shows it. `repairs` lists
    what had to be corrected to read the description.
    """

    rows: int
    columns: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    inverted: bool = False
    states_grey: bool = True
    repairs: tuple[Repair, ...] = ()

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.columns * self.bits_allocated // 8


def read_pixel_description(header: Dataset, max_pixels: int) -> PixelDescription:
    """Read and check the description of the pixels.

    Raises:
        FileFault: if the image is not grey, its description is impossible, or it is larger than `max_pixels`.
        HeaderError: if a number is missing or not a whole number.
    """
    odd: list[str] = []
    samples = whole_number(header, "SamplesPerPixel", 1, odd)
    inverted, states_grey, repairs = _photometric(header, samples)
    allocated = whole_number(header, "BitsAllocated", odd=odd)
    if allocated not in (8, 16, 32):
        raise FileFault(FaultKind.UNDECODABLE, f"BitsAllocated {allocated}: expected 8, 16 or 32")
    stored = whole_number(header, "BitsStored", allocated, odd)
    high = whole_number(header, "HighBit", stored - 1, odd)
    if not (1 <= stored <= allocated and stored - 1 <= high < allocated):
        message = f"BitsStored {stored}, HighBit {high}: impossible with BitsAllocated {allocated}"
        raise FileFault(FaultKind.UNDECODABLE, message)
    rows, columns = whole_number(header, "Rows", odd=odd), whole_number(header, "Columns", odd=odd)
    if rows < 1 or columns < 1:
        raise FileFault(FaultKind.NO_PIXELS, f"{rows} x {columns} pixels: expected at least 1 x 1")
    if rows * columns > max_pixels:
        raise FileFault(FaultKind.TOO_MANY_PIXELS, f"{rows} x {columns} pixels: more than max_pixels {max_pixels}")
    frames = whole_number(header, "NumberOfFrames", 1, odd) or 1
    if not 1 <= frames <= MAX_FRAMES:
        raise FileFault(FaultKind.MULTI_FRAME, f"{frames} frames in one file: expected 1 to {MAX_FRAMES}")
    signed = whole_number(header, "PixelRepresentation", 0, odd)
    if signed not in (0, 1):
        raise FileFault(FaultKind.UNDECODABLE, f"PixelRepresentation {signed}: expected 0 or 1")
    repairs += spelling_repairs(odd)
    return PixelDescription(
        rows, columns, frames, allocated, stored, high, bool(signed), inverted, states_grey, repairs
    )


def _photometric(header: Dataset, samples: int) -> tuple[bool, bool, tuple[Repair, ...]]:
    """Return `inverted`, `states_grey` and a note about an odd PhotometricInterpretation.

    An image of one sample per pixel is grey, unless that sample is the index of a colour: whatever else is written
    there, or nothing, means MONOCHROME2. That there is one sample is checked when the pixels are located and decoded.

    Raises:
        FileFault: if the image has several samples per pixel, or is a palette image, or may be inverted or not.
    """
    found = texts(header, "PhotometricInterpretation")
    term = found[0] if len(found) == 1 else ""
    if samples == 1 and term in ("MONOCHROME1", "MONOCHROME2"):
        return term == "MONOCHROME1", True, ()
    words = {re.sub("[^A-Z0-9]", "", text.upper()) for text in found}
    numbered = {match[1] for match in map(_MONOCHROME.fullmatch, words) if match}
    quoted = quoted_term(term, PHOTOMETRIC_TERMS) if found and any(words) else "(missing)"
    if samples != 1 or any("PALETTE" in word for word in words) or len(numbered) > 1:
        message = f"{samples} sample(s) per pixel, PhotometricInterpretation {quoted}: not a grey MR image"
        raise FileFault(FaultKind.NOT_GREY, message)
    inverted = numbered == {"1"}
    meaning = "MONOCHROME1" if inverted else "MONOCHROME2"
    message = f"PhotometricInterpretation {quoted} with one sample per pixel: read as {meaning}"
    return inverted, bool(numbered), (Repair(FaultKind.ODD_HEADER, message),)
