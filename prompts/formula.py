"""A tree as a formula over the grades of single sites: what its probability, truth and contradictions are computed of.

Every tree is made of three things: a `Literal` (one site has one of some severities), a `Negation`, and a `Threshold`
(at least so many of its parts hold: with 1 it is "or", with all of them "and"). True and False are formulas too.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple, Union

from data_prep.sites import SITES, Level, Severity, Side, Site
from prompts.tree import (
    And,
    Finding,
    Not,
    Or,
    Over,
    SameLevel,
    SideAgainstSide,
    Tree,
    elsewhere,
    leaves,
    within,
)

_INDEX = {site: index for index, site in enumerate(SITES)}
#: Sites of one level follow each other: what is compared or counted level by level is then soon decided.
_ALL_SEVERITIES = (1 << len(Severity)) - 1


class Literal(NamedTuple):
    """The site, an index in `SITES`, has one of the severities, of which bit s of `mask` is severity s."""

    site: int
    mask: int


class Negation(NamedTuple):
    """The part does not hold."""

    part: "Formula"


class Threshold(NamedTuple):
    """At least `needed` of the parts hold; 1 <= needed <= number of parts, of which there are two or more."""

    needed: int
    parts: tuple["Formula", ...]


Formula = Union[bool, Literal, Negation, Threshold]  # noqa: UP007 - a NamedTuple that is not complete yet has no |


def formula_of(tree: Tree) -> Formula:
    """Return the formula of a tree."""
    match tree:
        case Finding():
            return _finding(tree)
        case SideAgainstSide(condition, levels, worse):
            return _or(_worse(Site(condition, worse, x), Site(condition, worse.other, x)) for x in Level if x in levels)
        case And(parts):
            return _and(map(formula_of, parts))
        case Or(parts):
            return _or(map(formula_of, parts))
        case Not(part):
            return _not(formula_of(part))
        case SameLevel(part):
            return _or(map(formula_of, level_by_level(part).values()))


def level_by_level(tree: Tree) -> dict[Level, Tree]:
    """Return the tree over each level's sites alone, for the levels that all parts of it name."""
    named = {level for leaf in leaves(tree) for level in leaf.levels}
    of_level = {x: within(tree, [site for site in SITES if site.level is x]) for x in Level if x in named}
    return {level: part for level, part in of_level.items() if part is not None}


def fixed(formula: Formula, site: int, severity: int) -> Formula:
    """Return what is left of a formula if the grade of a site is known."""
    match formula:
        case Literal(at, mask):
            return bool(mask >> severity & 1) if at == site else formula
        case Negation(part):
            return _not(fixed(part, site, severity))
        case Threshold(needed, parts):
            if site not in support(formula):
                return formula
            return _threshold(needed, [fixed(part, site, severity) for part in parts])
        case _:
            return formula


def first_to_fix(sites: Iterable[int]) -> int:
    """Return the site that is best fixed first: level by level, little is left of a level's sites that are known."""
    return min(sites, key=lambda site: (SITES[site].level, site))


@lru_cache(maxsize=10_000)
def support(formula: Formula) -> frozenset[int]:
    """Return the sites that a formula names."""
    match formula:
        case Literal(site, _):
            return frozenset({site})
        case Negation(part):
            return support(part)
        case Threshold(_, parts):
            return frozenset().union(*map(support, parts))
        case _:
            return frozenset()


def is_possible(formula: Formula) -> bool:
    """Return whether any grades of the sites make the formula true."""
    known: dict[Formula, bool] = {}

    def possible(one: Formula) -> bool:
        if isinstance(one, bool):
            return one
        if one not in known:
            site = first_to_fix(support(one))
            known[one] = any(possible(fixed(one, site, severity)) for severity in Severity)
        return known[one]

    return possible(formula)


@lru_cache(maxsize=1000)
def is_contradiction(tree: Tree) -> bool:
    """Return whether no grades make the tree true."""
    return not is_possible(formula_of(tree))


def is_always_true(tree: Tree) -> bool:
    """Return whether all grades make the tree true."""
    return not is_possible(_not(formula_of(tree)))


def mean_the_same(one: Tree, other: Tree) -> bool:
    """Return whether the same grades make both trees true."""
    first, second = formula_of(one), formula_of(other)
    return not is_possible(_or([_and([first, _not(second)]), _and([second, _not(first)])]))


def _finding(finding: Finding) -> Formula:
    mask = _mask(finding.severities)
    sites = sorted(finding.sites, key=_INDEX.__getitem__)
    match finding.over:
        case Over.ANY:
            return _or(Literal(_INDEX[site], mask) for site in sites)
        case Over.ALL:
            return _and(Literal(_INDEX[site], mask) for site in sites)
        case Over.AT_LEAST:
            return _threshold(finding.count, _by_level(sites, mask))
        case Over.EXACTLY:
            levels = _by_level(sites, mask)
            return _and([_threshold(finding.count, levels), _not(_threshold(finding.count + 1, levels))])
        case Over.ADJACENT:
            return _adjacent(finding.count, sites, mask)
        case Over.BOTH_SIDES:
            lefts = [s for s in sites if s.side is Side.LEFT and s.mirrored in finding.sites]
            return _or(_and([Literal(_INDEX[s], mask), Literal(_INDEX[s.mirrored], mask)]) for s in lefts)
        case Over.ONLY_HERE:
            others = [Literal(_INDEX[site], mask) for site in SITES if site in elsewhere(finding)]
            return _and([_or(Literal(_INDEX[site], mask) for site in sites), _not(_or(others))])


def _mask(severities: Iterable[Severity]) -> int:
    return sum(1 << severity for severity in severities)


def _by_level(sites: Sequence[Site], mask: int) -> list[Formula]:
    levels = [[site for site in sites if site.level is level] for level in Level]
    return [_or(Literal(_INDEX[site], mask) for site in level) for level in levels if level]


def _adjacent(count: int, sites: Sequence[Site], mask: int) -> Formula:
    """Return whether `count` levels in a row are affected; a level without a site breaks the row."""
    levels = list(Level)
    named = {level for level in levels if any(site.level is level for site in sites)}
    rows = [levels[first : first + count] for first in range(len(levels) - count + 1)]
    return _or(
        _and(_by_level([site for site in sites if site.level in row], mask)) for row in rows if named >= set(row)
    )


def _worse(one: Site, other: Site) -> Formula:
    """One site is graded higher than the other: one >= s and other < s for some severity s."""
    cuts = [(low, high) for low, high in pairwise(Severity)]
    return _or(
        _and(
            [
                Literal(_INDEX[one], _mask(s for s in Severity if s >= high)),
                Literal(_INDEX[other], _mask(s for s in Severity if s <= low)),
            ]
        )
        for low, high in cuts
    )


def _and(parts: Iterable[Formula]) -> Formula:
    listed = list(parts)
    return _threshold(len(listed), listed)


def _or(parts: Iterable[Formula]) -> Formula:
    return _threshold(1, list(parts))


def _not(part: Formula) -> Formula:
    match part:
        case bool():
            return not part
        case Negation(inner):
            return inner
        case Literal(site, mask):
            return Literal(site, _ALL_SEVERITIES ^ mask)
        case _:
            return Negation(part)


def _threshold(needed: int, parts: Sequence[Formula]) -> Formula:
    """Return a threshold in its simplest form: no constants, and no threshold of a single part."""
    needed -= sum(part is True for part in parts)
    open_parts = tuple(part for part in parts if not isinstance(part, bool))
    if needed <= 0:
        return True
    if needed > len(open_parts):
        return False
    return open_parts[0] if len(open_parts) == 1 else Threshold(needed, open_parts)
