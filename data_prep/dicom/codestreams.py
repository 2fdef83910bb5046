"""Read the size and bit depth of a compressed frame from its own header, without decoding the frame.

A decoder allocates as much memory as the codestream requests, so the codestream is first compared with the DICOM
header. Formats: RLE, PS3.5 annex G; JPEG, ITU-T T.81 annex B; JPEG-LS, T.87 annex C; JPEG 2000, T.800 annex A
(HTJ2K uses the same markers).
"""

import struct
from dataclasses import dataclass
from itertools import pairwise

from pydicom.uid import HTJ2K, UID, HTJ2KLossless, HTJ2KLosslessRPCL, JPEG2000TransferSyntaxes

_JPEG_2000 = (*JPEG2000TransferSyntaxes, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K)
#: Markers of JPEG frame headers: SOF0 to SOF15 (without DHT, JPG and DAC, whose codes lie in that range), and the
#: SOF55 of JPEG-LS.
_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
#: Markers without a length: TEM, RST0 to RST7, SOI.
_BARE_MARKERS = {0x01, *range(0xD0, 0xD9)}
_DCT_MARKERS = {0xC0, 0xC1, 0xC2}
#: Every JPEG 2000 tile begins with two markers, which take this many bytes together.
_LEAST_TILE_BYTES = 14
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "


@dataclass(frozen=True)
class Codestream:
    """Properties of a compressed image, from its own header.

    samples: samples per pixel; bits: bits per sample.
    complete: whether the end marker is present.
    cosine: whether it is a JPEG with cosine transform, whose samples are unsigned.
    signed: whether samples are signed; None if the format does not record it.
    """

    rows: int
    columns: int
    samples: int
    bits: int
    complete: bool
    cosine: bool = False
    signed: bool | None = None


def rle_segments(frame: bytes) -> int:
    """Return the number of segments of an RLE frame, one per byte of a pixel. Raise ValueError if it is too short."""
    if len(frame) < 64:
        raise ValueError(f"RLE frame of {len(frame)} bytes: too short; its header alone has 64")
    count: int = struct.unpack_from("<L", frame)[0]
    return count


def rle_is_whole(frame: bytes, pixels: int) -> bool:
    """Return whether each segment of an RLE frame ends with the last of `pixels` bytes; padding may follow it."""
    count = rle_segments(frame)
    starts = [*struct.unpack_from("<15L", frame, 4)[:count], len(frame)]
    return all(_rle_segment_is_whole(frame[start:end], pixels) for start, end in pairwise(starts))


def _rle_segment_is_whole(segment: bytes, pixels: int) -> bool:
    offset = decoded = 0
    while decoded < pixels and offset < len(segment):
        length = segment[offset]
        if length < 128:
            decoded += min(length + 1, len(segment) - offset - 1)
            offset += length + 2
        elif length > 128:
            decoded += 257 - length
            offset += 2
        else:  # no operation
            offset += 1
    return decoded == pixels and not segment[offset:].strip(b"\0\x80")


def read_codestream(frame: bytes, syntax: UID) -> Codestream:
    """Read the header of a JPEG, JPEG-LS or JPEG 2000 frame. Raise ValueError if it is damaged."""
    try:
        return _jpeg_2000(frame) if syntax in _JPEG_2000 else _jpeg(frame)
    except struct.error:
        raise ValueError("the codestream ends within its header") from None


def _jpeg(frame: bytes) -> Codestream:
    """Skip marker segments up to the frame header and read it."""
    if frame[:2] != b"\xff\xd8":
        raise ValueError(f"the codestream begins with {frame[:2].hex()!r}: not JPEG; expected 'ffd8'")
    offset = 2
    while True:
        lead, marker = struct.unpack_from(">BB", frame, offset)
        if lead != 0xFF:
            raise ValueError(f"byte {offset} of the codestream: a JPEG marker is missing")
        if marker == 0xFF:  # a fill byte
            offset += 1
        elif marker in _BARE_MARKERS:
            offset += 2
        elif marker in _FRAME_MARKERS:
            bits, rows, columns, samples = struct.unpack_from(">BHHB", frame, offset + 4)
            return Codestream(rows, columns, samples, bits, has_end_marker(frame), marker in _DCT_MARKERS)
        else:
            offset += 2 + struct.unpack_from(">H", frame, offset + 2)[0]


def _jpeg_2000(frame: bytes) -> Codestream:
    """Read the SIZ marker, which follows the first marker of the codestream; a JP2 file holds it in a box."""
    start = frame.find(b"jp2c") + 4 if frame.startswith(_JP2_SIGNATURE) else 0
    if frame[start : start + 4] != b"\xff\x4f\xff\x51":
        found = frame[start : start + 4].hex()
        raise ValueError(f"the codestream begins with {found!r}: not JPEG 2000; expected 'ff4fff51'")
    right, bottom, left, top, tile_width, tile_height, tiles_left, tiles_top, samples, bits, across, down = (
        struct.unpack_from(">8LHBBB", frame, start + 8)
    )
    if not (across == down == 1 and tile_width and tile_height and left < right and top < bottom):
        raise ValueError("the JPEG 2000 image has no pixels, or its pixels are subsampled")
    tiles = -(-(right - tiles_left) // tile_width) * -(-(bottom - tiles_top) // tile_height)
    if tiles * _LEAST_TILE_BYTES > len(frame):
        raise ValueError(f"JPEG 2000 image of {tiles} tiles: {len(frame)} bytes cannot hold them")
    size = bottom - top, right - left
    return Codestream(*size, samples, (bits & 0x7F) + 1, has_end_marker(frame), signed=bool(bits & 0x80))


def has_end_marker(frame: bytes) -> bool:
    """Return whether the end marker (EOI, EOC) is present; zeros may follow it."""
    return b"\xff\xd9" in frame[-16:]
