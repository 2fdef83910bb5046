"""What went wrong with the input and what was done about it: the rows of ``faults.csv``.

Each kind says here what it means and what is done about it. ``docs/faults.md`` and
``prepare_data.py --check`` show these words; ``python -m data_prep.faults > docs/faults.md`` writes the former.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Action = Literal["skipped", "repaired", "guessed", "kept"]


class FaultKind(StrEnum):
    """Every kind of fault that can stand in ``faults.csv``: its name, what it means, what is done about it."""

    meaning: str
    done: str

    def __new__(cls, value: str, meaning: str = "", done: str = "") -> "FaultKind":
        kind = str.__new__(cls, value)
        kind._value_ = value
        kind.meaning = meaning
        kind.done = done
        return kind

    # Tables
    MISSING_TABLE = (
        "missing_table",
        "an optional table is not there",
        "without coordinates the atlas that ships serves; without descriptions the images say what each series is",
    )
    BAD_ROW = (
        "bad_row",
        "a row with more cells than the heading: they have shifted, and none can be trusted",
        "the row is left out",
    )
    BAD_ID = (
        "bad_id",
        "an id, in a table or as a folder's name, that is no plain whole number (`../x`, `1e5`, `-5`, `007`)",
        "the row or folder is left out: it never becomes a path",
    )
    BAD_LABEL = (
        "bad_label",
        "a severity, condition, level or series description that is none",
        "that site has no grade, that series is what its images say, any other row is left out",
    )
    BAD_MARK = ("bad_mark", "a coordinate that is no finite number", "the row is left out")
    DUPLICATE_ROW = ("duplicate_row", "a second row that says the same", "one of the two is kept")
    CONTRADICTION = (
        "contradiction",
        "two rows of one table that say different things of one site or series",
        "neither is believed: the site has no grade, the series is what its images say",
    )
    # Folders
    MISSING_STUDY = (
        "missing_study",
        "a table names this study, the image folder has it not",
        "no images; a test study is answered for all the same",
    )
    MISSING_SERIES = ("missing_series", "the table describes this series, the image folder has it not", "no images")
    NOT_IN_TABLE = ("not_in_table", "the image folder has this study, no table names it", "converted, without labels")
    ID_ASSIGNED = (
        "id_assigned",
        "a folder of new studies whose name is no number",
        "it is called by the number that the message says",
    )
    EMPTY_FOLDER = ("empty_folder", "a study without series, or a series without any readable image", "left out")
    MISPLACED = (
        "misplaced",
        "a file or folder one level too high or too low",
        "a series folder that the table gives to one study is read as that study's; anything else is left out",
    )
    LINK_OUTSIDE = (
        "link_outside",
        "a link that leads outside the image folder",
        "not followed; copy what it points to if it belongs here",
    )
    SECOND_NAME = (
        "second_name",
        "a link to a study's folder that lies in the image folder under a name of its own",
        "left out: the study is read once",
    )
    CANNOT_OPEN = (
        "cannot_open",
        "the system refuses to open a file, or to list or enter a folder: permissions, a broken disk",
        "left out; correct it and run again",
    )
    # Files
    NOT_DICOM = (
        "not_dicom",
        "no DICOM image: empty, text, DICOMDIR, what a file manager left (`.DS_Store`), a broken link, a device",
        "left out",
    )
    UNREADABLE = ("unreadable", "a header that cannot be parsed", "left out")
    FILE_META = (
        "file_meta",
        "no preamble, or no transfer syntax: the file has lost its first bytes",
        "read as its first element is written",
    )
    NO_PIXELS = ("no_pixels", "no pixel data, or a file cut before them, which pydicom reads as empty", "left out")
    TRUNCATED = ("truncated", "the header promises more pixels than the file holds", "left out")
    SURPLUS_BYTES = (
        "surplus_bytes",
        "more bytes of pixels than the header promises",
        "the promised ones are read, the rest is left",
    )
    UNDELIMITED = (
        "undelimited",
        "compressed pixels that are whole, but whose end is not marked; pydicom reads such a file as empty",
        "read as if it were marked",
    )
    TOO_MANY_PIXELS = (
        "too_many_pixels",
        "an image of more than `--max-pixels`, or a deflated file that would hold more",
        "left out, undecoded",
    )
    NOT_GREY = ("not_grey", "a colour, palette or phase image: not what is read on MR", "left out")
    MULTI_FRAME = ("multi_frame", "more frames in one file than the 999 that can be numbered", "left out")
    NO_DECODER = (
        "no_decoder",
        "a compression that no installed package reads",
        "left out; a package to install is named",
    )
    UNDECODABLE = ("undecodable", "pixels that their decoder refuses, or values that the header rules out", "left out")
    WRONG_SHAPE = (
        "wrong_shape",
        "the compressed image is not of the size, or has more bits, than the header promises",
        "left out",
    )
    STREAM_PRECISION = (
        "stream_precision",
        "the compressed image has 8 bits where the header promises more",
        "read as it is",
    )
    STREAM_SIGN = (
        "stream_sign",
        "the compressed image has values with a sign where the header promises none, or the reverse",
        "read where that leaves one meaning: negative values under a header without a sign are left out",
    )
    ODD_HEADER = (
        "odd_header",
        "a header value that cannot be meant: a rescale slope of 0 or no number, padding that covers a whole picture",
        "not applied: the values count as they are stored",
    )
    CONSTANT_IMAGE = ("constant_image", "every pixel of an image is the same", "written as it is")
    NO_GEOMETRY = (
        "no_geometry",
        "position, orientation or spacing is missing or impossible",
        "the image is written, but carries no region",
    )
    DUPLICATE_INSTANCE = (
        "duplicate_instance",
        "two files of one instance number in a series, or a frame whose number is a file's",
        "the first by its file's number is kept, before a frame the file; where the files are numbered apart, both are",
    )
    FOREIGN_IMAGE = (
        "foreign_image",
        "a file whose identifiers (StudyInstanceUID, SeriesInstanceUID) are not those of most files beside it",
        "left out where it is of another examination, kept where only its series is another",
    )
    ODD_VALUES = (
        "odd_values",
        "an image whose values lie far from its series': a slip in its rescale slope, a damaged picture",
        "it has no say in its series' window, and is windowed by itself",
    )
    # Series
    VIEW_GUESSED = (
        "view_guessed",
        "no table describes the series",
        "its orientation and echo times say which of the three kinds it is",
    )
    VIEW_MISMATCH = (
        "view_mismatch",
        "the table says sagittal, the images are axial, or the reverse",
        "the images are believed",
    )
    WEIGHTING_MISMATCH = (
        "weighting_mismatch",
        "the table says T1 and the header T2, or the reverse",
        "the table is believed; where two sagittal series contradict it crosswise they are exchanged (`view_mismatch`)",
    )
    ODD_SLICES = (
        "odd_slices",
        "some images lie in another plane than their series, as a localiser's do",
        "those images are written, but carry no region",
    )
    OTHER_STATION = (
        "other_station",
        "a series of the neck or the chest among lumbar ones",
        "its images are written, but carry no region; where one series stands against one, both are used",
    )
    UNKNOWN_VIEW = (
        "unknown_view",
        "a series of none of the three kinds",
        "its images are written, but carry no region",
    )
    # Marks
    MARK_WITHOUT_IMAGE = ("mark_without_image", "the image of a mark is missing or has no geometry", "not used")
    MARK_OFF_IMAGE = ("mark_off_image", "a mark outside its image", "not used")
    DUPLICATE_MARK = ("duplicate_mark", "a second mark of one site, at another place", "the first is kept")
    MARK_IN_OTHER_VIEW = (
        "mark_in_other_view",
        "a mark in another view than its site is marked in, or in a coronal image, or at another station of the spine",
        "used where the image is a sagittal or axial one of the lumbar spine, because millimetres are millimetres",
    )
    MARKS_SWAPPED = (
        "marks_swapped",
        "the left mark lies on the patient's right and the right one on the left",
        "the two places are exchanged; each label stays with its name",
    )
    MARK_WRONG_SIDE = (
        "mark_wrong_side",
        "one mark lies on the other side of the patient, its fellow does not",
        "not used: the atlas places the site by the other marks",
    )
    MARK_OUT_OF_ORDER = (
        "mark_out_of_order",
        "marks of one kind that do not descend from L1-L2 to L5-S1",
        "those in doubt are not used: the atlas places their sites by the other marks",
    )
    MARK_FAR = (
        "mark_far",
        "a mark far from the others of its level",
        "not used: the atlas places the site by the other marks",
    )
    SITES_NOT_FOUND = (
        "sites_not_found",
        "sites of a study that nobody marked and that no atlas can place",
        "no regions there; a test study is answered for all the same",
    )


@dataclass(frozen=True)
class Fault:
    """Something that was skipped, repaired or guessed. `path` is relative to the image folder, or a table's name."""

    study_id: int | None
    series_id: int | None
    path: str
    kind: FaultKind
    action: Action
    message: str


@dataclass(frozen=True)
class Repair:
    """What had to be put right, or should be known, about a file that was read all the same."""

    kind: FaultKind
    message: str
    action: Action = "repaired"


class FileFault(Exception):
    """A file, or a frame of one, that gives no image, and why."""

    def __init__(self, kind: FaultKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


def markdown() -> str:
    """``docs/faults.md``: every kind, what it means and what is done."""
    lines = [
        "# Faults: what `prepare_data.py` could not use, repaired or guessed",
        "",
        "Every row of `faults.csv` is one fault: `study_id`, `series_id`, `path` (relative to the image folder, or",
        "`table.csv:line`), `kind`, `action` and `message`. An action is `skipped` (left out), `repaired` (put right,",
        "for certain), `guessed` (decided from other evidence) or `kept` (used as it is). A fault costs the file, row",
        "or series that it names and nothing else. `python prepare_data.py --check` prints them and writes nothing.",
        "",
        "| kind | what it means | what is done |",
        "|---|---|---|",
        *(f"| `{kind}` | {kind.meaning} | {kind.done} |" for kind in FaultKind),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
