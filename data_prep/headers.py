"""What a DICOM header says about one image: where it lies and how it was acquired. Nothing else of it is read."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset

from data_prep.dicom_file import READ_ERRORS, without_remarks
from data_prep.enhanced import frame_instance
from data_prep.geometry import Frame

#: A spin echo is T1-weighted with a short echo and a short repetition time (ms); T2 and STIR have long ones.
T1_ECHO_MS, T1_REPETITION_MS = 30.0, 1200.0
#: T12 is a vertebra, and PAT1 a patient.
_WEIGHTING_WORD = re.compile(r"(?<![a-z0-9])(t1|t2|stir)(?![0-9])")
#: Instance numbers become file names; DICOM's have at most 12 digits.
LARGEST_INSTANCE = 10**12


@dataclass(frozen=True)
class Header:
    """Geometry and acquisition numbers of one image; `frame` is None, and `problem` says why, where it has none."""

    instance_number: int
    frame: Frame | None
    problem: str
    weighting: str
    """``t1`` or ``t2`` where the series description or the times tell, else empty."""


def read_header(dataset: Dataset, path: Path, frame_index: int = 0, frames: int = 1) -> Header:
    """Of the image `frame_index`, counted from 0, of a file of `frames`; `dataset` is that frame's own header.

    Raises ValueError where neither the file's name nor the header gives an instance number. The file's
    name counts first, because the competition's tables speak of files.
    """
    with without_remarks():
        number = frame_instance(_file_number(dataset, path), frame_index, frames)
        frame, problem = None, ""
        try:
            frame = _frame(dataset)
        except READ_ERRORS as error:
            problem = " ".join(str(error).split())[:160]
        return Header(number, frame, problem, _weighting(dataset))


def _file_number(dataset: Dataset, path: Path) -> int:
    try:
        number = int(path.stem) if path.stem.isascii() and path.stem.isdigit() else int(dataset.InstanceNumber)
    except READ_ERRORS:
        raise ValueError("no instance number, neither in the file's name nor in its header") from None
    if not 0 <= number < LARGEST_INSTANCE:
        raise ValueError(f"instance number {number}: expected 0 to {LARGEST_INSTANCE - 1}")
    return number


def _frame(dataset: Dataset) -> Frame:
    position = _numbers(dataset, "ImagePositionPatient", 3)
    orientation = _numbers(dataset, "ImageOrientationPatient", 6)
    spacing = _numbers(dataset, "PixelSpacing", 2)
    return Frame(
        (position[0], position[1], position[2]),
        (orientation[0], orientation[1], orientation[2]),
        (orientation[3], orientation[4], orientation[5]),
        (spacing[0], spacing[1]),
        (int(dataset.Rows), int(dataset.Columns)),
    )


def _numbers(dataset: Dataset, name: str, count: int) -> list[float]:
    value: Any = dataset.get(name)
    numbers = [] if value is None or isinstance(value, float) else [float(number) for number in value]
    if len(numbers) != count:
        raise ValueError(f"{name} has {len(numbers)} numbers: expected {count}")
    return numbers


def _weighting(dataset: Dataset) -> str:
    """From the series description; where it says nothing, from echo and repetition time."""
    try:
        words = str(dataset.get("SeriesDescription", "")).lower()
        echo, repetition = (float(dataset.get(name) or math.nan) for name in ("EchoTime", "RepetitionTime"))
    except READ_ERRORS:
        return ""
    named = {"t1" if word == "t1" else "t2" for word in _WEIGHTING_WORD.findall(words)}
    if len(named) == 1:
        return named.pop()
    if math.isnan(echo) or math.isnan(repetition):
        return ""
    return "t1" if echo < T1_ECHO_MS and repetition < T1_REPETITION_MS else "t2"
