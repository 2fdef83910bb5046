"""data_prep/pixels.py and what it is made of: what comes back is what the header promised, or a fault with its kind."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless, RLELossless

from data_prep.faults import FaultKind, FileFault
from data_prep.pixels import open_images, read_image
from tests.dicom_files import write_slice

RAMP = np.arange(48 * 40, dtype=np.uint16).reshape(48, 40)


def fault_of(path: Path, max_pixels: int = 10_000) -> FaultKind:
    with pytest.raises(FileFault) as caught:
        read_image(path, max_pixels)
    return caught.value.kind


def repairs_of(path: Path) -> list[FaultKind]:
    with open_images(path) as images:
        images.signal()
        return [repair.kind for repair in images.repairs]


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_is_as_uncompressed(tmp_path: Path, syntax) -> None:  # type: ignore[no-untyped-def]
    path = write_slice(tmp_path / "1.dcm", RAMP, syntax=syntax)
    np.testing.assert_array_equal(read_image(path), RAMP)
    assert not repairs_of(path)


def test_surplus_bytes_are_cut_and_said(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "1.dcm", RAMP, PixelData=RAMP.tobytes() * 2)
    np.testing.assert_array_equal(read_image(path), RAMP)
    assert repairs_of(path) == [FaultKind.SURPLUS_BYTES]


@pytest.mark.parametrize(
    ("elements", "kind"),
    [
        ({"PixelData": RAMP.tobytes()[:-2]}, FaultKind.TRUNCATED),
        ({"Rows": 60_000, "Columns": 60_000}, FaultKind.TOO_MANY_PIXELS),
        ({"Rows": 0}, FaultKind.NO_PIXELS),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, FaultKind.NOT_GREY),
        ({"SamplesPerPixel": 3}, FaultKind.NOT_GREY),
        ({"NumberOfFrames": 4}, FaultKind.TRUNCATED),
        ({"NumberOfFrames": 1000}, FaultKind.MULTI_FRAME),
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
            image = read_image(path, 10_000)
        except FileFault:
            continue
        np.testing.assert_array_equal(image, RAMP)


def test_monochrome1_and_rescale_give_the_signal(tmp_path: Path) -> None:
    inverted = read_image(write_slice(tmp_path / "1.dcm", RAMP, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(inverted, -RAMP.astype(float))
    scaled = read_image(write_slice(tmp_path / "2.dcm", RAMP, RescaleSlope="2.5", RescaleIntercept="-3"))
    np.testing.assert_allclose(scaled, RAMP * 2.5 - 3)


def test_a_rescale_beyond_all_numbers_costs_its_file(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "1.dcm", RAMP, RescaleSlope="1e300", RescaleIntercept="0")
    assert fault_of(path) is FaultKind.UNDECODABLE
