"""Read the values of a header without ever repeating a patient's name in a message.

Any element may hold a name in place of a number. Messages about a header therefore quote only numbers, terms of the
standard and unique identifiers, and never a library's own message, which may quote the header.
"""

import re
import struct
import zlib
from collections.abc import Collection
from typing import Any

from pydicom import Dataset
from pydicom.errors import InvalidDicomError

#: Exceptions that pydicom and its decoders raise for malformed files.
READ_ERRORS = (
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


class HeaderError(ValueError):
    """Error for an element that is missing or has a wrong value; its message quotes nothing but numbers."""


def value_of(header: Dataset, keyword: str) -> Any:
    """Return the value of an element, None if it is missing. Raise HeaderError if it cannot be parsed."""
    try:
        return header.get(keyword)
    except READ_ERRORS:
        raise HeaderError(f"{keyword} cannot be parsed") from None


def whole_number(header: Dataset, keyword: str, default: int | None = None) -> int:
    """Return an element as a whole number, or `default` if it is missing.

    Raises HeaderError if it is not a whole number, or missing without a default.
    """
    value = value_of(header, keyword)
    if value is None and default is not None:
        return default
    try:
        return int(value)
    except READ_ERRORS:
        raise HeaderError(f"{keyword} is missing or not a whole number") from None


def numbers(header: Dataset, keyword: str, count: int) -> list[float]:
    """Return the numbers of an element. Raise HeaderError if it does not hold exactly `count` of them."""
    value = value_of(header, keyword)
    try:
        found = [] if value is None or isinstance(value, float | str) else [float(number) for number in value]
    except READ_ERRORS:
        raise HeaderError(f"{keyword} has a value that is not a number") from None
    if len(found) != count:
        raise HeaderError(f"{keyword} has {len(found)} numbers: expected {count}")
    return found


def number(header: Dataset, keyword: str, default: float) -> float:
    """Return an element as a number, or `default` if it is missing or empty. Raise HeaderError if it is no number."""
    value = value_of(header, keyword)
    try:
        return default if value is None or value == "" else float(value)
    except READ_ERRORS:
        raise HeaderError(f"{keyword} is not a number") from None


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
