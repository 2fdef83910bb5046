"""Random query trees for hypothesis, and the meaning of a tree written a second time, in words of single studies."""

from collections.abc import Mapping

from hypothesis import strategies as st

from data_prep.sites import SITES, Condition, Level, Severity, Side, Site
from prompts.tree import And, Finding, Limits, Not, Or, Over, SameLevel, SideAgainstSide, Tree

Grades = Mapping[Site, Severity]

SEVERITY_SETS = st.frozensets(st.sampled_from(list(Severity)), min_size=1, max_size=2)


def findings(sites: tuple[Site, ...] = SITES) -> st.SearchStrategy[Finding]:
    chosen = st.frozensets(st.sampled_from(sites), min_size=1)
    plain = st.sampled_from([over for over in Over if not over.counts_levels])
    counted = st.sampled_from([over for over in Over if over.counts_levels])
    return st.one_of(
        st.builds(Finding, chosen, SEVERITY_SETS, plain),
        st.builds(Finding, chosen, SEVERITY_SETS, counted, st.integers(1, len(Level))),
    )


def comparisons() -> st.SearchStrategy[SideAgainstSide]:
    paired = st.sampled_from([c for c in Condition if c is not Condition.SPINAL_CANAL_STENOSIS])
    levels = st.frozensets(st.sampled_from(list(Level)), min_size=1)
    return st.builds(SideAgainstSide, paired, levels, st.sampled_from(list(Side)))


def trees(leaf: st.SearchStrategy[Tree] | None = None, max_leaves: int = 6) -> st.SearchStrategy[Tree]:
    def joined(part: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
        parts = st.lists(part, min_size=2, max_size=3).map(tuple)
        return st.one_of(st.builds(And, parts), st.builds(Or, parts), st.builds(Not, part), st.builds(SameLevel, part))

    return st.recursive(
        leaf if leaf is not None else st.one_of(findings(), comparisons()), joined, max_leaves=max_leaves
    )


LIMITS = st.builds(
    Limits,
    top=st.none() | st.integers(1, 1000),
    least=st.none() | st.integers(0, 100).map(lambda percent: percent / 100),
    split=st.none() | st.sampled_from(["train", "test", "clinic-2"]),
    seen=st.none() | st.booleans(),
    count_first=st.booleans(),
)


def holds(tree: Tree, grades: Grades, sites: frozenset[Site] = frozenset(SITES)) -> bool:
    """Whether the grades of one study make the tree true; `sites` are those that it may look at (of one level)."""
    match tree:
        case Finding():
            return _finding_holds(tree, grades, sites)
        case SideAgainstSide(condition, levels, worse):
            return any(
                grades[Site(condition, worse, x)] > grades[Site(condition, worse.other, x)]
                for x in levels
                if Site(condition, worse, x) in sites
            )
        case And(parts):
            return all(holds(part, grades, sites) for part in parts)
        case Or(parts):
            return any(holds(part, grades, sites) for part in parts if _is_named(part, sites))
        case Not(part):
            return not holds(part, grades, sites)
        case SameLevel(part):
            return any(
                holds(part, grades, here)
                for here in (frozenset(s for s in sites if s.level is level) for level in Level)
                if _is_named(part, here)
            )


def _is_named(tree: Tree, sites: frozenset[Site]) -> bool:
    """Whether each leaf that the tree needs has one of these sites; a comparison needs both sides."""
    match tree:
        case Finding():
            return bool(tree.sites & sites)
        case SideAgainstSide():
            return any({s for s in tree.sites if s.level is x} <= sites for x in tree.levels)
        case Or(parts):
            return any(_is_named(part, sites) for part in parts)
        case And(parts):
            return all(_is_named(part, sites) for part in parts)
        case Not(part) | SameLevel(part):
            return _is_named(part, sites)


def _finding_holds(finding: Finding, grades: Grades, sites: frozenset[Site]) -> bool:
    named = finding.sites & sites
    affected = {site for site in named if grades[site] in finding.severities}
    levels = {site.level for site in affected}
    match finding.over:
        case Over.ANY:
            return bool(affected)
        case Over.ALL:
            return affected == named
        case Over.AT_LEAST:
            return len(levels) >= finding.count
        case Over.EXACTLY:
            return len(levels) == finding.count
        case Over.ADJACENT:
            row = "".join("x" if level in levels else "." for level in Level)
            return "x" * finding.count in row
        case Over.BOTH_SIDES:
            return any(site.side and site.mirrored in affected for site in affected)
        case Over.ONLY_HERE:
            conditions = {site.condition for site in named}
            return bool(affected) and not any(
                grades[site] in finding.severities
                for site in SITES
                if site.condition in conditions and site not in named
            )
