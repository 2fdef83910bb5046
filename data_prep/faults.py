"""Faults: what was wrong with the input and what was done about it; each is one row of ``faults.csv``.

Each kind carries two texts: what it means and what is done about it. ``docs/faults.md`` and
``prepare_data.py --check`` show them. After a change run ``python -m data_prep.faults > docs/faults.md``.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Action = Literal["skipped", "repaired", "guessed", "kept"]


class FaultKind(StrEnum):
    """Every kind of fault in ``faults.csv``: its name there, what it means and what is done about it."""

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
        "an optional table does not exist",
        "without the coordinates the shipped atlas is used; without the descriptions the view of each series is "
        "guessed from its images",
    )
    BAD_ROW = (
        "bad_row",
        "a row has more cells than the heading, so its cells may be shifted and none can be trusted",
        "the row is skipped",
    )
    BAD_ID = (
        "bad_id",
        "an id in a table, or the name of a folder, is not a plain whole number (`../x`, `1e5`, `-5`, `007`)",
        "the row or folder is skipped; such an id is never used as a path",
    )
    BAD_LABEL = (
        "bad_label",
        "a severity, condition, level or series description is none of the known ones",
        "a severity: the site has no grade; a description: the view is guessed from the images; otherwise the row is "
        "skipped",
    )
    BAD_MARK = ("bad_mark", "a coordinate is not a finite number", "the row is skipped")
    DUPLICATE_ROW = ("duplicate_row", "a row repeats an earlier one", "one of the two is kept")
    CONTRADICTION = (
        "contradiction",
        "two rows of one table give different values for one site or series",
        "both are ignored: the site has no grade, or the view of the series is guessed from its images",
    )
    # Folders
    MISSING_STUDY = (
        "missing_study",
        "a table names this study, but the image folder does not contain it",
        "the study has no images; a test study is still part of the submission",
    )
    MISSING_SERIES = (
        "missing_series",
        "a table describes this series, but the image folder does not contain it",
        "the series has no images",
    )
    NOT_IN_TABLE = (
        "not_in_table",
        "the image folder contains this study, but no table names it",
        "the study is converted without labels",
    )
    ID_ASSIGNED = (
        "id_assigned",
        "the folder of a new study, or of a series of it, gives it no number: its name is not one, or it holds several",
        "the study or series gets the number that the message gives; it depends on nothing but its StudyInstanceUID or "
        "SeriesInstanceUID and its folder's name",
    )
    SPLIT_STUDY = (
        "split_study",
        "the images of one examination, by their StudyInstanceUID, lie in several folders",
        "new studies: they are read as one study if they all name one patient, else each folder is a study; in the "
        "competition's layout each folder is a study, as the tables say",
    )
    TWIN_STUDY = (
        "twin_study",
        "images of a study are, pixel by pixel, also those of a study in another fold: one examination that has two "
        "numbers",
        "both are kept, and `dataset.json` names them; a training or an evaluation that holds out one of them and "
        "learns from the other is refused",
    )
    IDENTITY_IGNORED = (
        "identity_ignored",
        "StudyInstanceUIDs that say nothing: one constant in all study folders, another one in each file, or one for "
        "several patients",
        "the folders and PatientIDs tell the studies apart",
    )
    EMPTY_FOLDER = (
        "empty_folder",
        "a study has no series, or a series has no readable image",
        "the study or series is skipped",
    )
    MISPLACED = (
        "misplaced",
        "a file or folder lies one level too high or too low, or in the folder of another study",
        "a series folder that the table assigns to exactly one study is read as that study's; anything else is skipped",
    )
    LINK_OUTSIDE = (
        "link_outside",
        "a link points outside the image folder",
        "the link is not followed; copy its target into the image folder if it belongs there",
    )
    SECOND_NAME = (
        "second_name",
        "a link points to a study folder that is already in the image folder under another name",
        "the link is skipped, so the study is read once",
    )
    CANNOT_OPEN = (
        "cannot_open",
        "the operating system refuses to open a file, or to list or enter a folder (permissions, a broken disk)",
        "the file or folder is skipped; correct the cause and run again",
    )
    # Files
    NOT_DICOM = (
        "not_dicom",
        "not a DICOM image: an empty file, a text, a DICOMDIR, a file manager's file (`.DS_Store`), a broken link, a "
        "device",
        "the file is skipped",
    )
    UNREADABLE = ("unreadable", "the header cannot be parsed", "the file is skipped")
    FILE_META = (
        "file_meta",
        "the preamble or the transfer syntax is missing, because the file has lost its first bytes",
        "the encoding is inferred from the first element",
    )
    NO_PIXELS = (
        "no_pixels",
        "the file has no pixel data, or is cut off before them (pydicom reads such a file as empty)",
        "the file is skipped",
    )
    TRUNCATED = (
        "truncated",
        "the file holds fewer pixels than its header describes",
        "the file, or the damaged frame, is skipped",
    )
    SURPLUS_BYTES = (
        "surplus_bytes",
        "the file holds more bytes of pixels than its header describes",
        "the described pixels are read, the remaining bytes are ignored",
    )
    UNDELIMITED = (
        "undelimited",
        "compressed pixels are complete, but the delimiter after them is missing (pydicom reads such a file as empty)",
        "the pixels are read as if the delimiter were present",
    )
    TOO_MANY_PIXELS = (
        "too_many_pixels",
        "an image has more than `max_pixels` pixels, or a deflated file would hold more than that",
        "the file is skipped without decoding it",
    )
    NOT_GREY = (
        "not_grey",
        "a colour or palette image: only grey images are read",
        "the file or frame is skipped",
    )
    MULTI_FRAME = (
        "multi_frame",
        "a file has more frames than the 999 that can be numbered",
        "the file is skipped",
    )
    NO_DECODER = (
        "no_decoder",
        "no installed package can decode the compression",
        "the file is skipped; the message names a package to install",
    )
    UNDECODABLE = (
        "undecodable",
        "the decoder rejects the pixels, or the header rules out the decoded values",
        "the file or frame is skipped",
    )
    WRONG_SHAPE = (
        "wrong_shape",
        "the compressed image has another size, or more bits, than the header describes",
        "the file or frame is skipped",
    )
    STREAM_PRECISION = (
        "stream_precision",
        "the compressed image has 8 bits, but the header describes more",
        "the image is read with 8 bits",
    )
    STREAM_SIGN = (
        "stream_sign",
        "the compressed image has signed values and the header describes unsigned ones, or the reverse",
        "the image is read, unless it has negative values under an unsigned header: then it is skipped",
    )
    OTHER_DECODER = (
        "other_decoder",
        "the preferred decoder refuses a compressed image, and another installed one reads it",
        "the image of the other decoder is used",
    )
    ODD_HEADER = (
        "odd_header",
        "a header value cannot be right: a rescale slope that is 0 or not a number, padding that covers the whole "
        "image, a HighBit or BitsStored that the pixels contradict, a PhotometricInterpretation that no grey image "
        "has, a character set that is none",
        "the value is ignored: the pixels keep their stored values",
    )
    ODD_NUMBER = (
        "odd_number",
        "a number in a header is not written as the standard requires (decimal commas, quotes, a text element), but "
        "it has one possible meaning",
        "the number is read",
    )
    SPARE_BITS = (
        "spare_bits",
        "bits of the pixels that the header does not count to the values are in use",
        "these bits are ignored, as the header says",
    )
    CONSTANT_IMAGE = ("constant_image", "all pixels of an image have the same value", "the image is written unchanged")
    NO_GEOMETRY = (
        "no_geometry",
        "the position, orientation or pixel spacing is missing or impossible, or impossible together with those of the "
        "other images of the series: many different images at one place, slices that lie beside instead of behind each "
        "other, distances that contradict the header, a single slice that is out of place",
        "the image is written, but no region uses it; the other images of the series keep their places",
    )
    DUPLICATE_INSTANCE = (
        "duplicate_instance",
        "two files of a series hold the same image (instance number, place and pixels), or a frame has the number of a "
        "file",
        "the first in the order of file names is kept, and a file is preferred to a frame; if the file names give "
        "different numbers, both are kept",
    )
    NUMBER_ASSIGNED = (
        "number_assigned",
        "images of a series have no usable instance number, in the file's name or in the header, or the same one at "
        "different places",
        "they get new numbers, which the message gives, in the order of their places, identifiers and names",
    )
    FOREIGN_IMAGE = (
        "foreign_image",
        "the identifiers of a file or a series (StudyInstanceUID, SeriesInstanceUID) differ from those of most images "
        "beside it, or do not tell whose images they are",
        "images of another examination are skipped; among new studies they are read as a study of their own if their "
        "identifier tells which; images of which only the series differs are kept",
    )
    ODD_VALUES = (
        "odd_values",
        "the values of an image lie far from those of its series: a wrong rescale slope, or a damaged image",
        "the image does not contribute to the window of its series and has a window of its own",
    )
    # Series
    SEVERAL_CONTRASTS = (
        "several_contrasts",
        "a series holds several images of the same places that were taken or computed differently: echoes, parts of a "
        "Dixon image, images before and after a contrast agent, repetitions in time, maps",
        "those that fit the view, or that readers marked, are used; the others are written, each contrast with its own "
        "window, but no region uses them",
    )
    VIEW_GUESSED = (
        "view_guessed",
        "no table describes the series",
        "its view is guessed from its orientation and echo times",
    )
    VIEW_MISMATCH = (
        "view_mismatch",
        "the table describes a sagittal series, but the images are axial, or the reverse",
        "the view is taken from the images",
    )
    WEIGHTING_MISMATCH = (
        "weighting_mismatch",
        "the table describes a T1 series and the header a T2 series, or the reverse",
        "the view is taken from the table; if two sagittal series contradict it crosswise, their views are exchanged "
        "(`view_mismatch`)",
    )
    ODD_SLICES = (
        "odd_slices",
        "some images of a series lie in another plane than the rest, as those of a localiser do",
        "the images are written, but no region uses them",
    )
    OTHER_STATION = (
        "other_station",
        "a series shows the neck or the chest, the others the lumbar spine",
        "its images are written, but no region uses them; of two series that lie apart, both are used",
    )
    UNKNOWN_VIEW = (
        "unknown_view",
        "a series has none of the three views, or shows the phase",
        "its images are written, but no region uses them",
    )
    # Marks
    MARK_WITHOUT_IMAGE = (
        "mark_without_image",
        "the image of a mark is missing or has no geometry",
        "the mark is not used",
    )
    MARK_OFF_IMAGE = ("mark_off_image", "a mark lies outside its image", "the mark is not used")
    DUPLICATE_MARK = ("duplicate_mark", "a site has a second mark at another position", "the first mark is kept")
    MARK_IN_OTHER_VIEW = (
        "mark_in_other_view",
        "a mark lies in another view than its site is marked in, in a coronal image, or outside the lumbar spine",
        "the mark is used if its image is a sagittal or axial one of the lumbar spine, because its position in "
        "millimetres is still right",
    )
    MARKS_SWAPPED = (
        "marks_swapped",
        "the left mark lies on the patient's right and the right mark on the left",
        "the two positions are exchanged; each label stays with its side",
    )
    MARK_WRONG_SIDE = (
        "mark_wrong_side",
        "one of a pair of marks lies on the wrong side of the patient, the other does not",
        "the mark is not used: the atlas places the site by the other marks; if both are marked at one place and "
        "nothing shows which of them is wrong, both are used",
    )
    MARK_OUT_OF_ORDER = (
        "mark_out_of_order",
        "the marks of one condition do not descend from L1-L2 to L5-S1",
        "the doubtful marks are not used: the atlas places their sites by the other marks",
    )
    MARK_FAR = (
        "mark_far",
        "a mark lies far from the other marks of its level",
        "the mark is not used: the atlas places the site by the other marks",
    )
    LEVEL_IN_DOUBT = (
        "level_in_doubt",
        "the levels of a study without marks may be counted wrongly, for example because its images do not show the "
        "sacrum or resemble those of no study that the locator or the atlas knows",
        "the most probable positions are used; `level_confidence` in `sites.csv` is below 0.8",
    )
    SITES_NOT_FOUND = (
        "sites_not_found",
        "sites of a study are unannotated and no atlas can place them",
        "these sites have no regions; a test study is still part of the submission",
    )


@dataclass(frozen=True)
class Fault:
    """A row of ``faults.csv``. `path` is relative to the image folder, or ``table.csv:line``."""

    study_id: int | None
    series_id: int | None
    path: str
    kind: FaultKind
    action: Action
    message: str


@dataclass(frozen=True)
class Repair:
    """A note about a file that was read: what had to be corrected, guessed or ignored."""

    kind: FaultKind
    message: str
    action: Action = "repaired"


class FileFault(Exception):
    """The reason why a file, or one of its frames, gives no image."""

    def __init__(self, kind: FaultKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


def markdown() -> str:
    """Return the text of ``docs/faults.md``: a table of every kind, what it means and what is done."""
    lines = [
        "# Faults: what `prepare_data.py` skipped, repaired or guessed",
        "",
        "Every row of `faults.csv` is one fault: `study_id`, `series_id`, `path` (relative to the image folder, or",
        "`table.csv:line`), `kind`, `action` and `message`. The action is `skipped` (not used), `repaired` (corrected",
        "with certainty), `guessed` (decided from other evidence) or `kept` (used as it is). A fault affects only the",
        "file, row or series that it names. `python prepare_data.py --check` prints all faults and writes nothing.",
        "",
        "| kind | what it means | what is done |",
        "|---|---|---|",
        *(f"| `{kind}` | {kind.meaning} | {kind.done} |" for kind in FaultKind),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
