"""Open a DICOM file: read its header and locate its pixels. No pixel is decoded here.

Only the elements named in `HEADER_KEYWORDS` are kept, so that no patient's name and no date leaves this module;
identifiers are compared with each other and never written. The header is parsed from the first `MAX_HEADER_BYTES` of
the file, and a deflated file is inflated up to a limit, so that no file, however damaged, takes more memory than that.
"""

import os
import re
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

from data_prep.dicom.header_values import READ_ERRORS, as_text_if_digits, parse_failure, quoted_identifier
from data_prep.faults import FaultKind, FileFault, Repair

#: Longer headers are rejected. The header of 999 frames takes about 4 MB.
MAX_HEADER_BYTES = 8 << 20
#: A deflated file may inflate to the largest header plus this many bytes per pixel of the largest image.
INFLATED_BYTES_PER_PIXEL = 4
#: The header elements that are read: geometry, encoding of the pixels, acquisition, and what tells whose image it is.
HEADER_KEYWORDS = (
    "InstanceNumber", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesDescription",
    "ImageType", "ComplexImageComponent", "EchoTime", "RepetitionTime",
    "SOPInstanceUID", "InversionTime", "FlipAngle", "DiffusionBValue", "ContrastBolusAgent", "ScanningSequence",
    "ScanOptions", "SequenceName", "AcquisitionContrast", "VolumeBasedCalculationTechnique",
    "TemporalPositionIdentifier", "AcquisitionNumber", "TriggerTime",
    "SliceLocation", "SpacingBetweenSlices", "SliceThickness",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
)  # fmt: skip

_HEADER_TAGS = [tag for tag in map(tag_for_keyword, HEADER_KEYWORDS) if tag is not None]
_PIXEL_DATA = 0x7FE00010
#: The first of the elements for float, double float and integer pixel data; the elements after them are not read.
_FIRST_PIXEL_TAG = 0x7FE00008
_UNDEFINED_LENGTH = 0xFFFFFFFF
#: A file without preamble begins with group 0002, or with group 0008 in either byte order.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
_VALUE_REPRESENTATIONS = {name.value.encode() for name in VR}
#: The filter that ``warnings.simplefilter("ignore")`` sets.
_ALL_IGNORED = ("ignore", None, Warning, None, 0)


@dataclass(frozen=True)
class DicomFile:
    """An open file.

    header: the elements of `HEADER_KEYWORDS` that the file has.
    source, start, end: the stream that holds the pixels, the offset of their first byte, and the offset after their
    last possible byte. Encapsulated pixels may end earlier, where their last fragment ends.
    word_pixels: whether the pixel data are words (OW); this matters only for 8-bit pixels in big-endian files.
    repairs: what had to be assumed to read the file.
    """

    header: Dataset
    syntax: UID
    source: BinaryIO
    start: int
    end: int
    word_pixels: bool
    repairs: tuple[Repair, ...]

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes of the pixel data from `offset`, or fewer if the pixel data end before."""
        self.source.seek(self.start + offset)
        return self.source.read(max(0, min(length, self.end - self.start - offset)))


@contextmanager
def open_dicom(path: Path, max_pixels: int) -> Iterator[DicomFile]:
    """Open a DICOM file. Raise FileFault if it is not one, cannot be parsed or has no pixel data."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise FileFault(FaultKind.CANNOT_OPEN, f"the file cannot be opened: {error.strerror}") from None
    with file:
        try:
            with pydicom_warnings_ignored():
                opened = _parse(file, max_pixels)
        except READ_ERRORS as error:
            raise FileFault(FaultKind.UNREADABLE, parse_failure(error)) from None
        yield opened


@contextmanager
def pydicom_warnings_ignored() -> Iterator[None]:
    """Suppress pydicom's warnings about values that it reads tolerantly; every value that is used is checked here."""
    if warnings.filters and warnings.filters[0] == _ALL_IGNORED:
        yield  # within another such block: to change the filters takes longer than to read a value
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _parse(file: BinaryIO, max_pixels: int) -> DicomFile:
    size = os.fstat(file.fileno()).st_size
    if not size:
        raise FileFault(FaultKind.NOT_DICOM, "the file is empty")
    buffer = BytesIO(file.read(min(size, MAX_HEADER_BYTES)))
    # A small file is read once and kept in memory; the frames of a larger one are read from disk when they are decoded.
    source: BinaryIO = buffer if size <= MAX_HEADER_BYTES else file
    syntax, repairs = read_meta(buffer)
    if syntax == DeflatedExplicitVRLittleEndian:
        file.seek(buffer.tell())
        source = buffer = BytesIO(_inflate(file, MAX_HEADER_BYTES + INFLATED_BYTES_PER_PIXEL * max_pixels))
        size = len(buffer.getbuffer())
    header_start = buffer.tell()
    try:
        header = _read_header(buffer, syntax)
    except READ_ERRORS:
        buffer.seek(header_start)
        if not _hide_character_sets(buffer, syntax):
            raise
        header = _read_header(buffer, syntax)
        message = "SpecificCharacterSet names no character set: texts are read as ASCII"
        repairs = (*repairs, Repair(FaultKind.ODD_HEADER, message))
    words, length = _pixel_element(buffer, syntax, size)
    start = buffer.tell()
    end = size if length == _UNDEFINED_LENGTH else min(size, start + length)
    if length == _UNDEFINED_LENGTH and not syntax.is_encapsulated:
        raise FileFault(FaultKind.UNREADABLE, f"the pixel data have no length, which {syntax.name} requires")
    return DicomFile(header, syntax, source, start, end, words, repairs)


def _read_header(buffer: BytesIO, syntax: UID) -> Dataset:
    header = read_dataset(
        buffer,
        is_implicit_VR=syntax == ImplicitVRLittleEndian,
        is_little_endian=syntax != ExplicitVRBigEndian,
        stop_when=_is_pixel_tag,
        specific_tags=_HEADER_TAGS,
    )
    for tag, element in header.items():
        if element.VR == "UN":
            header[tag] = as_text_if_digits(element)
    return header


def _is_pixel_tag(tag: int, _representation: str | None, _length: int) -> bool:
    return int.__ge__(tag, _FIRST_PIXEL_TAG)  # pydicom's comparison of tags takes ten times as long


def _hide_character_sets(buffer: BytesIO, syntax: UID) -> bool:
    """Rename each SpecificCharacterSet between the position of `buffer` and the pixels; return whether there was one.

    pydicom refuses a whole file for one that it cannot parse, at the top or in a sequence. (0008,0004) does not exist.
    """
    byte_order = "<" if syntax != ExplicitVRBigEndian else ">"
    content = buffer.getvalue()
    start = buffer.tell()
    end = content.find(struct.pack(f"{byte_order}HH", _PIXEL_DATA >> 16, _PIXEL_DATA & 0xFFFF), start)
    # A value representation follows, or the upper half of a length: other bytes are not this element.
    follows = rb"(?=..\x00\x00)" if syntax == ImplicitVRLittleEndian else rb"(?=[A-Z][A-Z]|..\x00\x00)"
    element = re.compile(re.escape(struct.pack(f"{byte_order}HH", 0x0008, 0x0005)) + follows, re.DOTALL)
    found = [match.start() for match in element.finditer(content, start, end if end >= 0 else len(content))]
    for place in found:
        buffer.getbuffer()[place : place + 4] = struct.pack(f"{byte_order}HH", 0x0008, 0x0004)
    return bool(found)


def read_meta(buffer: BytesIO) -> tuple[UID, tuple[Repair, ...]]:
    """Return the transfer syntax and what had to be assumed; leave `buffer` at the first element of the data set."""
    start = buffer.read(132)
    missing = []
    if start[128:] != b"DICM":
        prefix = b"DICM" if start.startswith(b"DICM") else b""
        if not prefix and start[:2] not in _FIRST_GROUPS:
            raise FileFault(FaultKind.NOT_DICOM, "not a DICOM file: the preamble is missing")
        buffer.seek(len(prefix))
        missing.append("preamble")
    found = ""
    for element in data_element_generator(buffer, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2):
        if element.tag == 0x00020010 and isinstance(element.value, bytes):
            found = element.value.decode("ascii", "replace").strip("\0 ")
    if not found:
        missing.append("transfer syntax")
    syntax = UID(found) if found else _guess_syntax(buffer)
    if syntax.is_private or not syntax.is_transfer_syntax:
        message = f"transfer syntax {quoted_identifier(str(syntax))}: not one of the standard"
        raise FileFault(FaultKind.NO_DECODER, message)
    if not missing:
        return syntax, ()
    return syntax, (Repair(FaultKind.FILE_META, f"missing: {' and '.join(missing)}; read as {syntax.name}"),)


def _guess_syntax(buffer: BytesIO) -> UID:
    """Infer the transfer syntax from the first element of the data set.

    An explicit syntax writes a value representation after the tag; a big-endian one begins with the tag's high byte.
    """
    start = buffer.tell()
    tag = buffer.read(6)
    buffer.seek(start)
    if tag[4:6] not in _VALUE_REPRESENTATIONS:
        return ImplicitVRLittleEndian
    return ExplicitVRBigEndian if tag[:1] == b"\0" else ExplicitVRLittleEndian


def _inflate(file: BinaryIO, limit: int) -> bytes:
    """Inflate the rest of a file. Raise FileFault as soon as the result exceeds `limit` bytes."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = bytearray()
    while not inflater.eof:
        block = inflater.unconsumed_tail or file.read(1 << 16)
        piece = inflater.decompress(block, 1 << 20)
        if not block and not piece:
            raise FileFault(FaultKind.TRUNCATED, "the deflated data set is cut off")
        inflated += piece
        if len(inflated) > limit:
            raise FileFault(FaultKind.TOO_MANY_PIXELS, f"the deflated file inflates to more than {limit} bytes")
    return bytes(inflated)


def _pixel_element(buffer: BytesIO, syntax: UID, size: int) -> tuple[bool, int]:
    """Return whether the pixel data are words, and their stated length; leave `buffer` at their first byte."""
    little = syntax != ExplicitVRBigEndian
    element = buffer.read(8)
    if len(element) < 8:
        cut = size > MAX_HEADER_BYTES >= buffer.tell()
        where = f" in the first {MAX_HEADER_BYTES} bytes" if cut else ": the file is cut off, or not an image"
        raise FileFault(FaultKind.NO_PIXELS, f"no pixel data{where}")
    group, number = struct.unpack("<HH" if little else ">HH", element[:4])
    if group << 16 | number != _PIXEL_DATA:
        raise FileFault(FaultKind.NO_PIXELS, "no pixel data of whole numbers: not an image")
    explicit = element[4:6] in (b"OB", b"OW", b"UN")
    length = buffer.read(4) if explicit else element[4:]
    if len(length) < 4:
        raise FileFault(FaultKind.TRUNCATED, "the file ends before the first byte of the pixel data")
    return element[4:6] != b"OB", struct.unpack("<L" if little else ">L", length)[0]
