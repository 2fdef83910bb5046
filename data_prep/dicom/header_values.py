"""Values of a header, read so that nothing a person may have typed there is repeated.

Any element may hold a name where a number should be. So what is said of a header quotes numbers, terms of the
standard and unique identifiers, and never a library's message about it.
"""

import re
import struct
import zlib
from collections.abc import Collection
from typing import Any

from pydicom import Dataset
from pydicom.errors import InvalidDicomError

#: What pydicom and its decoders were seen to raise for malformed files.
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
#: What PhotometricInterpretation may hold (PS3.3 C.7.6.3.1.2, and its retired terms).
PHOTOMETRIC_TERMS = (
    "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "HSV", "ARGB", "CMYK", "XYB",
    "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT",
)  # fmt: skip
_UNIQUE_IDENTIFIER = re.compile(r"[0-9.]{1,64}", re.ASCII)


class HeaderError(ValueError):
    """An element that does not hold what it should; the message quotes nothing but numbers."""


def value_of(header: Dataset, keyword: str) -> Any:
    """An element's value, None where it is missing. Raises HeaderError where it cannot be parsed."""
    try:
        return header.get(keyword)
    except READ_ERRORS:
        raise HeaderError(f"{keyword} cannot be parsed") from None


def whole_number(header: Dataset, keyword: str, default: int | None = None) -> int:
    """Raises HeaderError where an element is no whole number, or missing and without a default."""
    value = value_of(header, keyword)
    if value is None and default is not None:
        return default
    try:
        return int(value)
    except READ_ERRORS:
        raise HeaderError(f"{keyword} is missing, or no whole number") from None


def numbers(header: Dataset, keyword: str, count: int) -> list[float]:
    """Raises HeaderError where an element does not hold `count` numbers."""
    value = value_of(header, keyword)
    try:
        found = [] if value is None or isinstance(value, float | str) else [float(number) for number in value]
    except READ_ERRORS:
        raise HeaderError(f"{keyword} holds something that is no number") from None
    if len(found) != count:
        raise HeaderError(f"{keyword} has {len(found)} numbers: expected {count}")
    return found


def number(header: Dataset, keyword: str, default: float) -> float:
    """`default` where an element is missing or empty. Raises HeaderError where it is no number."""
    value = value_of(header, keyword)
    try:
        return default if value is None or value == "" else float(value)
    except READ_ERRORS:
        raise HeaderError(f"{keyword} is no number") from None


def quoted_term(text: str, terms: Collection[str]) -> str:
    """One of `terms` as it is, anything else unread.

    >>> quoted_term("RGB", PHOTOMETRIC_TERMS), quoted_term("SMITH^ANNA", PHOTOMETRIC_TERMS)
    ("'RGB'", "a text that is no term of the standard's")
    """
    return repr(text) if text in terms else "a text that is no term of the standard's"


def quoted_identifier(text: str) -> str:
    """Digits and dots as they are, anything else unread.

    >>> quoted_identifier("1.2.840"), quoted_identifier("Smith")
    ("'1.2.840'", 'a text that is no unique identifier')
    """
    return repr(text) if _UNIQUE_IDENTIFIER.fullmatch(text) else "a text that is no unique identifier"


def unparsed(error: BaseException) -> str:
    """What may be said of a library's error over a header: its kind, because its message may quote the header."""
    return f"its header cannot be parsed ({type(error).__name__})"
