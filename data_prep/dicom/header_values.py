"""Read the values of a header tolerantly, without ever repeating a patient's name in a message.

Numbers are read in every spelling that has one possible meaning: with decimal commas, between quotes, in a text
element, with blanks or zero bytes around them, several of them in one text. Spellings with two meanings are rejected:
"1,5,2,5" as two numbers, or "1,500", which is one and a half or fifteen hundred. The functions add the keyword of each
element in an unusual spelling to the list `odd` that they are given; `spelling_repairs` makes a note of it.

Any element may hold a name in place of a number. Messages about a header therefore quote only numbers, terms of the
standard and unique identifiers, and never a library's own message, which may quote the header.
"""

import re
import struct
import zlib
from collections.abc import Collection, Iterable
from functools import cache
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import BaseTag, Tag

from data_prep.faults import FaultKind, Repair

#: Exceptions that pydicom and its decoders raise for malformed files.
READ_ERRORS = (
    BytesLengthException,
    InvalidDicomError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
#: Terms that PhotometricInterpretation may hold (PS3.3 C.7.6.3.1.2), retired ones included.
PHOTOMETRIC_TERMS = (
    "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "HSV", "ARGB", "CMYK", "XYB",
    "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT",
)  # fmt: skip
_UNIQUE_IDENTIFIER = re.compile(r"[0-9.]{1,64}", re.ASCII)
#: Characters around a number that do not belong to it.
_AROUND_NUMBERS = "\0 \t\r\n\v\f\"'[]"
#: A number with a decimal point or a decimal comma; some programs write exponents with D.
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*|,[0-9]+)?|[.,][0-9]+)(?:[eEdD][+-]?[0-9]{1,3})?")
#: A number whose comma may also separate thousands.
_MAYBE_THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}")
#: Numbers in one text without the standard's backslashes. A comma separates numbers only if they have decimal points.
_SEPARATORS, _SEPARATORS_OR_COMMA = re.compile(r"\s*;\s*|\s+"), re.compile(r"\s*[;,]\s*|\s+")
#: Longer texts are not read as numbers: six numbers of an orientation take at most 101 characters.
_LONGEST_TEXT = 1024
#: If these are written with decimal commas, so are the other numbers of the header.
_GEOMETRY = ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")
_BINARY_NUMBERS = frozenset({"US", "SS", "UL", "SL", "FL", "FD"})
#: Numbers and texts of a standard spelling: printable ASCII, without empty values.
_PLAIN_DECIMAL = rb" *[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})? *"
_PLAIN_DECIMALS = re.compile(rb"%(one)s(?:\\%(one)s)*" % {b"one": _PLAIN_DECIMAL})
_PLAIN_INTEGER = re.compile(rb" *[+-]?[0-9]{1,12} *")
_PLAIN_TEXT = re.compile(rb"[!-\[\]-~][ -\[\]-~]*(?:\\[!-\[\]-~][ -\[\]-~]*)*\0?")
_PLAIN_TEXTS = frozenset({"CS", "LO", "SH", "UI"})


class HeaderError(ValueError):
    """Error for an element that is missing or has a wrong value; its message quotes nothing but numbers."""


def value_of(header: Dataset, keyword: str) -> Any:
    """Return the value of an element, None if it is missing. Raise HeaderError if it cannot be parsed."""
    try:
        return _parsed(header, keyword)
    except READ_ERRORS:
        raise HeaderError(f"{keyword} cannot be parsed") from None


def texts(header: Dataset, keyword: str) -> list[str]:
    """Return the values of an element as texts, stripped; none if it is missing.

    If pydicom cannot parse the element, its bytes are read as Latin-1: the words that matter are ASCII.
    """
    if (plain := _plain_texts(header, keyword)) is not None:
        return plain
    try:
        value = _value(header, keyword)
        parts = [value] if type(value) is str and "\\" not in value else _separated(value)
    except READ_ERRORS:
        return []
    return [str(part).strip("\0 ") for part in parts]


def whole_number(header: Dataset, keyword: str, default: int | None = None, odd: list[str] | None = None) -> int:
    """Return an element as a whole number, or `default` if it is missing.

    Raises HeaderError if it is not a whole number, or missing without a default.
    """
    if (plain := _plain_integer(header, keyword)) is not None:
        return plain
    try:
        value = _value(header, keyword)
        if isinstance(value, int):
            return int(value)
        if value is None and default is not None:
            return default
        found = _found_numbers(header, keyword, value, 1, odd)
    except HeaderError:
        raise HeaderError(f"{keyword} is missing or not a whole number") from None
    if not found and default is not None:
        return default
    if len(found) != 1 or not found[0].is_integer():
        raise HeaderError(f"{keyword} is missing or not a whole number")
    return int(found[0])


def numbers(header: Dataset, keyword: str, count: int, odd: list[str] | None = None) -> list[float]:
    """Return the numbers of an element. Raise HeaderError if it does not hold exactly `count` of them."""
    if len(plain := _plain_numbers(header, keyword)) == count:
        return plain
    try:
        found = _found_numbers(header, keyword, _value(header, keyword), count, odd)
    except HeaderError:
        raise HeaderError(f"{keyword} has a value that is not a number, or has two meanings") from None
    if len(found) != count:
        raise HeaderError(f"{keyword} has {len(found)} numbers: expected {count}")
    return found


def number(header: Dataset, keyword: str, default: float, odd: list[str] | None = None) -> float:
    """Return an element as a number, or `default` if it is missing or empty. Raise HeaderError if it is no number."""
    if len(plain := _plain_numbers(header, keyword)) == 1:
        return plain[0]
    value = _value(header, keyword)
    if value is None:
        return default
    if isinstance(value, float):
        return float(value)
    found = _found_numbers(header, keyword, value, 1, odd)
    if len(found) > 1:
        raise HeaderError(f"{keyword} is not a number")
    return found[0] if found else default


def spelling_repairs(odd: Iterable[str]) -> tuple[Repair, ...]:
    """Return a note about the elements of `odd`, whose numbers are not spelled as the standard requires; or none."""
    keywords = ", ".join(dict.fromkeys(odd))
    if not keywords:
        return ()
    return (Repair(FaultKind.ODD_NUMBER, f"{keywords}: not written as the standard requires; read as numbers"),)


def as_text_if_digits(element: Any) -> Any:
    """Return an element of unknown representation (UN) as a text element if its bytes spell numbers.

    pydicom would read the bytes of the digits as a binary number.
    """
    if not isinstance(element, RawDataElement) or element.VR != "UN" or not element.value:
        return element
    text = element.value.decode("latin-1").strip(_AROUND_NUMBERS)
    # A zero byte beside a digit is the other half of a binary number: 48 is written as the byte of "0" and a zero.
    is_whole = b"\0" in element.value and len(element.value) in (2, 4)
    binary = dictionary_VR(element.tag) in _BINARY_NUMBERS and not is_whole
    if binary and all(_NUMBER.fullmatch(part.strip(_AROUND_NUMBERS)) for part in text.split("\\")):
        return element._replace(VR="UT")
    return element


@cache
def _tag_of(keyword: str) -> BaseTag:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return Tag(tag)


def _parsed(header: Dataset, keyword: str) -> Any:
    """Return the value of an element as pydicom parses it, None if it is missing.

    `Dataset.get` does the same, but looks for an attribute of that name first; most elements are missing.
    """
    tag = _tag_of(keyword)
    try:
        return header[tag].value if tag in header else None
    except AttributeError:
        return None


def _unparsed(header: Dataset, keyword: str) -> tuple[str | None, bytes, bool]:
    """Return an element's value representation, its bytes, and whether they are little-endian.

    They are None and empty if the element is missing or has been parsed.
    """
    raw = header.get_item(_tag_of(keyword))
    if not isinstance(raw, RawDataElement) or not isinstance(raw.value, bytes):
        return None, b"", True
    return raw.VR, raw.value, raw.is_little_endian


# pydicom needs most of its time for a header to parse values. Those that are spelled as the standard requires, which
# are nearly all, are parsed here, to the same result; for any other value these functions give none.


def _plain_numbers(header: Dataset, keyword: str) -> list[float]:
    representation, content, _ = _unparsed(header, keyword)
    if representation != "DS" or not _PLAIN_DECIMALS.fullmatch(content):
        return []
    return [float(part) for part in content.split(b"\\")]


def _plain_integer(header: Dataset, keyword: str) -> int | None:
    representation, content, little_endian = _unparsed(header, keyword)
    if representation == "IS" and _PLAIN_INTEGER.fullmatch(content):
        return int(content)
    # `identity_of` reads the number of frames as it was left here: a binary one has to be parsed.
    if representation == "US" and len(content) == 2 and keyword != "NumberOfFrames":
        return int.from_bytes(content, "little" if little_endian else "big")
    return None


def _plain_texts(header: Dataset, keyword: str) -> list[str] | None:
    representation, content, _ = _unparsed(header, keyword)
    if representation not in _PLAIN_TEXTS or not _PLAIN_TEXT.fullmatch(content):
        return None
    return [part.strip("\0 ") for part in content.decode("ascii").split("\\")]


def _value(header: Dataset, keyword: str) -> Any:
    """Return the value of an element as pydicom parses it, else as text; None if it is missing."""
    try:
        return _parsed(header, keyword)
    except READ_ERRORS:
        raw = header.get_item(_tag_of(keyword))
    if not isinstance(raw, RawDataElement) or not isinstance(raw.value, bytes):
        raise HeaderError(f"{keyword} cannot be parsed")
    return raw.value.decode("latin-1")


def _separated(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, int | float):
        return [value]
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if isinstance(value, str) or not isinstance(value, Iterable) or hasattr(value, "components"):  # a person's name
        return str(value).split("\\")
    return [item if isinstance(item, int | float) else str(item) for item in value]


def _found_numbers(header: Dataset, keyword: str, value: Any, count: int, odd: list[str] | None) -> list[float]:
    """Return the numbers of a parsed value, `count` of them if it is a text with as many.

    Raises HeaderError if one of them is not a number, or may be two different ones.
    """
    if value is None:
        return []
    try:
        found = _separated(value)
    except READ_ERRORS:
        raise HeaderError(f"{keyword} is not a number") from None
    if all(isinstance(item, int | float) for item in found):
        return [float(item) for item in found]
    spelled = _spelled([str(item) for item in found], count)
    if not all(map(_NUMBER.fullmatch, spelled)):
        raise HeaderError(f"{keyword} is not a number")
    with_comma = [text for text in spelled if "," in text]
    if with_comma and all(map(_MAYBE_THOUSANDS.fullmatch, with_comma)):
        decimal = _has_decimal_commas(header)
        if not decimal or any("." in text for text in spelled):
            raise HeaderError(f"{keyword} has a comma that may be decimal or separate thousands")
    if len(spelled) == count and odd is not None:
        odd.append(keyword)
    return [float(text.replace(",", ".").replace("d", "e").replace("D", "e")) for text in spelled]


def _spelled(parts: list[str], count: int) -> list[str]:
    """Return the texts of single numbers; empty ones at the end are left out."""
    parts = [part.strip(_AROUND_NUMBERS) for part in parts]
    while parts and not parts[-1]:
        parts.pop()
    if len(parts) != 1 or count == 1 or len(parts[0]) > _LONGEST_TEXT:
        return parts
    separators = _SEPARATORS_OR_COMMA if "." in parts[0] else _SEPARATORS
    return [part.strip(_AROUND_NUMBERS) for part in separators.split(parts[0])]


def _has_decimal_commas(header: Dataset) -> bool:
    """Return whether the geometry of a header is written with decimal commas.

    A comma in it is never one of thousands: no pixel, direction or place in a scanner measures a metre.
    """
    for keyword in _GEOMETRY:
        parts = [text.strip(_AROUND_NUMBERS) for text in texts(header, keyword)]
        if all(map(_NUMBER.fullmatch, parts)) and any("," in part for part in parts):
            return not any("." in part for part in parts)
    return False


def quoted_term(text: str, terms: Collection[str]) -> str:
    """Quote a text if it is one of `terms`; otherwise describe it without repeating it.

    >>> quoted_term("RGB", PHOTOMETRIC_TERMS), quoted_term("SMITH^ANNA", PHOTOMETRIC_TERMS)
    ("'RGB'", '(not a term of the standard)')
    """
    return repr(text) if text in terms else "(not a term of the standard)"


def quoted_identifier(text: str) -> str:
    """Quote a text if it consists of digits and dots; otherwise describe it without repeating it.

    >>> quoted_identifier("1.2.840"), quoted_identifier("Smith")
    ("'1.2.840'", '(not a unique identifier)')
    """
    return repr(text) if _UNIQUE_IDENTIFIER.fullmatch(text) else "(not a unique identifier)"


def parse_failure(error: BaseException) -> str:
    """Return a message about a library's error that gives only its type: its own message may quote the header."""
    return f"the header cannot be parsed ({type(error).__name__})"
