"""data_prep/conversion/png.py against Pillow's decoder and a slow decoder written from the specification."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.conversion.png import AVERAGE, SIGNATURE, encode_png, write_png

SHAPES = [(1, 1), (1, 2), (2, 1), (1, 300), (300, 1), (3, 5), (64, 64), (101, 67), (513, 511)]


def chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Return (type, data) of every chunk; check lengths and CRCs with the standard library."""
    assert content.startswith(SIGNATURE)
    found, place = [], len(SIGNATURE)
    while place < len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        data = content[place + 8 : place + 8 + length]
        (crc,) = struct.unpack_from(">I", content, place + 8 + length)
        assert len(data) == length and crc == zlib.crc32(kind + data)
        found.append((kind, data))
        place += 12 + length
    assert place == len(content)
    return found


def slow_decode(content: bytes) -> np.ndarray:
    """Decode pixel by pixel, by section 9.2 of the specification."""
    (ihdr, header), (idat, data), (iend, end) = chunks(content)
    assert (ihdr, idat, iend, end) == (b"IHDR", b"IDAT", b"IEND", b"")
    columns, rows, *rest = struct.unpack(">IIBBBBB", header)
    assert rest == [8, 0, 0, 0, 0]
    stream = zlib.decompressobj()
    raw = stream.decompress(data)
    assert stream.eof and not stream.unused_data and len(raw) == rows * (columns + 1)
    image = np.zeros((rows, columns), dtype=int)
    for row in range(rows):
        line = raw[row * (columns + 1) : (row + 1) * (columns + 1)]
        assert line[0] == AVERAGE
        for column in range(columns):
            left = image[row, column - 1] if column else 0
            above = image[row - 1, column] if row else 0
            image[row, column] = (line[column + 1] + (left + above) // 2) % 256
    return image


def image_of(kind: str, shape: tuple[int, int]) -> np.ndarray:
    random = np.random.default_rng(shape[0] * 1000 + shape[1])
    if kind == "noise":
        return random.integers(0, 256, shape, dtype=np.uint8)
    if kind == "constant":
        return np.full(shape, 255, dtype=np.uint8)
    return (np.add.outer(np.arange(shape[0]) * 3, np.arange(shape[1]) * 7) % 256).astype(np.uint8)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["noise", "constant", "ramp"])
def test_every_decoder_returns_the_same_pixels(tmp_path: Path, kind: str, shape: tuple[int, int]) -> None:
    grey = image_of(kind, shape)
    size = write_png(tmp_path / "1.png", grey)
    content = (tmp_path / "1.png").read_bytes()
    assert size == len(content) and content == encode_png(grey)
    with Image.open(tmp_path / "1.png") as image:
        image.verify()  # Pillow's check of chunks and CRCs
    with Image.open(tmp_path / "1.png") as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), grey)
    if grey.size < 10_000:
        np.testing.assert_array_equal(slow_decode(content), grey)


def test_arrays_of_any_memory_layout_give_the_same_file() -> None:
    grey = image_of("noise", (40, 50))
    for view in (np.asfortranarray(grey), grey[::-1][::-1], np.repeat(grey, 2, axis=1)[:, ::2]):
        assert encode_png(view) == encode_png(grey)


def test_files_are_at_most_a_quarter_larger_than_pillows(tmp_path: Path) -> None:
    """For a smooth signal with a scanner's noise, files are at most 25 % larger than with zlib's level 6."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:256, :256]
    smooth = 110 + 60 * np.sin(rows / 37) * np.cos(columns / 23)
    for sigma in (0.8, 4, 15):
        grey = np.clip(np.rint(smooth + random.normal(0, sigma, smooth.shape)), 0, 255).astype(np.uint8)
        Image.fromarray(grey).save(tmp_path / "pillow.png")
        assert len(encode_png(grey)) < 1.25 * (tmp_path / "pillow.png").stat().st_size


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "1.png").mkdir()  # a folder cannot be replaced by a file
    with pytest.raises(OSError):
        write_png(tmp_path / "1.png", np.zeros((2, 2), dtype=np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["1.png"]


def test_the_old_image_remains_until_the_new_one_is_complete(tmp_path: Path) -> None:
    old, new = image_of("noise", (30, 30)), image_of("ramp", (30, 30))
    write_png(tmp_path / "1.png", old)
    write_png(tmp_path / "1.png", new)
    assert [path.name for path in tmp_path.iterdir()] == ["1.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "1.png")), new)
