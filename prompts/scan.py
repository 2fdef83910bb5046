"""Scanning of a query into tokens: the phrases of ``queries.yaml``, levels, numbers of levels, and all other words.

>>> [(token.kind, token.key) for token in scan("severe left foraminal narrowing at L4/5")]
[('severity', 'severe'), ('side', 'left'), ('condition', 'neural_foraminal_narrowing'), ('finding', ''), ('connective', ''), ('level', '')]
"""  # noqa: E501

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from data_prep.sites import Level
from prompts.vocabulary import comparable, vocabulary

_VERTEBRA = r"(?:C\s?\d|T\s?\d{1,2}|L\s?\d|S\s?\d)"
_JOINT = r"\s*(?:-|/|\bto\b|\bthrough\b|\bthru\b|\b(?:on|over)\b(?=\s*[LS]))\s*"
#: Vertebrae that make a level or a range of levels: L4-L5, L4/5, L45, L4L5, L4 L5, L3/4/5, L3 to S1; or a single one.
_LEVEL = re.compile(
    rf"(?<!\w)(?P<first>{_VERTEBRA})"
    rf"(?P<more>(?:{_JOINT}(?:{_VERTEBRA}|\d))+|\s*{_VERTEBRA}|\d)?(?![\w%])",
    re.IGNORECASE,
)
#: Two numbers of vertebrae that follow each other, without a letter: 4/5, 4-5, 5-1.
_BARE_LEVEL = re.compile(r"(?<![\w./-])(?P<upper>[1-5])\s?[-/]\s?(?P<lower>[1-5])(?![\w.%/-])")
_MORE = re.compile(rf"(?P<sign>{_JOINT})?(?P<vertebra>{_VERTEBRA}|\d)", re.IGNORECASE)
#: "T2 L4-L5": a weighting in front of a level, and not a vertebra.
_WEIGHTING = re.compile(r"(?<!\w)T[12](?=\s+L\s?\d)", re.IGNORECASE)
_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*|\S")
_VERTEBRAE = ("L1", "L2", "L3", "L4", "L5", "S1")

_NUMBER = r"(?:one|two|three|four|five|[1-9])"
_COUNT = re.compile(
    rf"(?<!\w)(?P<number>{_NUMBER})(?P<more>\s*(?:or more|or greater|or fewer|or less|\+))?[\s-]*"
    r"(?P<adjacent>adjacent|consecutive|contiguous|neighbou?ring|successive)?[\s-]*"
    r"(?:(?:different|separate|affected|diseased|lumbar|disc|spinal|involved)\s+)*"
    r"(?:levels?|lvls?|segments?|disc spaces?)(?!\w)(?P<after>\s+or (?:more|fewer|less)(?!\w))?",
    re.IGNORECASE,
)
_COUNT_RANGE = re.compile(
    rf"(?<![\w/-]){_NUMBER}\s*(?:-|/|to|or)\s*{_NUMBER}\s(?:levels|segments)(?!\w)", re.IGNORECASE
)
#: "3-4 and 4-5 levels" are names.
_NAMED_BEFORE = re.compile(r"\d\s*(?:,|&|and|or)\s*$", re.IGNORECASE)
_NUMBERS = {word: number for number, word in enumerate(("one", "two", "three", "four", "five"), start=1)}

_SIDE = r"(?:left|right|lt|rt|l|r)"
_MUCH = r"(?:much |slightly |somewhat |clearly |significantly )?"
_WORSE = (
    r"(?:worse|greater|more severely|more severe|more pronounced|more marked|more prominent|more advanced|more|tighter|"
    r"worst)"
)
_LESS = r"(?:less severely|less severe|less|milder|better)"
_NARROWED = r"(?: narrowed| stenosed| stenotic| affected| involved| compromised)?"
_MOSTLY = r"(?:predominantly|predominant|mainly|mostly|most marked|most severe|most pronounced|dominant|primarily)"
_SIDED = r"(?:[\s-]sided?| side)?"
#: One side in comparison with the other; what is named as "other" or has less is the better side.
_COMPARED_SIDES = (
    re.compile(rf"(?<!\w)(?P<one>{_SIDE}){_SIDED}\s*(?P<sign>[<>])\s*(?P<other>{_SIDE}){_SIDED}(?!\w)", re.IGNORECASE),
    re.compile(
        rf"(?<!\w)(?:on the )?(?P<one>left|right){_SIDED} (?:is |are |being )?{_MUCH}"
        rf"(?:{_WORSE}|(?P<less>{_LESS})){_NARROWED} than (?:on )?(?:the )?(?P<other>left|right){_SIDED}(?!\w)",
        re.IGNORECASE,
    ),
    # The side that is compared stands before the finding: "right recess worse than the left".
    re.compile(
        rf"(?<!\w){_MUCH}(?:{_WORSE}|(?P<less>{_LESS})){_NARROWED} than (?:on )?(?:the )?"
        rf"(?P<other>left|right){_SIDED}(?!\w)",
        re.IGNORECASE,
    ),
    re.compile(
        rf"(?<!\w){_MUCH}(?:{_WORSE}|{_MOSTLY})(?: severe| marked| pronounced)?(?: on| to| in| at)?(?: the)? "
        rf"(?P<one>left|right){_SIDED}(?: than (?:on )?(?:the )?(?P<other>left|right){_SIDED})?(?!\w)",
        re.IGNORECASE,
    ),
    re.compile(
        rf"(?<!\w)(?P<one>left|right){_SIDED}[\s-](?:predominant|predominance|predominantly|dominant|dominance|worse)(?!\w)",
        re.IGNORECASE,
    ),
)

_OPPOSITE = {"left": "right", "right": "left"}

_PROBABILITY = re.compile(
    r"(?<!\w)(?:with )?(?:an? )?(?:p|prob|probability|probabilities|likelihood|confidence)\s*(?:is |are |of )?\s*"
    r"(?:>=|=>|>|≥|at least|above|over|greater than|more than|higher than|exceeding|"
    r"(?P<most><=|=<|<|≤|at most|below|under|less than|lower than))\s*"
    r"(?P<value>\d+(?:\.\d+)?|\.\d+)\s*(?P<percent>%|percent|per cent)?",
    re.IGNORECASE,
)
_ANSWERS = {"five": "5", "ten": "10", "twenty": "20", "fifty": "50"}
_ANSWER = rf"(?P<value>\d+|{'|'.join(_ANSWERS)})"
_TOP = (
    re.compile(rf"(?<!\w)(?:the )?(?:top|first|best)\s+{_ANSWER}(?!\w)", re.IGNORECASE),
    re.compile(
        rf"(?<!\w)(?:the )?{_ANSWER}(?: most likely| likeliest| best| top)?"
        r"(?=\s(?:studies|patients|cases|examples|exams|examinations|scans|mris)(?!\w))",
        re.IGNORECASE,
    ),
)
_SCALE_VALUES = re.compile(
    r"(?:\s+(?:grade|grades|type|class|score|classification))*\s*[:=]?\s*"
    r"(?P<values>[0-3a-d][1-4]?(?:(?:\s+(?:or|to|and)\s+|\s*[,/-]\s*)[0-3a-d][1-4]?(?!\w))*)"
    r"(?P<more>\s*\+| or (?:worse|higher|more))?(?!\w)",
    re.IGNORECASE,
)
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn"}


@dataclass(frozen=True)
class Token:
    """A piece of a text: the characters [start, end).

    Attributes:
        kind: 'level', 'count', 'worse', 'probability', 'top', 'scale', the singular of a section of queries.yaml, or
            'word'.
        key: which of the section's meanings; for 'count' how it is compared; for 'scale' its name and values.
        levels: the graded levels of a token 'level'; empty if none of them is graded.
        vertebra: the single vertebra that a token 'level' names; otherwise empty.
        number: the number of a token 'count', 'probability' or 'top'.
    """

    kind: str
    key: str
    start: int
    end: int
    levels: frozenset[Level] = frozenset()
    vertebra: str = ""
    number: float = 0


def clean(text: str) -> str:
    """Return the text for `scan`: NFKC, on one line, without invisible characters, with one kind of dash; L.4 as L4."""
    normal = unicodedata.normalize("NFKC", text)
    visible = "".join(
        " " if c.isspace() else c for c in normal if c.isspace() or unicodedata.category(c) not in _INVISIBLE
    )
    dashed = re.sub("[\u2010-\u2015\u2212]", "-", visible)
    return " ".join(re.sub(r"\b([LS])\.(?=\d)", r"\1", dashed, flags=re.IGNORECASE).replace("_", " ").split())


def scan(text: str) -> tuple[Token, ...]:
    """Return the tokens of a cleaned text (`clean`), in order; words that are not understood have kind 'word'."""
    return tuple(_tokens(text))


def is_level(word: str) -> bool:
    """Return whether a word names vertebrae or levels."""
    return bool(_LEVEL.fullmatch(word) or _BARE_LEVEL.fullmatch(word))


def _tokens(text: str) -> Iterator[Token]:
    at, words = 0, comparable(text)
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        token = _special(text, at) or _phrase(text, words, at) or _word(text, at)
        yield token
        at = token.end


def _special(text: str, at: int) -> Token | None:
    """Return the token at `at` if it is one that no list of words describes."""
    if found := _PROBABILITY.match(text, at):
        if found["most"]:
            raise ValueError(f'"{found.group().strip()}": only a least probability can be asked for, such as P > 0.8')
        value = float(found["value"])
        return Token("probability", "", at, found.end(), number=value / 100 if found["percent"] or value > 1 else value)
    for pattern in _TOP:
        if found := pattern.match(text, at):
            word = found["value"].casefold()
            return Token("top", "", at, found.end(), number=float(_ANSWERS.get(word, word)))
    for pattern in _COMPARED_SIDES if text[at].isalpha() else ():
        if (found := pattern.match(text, at)) and (side := _worse_side(found)):
            return Token("worse", side, at, found.end())
    if (found := _COUNT_RANGE.match(text, at)) and not _NAMED_BEFORE.search(text, max(0, at - 8), at):
        raise ValueError(f'"{found.group()}": is not one number of levels; ask for at least or for at most so many')
    if found := _COUNT.match(text, at):
        return _count_token(found)
    if found := _WEIGHTING.match(text, at):
        return Token("ignored", "", at, found.end())
    if found := _LEVEL.match(text, at):
        return _level_token(found)
    if (found := _BARE_LEVEL.match(text, at)) and _follow(found["upper"], found["lower"]):
        lower = "S1" if found["lower"] == "1" else f"L{found['lower']}"
        return Token("level", "", at, found.end(), levels_between(f"L{found['upper']}", lower))
    return None


def _follow(upper: str, lower: str) -> bool:
    return (int(upper), int(lower)) == (5, 1) or int(lower) == int(upper) + 1


def _worse_side(found: re.Match[str]) -> str:
    """Return the worse side of a comparison of sides; '' if a side is compared with itself."""
    groups = {name: value.casefold() for name, value in found.groupdict().items() if value}
    one, other = (_side(groups.get(name, "")) for name in ("one", "other"))
    if one == other:
        return ""
    worse = one or _OPPOSITE[other]
    return _OPPOSITE[worse] if "less" in groups or groups.get("sign") == "<" else worse


def _side(word: str) -> str:
    return "" if not word else "left" if word.startswith("l") else "right"


def _count_token(found: re.Match[str]) -> Token:
    word, more = found["number"].casefold(), (found["more"] or found["after"] or "").split()
    number = _NUMBERS.get(word) or int(word)
    key = "" if not more else "at_most" if more[-1] in ("fewer", "less") else "at_least"
    return Token("count", "adjacent" if found["adjacent"] else key, found.start(), found.end(), number=number)


def _phrase(text: str, words: str, at: int) -> Token | None:
    """Return the longest phrase of the vocabulary at `at`; `words` is the comparable text."""
    known = vocabulary()
    # A hyphen within a word is a space of a phrase, or else a sign of its own: "mod-severe".
    phrase = known.longest_at(words if words[at] != " " else text, at)
    if phrase is None:
        return None
    kind, key = known.meaning[phrase]
    end = at + len(phrase)
    if kind == "scale":
        values = _SCALE_VALUES.match(text, end)
        if values is None:
            return None
        more = "+" if values["more"] else ""
        return Token("scale", f"{key} {values['values'].casefold()}{more}", at, values.end())
    return Token(kind, key, at, end)


def _word(text: str, at: int) -> Token:
    found = _WORD.match(text, at)
    assert found is not None, "every character except a space matches"
    return Token("word", "", at, found.end())


def _level_token(found: re.Match[str]) -> Token:
    first = "".join(found["first"].split()).upper()
    names, is_range = [first], False
    for more in _MORE.finditer(found["more"] or ""):
        name = "".join(more["vertebra"].split()).upper()
        if name.isdigit():
            name = "S1" if (names[-1], name) == ("L5", "1") else names[-1][0] + name
        is_range = is_range or (more["sign"] or "").strip(" ") not in ("/", "-", "")
        names.append(name)
    names = list(dict.fromkeys(names))
    if len(names) == 1:
        # T1 and T2 are weightings of images here, and not vertebrae.
        if first in ("T1", "T2"):
            return Token("ignored", "", found.start(), found.end())
        return Token("level", "", found.start(), found.end(), _around(first), vertebra=first)
    pairs = [(names[0], names[-1])] if is_range or len(names) == 2 else list(pairwise(names))
    spans = [levels_between(*pair) for pair in pairs]
    levels = frozenset().union(*spans) if all(spans) else frozenset[Level]()
    return Token("level", "", found.start(), found.end(), levels)


def _around(vertebra: str) -> frozenset[Level]:
    """Return the graded levels that a vertebra belongs to; none if it is not one of L1 to S1."""
    return frozenset(level for level in Level if vertebra in level.words.split("-"))


def levels_between(one: str, other: str) -> frozenset[Level]:
    """Return the graded levels between two vertebrae; none if either is not one of L1 to S1."""
    if one not in _VERTEBRAE or other not in _VERTEBRAE:
        return frozenset()
    first, last = sorted((_VERTEBRAE.index(one), _VERTEBRAE.index(other)))
    return frozenset(list(Level)[first:last])
