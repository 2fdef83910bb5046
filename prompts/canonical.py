"""The canonical line of a query: its tree and limits in a small language, which reads back to the same tree.

>>> line = "any(canal, L4-L5) >= moderate and not all(left foramen) = normal/mild; top 20"
>>> query = parse_canonical(line)
>>> canonical_line(query.tree, query.limits) == line
True

The language, with ``[...]`` for what may be left out::

    line      tree [; top NUMBER] [; P >= NUMBER] [; split NAME] [; seen | unseen] [; count]
    tree      terms joined by "and" (binds first) and "or"; "not" and brackets as usual
    term      OVER(PLACES) GRADES  or  worse(PLACES)  or  same_level(tree)
    OVER      any, all, both_sides, only_here, at_least_2_levels, exactly_1_level, adjacent_2_levels
    PLACES    REGION, ..., LEVEL, ...  several such lists are joined by ";"
    REGION    [left | right] foramen, [left | right] recess, canal, or site (all of them)
    LEVEL     L1-L2 to L5-S1; none: all levels
    GRADES    =, !=, >=, <= and a grade: normal/mild, moderate, severe

``worse(left foramen, L4-L5)``: the left foramen is graded higher than the right one. ``same_level(...)``: at one level,
the tree holds of that level's sites alone.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from data_prep.sites import SITES, Condition, Level, Severity, Side, Site
from prompts.tree import NO_LIMITS, And, Finding, Limits, Not, Or, Over, Query, SameLevel, SideAgainstSide, Tree

MAX_TOP = 1000
#: Deeper brackets than a person writes would exhaust Python's stack.
MAX_DEPTH = 40

_NAMES = {
    Condition.SPINAL_CANAL_STENOSIS: "canal",
    Condition.NEURAL_FORAMINAL_NARROWING: "foramen",
    Condition.SUBARTICULAR_STENOSIS: "recess",
}
_REGIONS = tuple(dict.fromkeys((site.condition, site.side) for site in SITES))
_Region = tuple[Condition, Side | None]
_REGION_OF = {
    "site": _REGIONS,
    **{name: tuple(r for r in _REGIONS if r[0] is condition) for condition, name in _NAMES.items()},
    **{f"{side.value} {_NAMES[condition]}": ((condition, side),) for condition, side in _REGIONS if side is not None},
}
_GRADE_NAMES = {Severity.NORMAL_MILD: "normal/mild", Severity.MODERATE: "moderate", Severity.SEVERE: "severe"}
_COMPARED: dict[str, Callable[[Severity, Severity], bool]] = {
    "=": lambda s, grade: s == grade,
    ">=": lambda s, grade: s >= grade,
    "<=": lambda s, grade: s <= grade,
    "!=": lambda s, grade: s != grade,
}
_GRADES = {
    f"{sign} {name}": frozenset(s for s in Severity if holds(s, grade))
    for sign, holds in _COMPARED.items()
    for grade, name in _GRADE_NAMES.items()
}
_GRADES_OF = {severities: text for text, severities in reversed(_GRADES.items()) if 0 < len(severities) < len(Severity)}
_COUNTED = re.compile(r"(at_least|exactly|adjacent)_(\d)_levels?")
#: The name of a split or of a kept set, which is that of a folder.
_SPLIT_NAME = re.compile(r"\s*([\w.-]+)")
_TOKEN = re.compile(r"\s*([A-Za-z][\w-]*(?:/[A-Za-z]+)?|\d+(?:\.\d+)?|>=|<=|!=|[=();,])")


def canonical_line(tree: Tree, limits: Limits = NO_LIMITS) -> str:
    """Return tree and limits as one line, which `parse_canonical` reads back to the same."""
    return _tree_text(tree) + "".join(f"; {part}" for part in _limit_texts(limits))


def parse_canonical(line: str) -> Query:
    """Read a canonical line. Raises ValueError, which names the place of the error and what may stand there."""
    query = _Reader(line).query()
    return replace(query, text="")


def region_name(condition: Condition, side: Side | None) -> str:
    """Return a region's name in a canonical line: ``left foramen``."""
    return _NAMES[condition] if side is None else f"{side.value} {_NAMES[condition]}"


def _tree_text(tree: Tree) -> str:
    match tree:
        case Finding():
            return f"{_over_text(tree)}({_places_text(tree.sites)}) {_GRADES_OF[tree.severities]}"
        case SideAgainstSide(condition, levels, worse):
            sites = frozenset(Site(condition, worse, level) for level in levels)
            return f"worse({_places_text(sites)})"
        case And(parts):
            return " and ".join(_bracketed(part, And, Or) for part in parts)
        case Or(parts):
            return " or ".join(_bracketed(part, Or) for part in parts)
        case Not(part):
            return f"not {_bracketed(part, And, Or)}"
        case SameLevel(part):
            return f"same_level({_tree_text(part)})"


def _bracketed(tree: Tree, *kinds: type[And] | type[Or]) -> str:
    text = _tree_text(tree)
    return f"({text})" if isinstance(tree, kinds) else text


def _over_text(finding: Finding) -> str:
    if not finding.over.counts_levels:
        return finding.over.value
    return f"{finding.over.value}_{finding.count}_level{'s' if finding.count > 1 else ''}"


def _places_text(sites: frozenset[Site]) -> str:
    """Return sites as lists of regions and levels: regions with the same levels share a list."""
    regions_of: dict[tuple[Level, ...], list[_Region]] = {}
    for region in _REGIONS:
        if levels := tuple(x for x in Level if Site(*region, x) in sites):
            regions_of.setdefault(levels, []).append(region)
    return "; ".join(", ".join(_place_words(regions, levels)) for levels, regions in regions_of.items())


def _place_words(regions: Sequence[_Region], levels: Sequence[Level]) -> list[str]:
    if len(regions) == len(_REGIONS):
        words = ["site"]
    else:
        whole = [c for c in Condition if all(r in regions for r in _REGIONS if r[0] is c)]
        named = [_NAMES[c] if c in whole else region_name(c, side) for c, side in regions]
        words = list(dict.fromkeys(named))
    return words + ([] if len(levels) == len(Level) else [level.words for level in levels])


def _limit_texts(limits: Limits) -> list[str]:
    parts = [
        None if limits.top is None else f"top {limits.top}",
        None if limits.least is None else f"P >= {Decimal(repr(limits.least)).normalize():f}",
        None if limits.split is None else f"split {limits.split}",
        None if limits.seen is None else "seen" if limits.seen else "unseen",
        "count" if limits.count_first else None,
    ]
    return [part for part in parts if part is not None]


@dataclass(frozen=True)
class _Word:
    text: str
    start: int


class _Reader:
    """Reads a line by recursive descent; `_at` is the number of the next word."""

    def __init__(self, line: str) -> None:
        self._line = line
        self._words = list(self._split(line))
        self._at = 0

    def query(self) -> Query:
        tree = self._or(0)
        limits = NO_LIMITS
        while self._take(";"):
            limits = self._limit(limits)
        if self._at < len(self._words):
            raise self._error('"and", "or", ";" or the end')
        return Query(self._line, tree, limits)

    def _split(self, line: str) -> Iterable[_Word]:
        at, word = 0, ""
        while line[at:].strip():
            found = (_SPLIT_NAME if word == "split" else _TOKEN).match(line, at)
            if found is None:
                start = at + len(line[at:]) - len(line[at:].lstrip())
                raise _line_error(line, start, repr(line[start]), "a word, a number or a sign")
            word = found[1].casefold()
            yield _Word(found[1], found.start(1))
            at = found.end()

    @property
    def _next(self) -> str:
        return self._words[self._at].text.casefold() if self._at < len(self._words) else ""

    def _take(self, *texts: str) -> str:
        """Step over the next word if it is one of these, and return it; else return ''."""
        found = self._next if self._next in texts else ""
        self._at += bool(found)
        return found

    def _need(self, text: str) -> None:
        if not self._take(text):
            raise self._error(f'"{text}"')

    def _error(self, expected: str) -> ValueError:
        if self._at == len(self._words):
            return _line_error(self._line, len(self._line), "the end", expected)
        word = self._words[self._at]
        return _line_error(self._line, word.start, repr(word.text), expected)

    def _or(self, depth: int) -> Tree:
        parts = [self._and(depth)]
        while self._take("or"):
            parts.append(self._and(depth))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _and(self, depth: int) -> Tree:
        parts = [self._term(depth)]
        while self._take("and"):
            parts.append(self._term(depth))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _term(self, depth: int) -> Tree:
        if depth > MAX_DEPTH:
            raise self._error(f"at most {MAX_DEPTH} brackets and negations within each other")
        if self._take("not"):
            return Not(self._term(depth + 1))
        if self._take("("):
            tree = self._or(depth + 1)
            self._need(")")
            return tree
        if self._take("same_level"):
            self._need("(")
            tree = self._or(depth + 1)
            self._need(")")
            return SameLevel(tree)
        if self._take("worse"):
            return self._worse()
        return self._finding()

    def _finding(self) -> Finding:
        counted = _COUNTED.fullmatch(self._next)
        plain = self._next in [over.value for over in Over if not over.counts_levels]
        if not plain and (counted is None or not 1 <= int(counted[2]) <= len(Level)):
            raise self._error("any, all, both_sides, only_here, at_least_2_levels, worse, same_level, not or a bracket")
        over, count = (Over(counted[1]), int(counted[2])) if counted else (Over(self._next), 0)
        self._at += 1
        sites = self._places()
        return Finding(sites, self._grades(), over, count)

    def _worse(self) -> SideAgainstSide:
        start = self._at
        sites = self._places()
        regions = {(site.condition, site.side) for site in sites}
        [(condition, side)] = regions if len(regions) == 1 else [(None, None)]
        if condition is None or side is None:
            self._at = start + 1
            raise self._error("one side of one condition, such as left foramen")
        return SideAgainstSide(condition, frozenset(site.level for site in sites), side)

    def _places(self) -> frozenset[Site]:
        self._need("(")
        sites = self._product()
        while self._take(";"):
            sites |= self._product()
        self._need(")")
        return sites

    def _product(self) -> frozenset[Site]:
        regions: list[_Region] = []
        levels: list[Level] = []
        while True:
            level = next((x for x in Level if x.words.casefold() == self._next), None)
            if level is not None:
                levels.append(level)
                self._at += 1
            elif not levels:
                regions += self._region()
            else:
                raise self._error("a level, L1-L2 to L5-S1")
            if not self._take(","):
                break
        return frozenset(Site(*region, x) for region in regions or _REGIONS for x in levels or Level)

    def _region(self) -> tuple[_Region, ...]:
        side = self._take("left", "right")
        name = f"{side} {self._next}".strip()
        if name not in _REGION_OF:
            raise self._error("foramen or recess" if side else "canal, foramen, recess, site, left, right or a level")
        self._at += 1
        return _REGION_OF[name]

    def _grades(self) -> frozenset[Severity]:
        sign = self._take(*_COMPARED)
        if not sign:
            raise self._error("=, !=, >= or <= and a grade")
        severities = _GRADES.get(f"{sign} {self._next}")
        if severities is None:
            raise self._error("normal/mild, moderate or severe")
        if len(severities) == len(Severity):
            raise self._error("a grade that not every site has")
        self._at += 1
        return severities

    def _limit(self, limits: Limits) -> Limits:
        if self._take("top"):
            return replace(limits, top=int(self._number(1, MAX_TOP, is_whole=True)))
        if self._take("p"):
            self._need(">=")
            return replace(limits, least=self._number(0, 1, is_whole=False))
        if self._take("split"):
            if not _SPLIT_NAME.fullmatch(self._next):
                raise self._error("the name of a split")
            name = self._words[self._at].text
            self._at += 1
            return replace(limits, split=name)
        if self._take("count"):
            return replace(limits, count_first=True)
        if word := self._take("seen", "unseen"):
            return replace(limits, seen=word == "seen")
        raise self._error("top, P, split, seen, unseen or count")

    def _number(self, low: int, high: int, is_whole: bool) -> float:
        is_number = re.fullmatch(r"\d+" if is_whole else r"\d+(\.\d+)?", self._next)
        if not is_number or not low <= float(self._next) <= high:
            raise self._error(f"a {'whole ' if is_whole else ''}number from {low} to {high}")
        self._at += 1
        return float(self._words[self._at - 1].text)


def _line_error(line: str, start: int, found: str, expected: str) -> ValueError:
    return ValueError(f'line "{line}": found {found} at character {start + 1}, expected {expected}')
