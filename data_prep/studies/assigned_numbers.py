"""Compute numbers for studies and series that have none: the same for the same thing, whatever lies beside it."""

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

#: Computed numbers have 12 digits, so that they are seldom the number of a folder.
LEAST_NUMBER, NUMBERS = 10**11, 9 * 10**11

Thing = TypeVar("Thing", bound=Hashable)


def assigned_numbers(texts: Mapping[Thing, tuple[str, ...]], taken: Iterable[int]) -> dict[Thing, int]:
    """Return a number for each thing, computed from the first of its texts that no other thing has.

    If others have them all, the number is computed from the last one, until it is free. `taken` numbers are not given.
    """
    counts = Counter(text for own in texts.values() for text in set(own))
    used = set(taken)
    numbers: dict[Thing, int] = {}
    for thing, own in sorted(texts.items(), key=lambda entry: entry[1]):
        number = computed_number(next((text for text in own if counts[text] == 1), own[-1]))
        while number in used:
            number = computed_number(str(number))
        used.add(number)
        numbers[thing] = number
    return numbers


def computed_number(text: str) -> int:
    """Return a number of 12 digits that depends on the text alone."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return LEAST_NUMBER + int.from_bytes(digest[:16], "big") % NUMBERS
