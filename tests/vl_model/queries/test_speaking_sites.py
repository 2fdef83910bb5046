"""The sites that speak for an answer: those of several studies at once are those of each alone, and what they are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.sites import SITES, Site
from prompts.canonical import parse_canonical
from prompts.tree import Tree, tree_sites
from tests.query_trees import trees
from vl_model.queries.speaking_sites import speaking_sites


def graded(seed: int, studies: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet([1, 0.6, 0.4], size=(studies, len(SITES)))


@given(trees(), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_several_studies_at_once_and_each_alone(tree: Tree, seed: int) -> None:
    graded_KX3 = graded(seed, 4)
    together = speaking_sites(tree, graded_KX3)
    assert together == [speaking_sites(tree, graded_KX3[row : row + 1])[0] for row in range(4)]
    assert all(set(sites) <= tree_sites(tree) and len(set(sites)) == len(sites) for sites in together)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("any(canal) = severe", ["canal L3-L4"]),
        ("all(canal) = normal/mild", ["canal L3-L4"]),  # what contradicts it most
        ("at_least_2_levels(canal) = severe", ["canal L3-L4", "canal L5-S1"]),
        ("adjacent_2_levels(canal) = severe", ["canal L3-L4", "canal L4-L5"]),
        ("both_sides(recess) >= moderate", ["left recess L2-L3", "right recess L2-L3"]),
        ("worse(right foramen)", ["right foramen L1-L2", "left foramen L1-L2"]),
        ("any(recess) = severe or any(canal) = severe", ["canal L3-L4"]),
        ("any(canal, L5-S1) = severe and not any(foramen, L1-L2) = severe", ["canal L5-S1", "right foramen L1-L2"]),
        ("same_level(any(canal) = severe and all(foramen) = normal/mild)", ["canal L3-L4", "left foramen L3-L4"]),
    ],
)
def test_what_speaks_for_a_study(line: str, expected: list[str]) -> None:
    severe = {"canal L3-L4": 0.8, "canal L4-L5": 0.2, "canal L5-S1": 0.5, "right foramen L1-L2": 0.7}
    severe |= {
        "left recess L2-L3": 0.4,
        "right recess L2-L3": 0.3,
        "left recess L5-S1": 0.6,
        "left foramen L3-L4": 0.3,
    }
    graded_X3 = np.tile([0.9, 0.09, 0.01], (len(SITES), 1))
    for words, chance in severe.items():
        graded_X3[SITES.index(site(words))] = [1 - chance, 0, chance]
    tree = parse_canonical(line).tree
    assert tree is not None
    assert speaking_sites(tree, graded_X3[None]) == [tuple(map(site, expected))]


def site(words: str) -> Site:
    region, _, level = words.rpartition(" ")
    tree = parse_canonical(f"any({region}, {level}) = severe").tree
    assert tree is not None
    [named] = tree_sites(tree)
    return named
