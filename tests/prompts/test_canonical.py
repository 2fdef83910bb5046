"""The canonical line: every tree and its limits are written and read back; an error has its place."""

import pytest
from hypothesis import given, settings

from data_prep.sites import SITES, Level, Severity, Side
from prompts.canonical import MAX_DEPTH, canonical_line, parse_canonical
from prompts.tree import And, Finding, Limits, Or, Over, SideAgainstSide, Tree
from tests.query_trees import LIMITS, trees


@given(trees(), LIMITS)
@settings(max_examples=300, deadline=None)
def test_every_tree_reads_back_from_its_line(tree: Tree, limits: Limits) -> None:
    query = parse_canonical(canonical_line(tree, limits))
    assert (query.tree, query.limits) == (tree, limits)


@pytest.mark.parametrize(
    ("line", "sites", "severities"),
    [
        ("any(canal, L4-L5) >= moderate", 1, {1, 2}),
        ("ANY(Foramen,l4-l5)=SEVERE", 2, {2}),
        ("any(site) != moderate", 25, {0, 2}),
        ("any(L4-L5) <= moderate", 5, {0, 1}),
        ("any(left foramen, left recess, L3-L4, L4-L5) = normal/mild", 4, {0}),
        ("any(canal, L1-L2; right recess, L5-S1) >= severe", 2, {2}),
    ],
)
def test_places_and_grades(line: str, sites: int, severities: set[int]) -> None:
    tree = parse_canonical(line).tree
    assert isinstance(tree, Finding)
    assert (len(tree.sites), tree.severities) == (sites, severities)


def test_and_binds_before_or() -> None:
    tree = parse_canonical("any(canal) = severe or any(recess) = severe and any(foramen) = severe").tree
    assert isinstance(tree, Or) and isinstance(tree.parts[1], And)


def test_a_count_of_levels_and_a_comparison() -> None:
    assert parse_canonical("at_least_3_levels(canal) = severe").tree == Finding(
        frozenset(SITES[:5]), frozenset({Severity.SEVERE}), Over.AT_LEAST, 3
    )
    worse = parse_canonical("worse(right recess, L4-L5)").tree
    assert isinstance(worse, SideAgainstSide) and (worse.worse, worse.levels) == (Side.RIGHT, {Level.L4_L5})


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "found the end at character 1, expected any"),
        ("any(canal", r'found the end at character 10, expected "\)"'),
        ("any(canal) severe", "found 'severe' at character 12, expected =, !=, >= or <="),
        ("any(kanal) = severe", "found 'kanal' at character 5, expected canal, foramen"),
        ("any(left canal) = severe", "found 'canal' at character 10, expected foramen or recess"),
        ("any(L4-L5, canal) = severe", "found 'canal' at character 12, expected a level"),
        ("any(canal) = mild", "found 'mild' at character 14, expected normal/mild"),
        ("any(canal) >= normal/mild", "expected a grade that not every site has"),
        ("any(canal) = severe any", "found 'any' at character 21, expected \"and\""),
        ("any(canal) = severe; top 0", "found '0' at character 26, expected a whole number from 1 to 1000"),
        ("any(canal) = severe; P >= 2", "expected a number from 0 to 1"),
        ("any(canal) = severe; best", "expected top, P, split"),
        ("at_least_6_levels(canal) = severe", "expected any, all"),
        ("worse(foramen)", "expected one side of one condition"),
        ("any(canal) = severe § any", "found '§' at character 21, expected a word"),
        ("not " * (MAX_DEPTH + 2) + "any(canal) = severe", f"at most {MAX_DEPTH} brackets"),
    ],
)
def test_an_error_names_its_place(line: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_canonical(line)


@pytest.mark.parametrize("split", ["train", "ward-3", "ward.3", "2024", "2024-ward_b", "Zürich", "top", "P"])
@pytest.mark.parametrize("least", [None, 1e-7, 0.1234567891, 1.0, 0.0])
def test_all_names_of_kept_sets_and_all_probabilities_are_read_back(split: str, least: float | None) -> None:
    tree = parse_canonical("any(canal) = severe").tree
    assert tree is not None
    limits = Limits(top=3, least=least, split=split, seen=True)
    assert parse_canonical(canonical_line(tree, limits)).limits == limits
