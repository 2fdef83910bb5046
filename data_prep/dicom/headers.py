"""Read the geometry and the acquisition of one image from its DICOM header; nothing else of the header is read."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset
from pydicom.tag import BaseTag, Tag

from data_prep.dicom.dicom_file import pydicom_warnings_ignored
from data_prep.dicom.header_values import HeaderError, number, numbers, spelling_repairs, texts, whole_number
from data_prep.dicom.multi_frame import frame_instance
from data_prep.faults import Repair
from data_prep.geometry import Frame

#: A spin echo is T1-weighted with a short echo and a short repetition time (ms); T2 and STIR have long ones.
T1_ECHO_MS, T1_REPETITION_MS = 30.0, 1200.0
#: Must not match T12, which is a vertebra, or PAT1, which is a patient.
_WEIGHTING_WORD = re.compile(r"(?<![a-z0-9])(t1|t2|stir)(?![0-9])")
#: Instance numbers become file names; in DICOM they have at most 12 digits.
LARGEST_INSTANCE = 10**12
#: StudyInstanceUID and SeriesInstanceUID.
_UNIQUE_IDENTIFIERS = (Tag(0x0020000D), Tag(0x0020000E))


@dataclass(frozen=True)
class Header:
    """Geometry and acquisition of one image. Without usable geometry `frame` is None and `problem` is the reason."""

    instance_number: int
    frame: Frame | None
    problem: str
    weighting: str
    """``t1`` or ``t2``, from the series description or the times; empty if unknown."""
    own_number: int | None = None
    """The InstanceNumber of the header, which may differ from the number in the file's name."""
    study_uid: str = field(default="", repr=False)
    series_uid: str = field(default="", repr=False)
    """Used only for comparison with the other images in the folder."""
    repairs: tuple[Repair, ...] = ()
    """What had to be corrected to read the header."""


def read_header(dataset: Dataset, path: Path, frame_index: int = 0, frames: int = 1) -> Header:
    """Read the header of one image of a file.

    The instance number is taken from the file's name if possible, because the competition's tables name files.

    Args:
        dataset: the header of this frame alone.
        path: the file.
        frame_index: number of the frame, counted from 0.
        frames: number of frames in the file.

    Raises:
        HeaderError: if neither the file's name nor the header gives an instance number.
    """
    odd: list[str] = []
    with pydicom_warnings_ignored():
        instance = frame_instance(_file_number(dataset, path), frame_index, frames)
        frame, problem = None, ""
        try:
            frame = _frame(dataset, odd)
        except ValueError as error:  # a HeaderError, or Frame rejects the numbers
            problem = str(error)
        weighting, own_number = _weighting(dataset, odd), _own_number(dataset)
        study_uid, series_uid = (_identifier(dataset, tag) for tag in _UNIQUE_IDENTIFIERS)
        return Header(instance, frame, problem, weighting, own_number, study_uid, series_uid, spelling_repairs(odd))


def _file_number(dataset: Dataset, path: Path) -> int:
    try:
        named = path.stem.isascii() and path.stem.isdigit()
        found = int(path.stem) if named else whole_number(dataset, "InstanceNumber")
    except HeaderError:
        raise HeaderError("neither the file's name nor its header gives an instance number") from None
    if not 0 <= found < LARGEST_INSTANCE:
        digits = len(str(abs(found)))
        raise HeaderError(f"instance number of {digits} digits: expected 0 to {LARGEST_INSTANCE - 1}")
    return found


def _own_number(dataset: Dataset) -> int | None:
    try:
        return whole_number(dataset, "InstanceNumber")
    except HeaderError:
        return None


def _identifier(dataset: Dataset, tag: BaseTag) -> str:
    """Return an identifier unparsed, which is enough for comparison; empty if it is missing."""
    value = dataset.get_item(tag).value if tag in dataset else b""
    return value.decode("ascii", "replace").strip("\0 ") if isinstance(value, bytes) else str(value or "")


def _frame(dataset: Dataset, odd: list[str]) -> Frame:
    position = numbers(dataset, "ImagePositionPatient", 3, odd)
    orientation = numbers(dataset, "ImageOrientationPatient", 6, odd)
    spacing = numbers(dataset, "PixelSpacing", 2, odd)
    return Frame(
        (position[0], position[1], position[2]),
        (orientation[0], orientation[1], orientation[2]),
        (orientation[3], orientation[4], orientation[5]),
        (spacing[0], spacing[1]),
        (whole_number(dataset, "Rows"), whole_number(dataset, "Columns")),
    )


def _weighting(dataset: Dataset, odd: list[str]) -> str:
    """Return the weighting that the series description names, else the one that echo and repetition time imply."""
    words = "\\".join(texts(dataset, "SeriesDescription")).lower()
    named = {"t1" if word == "t1" else "t2" for word in _WEIGHTING_WORD.findall(words)}
    echo, repetition = _time(dataset, "EchoTime", odd), _time(dataset, "RepetitionTime", odd)
    if len(named) == 1:
        return named.pop()
    if math.isnan(echo) or math.isnan(repetition):
        return ""
    return "t1" if echo < T1_ECHO_MS and repetition < T1_REPETITION_MS else "t2"


def _time(dataset: Dataset, keyword: str, odd: list[str]) -> float:
    """Return a time in ms; NaN if it is missing, 0 or not a number."""
    try:
        return number(dataset, keyword, math.nan, odd) or math.nan
    except HeaderError:
        return math.nan
