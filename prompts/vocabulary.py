"""The vocabulary of queries, ``queries.yaml``: phrases and their meanings, checked when the file is read."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from data_prep.sites import SITES, Condition, Side

QUERIES = Path(__file__).with_name("queries.yaml")

#: Sections with several meanings -> the kind of their tokens, and the keys of the meanings.
_KEYED = {
    "conditions": ("condition", tuple(c.value for c in Condition)),
    "sided_conditions": ("sided_condition", tuple(dict.fromkeys(s.condition_key for s in SITES if s.side))),
    "severities": ("severity", ("normal", "mild", "normal_mild", "moderate", "severe")),
    "sides": ("side", tuple(s.value for s in Side)),
    "level_names": ("level_name", ("upper", "middle", "lower", "lowest", "highest", "lowest_three", "upper_three")),
    "level_counts": ("level_count", ("several", "single", "every")),
    "comparisons": (
        "comparison",
        ("at_least", "at_most", "above", "below", "at_or_above", "at_or_below", "exactly", "or_more", "or_less"),
    ),
    "scales": ("scale", ("lee", "schizas", "bartynski")),
}
_LISTS = {
    "centrals": "central",
    "findings": "finding",
    "both_sides": "both_sides",
    "boths": "both",
    "unilaterals": "unilateral",
    "asymmetries": "asymmetry",
    "alls": "all",
    "negations": "negation",
    "exceptions": "exception",
    "excludeds": "excluded",
    "onlys": "only",
    "meres": "mere",
    "elsewheres": "elsewhere",
    "same_levels": "same_level",
    "adjacents": "adjacent",
    "ranges": "range",
    "downs": "down",
    "betweens": "between",
    "joints_and": "and",
    "joints_or": "or",
    "nors": "nor",
    "withs": "with",
    "breaks": "break",
    "contrasts": "contrast",
    "roots": "root",
    "exitings": "exiting",
    "traversings": "traversing",
    "countings": "counting",
    "seens": "seen",
    "unseens": "unseen",
    "connectives": "connective",
    "not_graded": "not_graded",
    "ungraded": "ungraded",
    "plain_words": "word",
    "other_languages": "other_language",
    "ignored": "ignored",
}
#: A hyphen within a word, which separates the words of a phrase as a space does.
_HYPHEN = re.compile(r"(?<=\w)-(?=\w)")
_WITHOUT_MEANING = frozenset({"ignored", "connective", "ungraded", "word", "other_language"})
_HARMLESS = frozenset({"ignored", "connective", "ungraded"})


@dataclass(frozen=True)
class Vocabulary:
    """The phrases and their meanings.

    meaning: phrase -> (kind, key). by_initial: first character -> the phrases that begin with it, the longest first.
    words: those of English, which are right as they are. meaningful_words, harmless_words: those that a typing error
    may stand for, sorted; the former change what is asked.
    """

    meaning: dict[str, tuple[str, str]]
    by_initial: dict[str, tuple[str, ...]]
    words: frozenset[str]
    meaningful_words: tuple[str, ...]
    harmless_words: tuple[str, ...]

    def longest_at(self, text: str, at: int) -> str | None:
        """Return the longest phrase that stands in a `comparable` text at this place, as complete words."""
        if at and _is_word(text[at]) and _is_word(text[at - 1]):
            return None
        for phrase in self.by_initial.get(text[at], ()):
            end = at + len(phrase)
            if text.startswith(phrase, at) and not (_is_word(phrase[-1]) and end < len(text) and _is_word(text[end])):
                return phrase
        return None


def comparable(text: str) -> str:
    """Return a text of the same length as phrases are compared with it: in lower case, hyphens in words as spaces."""
    lowered = "".join(low if len(low := character.lower()) == 1 else character for character in text)
    return _HYPHEN.sub(" ", lowered)


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


@cache
def vocabulary() -> Vocabulary:
    """Return the vocabulary of ``queries.yaml``."""
    meaning = read_vocabulary(QUERIES)
    by_initial: dict[str, list[str]] = {}
    for phrase in sorted(meaning, key=len, reverse=True):
        by_initial.setdefault(phrase[0], []).append(phrase)
    english = _words(phrase for phrase, (kind, _) in meaning.items() if kind != "other_language")
    meaningful = _words(phrase for phrase, (kind, _) in meaning.items() if kind not in _WITHOUT_MEANING)
    harmless = _words(phrase for phrase, (kind, _) in meaning.items() if kind in _HARMLESS) - meaningful
    initials = {initial: tuple(phrases) for initial, phrases in by_initial.items()}
    spellable = (tuple(sorted(filter(str.isalpha, words))) for words in (meaningful, harmless))
    return Vocabulary(meaning, initials, english, *spellable)


def _words(phrases: Iterable[str]) -> frozenset[str]:
    return frozenset(word for phrase in phrases for word in re.findall(r"\w+", phrase))


def read_vocabulary(path: Path) -> dict[str, tuple[str, str]]:
    """Read a file of phrases as a mapping phrase -> (kind, key). Raises ValueError, which quotes file and entry."""
    tree = _read_tree(path)
    meaning: dict[str, tuple[str, str]] = {}
    for where, kind, key, entries in _sections(tree, path.name):
        if not isinstance(entries, list) or not entries:
            raise ValueError(f"{where}: expected a list of words and phrases, found {entries!r}")
        for entry in entries:
            if not isinstance(entry, str) or not entry.strip():
                raise ValueError(f"{where}: {entry!r} is not a word or phrase")
            phrase = normal_phrase(entry)
            if phrase in meaning:
                raise ValueError(
                    f"{where}: {entry!r} occurs twice; remove it here, or where it is a {meaning[phrase][0]}"
                )
            meaning[phrase] = (kind, key)
    return meaning


def normal_phrase(phrase: str) -> str:
    """Return the phrase as a key of the vocabulary: in lower case, with single spaces between words."""
    lowered = phrase.casefold().strip()
    return lowered if len(lowered) == 1 else " ".join(lowered.replace("-", " ").split())


def _read_tree(path: Path) -> dict[str, Any]:
    try:
        # BaseLoader leaves every scalar a string; other loaders turn the words `no` and `on` into booleans.
        # The loader in C takes a tenth of the time, which a command would notice.
        loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
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
