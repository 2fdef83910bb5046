"""Prompts for `benchmarks.query_quality`: a text, the way a person would write it, and what it means, as a tree.

The meaning is put together here, beside the text: it is not what the parser makes of it. The wordings are others than
the captions of training (`prompts/captions.yaml`), which is checked. Each kind of prompt is a function that draws one.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.sites import SITES, Condition, Level, Severity, Side, Site
from prompts.render import training_captions
from prompts.tree import DISEASED, NORMAL, And, Finding, Or, Over, SideAgainstSide, Tree

CANAL, FORAMEN, RECESS = Condition
LEVELS = tuple(Level)
#: Draws that repeat a prompt which was drawn before, until a kind is taken to have no more.
_MOST_REPEATS = 200

_SEVERE = frozenset({Severity.SEVERE})
_MODERATE = frozenset({Severity.MODERATE})
_GRADES = {"severe": _SEVERE, "moderate": _MODERATE, "moderate or severe": DISEASED, "at least moderate": DISEASED}
_NAMES = {
    CANAL: ("canal stenosis", "spinal stenosis", "narrowing of the spinal canal", "thecal sac compression"),
    FORAMEN: ("foraminal narrowing", "neuroforaminal stenosis", "narrowing of the neural foramen"),
    RECESS: ("lateral recess narrowing", "subarticular narrowing", "stenosis of the lateral recess"),
}
_NORMAL_NAMES = {CANAL: "spinal canal", FORAMEN: "foramina", RECESS: "lateral recesses"}
_LEVEL_WORDS = ("{}-{}", "{}/{}", "{} {}")


@dataclass(frozen=True)
class Prompt:
    """A text of a kind, and its meaning."""

    kind: str
    text: str
    meaning: Tree


class Draw:
    """Draws the parts of prompts about some conditions."""

    def __init__(self, rng: np.random.Generator, conditions: Sequence[Condition]) -> None:
        self.rng = rng
        self.conditions = tuple(conditions)
        self.sided = tuple(c for c in conditions if c is not CANAL)

    def one(self, choices: Sequence[str]) -> str:
        return choices[int(self.rng.integers(len(choices)))]

    def grade(self) -> tuple[str, frozenset[Severity]]:
        words = self.one(tuple(_GRADES))
        return words, _GRADES[words]

    def condition(self, among: Sequence[Condition] | None = None) -> Condition:
        conditions = self.conditions if among is None else among
        return conditions[int(self.rng.integers(len(conditions)))]

    def two_conditions(self) -> tuple[Condition, Condition]:
        """Two conditions, which are different ones where there are two."""
        order = self.rng.permutation(len(self.conditions))
        return self.conditions[order[0]], self.conditions[order[-1]]

    def side(self) -> Side:
        return tuple(Side)[int(self.rng.integers(2))]

    def level(self) -> Level:
        return LEVELS[int(self.rng.integers(len(LEVELS)))]

    def levels(self, count: int) -> tuple[Level, ...]:
        return tuple(LEVELS[place] for place in sorted(self.rng.permutation(len(LEVELS))[:count]))

    def place(self, level: Level) -> str:
        upper, lower = level.words.split("-")
        return self.one(_LEVEL_WORDS).format(upper, lower)

    def name(self, condition: Condition, side: Side | None = None) -> str:
        name = self.one(_NAMES[condition])
        if side is None:
            return name
        if " of the " in name:
            return name.replace(" of the ", f" of the {side} ")
        return f"{side} {name}"

    def site(self) -> Site:
        condition = self.condition()
        return Site(condition, None if condition is CANAL else self.side(), self.level())


def sites_of(
    conditions: Iterable[Condition], levels: Iterable[Level] = LEVELS, sides: Iterable[Side | None] = (None, *Side)
) -> frozenset[Site]:
    conditions, levels, sides = set(conditions), set(levels), set(sides)
    return frozenset(s for s in SITES if s.condition in conditions and s.level in levels and s.side in sides)


def _site(draw: Draw) -> tuple[str, Tree]:
    words, grade = draw.grade()
    site = draw.site()
    name, place = draw.name(site.condition, site.side), draw.place(site.level)
    text = draw.one((f"{words} {name} at {place}", f"{place} {words} {name}", f"patients with {words} {name}, {place}"))
    return text, Finding(frozenset({site}), grade)


def _side(draw: Draw) -> tuple[str, Tree]:
    words, grade = draw.grade()
    condition, side = draw.condition(draw.sided), draw.side()
    text = draw.one((f"{words} {draw.name(condition, side)} at any level", f"{words} {draw.name(condition, side)}"))
    return text, Finding(sites_of([condition], sides=[side]), grade)


def _level(draw: Draw) -> tuple[str, Tree]:
    words, grade = draw.grade()
    condition, level = draw.condition(draw.sided), draw.level()
    text = f"{words} {draw.name(condition)} at {draw.place(level)}"
    return draw.one((text, f"{text} on either side")), Finding(sites_of([condition], [level]), grade)


def _bilateral(draw: Draw) -> tuple[str, Tree]:
    words, grade = draw.grade()
    condition, level = draw.condition(draw.sided), draw.level()
    name, place = draw.name(condition), draw.place(level)
    text = draw.one((f"bilateral {words} {name} at {place}", f"{words} {name} on both sides at {place}"))
    return text, Finding(sites_of([condition], [level]), grade, Over.BOTH_SIDES)


def _denied_site(draw: Draw) -> tuple[str, Tree]:
    site = draw.site()
    name, place = draw.name(site.condition, site.side), draw.place(site.level)
    text = draw.one((f"no {name} at {place}", f"{place} without {name}", f"absence of {name} at {place}"))
    return text, Finding(frozenset({site}), NORMAL, Over.ALL)


def _none(draw: Draw) -> tuple[str, Tree]:
    level, condition = draw.level(), draw.condition()
    first, second = draw.levels(2)
    here, name, plural = draw.place(level), draw.name(condition), _NORMAL_NAMES[condition]
    everywhere = Finding(sites_of([condition]), NORMAL, Over.ALL)
    drawn: list[tuple[str, Tree]] = [
        (f"no {name} at any level", everywhere),
        (f"normal {plural} at all levels", everywhere),
        (f"no severe {name}", Finding(sites_of([condition]), frozenset(Severity) - _SEVERE, Over.ALL)),
        (
            f"normal {plural} at {draw.place(first)} and {draw.place(second)}",
            Finding(sites_of([condition], [first, second]), NORMAL, Over.ALL),
        ),
    ]
    if len(draw.conditions) == len(Condition):
        drawn += [
            (f"no stenosis at {here}", Finding(sites_of(Condition, [level]), NORMAL, Over.ALL)),
            (f"{here} is normal", Finding(sites_of(Condition, [level]), NORMAL, Over.ALL)),
        ]
    return drawn[int(draw.rng.integers(len(drawn)))]


def _except(draw: Draw) -> tuple[str, Tree]:
    words, grade = draw.grade()
    condition, level = draw.condition(), draw.level()
    name, place = draw.name(condition), draw.place(level)
    joint = draw.one(("except at", "except", "excluding", "other than at", "sparing", "outside", "but not at"))
    others = [x for x in LEVELS if x is not level]
    return f"{words} {name} {joint} {place}", Finding(sites_of([condition], others), grade)


def _count(draw: Draw) -> tuple[str, Tree]:
    words, grade = draw.grade()
    condition = draw.condition()
    count = int(draw.rng.integers(2, 4))
    number, name = {2: "two", 3: "three"}[count], draw.name(condition)
    sites = sites_of([condition])
    drawn: list[tuple[str, Tree]] = [
        (f"{words} {name} at {number} or more levels", Finding(sites, grade, Over.AT_LEAST, count)),
        (f"at least {number} levels of {words} {name}", Finding(sites, grade, Over.AT_LEAST, count)),
        (f"multilevel {words} {name}", Finding(sites, grade, Over.AT_LEAST, 2)),
        (f"{words} {name} at exactly {number} levels", Finding(sites, grade, Over.EXACTLY, count)),
        (f"single-level {words} {name}", Finding(sites, grade, Over.EXACTLY, 1)),
        (f"{words} {name} at {number} adjacent levels", Finding(sites, grade, Over.ADJACENT, count)),
    ]
    return drawn[int(draw.rng.integers(len(drawn)))]


def _finding(draw: Draw, condition: Condition, level: Level, has_side: bool) -> tuple[str, Finding]:
    """A grade and a condition at a level, at one side of it or at either."""
    words, grade = draw.grade()
    side = draw.side() if has_side and condition is not CANAL else None
    text = f"{words} {draw.name(condition, side)} at {draw.place(level)}"
    return text, Finding(sites_of([condition], [level], (None, *Side) if side is None else [side]), grade)


def _two_findings(draw: Draw) -> tuple[tuple[str, Finding], tuple[str, Finding]]:
    """Two findings, both with a side or none: a clause without a side would take that of its neighbour.

    Those of one condition are at two levels, because two grades of one site would contradict each other.
    """
    one, other = draw.two_conditions()
    levels = draw.levels(2) if one is other else (draw.level(), draw.level())
    has_side = bool(draw.rng.random() < 0.5)
    return _finding(draw, one, levels[0], has_side), _finding(draw, other, levels[1], has_side)


def _and(draw: Draw) -> tuple[str, Tree]:
    (first, meant), (second, also) = _two_findings(draw)
    joint = draw.one(("and", "together with", "as well as", "plus"))
    return f"{first} {joint} {second}", And((meant, also))


def _or(draw: Draw) -> tuple[str, Tree]:
    (first, meant), (second, also) = _two_findings(draw)
    return draw.one((f"{first} or {second}", f"either {first} or {second}")), Or((meant, also))


def _and_not(draw: Draw) -> tuple[str, Tree]:
    one, other = draw.two_conditions()
    if one is other:  # at another level, which is named
        here, there = draw.levels(2)
        first, meant = _finding(draw, one, here, has_side=False)
        denied = f"without {draw.name(other)} at {draw.place(there)}"
    else:
        here = there = draw.level()
        first, meant = _finding(draw, one, here, has_side=bool(draw.rng.random() < 0.5))
        ways = (f"without {draw.name(other)}", f"but normal {_NORMAL_NAMES[other]}", f"w/o {draw.name(other)}")
        denied = draw.one(ways)
    return f"{first} {denied}", And((meant, Finding(sites_of([other], [there]), NORMAL, Over.ALL)))


def _against(draw: Draw) -> tuple[str, Tree]:
    condition, level, side = draw.condition(draw.sided), draw.level(), draw.side()
    name, place = draw.name(condition), draw.place(level)
    letters = {Side.LEFT: "L>R", Side.RIGHT: "R>L"}[side]
    text = draw.one(
        (
            f"{name} at {place}, worse on the {side}",
            f"{name} at {place}, {side} worse than {side.other}",
            f"{name} {letters} at {place}",
        )
    )
    return text, SideAgainstSide(condition, frozenset({level}), side)


def _only(draw: Draw) -> tuple[str, Tree]:
    words, grade = draw.grade()
    condition, level = draw.condition(), draw.level()
    name, place = draw.name(condition), draw.place(level)
    text = draw.one((f"{words} {name} only at {place}", f"isolated {words} {name} at {place}"))
    return text, Finding(sites_of([condition], [level]), grade, Over.ONLY_HERE)


KINDS: dict[str, Callable[[Draw], tuple[str, Tree]]] = {
    "one site": _site,
    "one side": _side,
    "one level": _level,
    "bilateral": _bilateral,
    "denial of one site": _denied_site,
    "none of several": _none,
    "except": _except,
    "count of levels": _count,
    "and": _and,
    "and not": _and_not,
    "side against side": _against,
    "or": _or,
    "only": _only,
}


def draw_prompts(seed: int, count: int, conditions: Sequence[Condition] = tuple(Condition)) -> list[Prompt]:
    """Return `count` different prompts about these conditions, of each kind about as many, ordered by kind."""
    draw = Draw(np.random.default_rng(seed), conditions)
    captions = {
        text.casefold() for site in SITES for severity in Severity for text in training_captions(site, severity)
    }
    seen: dict[str, set[str]] = {kind: set() for kind in KINDS}
    drawn: dict[str, list[Prompt]] = {kind: [] for kind in KINDS}
    for kind in itertools.islice(itertools.cycle(KINDS), count):
        for _ in range(_MOST_REPEATS):
            text, meaning = KINDS[kind](draw)
            if text not in seen[kind] and text.casefold() not in captions:
                seen[kind].add(text)
                drawn[kind].append(Prompt(kind, text, meaning))
                break
    return [prompt for prompts in drawn.values() for prompt in prompts]
