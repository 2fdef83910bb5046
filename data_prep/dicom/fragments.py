"""The fragments of encapsulated pixel data (PS3.5 annex A.4), and the frames that they make up."""

import struct
from dataclasses import dataclass

from pydicom.encaps import get_frame

from data_prep.dicom.dicom_file import DicomFile
from data_prep.dicom.header_values import HeaderError, value_of
from data_prep.faults import FaultKind, FileFault

#: More are refused: a frame has a few, and 999 frames at most are read.
MAX_FRAGMENTS = 65_536
_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"


@dataclass(frozen=True)
class Fragments:
    """Where each fragment lies: (offset in the pixel data, length), the offset table not among them.

    delimited: whether the sequence delimiter, which should close them, is there.
    """

    places: tuple[tuple[int, int], ...]
    delimited: bool


def find_fragments(file: DicomFile) -> Fragments:
    """Walk the items. Raises FileFault where one reaches beyond the file, or something else lies between."""
    places: list[tuple[int, int]] = []
    offset = 0
    while True:
        item = file.read(offset, 8)
        if item[:4] == _DELIMITER or not item:
            return Fragments(tuple(places[1:]), delimited=bool(item))
        if len(item) < 8:
            raise FileFault(FaultKind.TRUNCATED, f"{len(places)} fragments, then the file stops within an item")
        if item[:4] != _ITEM:
            message = f"no item at byte {offset} of the encapsulated pixel data"
            raise FileFault(FaultKind.UNDECODABLE, message)
        length = struct.unpack("<L", item[4:])[0]
        if file.start + offset + 8 + length > file.end:
            left = file.end - file.start - offset - 8
            raise FileFault(FaultKind.TRUNCATED, f"a fragment of {length} bytes promised, {left} there")
        places.append((offset + 8, length))
        if len(places) > MAX_FRAGMENTS:
            raise FileFault(FaultKind.UNDECODABLE, f"more than {MAX_FRAGMENTS} fragments")
        offset += 8 + length


def encoded_frame(file: DicomFile, fragments: Fragments, frame: int, frames: int) -> bytes:
    """The bytes of one frame, counted from 0.

    One fragment a frame is the rule; where several make up one of many frames, the offset tables tell which.
    """
    if frames == 1:
        return b"".join(file.read(*place) for place in fragments.places)
    if len(fragments.places) == frames:
        return file.read(*fragments.places[frame])
    file.source.seek(file.start)
    return get_frame(file.source, frame, extended_offsets=_extended_offsets(file), number_of_frames=frames)


def _extended_offsets(file: DicomFile) -> tuple[bytes, bytes] | None:
    """The extended offset table and its lengths; None where there is none. Raises HeaderError for one that is none."""
    offsets, lengths = (value_of(file.header, f"ExtendedOffsetTable{suffix}") for suffix in ("", "Lengths"))
    if offsets is None:
        return None
    if not isinstance(offsets, bytes) or not isinstance(lengths, bytes):
        raise HeaderError("an extended offset table that is no table")
    return offsets, lengths
