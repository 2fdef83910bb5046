"""Read the geometry and the acquisition of one image from its DICOM header; nothing else of the header is read."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset

from data_prep.dicom.acquisition import Acquisition
from data_prep.dicom.dicom_file import pydicom_warnings_ignored
from data_prep.dicom.header_values import HeaderError, number, numbers, spelling_repairs, texts, whole_number
from data_prep.dicom.identity import Identity, identity_of
from data_prep.dicom.multi_frame import frame_instance
from data_prep.faults import Repair
from data_prep.geometry import Frame

#: A spin echo is T1-weighted with a short echo and a short repetition time (ms); T2 and STIR have long ones.
T1_ECHO_MS, T1_REPETITION_MS = 30.0, 1200.0
#: Must not match T12, which is a vertebra, or PAT1, which is a patient.
_WEIGHTING_WORD = re.compile(r"(?<![a-z0-9])(t1|t2|stir)(?![0-9])")
#: Instance numbers become file names; in DICOM they have at most 12 digits.
LARGEST_INSTANCE = 10**12
#: Names with more digits are not parsed: leading zeros may precede a number.
_LONGEST_NAME = 64


@dataclass(frozen=True)
class Header:
    """Geometry and acquisition of one image. Without usable geometry `frame` is None and `problem` is the reason."""

    instance_number: int | None
    """From the file's name or from the header; None if neither gives one that could be the name of a file."""
    frame: Frame | None
    problem: str
    weighting: str
    """``t1`` or ``t2``, from the series description or the times; empty if unknown."""
    acquisition: Acquisition = field(repr=False, compare=False)
    own_number: int | None = None
    """The InstanceNumber of the header, which may differ from the number in the file's name."""
    identity: Identity = field(default=Identity(), repr=False)
    """Used only for comparison with other images."""
    repairs: tuple[Repair, ...] = ()
    """What had to be corrected to read the header."""


def read_header(dataset: Dataset, path: Path, frame_index: int = 0, frames: int = 1) -> Header:
    """Read the header of one image of a file.

    The instance number is taken from the file's name if possible, because the competition's tables name files. Names
    are numbers only as a whole: ``12.dcm`` and ``12`` are, ``401.12`` (series and image), time stamps of more digits
    than an instance number has, and unique identifiers are not.

    Args:
        dataset: the header of this frame alone.
        path: the file.
        frame_index: number of the frame, counted from 0.
        frames: number of frames in the file.
    """
    odd: list[str] = []
    with pydicom_warnings_ignored():
        own_number = _own_number(dataset)
        instance = _instance_number(path, own_number, frame_index, frames)
        frame, problem = None, ""
        try:
            frame = _frame(dataset, odd)
        except ValueError as error:  # a HeaderError, or Frame rejects the numbers
            problem = str(error)
        weighting, acquisition = _weighting(dataset, odd), Acquisition(dataset)
        repairs = spelling_repairs(odd)
        return Header(instance, frame, problem, weighting, acquisition, own_number, identity_of(dataset), repairs)


def named_number(path: Path) -> int | None:
    """Return the number that a file's name is, whatever its ending; None if the name is not a number.

    >>> [named_number(Path(name)) for name in ("12.dcm", "007", "401.12", "20240131121314.dcm", "IM12")]
    [12, 7, None, None, None]
    """
    plain = path.stem.isascii() and path.stem.isdigit() and len(path.stem) <= _LONGEST_NAME
    number = int(path.stem) if plain and not path.suffix[1:].isdigit() else LARGEST_INSTANCE
    return number if number < LARGEST_INSTANCE else None


def _instance_number(path: Path, own_number: int | None, frame_index: int, frames: int) -> int | None:
    for claim in (named_number(path), own_number):
        if claim is not None and 0 <= (found := frame_instance(claim, frame_index, frames)) < LARGEST_INSTANCE:
            return found
    return None


def _own_number(dataset: Dataset) -> int | None:
    try:
        return whole_number(dataset, "InstanceNumber")
    except HeaderError:
        return None


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
