"""Probability and truth of trees, against an enumeration of all gradings of the sites that they name."""

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data_prep.sites import SITES, Severity
from prompts.canonical import parse_canonical
from prompts.formula import formula_of, is_always_true, is_contradiction, mean_the_same, support
from prompts.tree import Not, Over, Tree, within
from tests.query_trees import comparisons, findings, holds, trees
from vl_model.queries.tree_probability import possible_severities, tree_probability, tree_truth

#: Five sites: a condition with both sides at two levels, and a canal.
FIVE = (SITES[3], SITES[8], SITES[9], SITES[13], SITES[14])
SMALL_TREES = trees(
    st.one_of(findings(FIVE).filter(lambda leaf: leaf.over is not Over.ONLY_HERE), comparisons()), max_leaves=5
).map(lambda tree: within(tree, FIVE))


def graded(seed: int, studies: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet([1, 0.6, 0.4], size=(studies, len(SITES)))


def enumerated(tree: Tree, graded_X3: np.ndarray) -> tuple[float, bool, bool]:
    """Probability of the tree in one study, and whether any and all gradings of its sites make it true."""
    named = sorted(support(formula_of(tree)))
    total, truths = 0.0, set()
    for severities in product(Severity, repeat=len(named)):
        grades = dict.fromkeys(SITES, Severity.NORMAL_MILD)
        grades |= {SITES[x]: severity for x, severity in zip(named, severities, strict=True)}
        true = holds(tree, grades)
        truths.add(true)
        total += true * float(np.prod([graded_X3[x, s] for x, s in zip(named, severities, strict=True)]))
    return total, True in truths, False not in truths


@given(SMALL_TREES, st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_the_probability_is_that_of_all_gradings_of_five_sites(tree: Tree | None, seed: int) -> None:
    assume(tree is not None)
    assert tree is not None
    graded_SX3 = graded(seed)
    expected, possible, certain = enumerated(tree, graded_SX3[0])
    assert tree_probability(tree, graded_SX3)[0] == pytest.approx(expected, abs=1e-12)
    assert is_contradiction(tree) is not possible
    assert is_always_true(tree) is certain


@given(trees(), st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_a_tree_and_its_denial_are_complements(tree: Tree, seed: int) -> None:
    graded_SX3 = graded(seed)
    assert tree_probability(tree, graded_SX3) == pytest.approx(1 - tree_probability(Not(tree), graded_SX3), abs=1e-12)


@given(trees(), st.integers(0, 1000))
@settings(max_examples=200, deadline=None)
def test_the_truth_of_known_grades(tree: Tree, seed: int) -> None:
    label_SX = np.random.default_rng(seed).integers(0, 3, (4, len(SITES)))
    certain_S, may_S = tree_truth(tree, possible_severities(label_SX))
    expected = [holds(tree, {site: Severity(s) for site, s in zip(SITES, row, strict=True)}) for row in label_SX]
    assert certain_S.tolist() == may_S.tolist() == expected
    known = (label_SX[..., None] == np.arange(3)).astype(np.float32)
    assert tree_probability(tree, known).tolist() == expected


@given(SMALL_TREES, st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_the_truth_of_unknown_grades_errs_on_the_side_of_caution(tree: Tree | None, seed: int) -> None:
    assume(tree is not None)
    assert tree is not None
    label_X = np.random.default_rng(seed).integers(-1, 3, len(SITES))
    gradings = product(*[range(3) if grade < 0 else [grade] for grade in label_X[list(map(SITES.index, FIVE))]])
    truths = set()
    for severities in gradings:
        grades = dict.fromkeys(SITES, Severity.NORMAL_MILD)
        truths.add(holds(tree, grades | {site: Severity(s) for site, s in zip(FIVE, severities, strict=True)}))
    [certain], [may] = tree_truth(tree, possible_severities(label_X[None]))
    assert not certain or truths == {True}
    assert may or truths == {False}


@given(trees())
@settings(max_examples=100, deadline=None)
def test_rows_in_any_order_have_the_same_probability(tree: Tree) -> None:
    graded_SX3 = graded(5, studies=40)
    order = np.random.default_rng(1).permutation(40)
    assert (tree_probability(tree, graded_SX3)[order] == tree_probability(tree, graded_SX3[order])).all()


@given(trees())
@settings(max_examples=50, deadline=None)
def test_probabilities_of_float32_do_not_exceed_one(tree: Tree) -> None:
    graded_SX3 = np.random.default_rng(3).dirichlet([1, 1, 1e-3], size=(200, len(SITES))).astype(np.float32)
    assert graded_SX3.sum(axis=2, dtype=np.float64).max() > 1 + 1e-9
    probability_S = tree_probability(tree, graded_SX3)
    assert probability_S.min() >= -1e-12 and probability_S.max() <= 1 + 1e-12


def test_a_count_of_levels_and_sides_that_share_sites() -> None:
    """Trees that share sites at every level, against draws of the grades."""
    graded_X3 = graded(9, 1)[0]
    random = np.random.default_rng(4)
    grade_BX = (random.random((20_000, len(SITES), 1)) > graded_X3.cumsum(axis=1)[:, :2]).sum(axis=2)
    for line in (
        "both_sides(foramen) >= moderate and worse(right foramen)",
        "worse(left recess) or worse(right recess)",
        "exactly_2_levels(canal, foramen) = severe",
        "exactly_3_levels(recess) >= moderate and any(left recess) = severe",
        "at_least_2_levels(foramen) >= moderate and not any(foramen) = severe or adjacent_2_levels(canal) = severe",
        "(any(canal) = severe or any(recess) = severe) and (any(canal) = moderate or any(foramen) = severe)",
    ):
        tree = parse_canonical(line).tree
        assert tree is not None
        certain_B, _ = tree_truth(tree, possible_severities(grade_BX))
        assert tree_probability(tree, graded_X3[None])[0] == pytest.approx(certain_B.mean(), abs=0.015), line


def test_blocks_of_studies_join_up() -> None:
    graded_SX3 = graded(2, studies=5000).astype(np.float32)
    tree = parse_canonical("at_least_2_levels(foramen) >= moderate and any(canal) = severe").tree
    assert tree is not None
    whole = tree_probability(tree, graded_SX3)
    assert (whole[4990:] == tree_probability(tree, graded_SX3[4990:])).all()


def test_a_site_without_an_image_leaves_the_probability_open_only_where_it_is_named() -> None:
    graded_SX3 = graded(3)
    graded_SX3[1, 0] = np.nan
    for line, is_open in (
        ("any(canal) = severe", True),
        ("not all(canal, foramen) >= moderate", True),
        ("any(canal, L2-L3) = severe", False),
        ("any(canal, L1-L2) = severe and any(canal, L2-L3) = severe or any(canal, L1-L2) = moderate", True),
        ("only_here(canal, L5-S1) = severe", True),
    ):
        tree = parse_canonical(line).tree
        assert tree is not None
        assert np.isnan(tree_probability(tree, graded_SX3)).tolist() == [False, is_open, False], line


def test_trees_that_mean_the_same() -> None:
    def tree(line: str) -> Tree:
        found = parse_canonical(line).tree
        assert found is not None
        return found

    assert mean_the_same(tree("not any(canal) = severe"), tree("all(canal) <= moderate"))
    assert mean_the_same(tree("at_least_1_level(recess) = severe"), tree("any(recess) = severe"))
    assert not mean_the_same(tree("any(recess) = severe"), tree("both_sides(recess) = severe"))
    assert is_contradiction(tree("any(canal, L4-L5) = severe and any(canal, L4-L5) = moderate"))
    assert not is_contradiction(tree("any(canal) = severe and any(canal) = moderate"))
