"""Locate the fragments of encapsulated pixel data (PS3.5 annex A.4) and read the frames that they form."""

import struct
from dataclasses import dataclass

from pydicom.encaps import get_frame

from data_prep.dicom.dicom_file import DicomFile
from data_prep.dicom.header_values import HeaderError, value_of
from data_prep.faults import FaultKind, FileFault

#: More fragments are rejected: a frame has only a few, and at most 999 frames are read.
MAX_FRAGMENTS = 65_536
_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"


@dataclass(frozen=True)
class Fragments:
    """Locations of all fragments: (offset in the pixel data, length), without the offset table.

    delimited: whether the sequence delimiter after the last fragment is present.
    """

    locations: tuple[tuple[int, int], ...]
    delimited: bool


def find_fragments(file: DicomFile) -> Fragments:
    """Locate all fragments. Raise FileFault if one reaches beyond the file, or if anything else lies between them."""
    locations: list[tuple[int, int]] = []
    offset = 0
    while True:
        item = file.read(offset, 8)
        if item[:4] == _DELIMITER or not item:
            return Fragments(tuple(locations[1:]), delimited=bool(item))
        if len(item) < 8:
            message = f"the file ends within the header of fragment {len(locations)}"
            raise FileFault(FaultKind.TRUNCATED, message)
        if item[:4] != _ITEM:
            message = f"byte {offset} of the encapsulated pixel data: an item is missing"
            raise FileFault(FaultKind.UNDECODABLE, message)
        length = struct.unpack("<L", item[4:])[0]
        if file.start + offset + 8 + length > file.end:
            left = file.end - file.start - offset - 8
            message = f"fragment {len(locations)} of {length} bytes: only {left} are left in the file"
            raise FileFault(FaultKind.TRUNCATED, message)
        locations.append((offset + 8, length))
        if len(locations) > MAX_FRAGMENTS:
            raise FileFault(FaultKind.UNDECODABLE, f"the pixel data have more than {MAX_FRAGMENTS} fragments")
        offset += 8 + length


def encoded_frame(file: DicomFile, fragments: Fragments, frame: int, frames: int) -> bytes:
    """Return the compressed bytes of frame number `frame`, counted from 0, of `frames`.

    Usually each frame is one fragment. If a frame has several, the offset tables define which ones.
    """
    if frames == 1:
        return b"".join(file.read(*location) for location in fragments.locations)
    if len(fragments.locations) == frames:
        return file.read(*fragments.locations[frame])
    file.source.seek(file.start)
    return get_frame(file.source, frame, extended_offsets=_extended_offsets(file), number_of_frames=frames)


def _extended_offsets(file: DicomFile) -> tuple[bytes, bytes] | None:
    """Return the extended offset table and its lengths, None if it is missing. Raise HeaderError if it is no table."""
    offsets, lengths = (value_of(file.header, f"ExtendedOffsetTable{suffix}") for suffix in ("", "Lengths"))
    if offsets is None:
        return None
    if not isinstance(offsets, bytes) or not isinstance(lengths, bytes):
        raise HeaderError("ExtendedOffsetTable or ExtendedOffsetTableLengths is not a table")
    return offsets, lengths
