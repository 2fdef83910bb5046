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

from data_prep.decoding import MAX_PIXELS, FrameDecoder, StoredValues
from data_prep.dicom_file import READ_ERRORS, DicomFile, one_line, open_dicom, without_remarks
from data_prep.enhanced import FrameHeaders
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
        """(rows, columns) of one image, counted from 0, in native byte order. Raises FileFault."""
        try:
            with without_remarks():
                header = self.headers[frame]
                if components := _NO_MAGNITUDE.intersection(_components(header)):
                    raise FileFault(FaultKind.NOT_GREY, f"a {min(components)} image: only magnitudes are read")
                return _to_signal(self.decoder.decode(frame), header)
        except READ_ERRORS as error:
            raise FileFault(FaultKind.UNDECODABLE, one_line(error)) from None

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
        decoder = FrameDecoder(file, max_pixels)
        try:
            with without_remarks():
                headers = FrameHeaders(file.header, decoder.promise.frames)
        except READ_ERRORS as error:
            raise FileFault(FaultKind.UNREADABLE, one_line(error)) from None
        yield ImageFile(headers, file, decoder)


def read_image(path: Path, max_pixels: int = MAX_PIXELS, frame: int = 0) -> Pixels:
    """(rows, columns): the signal of one image of a file. Raises FileFault."""
    with open_images(path, max_pixels) as images:
        return images.signal(frame)


def _to_signal(image: StoredValues, header: Dataset) -> Pixels:
    """Apply the modality LUT or rescale where it changes anything, and turn MONOCHROME1 round."""
    inverted = header.PhotometricInterpretation == "MONOCHROME1"
    if header.get("ModalityLUTSequence"):
        signal = apply_modality_lut(image, header)
        return -signal.astype(np.int32) if inverted else signal
    slope, intercept = float(header.get("RescaleSlope", 1) or 1), float(header.get("RescaleIntercept", 0) or 0)
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        slope, intercept = 1.0, 0.0
    if inverted:
        slope, intercept = -slope, -intercept
    if (slope, intercept) == (1.0, 0.0):
        return image
    with np.errstate(over="ignore", invalid="ignore"):
        signal = image.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if not (np.abs(signal) < LARGEST_SIGNAL).all():
        message = f"rescale slope {slope:g}, intercept {intercept:g}: beyond all numbers"
        raise FileFault(FaultKind.UNDECODABLE, message)
    return signal
