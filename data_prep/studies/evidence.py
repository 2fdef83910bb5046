"""Weigh identifiers: which one is that of most, and which say nothing at all."""

from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

#: So many files are needed for their identifiers to differ by design, not by chance.
LEAST_FILES = 5

Item = TypeVar("Item")


def majority(counts: Counter[Item]) -> Item | None:
    """Return what is more frequent than anything else; None if nothing is.

    >>> majority(Counter("aab")), majority(Counter("ab")), majority(Counter(""))
    ('a', None, None)
    """
    ranked = counts.most_common(2)
    return ranked[0][0] if ranked and (len(ranked) == 1 or ranked[0][1] > ranked[1][1]) else None


def differ_per_file(identifiers: Iterable[str]) -> bool:
    """Return whether identifiers, one per file, differ from file to file, as those that an anonymiser makes up.

    More than two thirds of them do; a few files may be there twice.

    >>> differ_per_file("abcdd"), differ_per_file("aaabbc"), differ_per_file("abc")
    (True, False, False)
    """
    counts = Counter(identifier for identifier in identifiers if identifier)
    return counts.total() >= LEAST_FILES and 3 * len(counts) > 2 * counts.total()
