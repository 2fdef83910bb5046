"""Tests of data_prep/dicom/used_bits.py: where the pixels contradict BitsStored or HighBit, they are believed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from data_prep.dicom.pixels import open_images
from data_prep.faults import FaultKind
from tests.dicom_files import write_enhanced, write_slice

_down, _across = np.mgrid[:48, :40]
_noise = np.random.default_rng(0).normal(0, 15, (48, 40))
#: A smooth image with some noise, up to about 2200: 12 bits.
SMOOTH = np.clip(900 + 700 * np.sin(_across / 7) + 600 * np.cos(_down / 9) + _noise, 0, 4095).astype(np.uint16)
SIGNED = SMOOTH.astype(np.int16) - 1000
OVERLAY = (_across % 7 == 0).astype(np.uint16)
GARBAGE = np.random.default_rng(1).integers(0, 16, (48, 40)).astype(np.uint16)

NATIVE_AND_RLE = pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
ALL_SYNTAXES = pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless, JPEGLSLossless]
)


def read(folder: Path, pixels: np.ndarray, **elements: Any) -> tuple[np.ndarray, list[tuple[FaultKind, str]]]:
    path = folder / "1.dcm"
    if pixels.ndim == 3:
        write_enhanced(path, pixels, None, **elements)
    else:
        write_slice(path, pixels, **elements)
    with open_images(path) as images:
        signal = np.stack([images.signal(frame) for frame in range(len(images.headers))])
        return signal if pixels.ndim == 3 else signal[0], [(repair.kind, repair.action) for repair in images.repairs]


BELIEVED = [(FaultKind.ODD_HEADER, "repaired")]
SAID = [(FaultKind.SPARE_BITS, "kept")]


@pytest.mark.parametrize(
    ("pixels", "stored", "high"),
    [
        (SMOOTH, 12, 15),
        (SMOOTH, 12, 13),
        (SMOOTH, 12, 12),
        (SMOOTH // 2 * 2, 13, 15),  # the lowest bit is never set
        (SMOOTH // 20, 8, 15),
        ((SMOOTH // 40).astype(np.uint8), 6, 7),
        (SMOOTH.astype(np.uint32), 12, 31),
        (SMOOTH.astype(np.uint32) << 8, 20, 31),
        (SIGNED, 12, 15),
        (SIGNED.astype(np.int32), 12, 24),
        ((SIGNED // 40).astype(np.int8), 6, 7),
    ],
)
@NATIVE_AND_RLE
def test_values_at_the_low_end_are_read_there(
    tmp_path: Path, pixels: np.ndarray, stored: int, high: int, syntax: Any
) -> None:
    if syntax == RLELossless and pixels.itemsize == 4:
        pytest.skip("pydicom cannot write 32-bit RLE")
    image, repairs = read(tmp_path, pixels, syntax=syntax, BitsStored=stored, HighBit=high)
    np.testing.assert_array_equal(image, pixels)
    assert repairs == BELIEVED


def test_signed_values_without_their_upper_sign_bits(tmp_path: Path) -> None:
    image, repairs = read(tmp_path, SIGNED & 0xFFF, BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(image, SIGNED)
    assert repairs == BELIEVED


@pytest.mark.parametrize(
    ("values", "below"), [(SMOOTH, 0), (SMOOTH // 30, 0), (SMOOTH, GARBAGE), (SMOOTH, OVERLAY), (SMOOTH // 30, OVERLAY)]
)
@NATIVE_AND_RLE
def test_values_at_the_high_end_are_read_there(tmp_path: Path, values: np.ndarray, below: Any, syntax: Any) -> None:
    image, repairs = read(tmp_path, values << 4 | below, syntax=syntax, BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(image, values)
    assert repairs == (SAID if np.any(below) else [])


@ALL_SYNTAXES
@pytest.mark.parametrize("pixels", [SMOOTH, SIGNED])
def test_values_that_take_more_bits_than_stored_are_read_whole(tmp_path: Path, pixels: np.ndarray, syntax: Any) -> None:
    image, repairs = read(tmp_path, pixels, syntax=syntax, BitsStored=8, HighBit=7)
    np.testing.assert_array_equal(image, pixels)
    assert repairs == BELIEVED


@NATIVE_AND_RLE
@pytest.mark.parametrize("above", [OVERLAY << 12, OVERLAY << 15, GARBAGE << 12])
def test_an_overlay_or_garbage_above_the_values_is_not_part_of_them(
    tmp_path: Path, above: np.ndarray, syntax: Any
) -> None:
    image, repairs = read(tmp_path, SMOOTH | above, syntax=syntax, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(image, SMOOTH)
    assert repairs == SAID


@ALL_SYNTAXES
@pytest.mark.parametrize("pixels", [SMOOTH, SIGNED])
def test_correct_headers_are_not_noted(tmp_path: Path, pixels: np.ndarray, syntax: Any) -> None:
    for stored in (12, 16):
        image, repairs = read(tmp_path, pixels, syntax=syntax, BitsStored=stored, HighBit=stored - 1)
        np.testing.assert_array_equal(image, pixels)
        assert not repairs
    image, repairs = read(tmp_path, pixels << 4, syntax=syntax, BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(image, pixels)
    assert not repairs


@NATIVE_AND_RLE
def test_all_frames_of_a_file_are_read_alike(tmp_path: Path, syntax: Any) -> None:
    frames = np.stack([np.zeros_like(SMOOTH), np.full_like(SMOOTH, 16), SMOOTH, SMOOTH // 3])
    image, repairs = read(tmp_path, frames, syntax=syntax, BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(image, frames)
    assert repairs == BELIEVED
    inverted = {"PhotometricInterpretation": "MONOCHROME1"}
    image, _ = read(tmp_path, frames, syntax=syntax, BitsStored=8, HighBit=7, **inverted)
    np.testing.assert_array_equal(image, 65535 - frames)
    image, _ = read(tmp_path, frames, syntax=syntax, BitsStored=12, HighBit=15, **inverted)
    np.testing.assert_array_equal(image, 4095 - frames)
