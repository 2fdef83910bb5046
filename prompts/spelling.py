"""Typing errors in a query: a word that is one error away from a word of the vocabulary is read as that word."""

import re
from functools import lru_cache

from prompts.scan import is_level
from prompts.vocabulary import vocabulary

#: Shorter words are too close to too many others.
_SHORTEST = 4
#: Shorter words are not taken for one that changes nothing: "table" is not "stable".
_SHORTEST_HARMLESS = 6
#: From this length on two errors are allowed.
_LONG = 8
_DENYING_PREFIXES = frozenset({"a", "ab", "un", "in", "ir", "non", "de"})
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")


def corrected(text: str) -> tuple[str, tuple[str, ...]]:
    """Return the text with typing errors corrected, and a note for each of them."""
    notes: dict[str, None] = {}

    def replacement(found: re.Match[str]) -> str:
        word = found.group()
        right = correction(word)
        if right is None or is_level(word):
            return word
        notes[f'"{word}" is read as "{right}"'] = None
        return right

    return _WORD.sub(replacement, text), tuple(notes)


@lru_cache(maxsize=1000)
def correction(word: str) -> str | None:
    """Return the word of the vocabulary that a word with a typing error stands for; None if there is none."""
    lowered = word.casefold()
    known = vocabulary()
    if len(lowered) < _SHORTEST or lowered in known.words or _is_plural(lowered, known.words):
        return None
    allowed = 2 if len(lowered) >= _LONG else 1
    words = known.meaningful_words + (known.harmless_words if len(lowered) >= _SHORTEST_HARMLESS else ())
    # The first letter is rarely the wrong one: "sever" is "severe", and not "never".
    near = sorted(
        (errors, lowered[0] != other[0], other)
        for other in words
        if abs(len(other) - len(lowered)) <= allowed
        and _may_be(lowered, other, allowed)
        and (errors := typing_errors(lowered, other)) <= allowed
    )
    if not near or (len(near) > 1 and near[0][:2] == near[1][:2] and not _same_stem(near[0][2], near[1][2])):
        return None
    return near[0][2]


def _may_be(word: str, other: str, allowed: int) -> bool:
    """Whether a word may be another of about its length with so many errors, each of which changes two letters."""
    return (
        len(other) >= _SHORTEST
        and len(set(other).symmetric_difference(word)) <= 2 * allowed
        and not _is_opposite(word, other)
        and not _is_another_word(word, other)
    )


def typing_errors(one: str, other: str) -> int:
    """Return how many letters must be added, left out, replaced or swapped with the next to get from one to the other.

    This is the restricted Damerau-Levenshtein distance.
    """
    rows = [list(range(len(other) + 1))]
    for i, letter in enumerate(one, start=1):
        row = [i]
        for j, wanted in enumerate(other, start=1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]


def _is_plural(word: str, known: frozenset[str]) -> bool:
    return word.endswith("s") and word[:-1] in known


def _is_another_word(one: str, other: str) -> bool:
    """Whether a letter of a short word is replaced: "room" is not "root", and "wide" not "side"."""
    return len(one) == len(other) == _SHORTEST and sorted(one) != sorted(other)


def _is_opposite(one: str, other: str) -> bool:
    """Whether the words differ by a prefix that denies: "symmetric" and "asymmetric", "likely" and "unlikely"."""
    long, short = (one, other) if len(one) > len(other) else (other, one)
    return long.endswith(short) and long.removesuffix(short) in _DENYING_PREFIXES


def _same_stem(one: str, other: str) -> bool:
    """Whether two words are forms of one: "severe" and "severely", "stenosis" and "stenoses"."""
    return one[:4] == other[:4]
