"""Tests of data_prep/dicom/pixels.py: the pixels are as the header describes them, or a fault is raised."""

import struct
import tracemalloc
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from data_prep.dicom.pixels import open_images, read_image
from data_prep.faults import FaultKind, FileFault
from tests.dicom_files import deflated, write_slice

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


def test_surplus_bytes_are_ignored_and_noted(tmp_path: Path) -> None:
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
        ({"RescaleSlope": 1e34}, FaultKind.UNDECODABLE),
        ({"NumberOfFrames": 4}, FaultKind.TRUNCATED),
        ({"NumberOfFrames": 1000}, FaultKind.MULTI_FRAME),
        ({"PixelData": None}, FaultKind.NO_PIXELS),
        ({"Rows": None}, FaultKind.UNDECODABLE),
        ({"BitsAllocated": 12}, FaultKind.UNDECODABLE),
    ],
)
def test_impossible_headers_are_refused(tmp_path: Path, elements: dict, kind: FaultKind) -> None:
    assert fault_of(write_slice(tmp_path / "1.dcm", RAMP, **elements)) is kind


def test_an_rle_frame_too_short_for_its_header_is_refused(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "1.dcm", RAMP, syntax=RLELossless, Rows=16_000, Columns=16_000)
    assert fault_of(path, max_pixels=10**9) is FaultKind.TRUNCATED


@pytest.mark.parametrize("content", [b"", b"not a DICOM file", b"\0" * 128 + b"DICM", b"\0" * 4096])
def test_files_that_are_not_images_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "1.dcm"
    path.write_bytes(content)
    assert fault_of(path) in (FaultKind.NOT_DICOM, FaultKind.UNREADABLE, FaultKind.NO_PIXELS)


def test_a_truncated_file_is_a_fault_or_the_complete_image(tmp_path: Path) -> None:
    complete = write_slice(tmp_path / "1.dcm", RAMP, syntax=RLELossless).read_bytes()
    path = tmp_path / "2.dcm"
    for length in range(0, len(complete), 7):
        path.write_bytes(complete[:length])
        try:
            image = read_image(path, 10_000)
        except FileFault:
            continue
        np.testing.assert_array_equal(image, RAMP)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32])
def test_monochrome1_is_inverted_within_its_range(tmp_path: Path, dtype) -> None:  # type: ignore[no-untyped-def]
    limits = np.iinfo(dtype)
    pixels = np.random.default_rng(1).integers(limits.min, limits.max, (16, 10), dtype=dtype, endpoint=True)
    pixels[0, :2] = limits.min, limits.max
    image = read_image(write_slice(tmp_path / "1.dcm", pixels, PhotometricInterpretation="MONOCHROME1"))
    assert image.dtype == dtype
    np.testing.assert_array_equal(image.astype(object), limits.max + limits.min - pixels.astype(object))


def test_monochrome1_of_twelve_bits_is_rescaled_after_inversion(tmp_path: Path) -> None:
    elements = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}
    np.testing.assert_array_equal(read_image(write_slice(tmp_path / "1.dcm", RAMP, **elements)), 4095 - RAMP)
    path = write_slice(tmp_path / "2.dcm", RAMP, **elements, RescaleSlope="2", RescaleIntercept="-3")
    np.testing.assert_array_equal(read_image(path), (4095.0 - RAMP) * 2 - 3)
    signed = {**elements, "PixelRepresentation": 1}
    path = write_slice(tmp_path / "3.dcm", RAMP.astype(np.int16) - 900, syntax=JPEG2000Lossless, **signed)
    np.testing.assert_array_equal(read_image(path), 899 - RAMP.astype(np.int16))


def test_rescale_gives_the_signal(tmp_path: Path) -> None:
    scaled = read_image(write_slice(tmp_path / "2.dcm", RAMP, RescaleSlope="2.5", RescaleIntercept="-3"))
    np.testing.assert_allclose(scaled, RAMP * 2.5 - 3)


def test_a_rescale_beyond_float32_is_refused(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "1.dcm", RAMP, RescaleSlope="1e300", RescaleIntercept="0")
    assert fault_of(path) is FaultKind.UNDECODABLE


def test_a_deflated_file_is_read_and_a_deflated_bomb_is_not(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_image(deflated(write_slice(tmp_path / "1.dcm", RAMP))), RAMP)
    bomb = deflated(write_slice(tmp_path / "2.dcm", RAMP, PixelData=bytes(64 << 20)))
    assert bomb.stat().st_size < 1 << 20
    tracemalloc.start()
    assert fault_of(bomb) is FaultKind.TOO_MANY_PIXELS
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("elements", [{"Rows": 4000, "Columns": 4000}, {"Rows": 40, "Columns": 48}])
def test_a_codestream_of_another_size_is_refused_undecoded(tmp_path: Path, syntax, elements: dict) -> None:  # type: ignore[no-untyped-def]
    path = write_slice(tmp_path / "1.dcm", RAMP, syntax=syntax, **elements)
    assert fault_of(path, 4096 * 4096) is FaultKind.WRONG_SHAPE


def test_a_jpeg_2000_image_of_a_million_tiles_is_refused_undecoded(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "1.dcm", RAMP, syntax=JPEG2000Lossless)
    content = path.read_bytes()
    tile_size = content.index(b"\xff\x4f\xff\x51") + 24
    path.write_bytes(content[:tile_size] + struct.pack(">2L", 1, 1) + content[tile_size + 8 :])
    assert fault_of(path) is FaultKind.UNDECODABLE


@pytest.mark.parametrize("slope", ["0", "nan", "inf", "Secret"])
def test_an_impossible_rescale_is_ignored_and_noted(tmp_path: Path, slope: str) -> None:
    path = write_slice(tmp_path / "1.dcm", RAMP, RescaleSlope="1234", RescaleIntercept="77")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"DS\x04\x001234", b"DS" + struct.pack("<H", 6) + slope.encode().ljust(6)))
    np.testing.assert_array_equal(read_image(path), RAMP)
    assert repairs_of(path) == [FaultKind.ODD_HEADER]


@pytest.mark.parametrize(
    ("pixels", "elements", "low", "high"),
    [
        (RAMP, {"PixelPaddingValue": 7}, 7, 7),
        (RAMP, {"PixelPaddingValue": 9, "PixelPaddingRangeLimit": 7}, 7, 9),
        (RAMP.astype(np.int16) - 900, {"PixelPaddingValue": -900}, -900, -900),
        (RAMP, {"PixelPaddingValue": 5, "PhotometricInterpretation": "MONOCHROME1"}, 5, 5),
        (RAMP, {"PixelPaddingValue": 5, "RescaleSlope": "2.5", "RescaleIntercept": "1"}, 5, 5),
    ],
)
def test_padding_is_masked_by_its_stored_values(
    tmp_path: Path, pixels: np.ndarray, elements: dict, low: int, high: int
) -> None:
    path = write_slice(tmp_path / "1.dcm", pixels, **elements)
    image = read_image(path)
    assert isinstance(image, np.ma.MaskedArray)
    np.testing.assert_array_equal(image.mask, (pixels >= low) & (pixels <= high))
    unpadded = {name: value for name, value in elements.items() if not name.startswith("PixelPadding")}
    np.testing.assert_array_equal(image.data, read_image(write_slice(tmp_path / "2.dcm", pixels, **unpadded)))
    assert not repairs_of(path)


def test_a_padding_value_written_without_its_sign(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "1.dcm", RAMP.astype(np.int16) - 900)
    dataset = dcmread(path)
    dataset.add_new("PixelPaddingValue", "US", 65536 - 900)
    dataset.save_as(path)
    image = read_image(path)
    assert isinstance(image, np.ma.MaskedArray)
    np.testing.assert_array_equal(image.mask, RAMP == 0)


def test_padding_that_would_cover_everything_is_ignored(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "1.dcm", RAMP, PixelPaddingValue=0, PixelPaddingRangeLimit=65535)
    assert not isinstance(read_image(path), np.ma.MaskedArray)
    assert repairs_of(path) == [FaultKind.ODD_HEADER]
    assert not repairs_of(write_slice(tmp_path / "2.dcm", RAMP, PixelPaddingValue=60_000))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_a_fragment_after_the_image_is_ignored_and_a_divided_image_is_joined(tmp_path: Path, syntax) -> None:  # type: ignore[no-untyped-def]
    def rewrite(name: str, fragments: list[bytes]) -> Path:
        dataset = dcmread(undivided)
        items = b"".join(struct.pack("<4sL", b"\xfe\xff\x00\xe0", len(item)) + item for item in [b"", *fragments])
        dataset.PixelData = items + b"\xfe\xff\xdd\xe0\0\0\0\0"
        dataset.save_as(tmp_path / name)
        return tmp_path / name

    undivided = write_slice(tmp_path / "1.dcm", RAMP, syntax=syntax)
    frame = next(generate_frames(dcmread(undivided).PixelData, number_of_frames=1))
    path = rewrite("2.dcm", [frame, frame[:100]])
    np.testing.assert_array_equal(read_image(path), RAMP)
    assert repairs_of(path) == [FaultKind.SURPLUS_BYTES]
    path = rewrite("3.dcm", [frame[:200], frame[200:]])
    np.testing.assert_array_equal(read_image(path), RAMP)
    assert not repairs_of(path)


@pytest.mark.parametrize(
    ("pixels", "signed", "bits", "expected"),
    [
        (RAMP, 1, 16, RAMP),
        (RAMP + 60_000, 1, 16, RAMP.astype(np.int32) + 60_000 - 65536),  # a signed image, compressed as bare cells
        (RAMP + 30_000, 0, 16, RAMP + 30_000),
        (RAMP.astype(np.int16), 0, 16, RAMP),
        (RAMP.astype(np.int16) - 900, 0, 16, None),
        (RAMP.astype(np.int16) - 900, 1, 16, RAMP.astype(np.int16) - 900),
    ],
)
def test_signed_and_unsigned_jpeg_2000_streams(
    tmp_path: Path, pixels: np.ndarray, signed: int, bits: int, expected: np.ndarray | None
) -> None:
    path = write_slice(tmp_path / "1.dcm", pixels, syntax=JPEG2000Lossless, PixelRepresentation=signed)
    if expected is None:
        assert fault_of(path) is FaultKind.UNDECODABLE
        return
    np.testing.assert_array_equal(read_image(path), expected)
    other = signed != (pixels.dtype.kind == "i")
    assert repairs_of(path) == [FaultKind.STREAM_SIGN] * other


def test_a_narrower_unsigned_jpeg_2000_stream_has_no_negative_values(tmp_path: Path) -> None:
    values = RAMP + 2000
    path = write_slice(tmp_path / "1.dcm", values)
    dataset = dcmread(path)
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    stream = next(generate_frames(dataset.PixelData, number_of_frames=1))
    assert stream[stream.index(b"\xff\x51") + 40] == 11, "12 unsigned bits"
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 15, 1
    dataset.save_as(path)
    np.testing.assert_array_equal(read_image(path), values)
    assert repairs_of(path) == [FaultKind.STREAM_SIGN]


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_a_codestream_without_its_end_marker_is_truncated(tmp_path: Path, syntax) -> None:  # type: ignore[no-untyped-def]
    path = write_slice(tmp_path / "1.dcm", RAMP, syntax=syntax)
    content = path.read_bytes()
    end = content.rindex(b"\xff\xd9")
    path.write_bytes(content[:end] + b"\x11\x11" + content[end + 2 :])
    assert fault_of(path) is FaultKind.TRUNCATED


def test_eight_bits_under_a_sixteen_bit_header_are_read_and_noted(tmp_path: Path) -> None:
    narrow = (RAMP // 8).astype(np.uint8)
    path = write_slice(tmp_path / "1.dcm", narrow, syntax=JPEGLSLossless, BitsAllocated=16, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read_image(path), narrow)
    assert repairs_of(path) == [FaultKind.STREAM_PRECISION]


def write_jpeg(path: Path, **elements: int) -> np.ndarray:
    """Write a baseline JPEG of a smooth ramp, with `elements` in the header; return the pixels that Pillow decodes."""
    stream = BytesIO()
    Image.fromarray((RAMP // 10).astype(np.uint8)).save(stream, "jpeg", quality=95)
    write_slice(path, RAMP, **elements)
    dataset = dcmread(path)
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.save_as(path)
    return np.asarray(Image.open(stream))


def test_baseline_jpeg_is_read(tmp_path: Path) -> None:
    expected = write_jpeg(tmp_path / "1.dcm", BitsAllocated=8, BitsStored=8, HighBit=7)
    np.testing.assert_array_equal(read_image(tmp_path / "1.dcm"), expected)
    assert not repairs_of(tmp_path / "1.dcm")


@pytest.mark.parametrize("signed", [0, 1])
def test_an_eight_bit_jpeg_under_a_sixteen_bit_signed_header(tmp_path: Path, signed: int) -> None:
    expected = write_jpeg(tmp_path / "1.dcm", PixelRepresentation=signed)
    assert expected.max() > 127, "smaller values would be the same with a wrong sign"
    np.testing.assert_array_equal(read_image(tmp_path / "1.dcm"), expected)
    assert repairs_of(tmp_path / "1.dcm") == [FaultKind.STREAM_PRECISION]


def test_a_jpeg_that_the_decoder_had_to_complete_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_jpeg(tmp_path / "1.dcm", BitsAllocated=8, BitsStored=8, HighBit=7)
    content = (tmp_path / "1.dcm").read_bytes()
    end = content.rindex(b"\xff\xd9")
    (tmp_path / "1.dcm").write_bytes(content[: end - 40] + b"\xff\xd9" + bytes(40) + content[end + 2 :])
    assert fault_of(tmp_path / "1.dcm") in (FaultKind.UNDECODABLE, FaultKind.TRUNCATED)
    (tmp_path / "1.dcm").write_bytes(content[: end - 8] + b"\xff\xd9" + bytes(8) + content[end + 2 :])
    assert fault_of(tmp_path / "1.dcm") is FaultKind.UNDECODABLE
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("tail", [b"", b"\xfe\xff\xdd\xe0"])
def test_compressed_pixels_without_their_delimiter(tmp_path: Path, tail: bytes) -> None:
    path = write_slice(tmp_path / "1.dcm", RAMP, syntax=RLELossless)
    path.write_bytes(path.read_bytes()[:-8] + tail)
    np.testing.assert_array_equal(read_image(path), RAMP)
    assert repairs_of(path) == ([] if tail else [FaultKind.UNDELIMITED])


def test_a_damaged_rle_stream_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_slice(tmp_path / "1.dcm", RAMP, syntax=RLELossless)
    content = bytearray(path.read_bytes())
    segment = content.index(struct.pack("<4L", 2, 64, 0, 0)[:8]) + 64
    content[segment : segment + 200] = b"\x7f" * 200
    path.write_bytes(content)
    assert fault_of(path) is FaultKind.UNDECODABLE
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("first", ["the data set", "the meta information", "the letters DICM"])
def test_a_file_without_its_first_bytes_is_read(tmp_path: Path, first: str) -> None:
    path = write_slice(tmp_path / "1.dcm", RAMP)
    content = path.read_bytes()
    data_set = content.index(b"\x08\x00\x18\x00UI")
    starts = {"the data set": data_set, "the meta information": 132, "the letters DICM": 128}
    path.write_bytes(content[starts[first] :])
    np.testing.assert_array_equal(read_image(path), RAMP)
    assert repairs_of(path) == [FaultKind.FILE_META]


def test_big_endian_pixels_come_back_in_native_order(tmp_path: Path) -> None:
    for pixels in (RAMP, RAMP.astype(np.int16) - 900, (RAMP % 251).astype(np.uint8), RAMP.astype(np.uint32) << 16):
        path = write_slice(tmp_path / "1.dcm", pixels)
        dataset = dcmread(path)
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        swapped = pixels.byteswap().tobytes()
        if pixels.itemsize == 1:  # words of two pixels each
            dataset["PixelData"].VR, swapped = "OW", pixels.view(np.uint16).byteswap().tobytes()
        dataset.PixelData = swapped
        dcmwrite(path, dataset, implicit_vr=False, little_endian=False, enforce_file_format=True)
        image = read_image(path)
        np.testing.assert_array_equal(image, pixels)
        assert image.dtype.isnative and image.dtype == pixels.dtype


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_every_width_signed_and_unsigned(tmp_path: Path, dtype, syntax) -> None:  # type: ignore[no-untyped-def]
    if syntax == RLELossless and np.dtype(dtype).itemsize == 4:
        pytest.skip("pydicom cannot write 32-bit RLE; test_pydicom_files.py reads the file that pydicom ships")
    limits = np.iinfo(dtype)
    pixels = np.random.default_rng(1).integers(limits.min, limits.max, (16, 10), dtype=dtype, endpoint=True)
    image = read_image(write_slice(tmp_path / "1.dcm", pixels, syntax=syntax))
    np.testing.assert_array_equal(image, pixels)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("high_bit", [11, 13, 15])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_values_are_extracted_from_noisy_cells(tmp_path: Path, signed: bool, high_bit: int, syntax) -> None:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(2)
    values = random.integers(-2048, 2048, (16, 10)) if signed else random.integers(0, 4096, (16, 10))
    cells = random.integers(0, 65536, (16, 10))
    for bit in range(12):  # a slow, independent implementation: one bit after another
        target = high_bit - 11 + bit
        cells = cells & ~(1 << target) | ((values >> bit & 1) << target)
    path = write_slice(
        tmp_path / "1.dcm",
        cells.astype(np.uint16),
        syntax=syntax,
        BitsStored=12,
        HighBit=high_bit,
        PixelRepresentation=int(signed),
    )
    np.testing.assert_array_equal(read_image(path), values)


def test_a_modality_table_is_applied(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor = [4, 100, 16]
    table.ModalityLUTType = "US"
    table.add_new("LUTData", "US", [7, 70, 700, 7000])
    pixels = np.array([[99, 100, 101], [102, 103, 200]], dtype=np.uint16)
    path = write_slice(tmp_path / "1.dcm", pixels, ModalityLUTSequence=[table])
    np.testing.assert_array_equal(read_image(path), [[7, 7, 70], [700, 7000, 7000]])


def test_a_padding_value_that_is_not_a_number_is_ignored(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "1.dcm", RAMP)
    dataset = dcmread(path)
    dataset.add_new("PixelPaddingValue", "LO", "Secret")
    dataset.save_as(path)
    np.testing.assert_array_equal(read_image(path), RAMP)
    assert repairs_of(path) == [FaultKind.ODD_HEADER]
    dataset.add_new("PixelPaddingValue", "US", None)
    dataset.save_as(path)
    assert not repairs_of(path)
