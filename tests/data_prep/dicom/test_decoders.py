"""Tests of data_prep/dicom/decoders.py: a whole image that one decoder refuses is read by another one."""

import struct
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from data_prep.dicom.codestreams import rle_is_whole
from data_prep.dicom.decoders import plugins
from data_prep.dicom.pixels import open_images, read_image
from data_prep.faults import FaultKind, FileFault
from tests.dicom_files import PUBLISHED, needs_published_files, write_slice

RAMP = np.arange(48 * 40, dtype=np.uint16).reshape(48, 40)


def encoded(path: Path) -> bytes:
    return next(generate_frames(dcmread(path).PixelData, number_of_frames=1))


def with_fragments(source: Path, path: Path, *fragments: bytes) -> Path:
    dataset = dcmread(source)
    items = b"".join(struct.pack("<4sL", b"\xfe\xff\x00\xe0", len(item)) + item for item in (b"", *fragments))
    dataset.PixelData = items + b"\xfe\xff\xdd\xe0\0\0\0\0"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    return path


def pieces(stream: bytes, count: int) -> list[bytes]:
    size = (len(stream) // count + 2) // 2 * 2
    return [stream[start : start + size] for start in range(0, len(stream), size)]


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("padding", [b"\0", b"\0\0\0"])
def test_a_jpeg_ls_image_that_the_preferred_decoder_refuses(tmp_path: Path, count: int, padding: bytes) -> None:
    if "gdcm" not in get_decoder(JPEGLSLossless).available_plugins:
        pytest.skip("GDCM reads such a stream; it is not installed")
    plain = write_slice(tmp_path / "1.dcm", RAMP, syntax=JPEGLSLossless)
    stream = encoded(plain).rstrip(b"\0")
    assert stream.endswith(b"\xff\xd9")
    stream = stream[:-2] + padding + stream[-2:]  # as some encoders write it, before the end marker
    path = with_fragments(plain, tmp_path / "2.dcm", *pieces(stream + b"\0" * (len(stream) % 2), count))
    with open_images(path) as images:
        np.testing.assert_array_equal(images.signal(), RAMP)
        assert [(repair.kind, repair.action) for repair in images.repairs] == [(FaultKind.OTHER_DECODER, "repaired")]


@pytest.mark.parametrize("name", ["JPEG2000.dcm", "MR_small_jp2klossless.dcm", "MR_small_RLE.dcm"])
@pytest.mark.parametrize("count", [2, 7])
def test_a_compressed_image_in_several_fragments(tmp_path: Path, name: str, count: int) -> None:
    found = get_testdata_file(name, download=False)
    assert isinstance(found, str)
    path = with_fragments(Path(found), tmp_path / "1.dcm", *pieces(encoded(Path(found)), count))
    np.testing.assert_array_equal(read_image(path), read_image(Path(found)))


@needs_published_files
def test_compressed_images_of_all_syntaxes_in_several_fragments(tmp_path: Path) -> None:
    for found in sorted((PUBLISHED / "transfer_syntaxes").glob("*.dcm")):
        if dcmread(found, stop_before_pixels=True).file_meta.TransferSyntaxUID.is_encapsulated:
            path = with_fragments(found, tmp_path / "1.dcm", *pieces(encoded(found), 3))
            np.testing.assert_array_equal(read_image(path), read_image(found))


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_a_damaged_stream_is_read_by_no_decoder(tmp_path: Path, syntax) -> None:  # type: ignore[no-untyped-def]
    plain = write_slice(tmp_path / "1.dcm", RAMP, syntax=syntax)
    stream = encoded(plain)
    random = np.random.default_rng(0)
    for _ in range(20):
        start = int(random.integers(130, len(stream) - 60))
        cut = stream[:start] + stream[start + 40 :]
        try:
            image = read_image(with_fragments(plain, tmp_path / "2.dcm", cut + b"\0" * (len(cut) % 2)))
        except FileFault as fault:
            assert fault.kind in (FaultKind.UNDECODABLE, FaultKind.TRUNCATED)
        else:  # the bytes were at the end of a line of equal values, or not all of them were needed
            assert image.shape == RAMP.shape and syntax == RLELossless


def test_the_preferred_decoder_is_the_first() -> None:
    assert plugins(get_decoder(RLELossless))[0] == "pylibjpeg"
    assert plugins(get_decoder(JPEGLSLossless))[0] == "pyjpegls"
    assert sorted(plugins(get_decoder(JPEG2000Lossless))) == sorted(get_decoder(JPEG2000Lossless).available_plugins)


def test_a_whole_rle_segment_ends_with_the_image() -> None:
    def frame(*segments: bytes) -> bytes:
        starts = [64 + sum(map(len, segments[:index])) for index in range(len(segments))]
        return struct.pack("<16L", len(segments), *starts, *[0] * (15 - len(segments))) + b"".join(segments)

    literal, run = b"\x03abcd", b"\xfdz"  # four bytes each
    assert rle_is_whole(frame(literal + run, run + b"\x80" + literal), 8)
    assert rle_is_whole(frame(literal + run + b"\0\0", run + literal + b"\x80\0"), 8)
    assert not rle_is_whole(frame(literal + run, run + b"\x04abcde"), 8), "the last run is too long"
    assert not rle_is_whole(frame(literal + run, run), 8), "too short"
    assert not rle_is_whole(frame(literal + run, run + literal + run), 8), "more than the image"
    assert not rle_is_whole(frame(literal + run, run + b"\x03ab"), 8), "cut off"
