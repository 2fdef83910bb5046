"""The search, against a slow version that looks at one study after the other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.sites import SITES, Severity
from prompts.canonical import parse_canonical
from prompts.tree import Tree, tree_sites
from tests.query_trees import holds, trees
from tests.vl_model.queries.random_segments import random_segment, shuffled
from vl_model.queries.search import LEAST_SHOWN, Bounds, search, truth_and_probability
from vl_model.queries.segment import Segment
from vl_model.queries.speaking_sites import speaking_sites
from vl_model.queries.tree_probability import tree_probability


def tree_of(line: str) -> Tree:
    tree = parse_canonical(line).tree
    assert tree is not None
    return tree


@given(trees(max_leaves=4), st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_the_best_studies_in_order_of_score_and_study_id(tree: Tree, seed: int) -> None:
    segments = [
        random_segment("train", 30, seed, seen=0.3),
        random_segment("test", 20, seed + 1, missing=0.02, first_id=9),
    ]
    found = search(tree, segments, [], Bounds(top=7))
    slow = []
    for segment in segments:
        for row in range(len(segment)):
            score = tree_probability(tree, segment.graded_SX3[row : row + 1])[0]
            if not segment.seen_S[row] and not np.isnan(score):
                slow.append((-score, int(segment.study_S[row]), segment.name))
    expected = sorted(slow, key=lambda one: one[:2])[:7]
    assert [(a.score, a.study_id) for a in found.answers] == [(-score, study) for score, study, _ in expected]
    assert found.studies == sum(int((~segment.seen_S).sum()) for segment in segments)
    assert found.left_out == sum(int(segment.seen_S.sum()) for segment in segments)
    named = tree_sites(found.tree)
    for one in found.not_assessable:
        assert set(one.missing) <= named and one.missing


@given(trees(max_leaves=4), st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_ranks_do_not_depend_on_the_order_of_rows(tree: Tree, seed: int) -> None:
    segment = random_segment("train", 40, 3)
    one, other = (search(tree, [s], [s], Bounds(10, 0.0)) for s in (segment, shuffled(segment, seed)))
    assert [(a.study_id, a.score, a.probability, a.matches) for a in one.answers] == [
        (a.study_id, a.score, a.probability, a.matches) for a in other.answers
    ]
    assert one.worth == other.worth


@given(trees(max_leaves=3))
@settings(max_examples=60, deadline=None)
def test_known_grades_tell_the_worth(tree: Tree) -> None:
    segment = random_segment("train", 50, 4, seen=0.4)
    found = search(tree, [segment], [segment], Bounds(5, 0.0))
    matches = [
        holds(tree, {site: Severity(int(grade)) for site, grade in zip(SITES, row, strict=True)})
        for row, seen in zip(segment.label_SX, segment.seen_S, strict=True)
        if not seen
    ]
    assert (found.worth.known, found.worth.matches) == (len(matches), sum(matches))
    assert found.worth.expected_matches is not None
    assert found.worth.expected_matches.value == sum(matches), "all of them are known"
    for answer in found.answers:
        row = segment.row_of(answer.study_id)
        assert row is not None
        grades = {site: Severity(int(grade)) for site, grade in zip(SITES, segment.label_SX[row], strict=True)}
        assert answer.matches == holds(tree, grades)


def test_whether_a_study_is_known_does_not_depend_on_its_grades() -> None:
    """A study that is graded at some sites only would be known if one of them matches, and else not."""
    segment = random_segment("train", 400, 11)
    label_SX = segment.label_SX.copy()
    label_SX[np.random.default_rng(1).random(label_SX.shape) < 0.05] = -1
    partly = Segment(**{**vars(segment), "label_SX": label_SX})
    tree = tree_of("any(site, L4-L5, L5-S1) = severe")
    sites = [x for x, site in enumerate(SITES) if site in tree_sites(tree)]
    whole_S = (label_SX[:, sites] >= 0).all(axis=1)
    match_S = (segment.label_SX[:, sites] == 2).any(axis=1)
    found = search(tree, [partly], [partly], Bounds(400, 0.0))
    assert (found.worth.known, found.worth.matches) == (whole_S.sum(), match_S[whole_S].sum())
    told = {answer.study_id: answer.matches for answer in found.answers}
    severe_S = (label_SX[:, sites] == 2).any(axis=1)
    for row, study in enumerate(segment.study_S.tolist()):
        if study in told:
            assert told[study] == (True if severe_S[row] else False if whole_S[row] else None)


def test_improbable_studies_are_answers_only_if_asked_for() -> None:
    segment = random_segment("train", 300, 5)
    tree = tree_of("any(canal, L4-L5) = severe")
    found = search(tree, [segment], [segment], Bounds(300))
    probabilities = [answer.probability for answer in found.answers]
    assert all(p is not None and p >= LEAST_SHOWN for p in probabilities) and len(probabilities) < 300
    assert len(search(tree, [segment], [segment], Bounds(300, 0.0)).answers) == 300
    assert all((a.probability or 0) >= 0.5 for a in search(tree, [segment], [segment], Bounds(300, 0.5)).answers)


def test_without_known_grades_only_ranks_are_told() -> None:
    segment = random_segment("test", 20, 6)
    found = search(tree_of("any(canal) = severe"), [segment], [], Bounds(3, 0.9))
    assert all(answer.probability is None for answer in found.answers)
    assert found.worth.known == 0 and "its limit was ignored" in found.notes[0]


def test_sites_that_no_study_shows_are_left_out_of_the_question_and_it_is_said() -> None:
    segment = random_segment("train", 20, 7)
    graded_SX3 = segment.graded_SX3.copy()
    graded_SX3[:, [x for x, site in enumerate(SITES) if "foram" not in site.condition]] = np.nan
    foraminal = Segment(**{**vars(segment), "graded_SX3": graded_SX3})
    found = search(tree_of("any(site, L4-L5) = severe"), [foraminal], [], Bounds(3))
    assert found.notes == (
        "no study has images of all sites that are asked for: asked instead is any(foramen, L4-L5) = severe",
    )
    assert not found.not_assessable and len(found.answers) == 3
    with pytest.raises(ValueError, match="no study has an image of L4-L5 spinal canal stenosis"):
        search(tree_of("any(canal, L4-L5) = severe"), [foraminal], [], Bounds(3))


def test_words_order_studies_within_a_band_of_scores() -> None:
    segment = random_segment("test", 30, 8)
    tree = tree_of("any(canal, L4-L5) = severe")
    likeness_N = np.random.default_rng(0).random(30)
    found = search(tree, [segment], [], Bounds(30), likeness_N)
    score_N = tree_probability(tree, segment.graded_SX3)
    expected = sorted(range(30), key=lambda row: (-np.floor(score_N[row] / 0.05), -likeness_N[row], row))
    assert [answer.study_id - 1 for answer in found.answers] == expected


def test_one_study_by_itself() -> None:
    segment = random_segment("train", 60, 9)
    tree = tree_of("any(foramen) = severe")
    score, probability, matches = truth_and_probability(tree, segment, 4, [segment]) or (0, 0, None)
    [answer] = [a for a in search(tree, [segment], [segment], Bounds(60, 0.0)).answers if a.study_id == 5]
    assert (score, probability, matches) == (answer.score, answer.probability, answer.matches)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("any(canal) = severe", ["spinal_canal_stenosis_l3_l4"]),
        ("all(canal) = normal/mild", ["spinal_canal_stenosis_l3_l4"]),
        ("not any(canal) = severe", ["spinal_canal_stenosis_l3_l4"]),
        ("at_least_2_levels(canal) = severe", ["spinal_canal_stenosis_l3_l4", "spinal_canal_stenosis_l5_s1"]),
        ("adjacent_2_levels(canal) = severe", ["spinal_canal_stenosis_l2_l3", "spinal_canal_stenosis_l3_l4"]),
        (
            "both_sides(foramen) = severe",
            ["left_neural_foraminal_narrowing_l1_l2", "right_neural_foraminal_narrowing_l1_l2"],
        ),
        (
            "worse(right foramen, L2-L3, L3-L4)",
            ["right_neural_foraminal_narrowing_l2_l3", "left_neural_foraminal_narrowing_l2_l3"],
        ),
        (
            "same_level(any(canal) = severe and any(foramen) = severe)",
            ["spinal_canal_stenosis_l1_l2", "left_neural_foraminal_narrowing_l1_l2"],
        ),
        ("any(recess) = severe or any(canal) = severe", ["spinal_canal_stenosis_l3_l4"]),
        ("any(canal) = severe and any(canal, L3-L4) = severe", ["spinal_canal_stenosis_l3_l4"]),
    ],
)
def test_the_sites_that_speak_for_a_study(line: str, expected: list[str]) -> None:
    severe = dict.fromkeys(SITES, 0.01)
    keyed = {site.key: site for site in SITES}
    for key, chance in {
        "spinal_canal_stenosis_l3_l4": 0.9,
        "spinal_canal_stenosis_l5_s1": 0.6,
        "spinal_canal_stenosis_l2_l3": 0.3,
        "spinal_canal_stenosis_l1_l2": 0.2,
        "left_neural_foraminal_narrowing_l1_l2": 0.8,
        "right_neural_foraminal_narrowing_l1_l2": 0.7,
        "right_neural_foraminal_narrowing_l2_l3": 0.5,
    }.items():
        severe[keyed[key]] = chance
    graded_X3 = np.array([[1 - severe[site], 0, severe[site]] for site in SITES])
    [sites] = speaking_sites(tree_of(line), graded_X3[None])
    assert [site.key for site in sites] == expected
