"""What a query asks of a study: a tree of findings.

A study's grades make a tree true or false. `Finding` and `SideAgainstSide` are its leaves; `And`, `Or`, `Not` and
`SameLevel` join them. `prompts.canonical` writes a tree as one line and reads it back.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from data_prep.sites import SITES, Condition, Level, Severity, Side, Site

#: The severities that "stenosis" or "narrowing" without a grade means.
DISEASED = frozenset({Severity.MODERATE, Severity.SEVERE})
NORMAL = frozenset({Severity.NORMAL_MILD})


class Over(StrEnum):
    """How many of a finding's sites must have one of its severities."""

    ANY = "any"
    ALL = "all"
    AT_LEAST = "at_least"  # so many levels, each by at least one of its sites
    EXACTLY = "exactly"  # so many levels
    ADJACENT = "adjacent"  # so many levels in a row
    BOTH_SIDES = "both_sides"  # left and right of one condition at one level
    ONLY_HERE = "only_here"  # one of the sites, and no other site of the same conditions

    @property
    def counts_levels(self) -> bool:
        """Whether a number of levels belongs to it."""
        return self in (Over.AT_LEAST, Over.EXACTLY, Over.ADJACENT)


@dataclass(frozen=True)
class Finding:
    """Some of the `sites` have one of the `severities`; `over` says how many. `count` is a number of levels."""

    sites: frozenset[Site]
    severities: frozenset[Severity]
    over: Over = Over.ANY
    count: int = 0

    def __post_init__(self) -> None:
        if not self.sites:
            raise ValueError("a finding without a site")
        if not self.severities or self.severities == frozenset(Severity):
            raise ValueError("a finding of none or of all severities, which every grade contradicts or has")
        if self.over.counts_levels != (self.count > 0):
            raise ValueError(f"{self.over.value} with a count of {self.count} levels")

    @property
    def levels(self) -> frozenset[Level]:
        return frozenset(site.level for site in self.sites)


@dataclass(frozen=True)
class SideAgainstSide:
    """At one of the levels, the condition is graded higher on the side `worse` than on the other side."""

    condition: Condition
    levels: frozenset[Level]
    worse: Side

    def __post_init__(self) -> None:
        if self.condition is Condition.SPINAL_CANAL_STENOSIS:
            raise ValueError("the spinal canal has no sides to compare")
        if not self.levels:
            raise ValueError("a comparison of sides without a level")

    @property
    def sites(self) -> frozenset[Site]:
        return frozenset(site for site in SITES if site.condition is self.condition and site.level in self.levels)


@dataclass(frozen=True)
class And:
    """All parts hold in one study."""

    parts: tuple["Tree", ...]


@dataclass(frozen=True)
class Or:
    """At least one part holds."""

    parts: tuple["Tree", ...]


@dataclass(frozen=True)
class Not:
    """The part does not hold."""

    part: "Tree"


@dataclass(frozen=True)
class SameLevel:
    """At one level, the part holds of that level's sites alone."""

    part: "Tree"


Tree = Finding | SideAgainstSide | And | Or | Not | SameLevel


@dataclass(frozen=True)
class Limits:
    """What limits the answers besides the tree; None where the text says nothing.

    top: how many answers. least: the least probability of an answer. split: the studies that are searched. seen:
    whether studies that the model was trained on are answers too. count_first: the text asks how many there are.
    """

    top: int | None = None
    least: float | None = None
    split: str | None = None
    seen: bool | None = None
    count_first: bool = False


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Query:
    """A text as it was read.

    Attributes:
        text: the text, on one line; empty if the tree was not read from a text.
        tree: what is asked; None if only words are left, which graded sites cannot answer.
        limits: of the answers.
        rest: the words that were not understood, in their order.
        notes: how the text was read where a reader may have meant something else.
    """

    text: str
    tree: Tree | None
    limits: Limits = NO_LIMITS
    rest: str = ""
    notes: tuple[str, ...] = ()


def leaves(tree: Tree) -> Iterator[Finding | SideAgainstSide]:
    """Yield the leaves of a tree, from left to right."""
    match tree:
        case Finding() | SideAgainstSide():
            yield tree
        case And(parts) | Or(parts):
            for part in parts:
                yield from leaves(part)
        case Not(part) | SameLevel(part):
            yield from leaves(part)


def tree_sites(tree: Tree) -> frozenset[Site]:
    """Return the sites that a tree names, with those that must be free of the finding because of `Over.ONLY_HERE`."""
    return frozenset().union(*(leaf.sites | elsewhere(leaf) for leaf in leaves(tree)))


def elsewhere(leaf: Finding | SideAgainstSide) -> frozenset[Site]:
    """Return the sites that must not have the finding: the other sites of its conditions, for `Over.ONLY_HERE`."""
    if not isinstance(leaf, Finding) or leaf.over is not Over.ONLY_HERE:
        return frozenset()
    conditions = {site.condition for site in leaf.sites}
    return frozenset(site for site in SITES if site.condition in conditions) - leaf.sites


def within(tree: Tree, sites: Iterable[Site]) -> Tree | None:
    """Return the tree over those of its sites that are among `sites`; None if a leaf that it needs has none of them.

    `And`, `Not` and `SameLevel` need all of their parts, `Or` needs one.
    """
    allowed = frozenset(sites)
    match tree:
        case Finding():
            kept = tree.sites & allowed
            return replace(tree, sites=kept) if kept else None
        case SideAgainstSide():
            levels = frozenset(x for x in tree.levels if sum(s.level is x for s in tree.sites & allowed) == len(Side))
            return replace(tree, levels=levels) if levels else None
        case And(parts):
            narrowed = [part for part in (within(part, allowed) for part in parts) if part is not None]
            return And(tuple(narrowed)) if len(narrowed) == len(parts) else None
        case Or(parts):
            narrowed = [part for part in (within(part, allowed) for part in parts) if part is not None]
            return any_of(narrowed) if narrowed else None
        case Not(part) | SameLevel(part):
            inner = within(part, allowed)
            return None if inner is None else type(tree)(inner)


def any_of(parts: Iterable[Tree]) -> Tree:
    """Return `Or` of the distinct parts, or the part itself if there is one."""
    return _joined(Or, parts)


def all_of(parts: Iterable[Tree]) -> Tree:
    """Return `And` of the distinct parts, or the part itself if there is one."""
    return _joined(And, parts)


def _joined(kind: type[And] | type[Or], parts: Iterable[Tree]) -> Tree:
    distinct = tuple(dict.fromkeys(parts))
    return distinct[0] if len(distinct) == 1 else kind(distinct)
