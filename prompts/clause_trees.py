"""The tree of one clause: its sites, its severities, and how many of the sites must have them."""

from collections.abc import Iterable
from dataclasses import replace

from data_prep.sites import SITES, Condition, Level, Severity, Side, Site
from prompts.clauses import Clause
from prompts.tree import DISEASED, And, Finding, Not, Over, SameLevel, SideAgainstSide, Tree, all_of, any_of

_CANAL = Condition.SPINAL_CANAL_STENOSIS
_ALL = frozenset(Severity)
MILD_NOTE = "this grading has no mild of its own: normal and mild are one grade"


def clause_tree(clause: Clause, notes: list[str]) -> Tree:
    """Return the tree of a clause whose gaps are filled; `notes` gains how it was read. Raises ValueError."""
    notes += clause.notes
    clause = _without_side_of_canal(clause, notes)
    if clause.grade is not None and clause.grade.is_mild and not clause.negated:
        notes.append(MILD_NOTE)
    sites = _sites(clause)
    if not sites:
        raise ValueError("the exceptions leave no site that is asked for")
    if clause.worse:
        return _compared(clause, sites)
    if clause.unilateral:
        return _denied_if(clause, _unilateral(clause, sites))
    return _finding(clause, sites)


def _without_side_of_canal(clause: Clause, notes: list[str]) -> Clause:
    if clause.conditions != {_CANAL}:
        return clause
    if clause.worse or clause.unilateral:
        raise ValueError("the spinal canal has no sides to compare")
    if clause.sides or clause.both:
        notes.append("the spinal canal has no side, so the side was ignored")
    return replace(clause, sides=frozenset(), both=False)


def _sites(clause: Clause) -> frozenset[Site]:
    """Return the sites of the clause's places, without those of its exceptions; a side leaves the canal out."""
    named = frozenset(site for site in SITES if _has(clause, site))
    excepted = [site for site in named for other in clause.without if _is_excepted(other, site)]
    return named - frozenset(excepted)


def _has(clause: Clause, site: Site) -> bool:
    if clause.conditions and site.condition not in clause.conditions:
        return False
    if clause.levels and site.level not in clause.levels:
        return False
    if site.side is None:
        return not (clause.sides or clause.both or clause.unilateral or clause.worse)
    # A comparison of sides needs both of them.
    return not clause.sides or site.side in clause.sides or bool(clause.worse or clause.both)


def _is_excepted(exception: Clause, site: Site) -> bool:
    if exception.conditions and site.condition not in exception.conditions:
        return False
    if exception.levels and site.level not in exception.levels:
        return False
    return not exception.sides or site.side in exception.sides


def _finding(clause: Clause, sites: frozenset[Site]) -> Tree:
    severities = clause.grade.severities if clause.grade is not None else DISEASED
    is_all = clause.all or (clause.grade is not None and clause.grade.is_all)
    levels = {site.level for site in sites}
    if clause.every and (clause.negates_all or not clause.negated) and not is_all:
        clause = replace(clause, count=(Over.AT_LEAST, len(levels)))
    if clause.count is not None:
        return _denied_if(clause, _counted(clause, sites, severities, is_all))
    if clause.only:
        return _denied_if(clause, _only(sites, severities))
    if clause.grade is not None and clause.grade.is_mere:
        return _denied_if(clause, _no_worse(sites, severities))
    if clause.both and not is_all:
        return _denied_if(clause, Finding(sites, severities, Over.BOTH_SIDES))
    if not clause.negated:
        return _plain(sites, severities, is_all)
    if clause.negates_all:
        return _plain(sites, _ALL - severities, is_all=False)
    if clause.grade is not None and (clause.grade.is_all or clause.grade.is_mild):
        return _plain(sites, _ALL - severities, is_all=False)
    return _plain(sites, _ALL - severities, is_all=True)


def _plain(sites: frozenset[Site], severities: frozenset[Severity], is_all: bool) -> Finding:
    """Return a finding of any or all sites; of one site, any and all are the same, and any is written."""
    return Finding(sites, severities, Over.ALL if is_all and len(sites) > 1 else Over.ANY)


def _counted(clause: Clause, sites: frozenset[Site], severities: frozenset[Severity], is_all: bool) -> Tree:
    assert clause.count is not None
    over, number = clause.count
    levels = {site.level for site in sites}
    if clause.both or is_all:
        what = "both sides" if clause.both else "a grade of all sites"
        raise ValueError(f"{what} and a number of levels cannot be asked for together; ask for one of them")
    if number > len(levels):
        raise ValueError(f"{number} levels are asked for, but only {_listed(levels)} are named")
    if over is Over.EXACTLY and number == len(levels) == 1:
        return Finding(sites, severities, Over.ONLY_HERE)
    return Not(Finding(sites, severities, over, number)) if clause.fewer else Finding(sites, severities, over, number)


def _only(sites: frozenset[Site], severities: frozenset[Severity]) -> Tree:
    """Return "only at L4-L5" as only here; if all places are asked for, as nothing worse."""
    conditions = {site.condition for site in sites}
    if len(sites) < sum(site.condition in conditions for site in SITES):
        return Finding(sites, severities, Over.ONLY_HERE)
    return _no_worse(sites, severities)


def _no_worse(sites: frozenset[Site], severities: frozenset[Severity]) -> Tree:
    """Return "only moderate" as moderate and nothing worse."""
    at_most = frozenset(s for s in Severity if s <= max(severities))
    if at_most == severities:
        return _plain(sites, severities, is_all=True)
    some = _plain(sites, severities, is_all=False)
    return some if at_most == _ALL or len(sites) == 1 else all_of([some, _plain(sites, at_most, is_all=True)])


def _compared(clause: Clause, sites: frozenset[Site]) -> Tree:
    """Return the comparison of sides, for each condition; with the finding itself if the clause grades it."""
    conditions = [c for c in Condition if c is not _CANAL and any(site.condition is c for site in sites)]
    levels = {c: frozenset(x for x in Level if _has_both_sides(sites, c, x)) for c in conditions}
    sides = [side for side in Side if side in clause.worse]
    worse = [SideAgainstSide(c, levels[c], side) for side in sides for c in conditions if levels[c]]
    if not worse:
        raise ValueError("no level is left at which both sides are asked for")
    tree = any_of(worse)
    if clause.grade is None and not clause.both:
        return _denied_if(clause, tree)
    finding = _finding(replace(clause, worse=frozenset(), negated=False), sites)
    return _denied_if(clause, all_of([finding, tree]))


def _has_both_sides(sites: Iterable[Site], condition: Condition, level: Level) -> bool:
    return {site.side for site in sites if site.condition is condition and site.level is level} == set(Side)


def _unilateral(clause: Clause, sites: frozenset[Site]) -> Tree:
    """Return one side and not the other, at one level."""
    severities = clause.grade.severities if clause.grade is not None else DISEASED
    one = _plain(sites, severities, is_all=False)
    others = frozenset(site.mirrored for site in sites) - sites
    if others:
        tree: Tree = And((one, _plain(others, _ALL - severities, is_all=True)))
    else:
        tree = And((one, Not(Finding(sites, severities, Over.BOTH_SIDES))))
    return SameLevel(tree) if len({site.level for site in sites}) > 1 else tree


def leaves_out(exception: Clause, clause: Clause) -> bool:
    """Return whether an exception takes any of the clause's sites away."""
    return any(_is_excepted(exception, site) for site in SITES if _has(clause, site))


def _denied_if(clause: Clause, tree: Tree) -> Tree:
    if not clause.negated:
        return tree
    return tree.part if isinstance(tree, Not) else Not(tree)


def _listed(levels: Iterable[Level]) -> str:
    return ", ".join(level.words for level in Level if level in set(levels))
