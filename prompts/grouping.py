"""Grouping of tokens into pieces of meaning: chains of grades, ranges of levels, sides, numbers of levels, nerve roots.

"at least moderate", "moderate to severe" and "moderate or worse" are one piece, a `Grade`; so are "L2-L3 to L4-L5",
"L3-L4 and below" and "from L3 down to L5", a set of levels.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from data_prep.sites import Condition, Level, Severity, Side
from prompts.scan import Token, levels_between
from prompts.tree import Over

_SEVERITY_OF = {
    "normal": Severity.NORMAL_MILD,
    "mild": Severity.NORMAL_MILD,
    "normal_mild": Severity.NORMAL_MILD,
    "moderate": Severity.MODERATE,
    "severe": Severity.SEVERE,
}
_LEVELS_OF_NAME = {
    "upper": (Level.L1_L2, Level.L2_L3),
    "middle": (Level.L3_L4,),
    "lower": (Level.L4_L5, Level.L5_S1),
    "lowest": (Level.L5_S1,),
    "highest": (Level.L1_L2,),
    "lowest_three": (Level.L3_L4, Level.L4_L5, Level.L5_S1),
    "upper_three": (Level.L1_L2, Level.L2_L3, Level.L3_L4),
}
#: The published grades, mapped: Lee 2010 (foramen), Schizas 2010 (canal), Bartynski 2003 (lateral recess).
_SCALES = {
    "lee": (Condition.NEURAL_FORAMINAL_NARROWING, {"0": "normal", "1": "mild", "2": "moderate", "3": "severe"}),
    "schizas": (Condition.SPINAL_CANAL_STENOSIS, {"a": "normal", "b": "moderate", "c": "severe", "d": "severe"}),
    "bartynski": (Condition.SUBARTICULAR_STENOSIS, {"0": "normal", "1": "mild", "2": "moderate", "3": "severe"}),
}
_FORAMEN, _RECESS = Condition.NEURAL_FORAMINAL_NARROWING, Condition.SUBARTICULAR_STENOSIS
_JOINTS = frozenset({"range", "or", "and", "break"})
_DROPPED = frozenset({"connective", "ignored"})
_ORDER = list(Level)
_BOTH_SIDES = frozenset(Side)


@dataclass(frozen=True)
class Grade:
    """Severities as a text names them.

    severities: may be empty or all three, which asks nothing. is_all: a group has this grade if all of its sites have
    it ("normal", "at most moderate"). is_mild: the text says mild, which has no grade of its own. is_mere: and nothing
    worse ("only moderate").
    """

    severities: frozenset[Severity]
    is_all: bool = False
    is_mild: bool = False
    is_mere: bool = False


@dataclass(frozen=True)
class Piece:
    """A piece of meaning of the tokens [first, last], which are the characters [start, end) of the text.

    kind: 'condition', 'finding', 'grade', 'sides', 'both', 'levels', 'count', ..., or that of its token.
    """

    kind: str
    first: int
    last: int
    start: int
    end: int
    condition: Condition | None = None
    grade: Grade | None = None
    sides: frozenset[Side] = frozenset()
    levels: frozenset[Level] = frozenset()
    over: Over | None = None
    number: int = 0
    notes: tuple[str, ...] = field(default=(), compare=False)


class Grouping:
    """The tokens of a text, and their pieces."""

    def __init__(self, text: str, tokens: Sequence[Token]) -> None:
        self._text = text
        self._tokens = tokens
        self._list_ends: dict[int, bool] = {}

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces in the order of the text."""
        at = 0
        while at < len(self._tokens):
            pieces = (
                self._count(at) or self._root(at) or self._levels(at) or self._grade(at) or self._sides(at)
            ) or self._single(at)
            yield from pieces
            at = pieces[-1].last + 1

    def _kind(self, at: int) -> str:
        return self._tokens[at].kind if at < len(self._tokens) else ""

    def _skip(self, at: int, kinds: frozenset[str]) -> int:
        while self._kind(at) in kinds:
            at += 1
        return at

    def _piece(self, kind: str, first: int, last: int, **values: object) -> Piece:
        start, end = self._tokens[first].start, self._tokens[last].end
        return Piece(kind, first, last, start, end, **values)  # type: ignore[arg-type]

    def _words(self, first: int, last: int) -> str:
        return self._text[self._tokens[first].start : self._tokens[last].end]

    # Numbers of levels

    def _count(self, at: int) -> list[Piece]:
        compared = self._tokens[at].key if self._kind(at) == "comparison" else ""
        first = self._skip(at + 1, _DROPPED) if compared else at
        if self._kind(first) in ("only", "mere") and self._kind(first + 1) == "count":
            first += 1
        if self._kind(first) != "count":
            return []
        token = self._tokens[first]
        number = int(token.number)
        over, negated = Over.EXACTLY, False
        if token.key == "adjacent":
            over = Over.ADJACENT
        elif compared in ("at_least", "or_more") or token.key == "at_least":
            over = Over.AT_LEAST
        elif compared == "above":
            over, number = Over.AT_LEAST, number + 1
        elif compared == "below":
            over, negated = Over.AT_LEAST, True
        elif compared == "at_most" or token.key == "at_most":
            over, number, negated = Over.AT_LEAST, number + 1, True
        if not 1 <= number <= len(Level):
            raise ValueError(f'"{self._words(at, first)}": there are {len(Level)} graded levels')
        return [self._piece("fewer" if negated else "count", at, first, over=over, number=number)]

    # Levels

    def _levels(self, at: int) -> list[Piece]:
        """Return a set of levels: a level or its name, a range, or what lies above or below a level."""
        if self._kind(at) == "between":
            return self._between(at)
        compared = self._tokens[at].key if self._kind(at) in ("comparison", "down") else ""
        is_down = self._kind(at) == "down"
        first = self._skip(at + 1, _DROPPED) if compared or is_down else at
        if self._kind(first) not in ("level", "level_name"):
            return []
        token = self._tokens[first]
        levels, last, notes = self._named(first), first, list(self._lone_note(first))
        if is_down:
            levels = frozenset(_ORDER[: _ORDER.index(max(levels, key=_ORDER.index)) + 1])
        elif compared in ("above", "below") and self._words(at, at) not in ("<", ">"):
            levels, notes = self._beyond(token, levels, compared), []
        elif compared in ("at_or_above", "at_or_below"):
            levels, notes = levels | self._beyond(token, levels, compared.removeprefix("at_or_")), []
        elif compared:
            return []
        else:
            levels, last = self._extended(first, levels)
            if last > first:
                notes = []
        if not levels:
            raise ValueError(f'"{self._words(at, last)}": no graded level lies there')
        return [self._piece("levels", at, last, levels=levels, notes=tuple(notes))]

    def _between(self, at: int) -> list[Piece]:
        """Return the levels of "between L3 and L4" (vertebrae), "between L2-L3 and L4-L5"."""
        first = self._skip(at + 1, _DROPPED)
        last = self._skip(first + 2, _DROPPED)
        if (self._kind(first), self._kind(first + 1), self._kind(last)) != ("level", "and", "level"):
            return []
        one, other = self._tokens[first], self._tokens[last]
        levels = self._span(self._named(first), self._named(last))
        if one.vertebra and other.vertebra:
            levels = levels_between(one.vertebra, other.vertebra)
        if not levels:
            raise ValueError(f'"{self._words(at, last)}": no graded level lies there')
        return [self._piece("levels", at, last, levels=levels)]

    def _named(self, at: int) -> frozenset[Level]:
        token = self._tokens[at]
        if token.kind == "level_name":
            return frozenset(_LEVELS_OF_NAME[token.key])
        if not token.levels:
            raise ValueError(
                f'"{self._words(at, at)}": is not graded; the graded levels are {", ".join(x.words for x in Level)}'
            )
        return token.levels

    def _lone_note(self, at: int) -> Iterator[str]:
        token = self._tokens[at]
        if token.vertebra:
            named = " and ".join(x.words for x in Level if x in token.levels)
            yield f'"{self._words(at, at)}" names one vertebra: it is read as {named}'

    @staticmethod
    def _beyond(token: Token, levels: frozenset[Level], compared: str) -> frozenset[Level]:
        """Return the levels above or below these, without them; a vertebra lies between two levels."""
        numbers = [_ORDER.index(level) for level in levels]
        if token.vertebra and len(levels) == 2:
            return frozenset(_ORDER[: min(numbers) + 1] if compared == "above" else _ORDER[max(numbers) :])
        return frozenset(_ORDER[: min(numbers)] if compared == "above" else _ORDER[max(numbers) + 1 :])

    def _extended(self, first: int, levels: frozenset[Level]) -> tuple[frozenset[Level], int]:
        """Extend levels by what follows them: "to L5-S1", "and below"; return them and the last token."""
        after = self._skip(first + 1, frozenset({"connective"}))
        numbers = [_ORDER.index(level) for level in levels]
        if self._kind(first + 1) == "comparison" and self._tokens[first + 1].key in ("or_more", "or_less"):
            is_up = self._tokens[first + 1].key == "or_more"
            if self._kind(first + 2) in ("range", "down") and self._kind(first + 3) == "level":
                return self._extended(first + 3, self._span(levels, self._named(first + 3)))
            return frozenset(_ORDER[: max(numbers) + 1] if is_up else _ORDER[min(numbers) :]), first + 1
        is_up = self._kind(after) == "comparison" and self._words(after, after).casefold() == "up to"
        if self._kind(after) in ("range", "down") or is_up:
            other = self._skip(after + 1, _DROPPED)
            if self._kind(other) in ("level", "level_name"):
                return self._extended(other, self._span(levels, self._named(other)))
        return levels, first

    @staticmethod
    def _span(levels: frozenset[Level], others: frozenset[Level]) -> frozenset[Level]:
        numbers = [_ORDER.index(level) for level in levels | others]
        return frozenset(_ORDER[min(numbers) : max(numbers) + 1])

    # Nerve roots

    def _root(self, at: int) -> list[Piece]:
        """Return condition and level of a nerve root: "L5 root", "exiting left L4 nerve root"."""
        where = self._kind(at) if self._kind(at) in ("exiting", "traversing") else ""
        first = self._skip(at + 1, _DROPPED) if where else at
        side = first if self._kind(first) in ("side", "both_sides") and where else None
        vertebra = first + 1 if side is not None else first
        if not (self._kind(vertebra) == "level" and self._tokens[vertebra].vertebra):
            return []
        root = self._skip(vertebra + 1, frozenset({"traversing", "exiting"}))
        if root > vertebra + 1:
            where = self._kind(vertebra + 1)
        if self._kind(root) != "root":
            return []
        last, between = root, list[Piece]()
        where_after = self._skip(root + 1, _DROPPED | {"finding"})
        if not where and self._kind(where_after) in ("exiting", "traversing"):
            where, last = self._kind(where_after), where_after
            between = [piece for number in range(root + 1, last) for piece in self._single(number)]
        where = where or self._where_root_lies(root + 1)
        level = self._root_level(at, root, self._tokens[vertebra].vertebra, where)
        is_exiting = where == "exiting"
        condition = _FORAMEN if is_exiting else _RECESS
        place = "the foramen of its own level" if is_exiting else "the recess of the level above"
        note = f'"{self._words(at, last)}" is read as {place}, {level.words}'
        pieces = [
            self._piece("condition", at, last, condition=condition, notes=(note,)),
            self._piece("levels", at, last, levels=frozenset({level})),
        ]
        sides = [] if side is None else self._sides(side) or self._single(side)
        return [*sides, *between, *pieces]

    def _where_root_lies(self, at: int) -> str:
        """Return where a root is affected if its region follows: "compression of the L3 root in the left foramen"."""
        region = self._skip(at, _DROPPED | {"finding", "side", "word"})
        if self._kind(region) != "condition":
            return ""
        return {_FORAMEN: "exiting", _RECESS: "traversing"}.get(Condition(self._tokens[region].key), "")

    def _root_level(self, at: int, last: int, vertebra: str, where: str) -> Level:
        parts = [level.words.split("-") for level in Level]
        position = 0 if where == "exiting" else 1
        found = [level for level, part in zip(Level, parts, strict=True) if part[position] == vertebra]
        if not found:
            kind = "leaves through a foramen" if where == "exiting" else "passes a recess"
            raise ValueError(f'"{self._words(at, last)}": this root {kind} that is not graded')
        return found[0]

    # Grades

    def _grade(self, at: int) -> list[Piece]:
        """Return the severities at token `at` ("severe", "at least moderate", "moderate or worse", "only mild")."""
        if self._kind(at) == "scale":
            return self._scale(at)
        if self._kind(at) == "mere" and self._kind(at + 1) == "severity" and self._tokens[at + 1].key != "severe":
            [graded] = self._grade(at + 1)
            assert graded.grade is not None
            return [self._piece("grade", at, graded.last, grade=replace(graded.grade, is_mere=True))]
        compared = self._tokens[at].key if self._kind(at) == "comparison" else ""
        first = self._skip(at + 1, _DROPPED) if compared else at
        if self._kind(first) != "severity" or compared in ("or_more", "or_less"):
            return []
        keys, last = self._chain(first)
        if not compared and self._kind(last + 1) == "comparison":
            following = self._tokens[last + 1].key
            if following in ("or_more", "or_less"):
                compared, last = following, last + 1
        grade = _grade_of(keys, compared, self._words(at, last))
        if self._kind(last + 1) == "mere" and "severe" not in keys and self._kind(last + 2) in ("break", ""):
            last += 1
            grade = replace(grade, is_mere=True)
        return [self._piece("grade", at, last, grade=grade)]

    def _chain(self, at: int) -> tuple[list[str], int]:
        """Return the severities joined from token `at` on ("moderate or severe"), and the last token."""
        keys = [self._tokens[at].key]
        last = at
        while True:
            following = self._skip(last + 1, _JOINTS | {"ignored"})
            if self._kind(following) != "severity":
                return keys, last
            if following == last + 1 and {keys[-1], self._tokens[following].key} != {"moderate", "severe"}:
                return keys, last
            joints = {self._kind(number) for number in range(last + 1, following)} - {"ignored"}
            if "break" in joints and not self._ends_list(following):
                return keys, last
            if "and" in joints and not self._ends_chain(following):
                return keys, last
            keys += self._through(keys[-1], self._tokens[following].key) if "range" in joints else []
            keys.append(self._tokens[following].key)
            last = following

    def _ends_list(self, at: int) -> bool:
        """Return whether the severity at `at`, after a comma, is followed by the last of a list."""
        if at not in self._list_ends:
            following = self._skip(at + 1, _JOINTS)
            joints = {self._kind(number) for number in range(at + 1, following)}
            is_last = bool(joints & {"or", "and"})
            self._list_ends[at] = self._kind(following) == "severity" and (is_last or self._ends_list(following))
        return self._list_ends[at]

    def _ends_chain(self, at: int) -> bool:
        """Return whether nothing in front of these severities is graded by the first one alone."""
        before = at - 1
        while before >= 0 and self._kind(before) in _JOINTS | _DROPPED | {"severity"}:
            before -= 1
        return before < 0 or self._kind(before) in ("negation", "with")

    @staticmethod
    def _through(low: str, high: str) -> list[str]:
        first, last = sorted((_SEVERITY_OF[low], _SEVERITY_OF[high]))
        return ["moderate"] if last - first == 2 else []

    def _scale(self, at: int) -> list[Piece]:
        name, values = self._tokens[at].key.split(" ", 1)
        condition, meaning = _SCALES[name]
        given = [value[0] for value in re.findall(r"\b[0-3a-d][1-4]?\b", values)]
        if wrong := [value for value in given if value not in meaning]:
            allowed = ", ".join(x.upper() for x in meaning)
            raise ValueError(f'"{self._words(at, at)}": {wrong[0].upper()} is not one of its grades, {allowed}')
        if "to" in values or "-" in values:
            order = list(meaning)
            given = order[order.index(given[0]) : order.index(given[-1]) + 1]
        keys = [meaning[value] for value in given]
        grade = _grade_of(keys, "or_more" if values.endswith("+") else "", self._words(at, at))
        words = " or ".join(severity.label for severity in sorted(grade.severities))
        note = f'"{self._words(at, at)}" was mapped to {condition.words} {words}'
        return [
            self._piece("condition", at, at, condition=condition, notes=(note,)),
            self._piece("grade", at, at, grade=Grade(grade.severities, grade.is_all)),
        ]

    # Sides

    def _sides(self, at: int) -> list[Piece]:
        """Return sides: "left", "left or right" (either), "left and right" (both)."""
        if self._kind(at) == "sided_condition":
            side, condition = self._tokens[at].key.split("_", 1)
            return [
                self._piece("sides", at, at, sides=frozenset({Side(side)})),
                self._piece("condition", at, at, condition=Condition(condition)),
            ]
        if self._kind(at) != "side":
            return []
        joint = self._skip(at + 1, frozenset({"ignored"}))
        other = self._skip(joint + 1, _DROPPED)
        if self._kind(joint) in ("and", "or") and self._kind(other) == "side":
            if self._tokens[other].key == self._tokens[at].key:
                return [self._piece("sides", at, other, sides=frozenset({Side(self._tokens[at].key)}))]
            return [self._piece("both" if self._kind(joint) == "and" else "sides", at, other, sides=frozenset(Side))]
        return [self._piece("sides", at, at, sides=frozenset({Side(self._tokens[at].key)}))]

    # All others

    def _single(self, at: int) -> list[Piece]:
        token = self._tokens[at]
        match token.kind:
            case "condition":
                return [self._piece("condition", at, at, condition=Condition(token.key))]
            case "central" if self._begins_list(at):
                return [self._piece("condition", at, at, condition=Condition.SPINAL_CANAL_STENOSIS)]
            case "central":
                return [self._piece("word", at, at)]
            case "mere":
                return [self._piece("only", at, at)]
            case "both_sides":
                return [self._piece("both", at, at, sides=frozenset(Side))]
            case "both":
                return [self._both(at)]
            case "worse":
                return [self._piece("worse", at, at, sides=frozenset({Side(token.key)}))]
            case "asymmetry":
                return [self._piece("worse", at, at, sides=frozenset(Side))]
            case "adjacent":
                return [self._piece("count", at, at, over=Over.ADJACENT, number=2)]
            case "level_count":
                return [self._level_count(at)]
            case "comparison" if self._words(at, at) == "+":
                return [self._piece("and", at, at)]
            case "not_graded":
                raise ValueError(
                    f'"{self._words(at, at)}": is not graded; the graded levels are {", ".join(x.words for x in Level)}'
                )
            case _:
                return [self._piece(token.kind, at, at, number=0)]

    def _begins_list(self, at: int) -> bool:
        """Return whether a joint follows, and another condition: "central and foraminal stenosis"."""
        condition = self._skip(at + 1, _JOINTS | _DROPPED | {"side", "severity"})
        return self._kind(at + 1) in _JOINTS and self._kind(condition) == "condition"

    def _both(self, at: int) -> Piece:
        """Return "both" as both sides beside one condition, and as nothing before two ("both canal and foramen")."""
        is_before = self._names_one_condition(at + 1)
        return self._piece("both" if is_before or self._follows_condition(at) else "ignored", at, at, sides=_BOTH_SIDES)

    def _names_one_condition(self, at: int) -> bool:
        """Return whether a condition follows, with its level and grade, that "and" joins to no other condition."""
        condition = self._skip(at, _DROPPED | {"level", "severity", "finding"})
        after = self._skip(condition + 1, frozenset({"finding"}))
        other = self._skip(after + 1, _DROPPED | {"severity", "side"})
        return self._kind(condition) == "condition" and (self._kind(after), self._kind(other)) != ("and", "condition")

    def _follows_condition(self, at: int) -> bool:
        """Return whether "both" stands after a condition, before its grade: "foramina both severely narrowed"."""
        before = at - 1
        while before >= 0 and self._kind(before) in _DROPPED:
            before -= 1
        following = self._skip(at + 1, _DROPPED)
        return before >= 0 and self._kind(before) == "condition" and self._kind(following) in ("severity", "finding")

    def _level_count(self, at: int) -> Piece:
        match self._tokens[at].key:
            case "several":
                return self._piece("count", at, at, over=Over.AT_LEAST, number=2)
            case "single":
                return self._piece("count", at, at, over=Over.EXACTLY, number=1)
            case _:
                return self._piece("every", at, at)


def _grade_of(keys: Sequence[str], compared: str, words: str) -> Grade:
    """Return the grade that severities and their comparison name."""
    named = frozenset(_SEVERITY_OF[key] for key in keys)
    low, high = min(named), max(named)
    match compared:
        case "at_least" | "or_more" | "at_or_above":
            severities = frozenset(s for s in Severity if s >= low)
        case "at_most" | "or_less" | "at_or_below":
            severities = frozenset(s for s in Severity if s <= high)
        case "above":
            severities = frozenset(s for s in Severity if s > high)
        case "below":
            severities = frozenset(s for s in Severity if s < low)
        case _:
            severities = named
    if not severities:
        raise ValueError(f'"{words}": no grade is {"worse" if compared == "above" else "better"} than that')
    if len(severities) == len(Severity):
        raise ValueError(
            f'"{words}": names every grade, because normal and mild are one grade here; ask for moderate or severe'
        )
    is_upper_bound = compared in ("at_most", "or_less", "at_or_below", "below")
    is_normal = Severity.NORMAL_MILD in named and (bool({"normal", "normal_mild"} & set(keys)))
    is_mild = "mild" in keys and not is_normal and not is_upper_bound and compared not in ("above",)
    return Grade(severities, is_all=is_upper_bound or is_normal, is_mild=is_mild)
