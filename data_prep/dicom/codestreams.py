"""What a compressed frame says of itself, read without decoding it.

A decoder takes the memory that its codestream asks for: so the codestream is held against the
header first. Formats: RLE, PS3.5 annex G; JPEG, ITU-T T.81 annex B; JPEG-LS, T.87 annex C; JPEG 2000,
T.800 annex A (HTJ2K shares its markers).
"""

import struct
from dataclasses import dataclass

from pydicom.uid import HTJ2K, UID, HTJ2KLossless, HTJ2KLosslessRPCL, JPEG2000TransferSyntaxes, RLELossless

_JPEG_2000 = (*JPEG2000TransferSyntaxes, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K)
#: JPEG's frame headers: SOF0 to SOF15 without DHT, JPG and DAC, which lie among them; and JPEG-LS's SOF55.
_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
#: Markers without a length: TEM, RST0 to RST7, SOI.
_BARE_MARKERS = {0x01, *range(0xD0, 0xD9)}
_DCT_MARKERS = {0xC0, 0xC1, 0xC2}
#: A tile of JPEG 2000 opens with two markers of this many bytes together.
_LEAST_TILE_BYTES = 14
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "


@dataclass(frozen=True)
class Codestream:
    """Size, samples a pixel and bits a sample; whether the stream reaches its end marker.

    cosine: a JPEG of cosine transforms, whose samples have no sign.
    signed: whether samples have a sign; None where this kind of stream does not say.
    """

    rows: int
    columns: int
    samples: int
    bits: int
    complete: bool
    cosine: bool = False
    signed: bool | None = None


def rle_segments(frame: bytes) -> int:
    """How many segments an RLE frame holds: one for each byte of a pixel. Raises ValueError for no RLE header."""
    if len(frame) < 64:
        raise ValueError(f"an RLE frame of {len(frame)} bytes: its header alone has 64")
    count: int = struct.unpack_from("<L", frame)[0]
    return count


def read_codestream(frame: bytes, syntax: UID) -> Codestream | None:
    """What a JPEG, JPEG-LS or JPEG 2000 frame says; None for RLE, which does not. Raises ValueError."""
    if syntax == RLELossless:
        return None
    try:
        return _jpeg_2000(frame) if syntax in _JPEG_2000 else _jpeg(frame)
    except struct.error:
        raise ValueError("a codestream that stops within its header") from None


def _jpeg(frame: bytes) -> Codestream:
    """Walk the marker segments up to the frame header."""
    if frame[:2] != b"\xff\xd8":
        raise ValueError(f"a codestream that begins with {frame[:2].hex()!r}: expected JPEG's ffd8")
    place = 2
    while True:
        lead, marker = struct.unpack_from(">BB", frame, place)
        if lead != 0xFF:
            raise ValueError(f"no JPEG marker at byte {place} of the codestream")
        if marker == 0xFF:  # a fill byte
            place += 1
        elif marker in _BARE_MARKERS:
            place += 2
        elif marker in _FRAME_MARKERS:
            bits, rows, columns, samples = struct.unpack_from(">BHHB", frame, place + 4)
            return Codestream(rows, columns, samples, bits, ends(frame), marker in _DCT_MARKERS)
        else:
            place += 2 + struct.unpack_from(">H", frame, place + 2)[0]


def _jpeg_2000(frame: bytes) -> Codestream:
    """The SIZ marker, which follows the first marker; in a JP2 file, of its codestream box."""
    start = frame.find(b"jp2c") + 4 if frame.startswith(_JP2_SIGNATURE) else 0
    if frame[start : start + 4] != b"\xff\x4f\xff\x51":
        raise ValueError(f"a codestream that begins with {frame[start : start + 4].hex()!r}: expected ff4fff51")
    right, bottom, left, top, tile_width, tile_height, tiles_left, tiles_top, samples, bits, across, down = (
        struct.unpack_from(">8LHBBB", frame, start + 8)
    )
    if not (across == down == 1 and tile_width and tile_height and left < right and top < bottom):
        raise ValueError("a JPEG 2000 image of no size, or with subsampled pixels")
    tiles = -(-(right - tiles_left) // tile_width) * -(-(bottom - tiles_top) // tile_height)
    if tiles * _LEAST_TILE_BYTES > len(frame):
        raise ValueError(f"a JPEG 2000 image of {tiles} tiles in {len(frame)} bytes")
    size = bottom - top, right - left
    return Codestream(*size, samples, (bits & 0x7F) + 1, ends(frame), signed=bool(bits & 0x80))


def ends(frame: bytes) -> bool:
    """Whether the end marker (EOI, EOC) is there; zeros may pad it."""
    return b"\xff\xd9" in frame[-16:]
