"""A DICOM file to images of its signal: bright for much signal, whatever the file's conventions are.

Whatever is wrong with a file is a `FileFault` with its kind; no other exception leaves this room.
pydicom raises many kinds for a malformed file, and for some returns something that looks well: so
what comes back is checked against what the header promised (`decoding.py`).
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
from data_prep.dicom.dicom_file import DicomFile, open_dicom, without_remarks
from data_prep.dicom.header_values import READ_ERRORS, HeaderError, number, unparsed, value_of, whole_number
from data_prep.dicom.multi_frame import FrameHeaders
from data_prep.dicom.pixel_description import MAX_PIXELS, Promise, photometric_of
from data_prep.faults import FaultKind, FileFault, Repair

Grey = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.number[Any]]

#: What a frame of complex numbers may show besides their magnitude: no anatomy that a reader would grade.
_NO_MAGNITUDE = frozenset({"PHASE", "REAL", "IMAGINARY", "P", "R", "I"})
#: Beyond this the difference of two values may be none of float32's numbers.
LARGEST_SIGNAL = 1e30


@dataclass(frozen=True)
class ImageFile:
    """An open file of one or more images; `headers` has one for each, as if each had its own file."""

    headers: FrameHeaders
    file: DicomFile
    decoder: FrameDecoder

    def signal(self, frame: int = 0) -> Pixels:
        """(rows, columns) of one image, counted from 0, in native byte order. Raises FileFault.

        Masked (`numpy.ma`) where the header says that pixels are padding: they show nothing of the patient.
        """
        try:
            with without_remarks():
                header = self.headers[frame]
                if components := _NO_MAGNITUDE.intersection(_components(header)):
                    raise FileFault(FaultKind.NOT_GREY, f"a {min(components)} image: only magnitudes are read")
                return self._signal(self.decoder.decode(frame), header)
        except HeaderError as error:
            raise FileFault(FaultKind.UNDECODABLE, str(error)) from None
        except READ_ERRORS as error:
            raise FileFault(FaultKind.UNDECODABLE, unparsed(error)) from None

    def _signal(self, stored: StoredValues, header: Dataset) -> Pixels:
        """Without padding, turned round where it is MONOCHROME1, and through the modality LUT or rescale."""
        padding = self._padding(stored, header)
        inverted = photometric_of(header) == "MONOCHROME1"
        if header.get("ModalityLUTSequence"):
            signal: Pixels = apply_modality_lut(stored, header)
            signal = np.invert(signal) if inverted else signal
        else:
            signal = _inverted(stored, self.decoder.promise) if inverted else stored
            signal = _rescaled(signal, *self._rescale(header))
        return signal if padding is None else np.ma.MaskedArray(signal, padding)

    def _padding(self, stored: StoredValues, header: Dataset) -> npt.NDArray[np.bool_] | None:
        """Which stored values are padding (PS3.3 C.7.5.1.1.2); None where none are, or where all would be."""
        try:
            if value_of(header, "PixelPaddingValue") is None:
                return None
            first = whole_number(header, "PixelPaddingValue")
            last = whole_number(header, "PixelPaddingRangeLimit", first)
        except HeaderError as error:
            self.decoder.note(Repair(FaultKind.ODD_HEADER, f"{error}: taken for no padding", "guessed"))
            return None
        ends = [_cell_value(value, self.decoder.promise) for value in (first, last)]
        padding = (stored >= min(ends)) & (stored <= max(ends))
        if not padding.any():
            return None
        if padding.all() and stored.min() < stored.max():
            message = f"padding from {min(ends)} to {max(ends)} would cover the whole image"
            self.decoder.note(Repair(FaultKind.ODD_HEADER, message, "guessed"))
            return None
        return padding

    def slope(self, frame: int = 0) -> float:
        """What the values of an image were multiplied by."""
        with without_remarks():
            header = self.headers[frame]
            return 1.0 if header.get("ModalityLUTSequence") else self._rescale(header)[0]

    def _rescale(self, header: Dataset) -> tuple[float, float]:
        """(slope, intercept) of an image; (1, 0) for such as cannot be meant."""
        try:
            slope, intercept = number(header, "RescaleSlope", 1.0), number(header, "RescaleIntercept", 0.0)
        except HeaderError as error:
            problem = str(error)
        else:
            if slope and np.isfinite(slope) and np.isfinite(intercept):
                return slope, intercept
            problem = f"rescale slope {slope:g}, intercept {intercept:g}"
        self.decoder.note(Repair(FaultKind.ODD_HEADER, f"{problem}: not rescaled", "guessed"))
        return 1.0, 0.0

    @property
    def repairs(self) -> tuple[Repair, ...]:
        """What had to be put right so far: decoding may add to it."""
        return (*self.file.repairs, *self.decoder.repairs)


def _components(header: Dataset) -> tuple[str, str]:
    """What a header says of the part of complex numbers that it shows: in its own element, or third in the type."""
    kind = header.get("ImageType")
    third = str(kind[2]) if kind is not None and not isinstance(kind, str) and len(kind) > 2 else ""
    return str(header.get("ComplexImageComponent", "")).upper(), third.upper()


@contextmanager
def open_images(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[ImageFile]:
    """Raises FileFault for a file that can give no image; single frames may still fail."""
    with open_dicom(path, max_pixels) as file:
        try:
            with without_remarks():
                decoder = FrameDecoder(file, max_pixels)
                headers = FrameHeaders(file.header, decoder.promise.frames)
        except READ_ERRORS as error:
            raise FileFault(FaultKind.UNREADABLE, unparsed(error)) from None
        yield ImageFile(headers, file, decoder)


def read_image(path: Path, max_pixels: int = MAX_PIXELS, frame: int = 0) -> Pixels:
    """(rows, columns): the signal of one image of a file. Raises FileFault."""
    with open_images(path, max_pixels) as images:
        return images.signal(frame)


def _inverted(stored: StoredValues, promise: Promise) -> StoredValues:
    """The least value of the stored bits to the greatest, and so on: a series keeps one range."""
    bits = min(promise.bits_stored, 8 * stored.itemsize)  # a JPEG of 8 bits may lie under a header of more
    total = -1 if promise.signed else (1 << bits) - 1
    if promise.signed != (stored.dtype.kind == "i"):
        return total - stored.astype(np.int64)
    return np.invert(stored) if promise.signed else np.bitwise_xor(stored, stored.dtype.type(total))


def _rescaled(stored: StoredValues, slope: float, intercept: float) -> Pixels:
    if (slope, intercept) == (1.0, 0.0):
        return stored
    with np.errstate(over="ignore", invalid="ignore"):
        signal = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if not (np.abs(signal) < LARGEST_SIGNAL).all():
        message = f"rescale slope {slope:g}, intercept {intercept:g}: beyond all numbers"
        raise FileFault(FaultKind.UNDECODABLE, message)
    return signal


def _cell_value(value: int, promise: Promise) -> int:
    """A padding value as the pixels have it: headers write it with a sign where they have none, and the reverse."""
    cells = 1 << promise.bits_allocated
    value %= cells
    return value - cells if promise.signed and value >= cells // 2 else value
