"""One DICOM file, opened: its header, and where its pixels lie. No pixel is decoded here.

Only the elements named in `HEADER_KEYWORDS` are kept, so no name and no date gets further than this
room. The header is parsed from the file's first `MAX_HEADER_BYTES`, and a deflated file is inflated
up to a limit: no file takes more memory than that, whatever it says of itself.
"""

import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.filereader import data_element_generator, read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import VR

from data_prep.dicom.header_values import READ_ERRORS, quoted_identifier, unparsed
from data_prep.faults import FaultKind, FileFault, Repair

#: Longer headers are refused. One of 999 frames takes some 4 MB.
MAX_HEADER_BYTES = 8 << 20
#: A deflated file may grow to a header and this many bytes a pixel of the largest image that is read.
INFLATED_BYTES_PER_PIXEL = 4
#: What is read of a header: where an image lies, how its pixels are stored, how it was acquired.
HEADER_KEYWORDS = (
    "InstanceNumber", "StudyInstanceUID", "SeriesInstanceUID", "SeriesDescription",
    "ImageType", "ComplexImageComponent", "EchoTime", "RepetitionTime",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
)  # fmt: skip

_HEADER_TAGS = [tag for tag in map(tag_for_keyword, HEADER_KEYWORDS) if tag is not None]
_PIXEL_DATA = 0x7FE00010
#: Float, double float and integer pixel data; what comes after them is not read.
_FIRST_PIXEL_TAG = 0x7FE00008
_UNDEFINED_LENGTH = 0xFFFFFFFF
#: Where the preamble is lost, a file begins with group 0002, or 0008 in either byte order.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
_VALUE_REPRESENTATIONS = {name.value.encode() for name in VR}


@dataclass(frozen=True)
class DicomFile:
    """An open file.

    header: the elements of `HEADER_KEYWORDS` that it has.
    source, start, end: what holds its pixels, the offset of their first byte, and of the first byte that cannot
    be theirs. Encapsulated pixels end earlier: only their fragments tell where.
    word_pixels: pixel data are words (OW), which matters to bytes in big-endian files alone.
    repairs: what had to be assumed to read it.
    """

    header: Dataset
    syntax: UID
    source: BinaryIO
    start: int
    end: int
    word_pixels: bool
    repairs: tuple[Repair, ...]

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the pixel data; fewer where they end before."""
        self.source.seek(self.start + offset)
        return self.source.read(max(0, min(length, self.end - self.start - offset)))


@contextmanager
def open_dicom(path: Path, max_pixels: int) -> Iterator[DicomFile]:
    """Raises FileFault for what is no DICOM file, cannot be parsed, or has no pixel data."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise FileFault(FaultKind.CANNOT_OPEN, f"cannot be opened: {error.strerror}") from None
    with file:
        try:
            with without_remarks():
                opened = _parse(file, max_pixels)
        except READ_ERRORS as error:
            raise FileFault(FaultKind.UNREADABLE, unparsed(error)) from None
        yield opened


@contextmanager
def without_remarks() -> Iterator[None]:
    """Without pydicom's warnings about values that it reads tolerantly: what matters is checked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _parse(file: BinaryIO, max_pixels: int) -> DicomFile:
    size = os.fstat(file.fileno()).st_size
    if not size:
        raise FileFault(FaultKind.NOT_DICOM, "an empty file")
    buffer = BytesIO(file.read(min(size, MAX_HEADER_BYTES)))
    # What fits is read once and from memory; of larger files each frame is read when it is asked for.
    source: BinaryIO = buffer if size <= MAX_HEADER_BYTES else file
    syntax, repairs = _read_meta(buffer)
    if syntax == DeflatedExplicitVRLittleEndian:
        file.seek(buffer.tell())
        source = buffer = BytesIO(_inflate(file, MAX_HEADER_BYTES + INFLATED_BYTES_PER_PIXEL * max_pixels))
        size = len(buffer.getbuffer())
    header = read_dataset(
        buffer,
        is_implicit_VR=syntax == ImplicitVRLittleEndian,
        is_little_endian=syntax != ExplicitVRBigEndian,
        stop_when=lambda tag, _vr, _length: tag >= _FIRST_PIXEL_TAG,
        specific_tags=_HEADER_TAGS,
    )
    words, length = _pixel_element(buffer, syntax, size)
    start = buffer.tell()
    end = size if length == _UNDEFINED_LENGTH else min(size, start + length)
    if length == _UNDEFINED_LENGTH and not syntax.is_encapsulated:
        raise FileFault(FaultKind.UNREADABLE, f"pixel data of undefined length in {syntax.name}")
    return DicomFile(header, syntax, source, start, end, words, repairs)


def _read_meta(buffer: BytesIO) -> tuple[UID, tuple[Repair, ...]]:
    """The transfer syntax; leaves `buffer` at the first element of the data set."""
    start = buffer.read(132)
    missing = []
    if start[128:] != b"DICM":
        if start[:2] not in _FIRST_GROUPS:
            raise FileFault(FaultKind.NOT_DICOM, "no DICOM file (its preamble is missing)")
        buffer.seek(0)
        missing.append("preamble")
    found = ""
    for element in data_element_generator(buffer, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2):
        if element.tag == 0x00020010 and isinstance(element.value, bytes):
            found = element.value.decode("ascii", "replace").strip("\0 ")
    if not found:
        missing.append("transfer syntax")
    syntax = UID(found) if found else _guess_syntax(buffer)
    if syntax.is_private or not syntax.is_transfer_syntax:
        message = f"transfer syntax: {quoted_identifier(str(syntax))}, none of the standard's"
        raise FileFault(FaultKind.NO_DECODER, message)
    if not missing:
        return syntax, ()
    return syntax, (Repair(FaultKind.FILE_META, f"no {' and no '.join(missing)}: read as {syntax.name}"),)


def _guess_syntax(buffer: BytesIO) -> UID:
    """An explicit syntax spells a value representation after the first tag; big-endian ones write its group first."""
    place = buffer.tell()
    tag = buffer.read(6)
    buffer.seek(place)
    if tag[4:6] not in _VALUE_REPRESENTATIONS:
        return ImplicitVRLittleEndian
    return ExplicitVRBigEndian if tag[:1] == b"\0" else ExplicitVRLittleEndian


def _inflate(file: BinaryIO, limit: int) -> bytes:
    """Raises FileFault for more than `limit` bytes, before they are there."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = bytearray()
    while not inflater.eof:
        block = inflater.unconsumed_tail or file.read(1 << 16)
        piece = inflater.decompress(block, 1 << 20)
        if not block and not piece:
            raise FileFault(FaultKind.TRUNCATED, "its deflated data set stops half-way")
        inflated += piece
        if len(inflated) > limit:
            raise FileFault(FaultKind.TOO_MANY_PIXELS, f"inflates to more than {limit} bytes")
    return bytes(inflated)


def _pixel_element(buffer: BytesIO, syntax: UID, size: int) -> tuple[bool, int]:
    """(whether the pixel data are words, their stated length); leaves `buffer` at their first byte."""
    little = syntax != ExplicitVRBigEndian
    element = buffer.read(8)
    if len(element) < 8:
        cut = size > MAX_HEADER_BYTES >= buffer.tell()
        where = f" in its first {MAX_HEADER_BYTES} bytes" if cut else ": cut short, or not an image"
        raise FileFault(FaultKind.NO_PIXELS, f"no pixel data{where}")
    group, number = struct.unpack("<HH" if little else ">HH", element[:4])
    if group << 16 | number != _PIXEL_DATA:
        raise FileFault(FaultKind.NO_PIXELS, "no pixel data that are whole numbers: not an image")
    explicit = element[4:6] in (b"OB", b"OW", b"UN")
    length = buffer.read(4) if explicit else element[4:]
    if len(length) < 4:
        raise FileFault(FaultKind.TRUNCATED, "its pixel data stop before their first byte")
    return element[4:6] != b"OB", struct.unpack("<L" if little else ">L", length)[0]
