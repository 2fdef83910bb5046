"""Writer of 8-bit grey PNG files: numpy filters the rows, and igzip compresses them.

A PNG (W3C PNG specification, third edition) of one 8-bit grey channel is a signature and three chunks:
IHDR (size and depth), IDAT (the rows, each preceded by the number of its filter, as one zlib stream) and IEND.
All rows use the filter "average" (number 3): the mean of the left and the upper pixel is subtracted, which
halves the variance of the noise in the prediction. On noisy images its files are smaller than with "sub", "up"
and no filter at the same speed, so it is not chosen per image; the measurements are in docs/log.md.
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
#: igzip's level: 0 uses fixed Huffman tables, and files are larger by half; 2 and 3 make no smaller files than 1.
LEVEL = 1
#: Matches are searched within 2**9 bytes: in filtered noise, more distant matches take longer to find, and their codes
#: are longer than those of single bytes.
WINDOW_BITS = 9


def write_png(path: Path, grey: npt.NDArray[np.uint8]) -> int:
    """Write an image (rows, columns) by rename and return the size of the file in bytes. Raises OSError."""
    content = encode_png(grey)
    with replacing(path) as partial:
        partial.write_bytes(content)
    return len(content)


def encode_png(grey: npt.NDArray[np.uint8]) -> bytes:
    """Return the bytes of a PNG file of an image (rows, columns), which must not be empty; they are deterministic.

    >>> encode_png(np.zeros((2, 3), dtype=np.uint8))[:4]
    b'\\x89PNG'
    """
    rows, columns = grey.shape
    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)  # depth 8, grey; deflate, filters, no interlace
    data = igzip_lib.compress(_filtered(grey).data, LEVEL, igzip_lib.COMP_ZLIB, hist_bits=WINDOW_BITS)
    return b"".join([SIGNATURE, *_chunk(b"IHDR", header), *_chunk(b"IDAT", data), *_chunk(b"IEND", b"")])


def _filtered(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the filtered rows, (rows, 1 + columns): the filter's number, then the differences.

    A difference is pixel - floor((left + above) / 2), modulo 256; pixels beyond the edge are 0.
    """
    rows, columns = grey.shape
    filtered = np.empty((rows, columns + 1), dtype=np.uint8)
    filtered[:, 0] = AVERAGE
    filtered[0, 1] = grey[0, 0]
    filtered[0, 2:] = grey[0, 1:] - (grey[0, :-1] >> 1)
    filtered[1:, 1] = grey[1:, 0] - (grey[:-1, 0] >> 1)
    left, above = grey[1:, :-1], grey[:-1, 1:]
    # floor((a + b) / 2) without overflow: the common bits, and half of the differing bits.
    mean = left ^ above
    mean >>= 1
    mean += left & above
    np.subtract(grey[1:, 1:], mean, out=filtered[1:, 2:])
    return filtered


def _chunk(kind: bytes, data: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Return the parts of a chunk: length, type, data, and the CRC of type and data."""
    return struct.pack(">I", len(data)), kind, data, struct.pack(">I", isal_zlib.crc32(data, isal_zlib.crc32(kind)))
