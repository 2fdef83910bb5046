"""Test every DICOM file that pydicom ships: the pixels are compared with pydicom's own, or the kind of the fault.

tests/data_prep/dicom/pydicom_files.csv has a row per file; a file without one fails, so that the files of a new
pydicom version are checked. `python -m tests.data_prep.dicom.test_pydicom_files` prints the table with the present
results, for comparison with the stored one.
"""

import csv
import hashlib
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data.data_manager import DATA_ROOT

from data_prep.dicom.pixels import Pixels, open_images
from data_prep.faults import FileFault

ROOT = Path(DATA_ROOT)
TABLE = Path(__file__).with_name("pydicom_files.csv")
#: Files in the same folder that are not DICOM: pydicom's code and notes.
NO_DICOM_SUFFIXES = {".py", ".pyc", ".json", ".txt", ".md", ".dump", ".icc", ".gz"}
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.rglob("*")
    if path.is_file() and path.suffix not in NO_DICOM_SUFFIXES
)


@dataclass(frozen=True)
class Row:
    """A row of pydicom_files.csv: either the kind of a fault alone, or a description of the images.

    pixels: ``pydicom`` if they equal pydicom's own after rescale and inversion, else the start of their sha256.
    """

    file: str
    fault: str = ""
    repairs: str = ""
    frames: str = ""
    rows: str = ""
    columns: str = ""
    lowest: str = ""
    highest: str = ""
    pixels: str = ""


def expected_rows() -> dict[str, Row]:
    with TABLE.open(newline="", encoding="utf-8") as file:
        return {row["file"]: Row(**row) for row in csv.DictReader(file)}


def found_row(name: str) -> Row:
    path = ROOT / name
    try:
        with open_images(path) as images:
            frames = [images.signal(frame) for frame in range(len(images.headers))]
            repairs = " ".join(repair.kind for repair in images.repairs)
    except FileFault as fault:
        return Row(name, fault.kind)
    rows, columns = frames[0].shape
    lowest, highest = min(frame.min() for frame in frames), max(frame.max() for frame in frames)
    numbers = (len(frames), rows, columns, f"{lowest:.9g}", f"{highest:.9g}")
    return Row(name, "", repairs, *map(str, numbers), pixels_of(path, frames))


def pixels_of(path: Path, frames: list[Pixels]) -> str:
    mapped = pydicom_signal(path)
    if mapped is not None and mapped.shape == (len(frames), *frames[0].shape):
        np.testing.assert_allclose(np.stack(frames), mapped, rtol=1e-6)
        return "pydicom"
    return hashlib.sha256(np.stack(frames).tobytes()).hexdigest()[:16]


def pydicom_signal(path: Path) -> np.ndarray | None:
    """Return pydicom's pixels (frames, rows, columns), inverted and rescaled; None if pydicom cannot read them.

    MONOCHROME1 is inverted within the range of its stored bits before it is rescaled.
    """
    try:
        dataset = dcmread(path, force=True)
        stored = dataset.pixel_array.astype(np.float64)
    except Exception:
        return None
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        stored = (-1 if dataset.PixelRepresentation else 2**dataset.BitsStored - 1) - stored
    signal = stored * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
    return signal if signal.ndim == 3 else signal[None]


def test_the_table_has_a_row_for_every_file() -> None:
    assert len(FILES) > 100
    assert sorted(expected_rows()) == FILES


EXPECTED = expected_rows() if TABLE.is_file() else {}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore")
def test_pixels_or_fault(name: str) -> None:
    assert found_row(name) == EXPECTED.get(name), "differs from tests/data_prep/dicom/pydicom_files.csv"


if __name__ == "__main__":
    table = csv.DictWriter(sys.stdout, [field.name for field in fields(Row)], lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(found_row(name)) for name in FILES)
