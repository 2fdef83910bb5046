"""What went wrong with the input and what was done about it: the rows of ``faults.csv``."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Action = Literal["skipped", "repaired", "guessed", "kept"]


class FaultKind(StrEnum):
    """Every kind of fault that can stand in ``faults.csv``."""

    # Tables
    MISSING_TABLE = "missing_table"  # an optional CSV is not there
    BAD_ID = "bad_id"  # an id that is no whole number: it never becomes a path
    BAD_LABEL = "bad_label"  # a severity, condition, level or series description that is none
    BAD_MARK = "bad_mark"  # a coordinate that is no number
    DUPLICATE_ROW = "duplicate_row"  # a second row about the same thing; the first is kept
    # Folders
    MISSING_STUDY = "missing_study"  # a table names it, the disk has it not
    MISSING_SERIES = "missing_series"
    NOT_IN_TABLE = "not_in_table"  # the disk has it, no table names it
    ID_ASSIGNED = "id_assigned"  # a folder of new studies whose name is no number was given one
    EMPTY_FOLDER = "empty_folder"
    MISPLACED = "misplaced"  # a file or folder one level too high or too low
    # Files
    NOT_DICOM = "not_dicom"
    UNREADABLE = "unreadable"  # a header that cannot be parsed
    NO_PIXELS = "no_pixels"  # also: a file cut before its pixels, which pydicom reads as empty
    TRUNCATED = "truncated"  # the header promises more pixels than the file holds
    SURPLUS_BYTES = "surplus_bytes"  # more pixels than the header promises
    TOO_MANY_PIXELS = "too_many_pixels"  # more than --max-pixels
    NOT_GREY = "not_grey"
    MULTI_FRAME = "multi_frame"
    NO_DECODER = "no_decoder"
    UNDECODABLE = "undecodable"
    WRONG_SHAPE = "wrong_shape"  # what was decoded is not what the header promised
    NO_GEOMETRY = "no_geometry"  # the image is written, but carries no region
    DUPLICATE_INSTANCE = "duplicate_instance"
    # Series
    VIEW_GUESSED = "view_guessed"  # no table describes the series: its orientation and its times do
    VIEW_MISMATCH = "view_mismatch"  # the table says sagittal, the images are axial, or the reverse
    UNKNOWN_VIEW = "unknown_view"  # none of the three kinds: the images are written, but carry no region
    # Marks
    MARK_WITHOUT_IMAGE = "mark_without_image"
    MARK_OFF_IMAGE = "mark_off_image"
    DUPLICATE_MARK = "duplicate_mark"


@dataclass(frozen=True)
class Fault:
    """Something that was skipped, repaired or guessed. `path` is relative to the image folder, or a table's name."""

    study_id: int | None
    series_id: int | None
    path: str
    kind: FaultKind
    action: Action
    message: str
