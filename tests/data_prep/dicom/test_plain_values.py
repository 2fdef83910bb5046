"""Values of a standard spelling are read without pydicom: to the same result as with it."""

from contextlib import suppress

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from rle.utils import encode_pixel_data

from data_prep.dicom.decoders import decode_rle
from data_prep.dicom.dicom_file import pydicom_warnings_ignored
from data_prep.dicom.header_values import HeaderError, numbers, texts, whole_number
from data_prep.series.windows import to_grey


def header(keyword: str, representation: str, content: bytes, little_endian: bool = True) -> Dataset:
    tag = Tag(keyword)
    raw = RawDataElement(tag, representation, len(content), content, 0, False, little_endian)
    return Dataset({tag: raw})


@pytest.mark.parametrize(
    "content",
    [b"1.5\\-2", b" 0.50 \\1e-3", b"+7\\12.", b"1\\2\\3", b"1,5\\2", b"\\1", b"1\\\\2", b"nan\\1", b"1.5\0\\2 "],
)
def test_numbers(content: bytes) -> None:
    unparsed, parsed = (header("PixelSpacing", "DS", content) for _ in range(2))
    with suppress(TypeError, ValueError), pydicom_warnings_ignored():
        parsed["PixelSpacing"]  # pydicom parses it here

    def read(dataset: Dataset) -> list[float] | str:
        try:
            return numbers(dataset, "PixelSpacing", 2)
        except HeaderError as error:
            return str(error)

    assert repr(read(unparsed)) == repr(read(parsed))


@pytest.mark.parametrize("content", [b"12", b" 7 ", b"-3", b"012 ", b"1.0", b"", b"two", b"1\\2"])
def test_whole_numbers(content: bytes) -> None:
    unparsed, parsed = (header("InstanceNumber", "IS", content) for _ in range(2))
    with suppress(TypeError, ValueError), pydicom_warnings_ignored():
        parsed["InstanceNumber"]  # pydicom parses it here

    def read(dataset: Dataset) -> int | str:
        try:
            return whole_number(dataset, "InstanceNumber", 99)
        except HeaderError as error:
            return str(error)

    assert read(unparsed) == read(parsed)


@pytest.mark.parametrize(("content", "little", "expected"), [(b"\1\2", True, 513), (b"\1\2", False, 258)])
def test_binary_numbers_in_both_byte_orders(content: bytes, little: bool, expected: int) -> None:
    assert whole_number(header("Rows", "US", content, little), "Rows") == expected


@pytest.mark.parametrize(
    "content", [b"ORIGINAL\\PRIMARY\\M", b"A ", b" A", b"A\\ B", b"A\\\\B", b"A\\", b"", b"A\0", b"\xe4"]
)
@pytest.mark.parametrize("representation", ["CS", "LO", "UI"])
def test_texts(content: bytes, representation: str) -> None:
    unparsed, parsed = (header("ImageType", representation, content) for _ in range(2))
    with pydicom_warnings_ignored():
        parsed["ImageType"]
    assert texts(unparsed, "ImageType") == texts(parsed, "ImageType")


@pytest.mark.parametrize("kind", ["<u1", "<i1", "<u2", "<i2", "<u4"])
def test_rle(kind: str) -> None:
    image = np.random.default_rng(0).integers(0, 100, (5, 8)).astype(kind)
    bits = 8 * image.itemsize
    encoded = encode_pixel_data(
        image.tobytes(), rows=5, columns=8, samples_per_pixel=1, bits_allocated=bits, byteorder="<"
    )
    decoded = decode_rle(encoded, 5, 8, bits, kind[1] == "i")
    assert decoded is not None and decoded.dtype == np.dtype(kind) and decoded.flags.writeable
    np.testing.assert_array_equal(decoded, image)
    assert decode_rle(encoded[:70], 5, 8, bits, False) is None
    assert decode_rle(encoded, 5, 9, bits, False) is None


@pytest.mark.parametrize("window", [(0.0, 4095.0), (3.0, 77.0), (-5.5, 60000.0), (10.0, 11.0), (7.0, 7.0)])
def test_grey_of_16_bit_numbers_is_that_of_any_others(window: tuple[float, float]) -> None:
    image = np.random.default_rng(0).integers(0, 65536, (300, 200)).astype(np.uint16)
    np.testing.assert_array_equal(to_grey(image, window), to_grey(image.astype(np.int64), window))
