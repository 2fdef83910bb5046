"""data_prep/pixels.py: what comes back is what the header promised, or a fault with its kind."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, RLELossless

from data_prep.faults import FaultKind
from data_prep.pixels import PixelFault, grey_image, read_dicom, series_window, to_grey
from tests.dicom_files import PUBLISHED, needs_published_files, write_slice

RAMP = np.arange(48 * 40, dtype=np.uint16).reshape(48, 40)


def fault_of(path: Path, max_pixels: int = 10_000) -> FaultKind:
    with pytest.raises(PixelFault) as caught:
        grey_image(read_dicom(path), max_pixels)
    return caught.value.kind


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_is_as_uncompressed(tmp_path: Path, syntax) -> None:  # type: ignore[no-untyped-def]
    image, repaired = grey_image(read_dicom(write_slice(tmp_path / "1.dcm", RAMP, syntax=syntax)))
    np.testing.assert_array_equal(image, RAMP)
    assert repaired is None


@needs_published_files
def test_published_transfer_syntaxes_agree_or_name_their_decoder() -> None:
    expected = dcmread(PUBLISHED / "transfer_syntaxes" / "1.dcm").pixel_array
    read = 0
    for path in sorted((PUBLISHED / "transfer_syntaxes").glob("*.dcm")):
        try:
            image, _ = grey_image(read_dicom(path))
        except PixelFault as fault:
            assert fault.kind is FaultKind.NO_DECODER and "requires" in fault.message, path
            continue
        np.testing.assert_array_equal(image, expected)
        assert image.dtype.isnative
        read += 1
    assert read >= 5


@needs_published_files
@pytest.mark.parametrize(
    ("name", "lowest", "highest"),
    [("12bitUnsigned", 0, 2908), ("12bitUnsigned_0x0F0F", 0, 4095), ("12bitSigned_0x0F0F", -2048, 2047)],
)
def test_rubbish_in_unused_bits_is_masked(name: str, lowest: int, highest: int) -> None:
    image, _ = grey_image(read_dicom(PUBLISHED / "twelve_bit" / f"{name}.dcm"))
    assert (image.min(), image.max()) == (lowest, highest)


@needs_published_files
def test_a_file_without_its_delimiter_is_a_fault_not_an_empty_image() -> None:
    assert fault_of(PUBLISHED / "siemens_axial_t2" / "GH1339.dcm") is FaultKind.NO_PIXELS


def test_surplus_bytes_are_cut_and_said(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "1.dcm", RAMP, PixelData=RAMP.tobytes() * 2)
    image, repaired = grey_image(read_dicom(path))
    np.testing.assert_array_equal(image, RAMP)
    assert repaired is FaultKind.SURPLUS_BYTES


@pytest.mark.parametrize(
    ("elements", "kind"),
    [
        ({"PixelData": RAMP.tobytes()[:-2]}, FaultKind.TRUNCATED),
        ({"Rows": 60_000, "Columns": 60_000}, FaultKind.TOO_MANY_PIXELS),
        ({"Rows": 0}, FaultKind.NO_PIXELS),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, FaultKind.NOT_GREY),
        ({"SamplesPerPixel": 3}, FaultKind.NOT_GREY),
        ({"NumberOfFrames": 4}, FaultKind.MULTI_FRAME),
        ({"PixelData": None}, FaultKind.NO_PIXELS),
        ({"Rows": None}, FaultKind.UNDECODABLE),
        ({"BitsAllocated": 12}, FaultKind.UNDECODABLE),
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, elements: dict, kind: FaultKind) -> None:
    assert fault_of(write_slice(tmp_path / "1.dcm", RAMP, **elements)) is kind


def test_a_header_bomb_in_rle_is_refused_by_its_length(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "1.dcm", RAMP, syntax=RLELossless, Rows=16_000, Columns=16_000)
    assert fault_of(path, max_pixels=10**9) is FaultKind.TRUNCATED


@pytest.mark.parametrize("content", [b"", b"not a DICOM file", b"\0" * 128 + b"DICM", b"\0" * 4096])
def test_files_that_are_no_images(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "1.dcm"
    path.write_bytes(content)
    assert fault_of(path) in (FaultKind.NOT_DICOM, FaultKind.UNREADABLE, FaultKind.NO_PIXELS)


def test_every_cut_of_a_good_file_is_a_fault_or_the_whole_image(tmp_path: Path) -> None:
    whole = write_slice(tmp_path / "1.dcm", RAMP, syntax=RLELossless).read_bytes()
    path = tmp_path / "2.dcm"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        try:
            image, _ = grey_image(read_dicom(path), 10_000)
        except PixelFault:
            continue
        np.testing.assert_array_equal(image, RAMP)


def test_monochrome1_and_rescale_give_the_signal(tmp_path: Path) -> None:
    inverted, _ = grey_image(read_dicom(write_slice(tmp_path / "1.dcm", RAMP, PhotometricInterpretation="MONOCHROME1")))
    np.testing.assert_array_equal(inverted, -RAMP.astype(float))
    scaled, _ = grey_image(read_dicom(write_slice(tmp_path / "2.dcm", RAMP, RescaleSlope="2.5", RescaleIntercept="-3")))
    np.testing.assert_allclose(scaled, RAMP * 2.5 - 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_the_window_is_the_series_percentiles(dtype) -> None:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(0)
    low = -500 if np.dtype(dtype).kind in "if" else 0
    images = [random.integers(low, 250, size=(50, 40)).astype(dtype) for _ in range(3)]
    expected = np.percentile(np.stack(images), [0.5, 99.5], method="inverted_cdf")
    np.testing.assert_allclose(series_window(images), expected, atol=0.02)


def test_values_beyond_32_signed_bits_have_a_window() -> None:
    image = np.uint32(4_000_000_000) + np.arange(1000, dtype=np.uint32).reshape(20, 50)
    assert series_window([image]) == (4_000_000_004.0, 4_000_000_994.0)


def test_a_rescale_beyond_all_numbers_costs_its_file(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "1.dcm", RAMP, RescaleSlope="1e300", RescaleIntercept="0")
    assert fault_of(path) is FaultKind.UNDECODABLE


def test_grey_is_linear_within_the_window_and_clipped_outside() -> None:
    image = np.array([[-5, 0, 50, 100, 900]], dtype=np.int16)
    np.testing.assert_array_equal(to_grey(image, (0.0, 100.0)), [[0, 0, 128, 255, 255]])


def test_a_constant_series_is_black_not_an_error() -> None:
    image = np.full((5, 5), 7, dtype=np.uint16)
    assert not to_grey(image, series_window([image])).any()


@needs_published_files
def test_negative_values_of_a_real_series_keep_their_order(tmp_path: Path) -> None:
    source = sorted((PUBLISHED / "ge_axial_t2").glob("*.dcm"))[1]
    shutil.copy(source, tmp_path / "1.dcm")
    image, _ = grey_image(read_dicom(tmp_path / "1.dcm"))
    assert image.min() < 0
    grey = to_grey(image, series_window([image]))
    assert grey.min() == 0 and grey.max() == 255
