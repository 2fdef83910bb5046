"""Tests on published MR files of several makers, if they exist: values, transfer syntaxes and geometry."""

import struct
from pathlib import Path

import numpy as np
import pytest

from data_prep.dicom.pixels import open_images, read_image
from data_prep.faults import FaultKind, FileFault
from data_prep.sites import View
from data_prep.studies.studies import StudyFolder, read_study
from tests.dicom_files import PUBLISHED, needs_published_files

pytestmark = needs_published_files

SYNTAXES = sorted((PUBLISHED / "transfer_syntaxes").glob("*.dcm"))


def read_mosaic(path: Path) -> np.ndarray:
    """Read a NIfTI-1 volume as the mosaic that its DICOM file stores: a square grid of slices, row by row.

    The rows of NIfTI run upwards, those of DICOM downwards. Cells of the grid without a slice are 0.
    """
    content = path.read_bytes()
    columns, rows, slices = struct.unpack_from("<3h", content, 42)
    datatype, offset = struct.unpack_from("<h", content, 70)[0], int(struct.unpack_from("<f", content, 108)[0])
    values = np.frombuffer(content, {4: "<i2", 512: "<u2"}[datatype], rows * columns * slices, offset)
    volume = values.reshape(slices, rows, columns)[:, ::-1]
    side = int(np.ceil(np.sqrt(slices)))
    mosaic = np.zeros((side * rows, side * columns), volume.dtype)
    for number, image in enumerate(volume):
        down, across = divmod(number, side)
        mosaic[down * rows :, across * columns :][:rows, :columns] = image
    return mosaic


@pytest.mark.parametrize("path", SYNTAXES, ids=lambda path: path.name)
def test_nine_transfer_syntaxes_give_one_image(path: Path) -> None:
    image = read_image(path)
    np.testing.assert_array_equal(image, read_mosaic(PUBLISHED / "transfer_syntaxes" / "reference.nii"))
    assert image.dtype == np.uint16 and image.dtype.isnative


def test_all_nine_files_exist() -> None:
    assert len(SYNTAXES) == 9


@pytest.mark.parametrize(
    ("name", "truth", "lowest", "highest"),
    [
        ("12bitUnsigned", "2", 0, 2908),
        ("12bitUnsigned_0x0F0F", "3", 0, 4095),
        ("12bitSigned_0x0F0F", "4", -2048, 2047),
    ],
)
def test_unused_bits_do_not_change_the_values(name: str, truth: str, lowest: int, highest: int) -> None:
    image = read_image(PUBLISHED / "twelve_bit" / f"{name}.dcm")
    assert (image.min(), image.max()) == (lowest, highest)
    np.testing.assert_array_equal(image, read_mosaic(PUBLISHED / "twelve_bit" / f"{truth}.nii"))


def test_a_file_without_its_delimiter_is_read_and_noted() -> None:
    with open_images(PUBLISHED / "siemens_axial_t2" / "GH1339.dcm") as images:
        image = images.signal()
        assert [(repair.kind, repair.action) for repair in images.repairs] == [(FaultKind.UNDELIMITED, "repaired")]
    assert image.shape == (320, 320) and (image.min(), image.max()) == (0, 819)
    assert np.count_nonzero(image) > image.size // 2


def test_only_the_delimiter_was_missing(tmp_path: Path) -> None:
    source = PUBLISHED / "siemens_axial_t2" / "GH1339.dcm"
    repaired = tmp_path / "1.dcm"
    repaired.write_bytes(source.read_bytes() + b"\xfe\xff\xdd\xe0\0\0\0\0")
    with open_images(repaired) as images:
        np.testing.assert_array_equal(images.signal(), read_image(source))
        assert not images.repairs
    repaired.write_bytes(source.read_bytes()[:-3000])
    with pytest.raises(FileFault, match="left in the file"):
        read_image(repaired)


def test_a_series_of_four_blocks_has_four_stacks() -> None:
    folder = PUBLISHED / "ge_axial_t2"
    study, faults = read_study(StudyFolder(1, folder.parent, {7: folder}, {7: View.AXIAL_T2}))
    (series,) = study.series
    assert len(series.slices) == 12 and len(series.stacks) == 4 and not faults
    for stack in series.stacks:
        heights = [series.slices[index].frame.centre_mm[2] for index in stack]  # type: ignore[union-attr]
        assert heights == sorted(heights)


def test_a_series_with_negative_values_uses_all_grey_levels() -> None:
    folder = PUBLISHED / "ge_axial_t2"
    lowest = min(read_image(path).min() for path in folder.glob("*.dcm"))
    assert lowest < 0
    study, _ = read_study(StudyFolder(1, folder.parent, {7: folder}))
    (series,) = study.series
    assert all(image.grey.min() == 0 and image.grey.max() == 255 for image in series.slices)
