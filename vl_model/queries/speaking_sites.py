"""The sites that speak for a study as an answer: the most probable ones of what the tree asks for.

Of a denial they are the ones that contradict it most, because a reader looks there first.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from data_prep.sites import SITES, Level, Severity, Side, Site
from prompts.formula import level_by_level
from prompts.tree import And, Finding, Not, Or, Over, SameLevel, SideAgainstSide, Tree
from vl_model.queries.tree_probability import tree_probability

_INDEX = {site: index for index, site in enumerate(SITES)}


def speaking_sites(tree: Tree, graded_X3: NDArray[np.floating]) -> tuple[Site, ...]:
    """Return the sites of one study that speak for it, each once, the most important first.

    Args:
        tree: what was asked.
        graded_X3: the study's probabilities (25, 3); none of the sites that the tree turns on is NaN.
    """
    return tuple(dict.fromkeys(_speaking(tree, graded_X3)))


def _speaking(tree: Tree, graded_X3: NDArray[np.floating]) -> list[Site]:
    match tree:
        case Finding():
            return _of_finding(tree, graded_X3)
        case SideAgainstSide(condition, levels, worse):
            sites = [Site(condition, worse, level) for level in Level if level in levels]
            best = max(sites, key=lambda site: _is_worse(site, site.mirrored, graded_X3))
            return [best, best.mirrored]
        case And(parts):
            return [site for part in parts for site in _speaking(part, graded_X3)]
        case Or(parts):
            return _speaking(max(parts, key=lambda part: _probability(part, graded_X3)), graded_X3)
        case Not(part):
            return _speaking(part, graded_X3)
        case SameLevel(part):
            of_levels = list(level_by_level(part).values()) or [part]
            return _speaking(max(of_levels, key=lambda one: _probability(one, graded_X3)), graded_X3)


def _probability(tree: Tree, graded_X3: NDArray[np.floating]) -> float:
    return float(tree_probability(tree, graded_X3[None])[0])


def _is_worse(one: Site, other: Site, graded_X3: NDArray[np.floating]) -> float:
    first, second = graded_X3[_INDEX[one]], graded_X3[_INDEX[other]]
    return float(sum(first[high:].sum() * second[low] for low, high in pairwise(range(len(Severity)))))


def _of_finding(finding: Finding, graded_X3: NDArray[np.floating]) -> list[Site]:
    severities = sorted(int(severity) for severity in finding.severities)
    chance = {site: float(graded_X3[_INDEX[site], severities].sum()) for site in SITES if site in finding.sites}
    by_chance = sorted(chance, key=lambda site: (-chance[site], _INDEX[site]))
    match finding.over:
        case Over.ALL:
            return by_chance[-1:]
        case Over.BOTH_SIDES:
            pairs = [s for s in by_chance if s.side is Side.LEFT and s.mirrored in chance]
            if not pairs:
                return by_chance[:1]
            best = max(pairs, key=lambda site: chance[site] * chance[site.mirrored])
            return [best, best.mirrored]
        case Over.AT_LEAST | Over.EXACTLY:
            return _best_of_levels(by_chance)[: finding.count]
        case Over.ADJACENT:
            return _best_row(by_chance, chance, finding.count)
        case _:
            return by_chance[:1]


def _best_of_levels(by_chance: Sequence[Site]) -> list[Site]:
    best: dict[Level, Site] = {}
    for site in by_chance:
        best.setdefault(site.level, site)
    return list(best.values())


def _best_row(by_chance: Sequence[Site], chance: dict[Site, float], count: int) -> list[Site]:
    best = {site.level: site for site in _best_of_levels(by_chance)}
    levels = list(Level)
    rows = [levels[first : first + count] for first in range(len(levels) - count + 1)]
    whole = [row for row in rows if all(level in best for level in row)]
    if not whole:
        return list(by_chance[:1])
    chosen = max(whole, key=lambda row: float(np.prod([chance[best[level]] for level in row])))
    return [best[level] for level in chosen]
