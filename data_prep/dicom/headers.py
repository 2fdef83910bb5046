"""What a DICOM header says about one image: where it lies and how it was acquired. Nothing else of it is read."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset
from pydicom.tag import BaseTag, Tag

from data_prep.dicom.dicom_file import without_remarks
from data_prep.dicom.header_values import HeaderError, number, numbers, value_of, whole_number
from data_prep.dicom.multi_frame import frame_instance
from data_prep.geometry import Frame

#: A spin echo is T1-weighted with a short echo and a short repetition time (ms); T2 and STIR have long ones.
T1_ECHO_MS, T1_REPETITION_MS = 30.0, 1200.0
#: T12 is a vertebra, and PAT1 a patient.
_WEIGHTING_WORD = re.compile(r"(?<![a-z0-9])(t1|t2|stir)(?![0-9])")
#: Instance numbers become file names; DICOM's have at most 12 digits.
LARGEST_INSTANCE = 10**12
#: StudyInstanceUID and SeriesInstanceUID.
_UNIQUE_IDENTIFIERS = (Tag(0x0020000D), Tag(0x0020000E))


@dataclass(frozen=True)
class Header:
    """Geometry and acquisition numbers of one image; `frame` is None, and `problem` says why, where it has none."""

    instance_number: int
    frame: Frame | None
    problem: str
    weighting: str
    """``t1`` or ``t2`` where the series description or the times tell, else empty."""
    own_number: int | None = None
    """What the header calls the instance, whatever its file is called."""
    study_uid: str = field(default="", repr=False)
    series_uid: str = field(default="", repr=False)
    """Only ever compared: with those of the other images in the folder."""


def read_header(dataset: Dataset, path: Path, frame_index: int = 0, frames: int = 1) -> Header:
    """Of the image `frame_index`, counted from 0, of a file of `frames`; `dataset` is that frame's own header.

    Raises HeaderError where neither the file's name nor the header gives an instance number. The file's
    name counts first, because the competition's tables speak of files.
    """
    with without_remarks():
        instance = frame_instance(_file_number(dataset, path), frame_index, frames)
        frame, problem = None, ""
        try:
            frame = _frame(dataset)
        except ValueError as error:  # a HeaderError, or what Frame says of numbers
            problem = str(error)
        identifiers = (_identifier(dataset, tag) for tag in _UNIQUE_IDENTIFIERS)
        return Header(instance, frame, problem, _weighting(dataset), _own_number(dataset), *identifiers)


def _file_number(dataset: Dataset, path: Path) -> int:
    try:
        named = path.stem.isascii() and path.stem.isdigit()
        found = int(path.stem) if named else whole_number(dataset, "InstanceNumber")
    except HeaderError:
        raise HeaderError("no instance number, neither in the file's name nor in its header") from None
    if not 0 <= found < LARGEST_INSTANCE:
        raise HeaderError(f"an instance number of {len(str(abs(found)))} digits: expected 0 to {LARGEST_INSTANCE - 1}")
    return found


def _own_number(dataset: Dataset) -> int | None:
    try:
        return whole_number(dataset, "InstanceNumber")
    except HeaderError:
        return None


def _identifier(dataset: Dataset, tag: BaseTag) -> str:
    """As it is written, unparsed: enough to compare it; empty where it is missing."""
    value = dataset.get_item(tag).value if tag in dataset else b""
    return value.decode("ascii", "replace").strip("\0 ") if isinstance(value, bytes) else str(value or "")


def _text(dataset: Dataset, keyword: str) -> str:
    """Empty where an element is missing or cannot be parsed."""
    try:
        return str(value_of(dataset, keyword) or "")
    except HeaderError:
        return ""


def _frame(dataset: Dataset) -> Frame:
    position = numbers(dataset, "ImagePositionPatient", 3)
    orientation = numbers(dataset, "ImageOrientationPatient", 6)
    spacing = numbers(dataset, "PixelSpacing", 2)
    return Frame(
        (position[0], position[1], position[2]),
        (orientation[0], orientation[1], orientation[2]),
        (orientation[3], orientation[4], orientation[5]),
        (spacing[0], spacing[1]),
        (whole_number(dataset, "Rows"), whole_number(dataset, "Columns")),
    )


def _weighting(dataset: Dataset) -> str:
    """From the series description; where it says nothing, from echo and repetition time."""
    words = _text(dataset, "SeriesDescription").lower()
    try:
        echo, repetition = (number(dataset, name, math.nan) or math.nan for name in ("EchoTime", "RepetitionTime"))
    except HeaderError:
        return ""
    named = {"t1" if word == "t1" else "t2" for word in _WEIGHTING_WORD.findall(words)}
    if len(named) == 1:
        return named.pop()
    if math.isnan(echo) or math.isnan(repetition):
        return ""
    return "t1" if echo < T1_ECHO_MS and repetition < T1_REPETITION_MS else "t2"
