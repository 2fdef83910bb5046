"""The sites that speak for a study as an answer: the most probable ones of what the tree asks for.

Of a denial they are the ones that contradict it most, because a reader looks there first.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from data_prep.sites import Level, Severity, Side, Site
from prompts.formula import level_by_level
from prompts.tree import And, Finding, Not, Or, Over, SameLevel, SideAgainstSide, Tree
from vl_model.data.site_table import SITE_INDEX
from vl_model.queries.tree_probability import tree_probability

#: The probabilities of one study's 25 sites, three each: Python's numbers are faster here than numpy's.
Graded = list[list[float]]


def speaking_sites(tree: Tree, graded_KX3: NDArray[np.floating]) -> list[tuple[Site, ...]]:
    """Return, for each of some studies, the sites that speak for it, each once, the most important first.

    Args:
        tree: what was asked.
        graded_KX3: the probabilities (K, 25, 3) of K studies; none of the sites that the tree turns on is NaN.
    """
    return [tuple(dict.fromkeys(sites)) for sites in _speaking(tree, np.asarray(graded_KX3, dtype=np.float64))]


def _speaking(tree: Tree, graded_KX3: NDArray[np.float64]) -> list[list[Site]]:
    match tree:
        case Finding():
            return _of_finding(tree, graded_KX3)
        case SideAgainstSide():
            return [_of_comparison(tree, graded_X3) for graded_X3 in graded_KX3.tolist()]
        case And(parts):
            of_parts = [_speaking(part, graded_KX3) for part in parts]
            return [[site for sites in of_study for site in sites] for of_study in zip(*of_parts, strict=True)]
        case Or(parts):
            return _of_most_probable(parts, graded_KX3)
        case Not(part):
            return _speaking(part, graded_KX3)
        case SameLevel(part):
            return _of_most_probable(list(level_by_level(part).values()) or [part], graded_KX3)


def _of_most_probable(parts: Sequence[Tree], graded_KX3: NDArray[np.float64]) -> list[list[Site]]:
    """Return what speaks for the part that is most probable in each study; of equal ones, for the first."""
    probability_PK = np.stack([tree_probability(part, graded_KX3) for part in parts])
    best_K = np.where(np.isnan(probability_PK), -1.0, probability_PK).argmax(axis=0)
    sites_K: list[list[Site]] = [[] for _ in best_K]
    for number in np.unique(best_K).tolist():
        rows = np.flatnonzero(best_K == number)
        for row, sites in zip(rows.tolist(), _speaking(parts[number], graded_KX3[rows]), strict=True):
            sites_K[row] = sites
    return sites_K


def _of_comparison(tree: SideAgainstSide, graded_X3: Graded) -> list[Site]:
    sites = [Site(tree.condition, tree.worse, level) for level in Level if level in tree.levels]
    best = max(sites, key=lambda site: _is_worse(site, site.mirrored, graded_X3))
    return [best, best.mirrored]


def _is_worse(one: Site, other: Site, graded_X3: Graded) -> float:
    first, second = graded_X3[SITE_INDEX[one]], graded_X3[SITE_INDEX[other]]
    return sum(sum(first[high:]) * second[low] for low, high in pairwise(range(len(Severity))))


def _of_finding(finding: Finding, graded_KX3: NDArray[np.float64]) -> list[list[Site]]:
    sites = sorted(finding.sites, key=SITE_INDEX.__getitem__)
    severities = sorted(finding.severities)
    chance_KM = graded_KX3[:, [SITE_INDEX[site] for site in sites]][:, :, severities].sum(axis=2)
    order_KM = np.argsort(-chance_KM, axis=1, kind="stable")  # sites of equal chance stay in their order
    found = []
    for chance_M, order_M in zip(chance_KM.tolist(), order_KM.tolist(), strict=True):
        by_chance = {sites[place]: chance_M[place] for place in order_M}
        found.append(_of_chances(finding, by_chance))
    return found


def _of_chances(finding: Finding, chance: dict[Site, float]) -> list[Site]:
    """Return the sites that speak for a finding; `chance` has all its sites, the most probable first."""
    by_chance = list(chance)
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
    chosen = max(whole, key=lambda row: math.prod(chance[best[level]] for level in row))
    return [best[level] for level in chosen]
