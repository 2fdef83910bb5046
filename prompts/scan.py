"""Scanning of a query into tokens: the phrases of ``queries.yaml``, the levels, and all other words.

>>> [(token.kind, token.key) for token in scan("severe left foraminal narrowing at L4/5")]
[('severity', 'severe'), ('side', 'left'), ('condition', 'neural_foraminal_narrowing'), ('finding', ''), ('connective', ''), ('level', 'L4/5')]
"""  # noqa: E501

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from data_prep.sites import Condition, Level, Severity, Side

QUERIES = Path(__file__).with_name("queries.yaml")

#: Sections of queries.yaml with several meanings -> the kind of their tokens, and the keys of the meanings.
_KEYED = {
    "conditions": ("condition", tuple(c.value for c in Condition)),
    "severities": ("severity", tuple(s.key for s in Severity)),
    "sides": ("side", tuple(s.value for s in Side)),
    "comparisons": ("comparison", ("at_least", "at_most", "above", "below", "or_more", "or_less")),
}
_LISTS = {
    "findings": "finding",
    "both_sides": "both",
    "negations": "negation",
    "ranges": "range",
    "joints_and": "and",
    "joints_or": "or",
    "breaks": "break",
    "connectives": "connective",
    "ignored": "ignored",
}

_VERTEBRA = r"(?:T\s?\d{1,2}|L\s?\d|S\s?\d)"
#: Two vertebrae, or one. The second may lack its letter, after a sign (L4-5, L4/5) or directly (L45).
_LEVEL = re.compile(
    rf"(?<!\w)(?P<upper>{_VERTEBRA})"
    rf"(?:(?:\s*(?:[-/]|\bto\b|\bthrough\b|\bthru\b)\s*(?P<lower>{_VERTEBRA}|\d))"
    rf"|(?:\s*(?P<next>{_VERTEBRA}))|(?P<digit>\d))?(?!\w)",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*|\S")
_VERTEBRAE = ("L1", "L2", "L3", "L4", "L5", "S1")


@dataclass(frozen=True)
class Token:
    """A piece of a text: the characters [start, end).

    Attributes:
        kind: 'condition', 'severity', 'side', 'comparison', 'level', another section of queries.yaml, or 'word'.
        key: which condition, severity, side or comparison; for a level the characters; otherwise empty.
        levels: the levels that a token of kind 'level' names; empty if it is not a graded level.
        lone: the token names a single vertebra, not a level.
    """

    kind: str
    key: str
    start: int
    end: int
    levels: frozenset[Level] = frozenset()
    lone: bool = False


def scan(text: str) -> tuple[Token, ...]:
    """Return the tokens of a cleaned text (`clean`), in order; words that are not understood have kind 'word'."""
    return tuple(_tokens(text))


def clean(text: str) -> str:
    """Return the text for `scan`: on one line, with one kind of dash, and without underscores."""
    return " ".join(re.sub("[\u2010-\u2015\u2212]", "-", text).replace("_", " ").split())


def read_vocabulary(path: Path) -> dict[str, tuple[str, str]]:
    """Read a file of phrases as a mapping phrase -> (kind, key). Raises ValueError, which quotes file and entry."""
    tree = _read_tree(path)
    vocabulary: dict[str, tuple[str, str]] = {}
    for where, kind, key, entries in _sections(tree, path.name):
        if not isinstance(entries, list) or not entries:
            raise ValueError(f"{where}: expected a list of words and phrases, found {entries!r}")
        for entry in entries:
            if not isinstance(entry, str) or not entry.strip():
                raise ValueError(f"{where}: {entry!r} is not a word or phrase")
            phrase = _normal(entry)
            if phrase in vocabulary:
                raise ValueError(
                    f"{where}: {entry!r} occurs twice; remove it here, or where it is a {vocabulary[phrase][0]}"
                )
            vocabulary[phrase] = (kind, key)
    return vocabulary


def _read_tree(path: Path) -> dict[str, Any]:
    try:
        # BaseLoader leaves every scalar a string; other loaders turn the words `no` and `on` into booleans.
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name}: is not YAML: {error}") from None
    _check_keys(tree, (*_KEYED, *_LISTS), path.name)
    return dict(tree)


def _sections(tree: dict[str, Any], name: str) -> Iterator[tuple[str, str, str, Any]]:
    for section, (kind, keys) in _KEYED.items():
        _check_keys(tree[section], keys, f"{name}: {section}")
        for key in keys:
            yield f"{name}: {section}: {key}", kind, key, tree[section][key]
    for section, kind in _LISTS.items():
        yield f"{name}: {section}", kind, "", tree[section]


def _check_keys(tree: Any, keys: tuple[str, ...], where: str) -> None:
    if not isinstance(tree, dict):
        raise ValueError(f"{where}: expected a mapping with {', '.join(keys)}, found {tree!r}")
    if unknown := [key for key in tree if key not in keys]:
        raise ValueError(f"{where}: unknown entry {unknown[0]!r}; known are {', '.join(keys)}")
    if missing := [key for key in keys if key not in tree]:
        raise ValueError(f"{where}: {missing[0]!r} is missing")


@cache
def _vocabulary() -> tuple[dict[str, tuple[str, str]], re.Pattern[str]]:
    vocabulary = read_vocabulary(QUERIES)
    longest_first = sorted(vocabulary, key=len, reverse=True)
    return vocabulary, re.compile("|".join(map(_phrase_pattern, longest_first)), re.IGNORECASE)


def _phrase_pattern(phrase: str) -> str:
    """Return a regular expression for the phrase as complete words, separated by a space or a hyphen."""
    words = r"(?:\s|-)".join(re.escape(word) for word in phrase.split())
    before = r"(?<!\w)" if phrase[0].isalnum() else ""
    after = r"(?!\w)" if phrase[-1].isalnum() else ""
    return f"{before}{words}{after}"


def _normal(phrase: str) -> str:
    """Return the phrase as a key of the vocabulary: in lower case, with single spaces between words."""
    lowered = phrase.casefold().strip()
    return lowered if len(lowered) == 1 else " ".join(lowered.replace("-", " ").split())


def _tokens(text: str) -> Iterator[Token]:
    vocabulary, phrases = _vocabulary()
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        if found := _LEVEL.match(text, at):
            yield _level_token(found)
        elif found := phrases.match(text, at):
            kind, key = vocabulary[_normal(found.group())]
            yield Token(kind, key, found.start(), found.end())
        else:
            found = _WORD.match(text, at)
            assert found is not None, "every character except a space matches"
            yield Token("word", "", found.start(), found.end())
        at = found.end()


def _level_token(found: re.Match[str]) -> Token:
    upper = "".join(found["upper"].split()).upper()
    lower = "".join((found["lower"] or found["next"] or found["digit"] or "").split()).upper()
    if lower.isdigit():
        lower = "S1" if (upper, lower) == ("L5", "1") else upper[0] + lower
    levels = _around(upper) if not lower or lower == upper else _between(upper, lower)
    return Token("level", found.group(), found.start(), found.end(), levels, lone=lower in ("", upper))


def _around(vertebra: str) -> frozenset[Level]:
    """Return the graded levels that a vertebra belongs to; none if it is not one of L1 to S1."""
    return frozenset(level for level in Level if vertebra in level.words.split("-"))


def _between(one: str, other: str) -> frozenset[Level]:
    """Return the graded levels between two vertebrae; none if either is not one of L1 to S1."""
    if one not in _VERTEBRAE or other not in _VERTEBRAE:
        return frozenset()
    first, last = sorted((_VERTEBRAE.index(one), _VERTEBRAE.index(other)))
    return frozenset(list(Level)[first:last])
