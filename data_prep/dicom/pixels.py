"""Read the images of a DICOM file as signal: more signal is brighter, whatever conventions the file uses.

Anything wrong with a file raises a `FileFault` with its kind; no other exception leaves this module. pydicom raises
many kinds of errors for a malformed file, and for some files returns a plausible but wrong array: what it returns is
therefore checked against the header (`decoding.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.pixels import apply_modality_lut

from data_prep.dicom.decoding import FrameDecoder, StoredValues
from data_prep.dicom.dicom_file import DicomFile, open_dicom, pydicom_warnings_ignored
from data_prep.dicom.header_values import (
    READ_ERRORS,
    HeaderError,
    number,
    parse_failure,
    spelling_repairs,
    value_of,
    whole_number,
)
from data_prep.dicom.multi_frame import FrameHeaders
from data_prep.dicom.pixel_description import MAX_PIXELS, PixelDescription
from data_prep.faults import FaultKind, FileFault, Repair

Grey = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.number[Any]]

#: Larger values are rejected: their differences might exceed the range of float32.
LARGEST_SIGNAL = 1e30


@dataclass(frozen=True)
class ImageFile:
    """An open file with one or more images; `headers` holds one header per image, as if each had its own file."""

    headers: FrameHeaders
    file: DicomFile
    decoder: FrameDecoder

    def signal(self, frame: int = 0) -> Pixels:
        """Return the signal (rows, columns) of one image, counted from 0, in native byte order.

        Padding pixels, which show nothing of the patient, are masked (`numpy.ma`). Raises FileFault if the image
        cannot be read.
        """
        try:
            with pydicom_warnings_ignored():
                header = self.headers[frame]
                return self._signal(self.decoder.decode(frame), header)
        except HeaderError as error:
            raise FileFault(FaultKind.UNDECODABLE, str(error)) from None
        except READ_ERRORS as error:
            raise FileFault(FaultKind.UNDECODABLE, parse_failure(error)) from None

    def _signal(self, stored: StoredValues, header: Dataset) -> Pixels:
        """Mask padding, invert MONOCHROME1, and apply the modality LUT or the rescale slope and intercept."""
        padding = self._padding(stored, header)
        inverted = self.decoder.description.inverted
        signal = self._looked_up(stored, header)
        if signal is not None:
            signal = np.invert(signal) if inverted else signal
        else:
            signal = _inverted(stored, self.decoder.description) if inverted else stored
            signal = _rescaled(signal, *self._rescale(header))
        return signal if padding is None else np.ma.MaskedArray(signal, padding)

    def _looked_up(self, stored: StoredValues, header: Dataset) -> Pixels | None:
        """Apply the modality LUT; None, with a note if it is no table, if there is none."""
        if not _has_modality_table(header):
            return None
        try:
            looked_up: Pixels = apply_modality_lut(stored, header)
        except READ_ERRORS:
            message = "ModalityLUTSequence holds no table: the values are not changed by it"
            self.decoder.note(Repair(FaultKind.ODD_HEADER, message, "guessed"))
            return None
        return looked_up

    def _padding(self, stored: StoredValues, header: Dataset) -> npt.NDArray[np.bool_] | None:
        """Return the mask of padding pixels (PS3.3 C.7.5.1.1.2); None if there are none.

        A padding range that covers every pixel of a non-constant image is ignored, and so is one that is no number.
        """
        try:
            if value_of(header, "PixelPaddingValue") is None:
                return None
            odd: list[str] = []
            first = whole_number(header, "PixelPaddingValue", odd=odd)
            last = whole_number(header, "PixelPaddingRangeLimit", first, odd)
            for repair in spelling_repairs(odd):
                self.decoder.note(repair)
        except HeaderError as error:
            self.decoder.note(Repair(FaultKind.ODD_HEADER, f"{error}: no pixel is treated as padding", "guessed"))
            return None
        low, high = sorted(_cell_value(value, self.decoder.description) for value in (first, last))
        padding = (stored >= low) & (stored <= high)
        if not padding.any():
            return None
        if padding.all() and stored.min() < stored.max():
            message = f"padding from {low} to {high} would cover the whole image: no pixel is treated as padding"
            self.decoder.note(Repair(FaultKind.ODD_HEADER, message, "guessed"))
            return None
        return padding

    def slope(self, frame: int = 0) -> float:
        """Return the rescale slope of an image; 1 if it is not rescaled or uses a modality LUT."""
        with pydicom_warnings_ignored():
            header = self.headers[frame]
            return 1.0 if _has_modality_table(header) else self._rescale(header)[0]

    def _rescale(self, header: Dataset) -> tuple[float, float]:
        """Return (slope, intercept) of an image; (1, 0), with a note, if the header's values are impossible."""
        try:
            odd: list[str] = []
            slope = number(header, "RescaleSlope", 1.0, odd)
            intercept = number(header, "RescaleIntercept", 0.0, odd)
        except HeaderError as error:
            problem = str(error)
        else:
            for repair in spelling_repairs(odd):
                self.decoder.note(repair)
            if slope and np.isfinite(slope) and np.isfinite(intercept):
                return slope, intercept
            problem = f"RescaleSlope {slope:g}, RescaleIntercept {intercept:g}"
        self.decoder.note(Repair(FaultKind.ODD_HEADER, f"{problem}: impossible, the image is not rescaled", "guessed"))
        return 1.0, 0.0

    @property
    def repairs(self) -> tuple[Repair, ...]:
        """Everything that had to be corrected so far; decoding another frame may add to it."""
        return (*self.file.repairs, *self.decoder.repairs)


def _has_modality_table(header: Dataset) -> bool:
    try:
        return bool(value_of(header, "ModalityLUTSequence"))
    except HeaderError:
        return False


@contextmanager
def open_images(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[ImageFile]:
    """Open the images of a file. Raise FileFault if it can give none; reading a single frame may still fail."""
    with open_dicom(path, max_pixels) as file:
        try:
            with pydicom_warnings_ignored():
                decoder = FrameDecoder(file, max_pixels)
                headers = FrameHeaders(file.header, decoder.description.frames)
        except READ_ERRORS as error:
            raise FileFault(FaultKind.UNREADABLE, parse_failure(error)) from None
        yield ImageFile(headers, file, decoder)


def read_image(path: Path, max_pixels: int = MAX_PIXELS, frame: int = 0) -> Pixels:
    """Return the signal (rows, columns) of one image of a file. Raise FileFault if it cannot be read."""
    with open_images(path, max_pixels) as images:
        return images.signal(frame)


def _inverted(stored: StoredValues, description: PixelDescription) -> StoredValues:
    """Reverse the values within the range of the stored bits, so that all images of a series share one range."""
    bits = min(description.bits_stored, 8 * stored.itemsize)  # a JPEG of 8 bits may have a header with more
    total = -1 if description.signed else (1 << bits) - 1
    if description.signed != (stored.dtype.kind == "i"):
        return total - stored.astype(np.int64)
    return np.invert(stored) if description.signed else np.bitwise_xor(stored, stored.dtype.type(total))


def _rescaled(stored: StoredValues, slope: float, intercept: float) -> Pixels:
    if (slope, intercept) == (1.0, 0.0):
        return stored
    with np.errstate(over="ignore", invalid="ignore"):
        signal = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if not (np.abs(signal) < LARGEST_SIGNAL).all():
        message = f"RescaleSlope {slope:g}, RescaleIntercept {intercept:g}: the rescaled values are too large"
        raise FileFault(FaultKind.UNDECODABLE, message)
    return signal


def _cell_value(value: int, description: PixelDescription) -> int:
    """Return a padding value with the signedness of the pixels; some headers write it with the other one."""
    cells = 1 << description.bits_allocated
    value %= cells
    return value - cells if description.signed and value >= cells // 2 else value
