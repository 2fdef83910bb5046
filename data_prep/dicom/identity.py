"""Read what tells whose image a file holds, from the start of its header alone."""

import re
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from pydicom import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from data_prep.dicom.dicom_file import open_dicom, pydicom_warnings_ignored, read_meta
from data_prep.dicom.header_values import READ_ERRORS
from data_prep.dicom.pixel_description import MAX_PIXELS
from data_prep.faults import FaultKind, FileFault

_PATIENT, _STUDY, _SERIES = Tag(0x00100020), Tag(0x0020000D), Tag(0x0020000E)
_FRAMES, _ROWS = Tag(0x00280008), Tag(0x00280010)
_TAGS: list[BaseTag | int] = [_PATIENT, _STUDY, _SERIES, _FRAMES, _ROWS]
#: The tags up to Rows, which only images have, lie within this many bytes of almost every file.
_START_BYTES = 1 << 14
_SEPARATORS = re.compile(r"[\s._/-]")
#: Extensions of files that are meant to be DICOM images, even if they cannot be read.
_IMAGE_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})


@dataclass(frozen=True)
class Identity:
    """The identifiers of an image, each empty if it is missing. They are compared, and never written anywhere.

    frames: the number of images in the file.
    """

    patient: str = field(default="", repr=False)
    study_uid: str = field(default="", repr=False)
    series_uid: str = field(default="", repr=False)
    frames: int = 1

    @property
    def plain_patient(self) -> str:
        """The PatientID, without what programs add to or leave out of one: separators, capitals, leading zeros."""
        plain = _SEPARATORS.sub("", self.patient).casefold()
        return plain.lstrip("0") or plain


def read_identity(path: Path) -> Identity | None:
    """Return the identity of the image in a file, None if the file holds no DICOM image, as a report or a DICOMDIR.

    A file whose header is damaged, or that cannot be opened, has an empty identity; so has a file that is called an
    image (``.dcm``) and is not in DICOM's format. What is wrong with it is found out when it is converted.
    """
    try:
        with pydicom_warnings_ignored():
            header = _start_of_header(path)
            if _ROWS not in header:
                header = _whole_header(path)
    except FileFault as fault:
        is_damaged = fault.kind is not FaultKind.NOT_DICOM or path.suffix.lower() in _IMAGE_SUFFIXES
        return Identity() if is_damaged and fault.kind is not FaultKind.NO_PIXELS else None
    return identity_of(header)


def identity_of(header: Dataset) -> Identity:
    """Return the identity that a header gives."""
    patient, study, series = (_element_text(header, tag) for tag in (_PATIENT, _STUDY, _SERIES))
    return Identity(patient, study, series, _frames(header))


def _element_text(header: Dataset, tag: int) -> str:
    """Return an element unparsed, as text, which is enough for comparison; empty if it is missing."""
    value = header.get_item(tag).value if tag in header else b""
    return value.decode("latin-1").strip("\0 ") if isinstance(value, bytes) else str(value or "")


def _start_of_header(path: Path) -> Dataset:
    """Return the elements of `_TAGS` up to Rows; none if they are not reached within `_START_BYTES`.

    Raises FileFault for a file that is not a DICOM file.
    """
    try:
        with path.open("rb") as file:
            buffer = BytesIO(file.read(_START_BYTES))
        syntax, _ = read_meta(buffer)
        if syntax == DeflatedExplicitVRLittleEndian:
            return Dataset()
        return read_dataset(
            buffer,
            is_implicit_VR=syntax == ImplicitVRLittleEndian,
            is_little_endian=syntax != ExplicitVRBigEndian,
            stop_when=lambda tag, _vr, _length: tag > _ROWS,
            specific_tags=_TAGS,
        )
    except READ_ERRORS:
        return Dataset()


def _whole_header(path: Path) -> Dataset:
    """Return the header of a file whose start does not tell enough. Raises FileFault if it has none or no pixels."""
    with open_dicom(path, MAX_PIXELS) as file:
        return file.header


def _frames(header: Dataset) -> int:
    text = _element_text(header, _FRAMES)
    return int(text) if text.isascii() and text.isdigit() and 0 < len(text) <= 4 else 1
