"""Grey images to PNG files: numpy filters the rows, igzip compresses them.

A PNG (W3C PNG specification, third edition) of one 8-bit grey channel is a signature and three chunks:
IHDR (size and depth), IDAT (the rows, each led by its filter's number, as one zlib stream) and IEND.
Every row gets the filter "average" (number 3): the mean of the pixels to the left and above is taken off,
which halves the noise's share in the prediction. On noisy images it beat "sub", "up" and none in size at
the same speed, so nothing is chosen per image; the measurements are in docs/log.md.
"""

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
from isal import igzip_lib, isal_zlib

from workspace.whole_files import replacing

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Filter type 3 of the specification, section 9.2.
AVERAGE = 3
#: igzip's level: 0 has no Huffman tables of the image's own (files half as large again), 2 and 3 gain nothing.
LEVEL = 1
#: Repetitions are looked for within 2**9 bytes only: in what filtered noise is, finding them further back takes
#: longer, and codes them worse than single bytes would.
WINDOW_BITS = 9


def write_png(path: Path, grey: npt.NDArray[np.uint8]) -> int:
    """Write an image (rows, columns) by rename; the file's size in bytes. Raises OSError."""
    content = encode_png(grey)
    with replacing(path) as partial:
        partial.write_bytes(content)
    return len(content)


def encode_png(grey: npt.NDArray[np.uint8]) -> bytes:
    """A PNG file's bytes for an image (rows, columns), neither of them 0: the same for the same pixels.

    >>> encode_png(np.zeros((2, 3), dtype=np.uint8))[:4]
    b'\\x89PNG'
    """
    rows, columns = grey.shape
    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)  # depth 8, grey; deflate, filters, no interlace
    data = igzip_lib.compress(_filtered(grey).data, LEVEL, igzip_lib.COMP_ZLIB, hist_bits=WINDOW_BITS)
    return b"".join([SIGNATURE, *_chunk(b"IHDR", header), *_chunk(b"IDAT", data), *_chunk(b"IEND", b"")])


def _filtered(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(rows, 1 + columns): filter number, then pixel minus floor((left + above) / 2), modulo 256; 0 beyond the edge."""
    rows, columns = grey.shape
    filtered = np.empty((rows, columns + 1), dtype=np.uint8)
    filtered[:, 0] = AVERAGE
    filtered[0, 1] = grey[0, 0]
    filtered[0, 2:] = grey[0, 1:] - (grey[0, :-1] >> 1)
    filtered[1:, 1] = grey[1:, 0] - (grey[:-1, 0] >> 1)
    left, above = grey[1:, :-1], grey[:-1, 1:]
    # floor((a + b) / 2) within eight bits: what both have, and half of what only one has.
    mean = left ^ above
    mean >>= 1
    mean += left & above
    np.subtract(grey[1:, 1:], mean, out=filtered[1:, 2:])
    return filtered


def _chunk(kind: bytes, data: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Length, type, data and the CRC of type and data."""
    return struct.pack(">I", len(data)), kind, data, struct.pack(">I", isal_zlib.crc32(data, isal_zlib.crc32(kind)))
