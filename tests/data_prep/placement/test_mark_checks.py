"""data_prep/placement/mark_checks.py: readers' mistakes, made on purpose in a spine with known positions."""

from itertools import combinations

import numpy as np
import pytest

from data_prep.faults import FaultKind
from data_prep.geometry import Vector
from data_prep.placement.mark_checks import LEVEL_MM, STEP_MM, _in_every_longest_descent, check_marks
from data_prep.sites import SITES, Condition, Level, Side, Site

CANAL, FORAMEN, RECESS = Condition


def spine(lean: float = 0.0, curve: float = 0.0) -> dict[Site, Vector]:
    """Return all 25 marks, with levels 34 mm apart, of a spine that leans by degrees and is curved sideways by mm."""
    points = {}
    for site in SITES:
        level = list(Level).index(site.level)
        aside = {CANAL: 0.0, FORAMEN: 17.0, RECESS: 9.0}[site.condition] * (-1 if site.side is Side.RIGHT else 1)
        down = {CANAL: 0.0, FORAMEN: 6.0, RECESS: -5.0}[site.condition]
        x = 20 + aside + curve * (1 - ((level - 2) / 2) ** 2) + 34 * (level - 2) * np.tan(np.deg2rad(lean))
        points[site] = (float(x), -10.0 if site.condition is FORAMEN else 0.0, float(500 - 34 * level + down))
    return points


def moved(points: dict[Site, Vector], *changes: tuple[Site, tuple[float, float, float]]) -> dict[Site, Vector]:
    x, y, z = 0, 1, 2
    return points | {s: (points[s][x] + d[x], points[s][y] + d[y], points[s][z] + d[z]) for s, d in changes}


def site(condition: Condition, level: Level, side: Side | None = None) -> Site:
    return Site(condition, side, level)


@pytest.mark.parametrize("lean", [-15, 0, 15])
@pytest.mark.parametrize("curve", [-12, 0, 12])
def test_correct_marks_are_all_used_in_crooked_spines_and_if_some_are_missing(lean: float, curve: float) -> None:
    whole = spine(lean, curve)
    random = np.random.default_rng(1)
    for _ in range(50):
        some = {place: point for place, point in whole.items() if random.random() < random.choice([0.2, 0.5, 1.0])}
        found = check_marks(some)
        assert found.mark_of == {place: place for place in some} and not found.problems


@pytest.mark.parametrize("condition", [FORAMEN, RECESS])
@pytest.mark.parametrize("alone", [False, True])
def test_a_swapped_pair_is_exchanged(condition: Condition, alone: bool) -> None:
    left = site(condition, Level.L4_L5, Side.LEFT)
    points = spine() if not alone else {place: spine()[place] for place in (left, left.mirrored)}
    points |= {left: points[left.mirrored], left.mirrored: points[left]}
    found = check_marks(points)
    assert found.mark_of[left] == left.mirrored and found.mark_of[left.mirrored] == left
    assert all(marked == place for place, marked in found.mark_of.items() if place not in (left, left.mirrored))
    assert len(found.mark_of) == len(points)
    assert [(problem.kind, problem.action) for problem in found.problems] == 2 * [(FaultKind.MARKS_SWAPPED, "repaired")]


def test_a_study_with_all_its_axial_pairs_swapped_is_corrected() -> None:
    points = spine(lean=8)
    wrong = {place: points[place.mirrored] if place.condition is RECESS else point for place, point in points.items()}
    found = check_marks(wrong)
    assert {place: wrong[marked] for place, marked in found.mark_of.items()} == points


def test_one_mark_on_the_wrong_side_is_set_aside() -> None:
    right = site(FORAMEN, Level.L3_L4, Side.RIGHT)
    for points in (spine(), {p: q for p, q in spine().items() if p != right.mirrored}):
        found = check_marks(moved(points, (right, (33.0, 0, 0))))  # beside the left mark, or where that would be
        assert set(points) - set(found.mark_of) == {right}
        assert [problem.kind for problem in found.problems] == [FaultKind.MARK_WRONG_SIDE]


def test_two_levels_exchanged_are_set_aside() -> None:
    upper, lower = site(CANAL, Level.L2_L3), site(CANAL, Level.L3_L4)
    canal = {place: point for place, point in spine().items() if place.condition is CANAL}
    for points, kind in ((spine(), FaultKind.MARK_FAR), (canal, FaultKind.MARK_OUT_OF_ORDER)):
        found = check_marks(points | {upper: points[lower], lower: points[upper]})
        assert set(points) - set(found.mark_of) == {upper, lower}
        assert [problem.kind for problem in found.problems] == [kind, kind]


def test_one_level_out_of_order_leaves_the_others() -> None:
    stray = site(CANAL, Level.L2_L3)
    canal = {place: point for place, point in spine().items() if place.condition is CANAL}
    found = check_marks(moved(canal, (stray, (0, 0, -200.0))))
    assert set(canal) - set(found.mark_of) == {stray}


def test_marks_far_from_their_level_are_set_aside_by_the_majority_only() -> None:
    level = Level.L4_L5
    pair = [site(RECESS, level, side) for side in Side]
    off_by_one = moved(spine(), *((place, (0, 0, 34.0)) for place in pair))
    found = check_marks(off_by_one)
    assert set(off_by_one) - set(found.mark_of) == set(pair)
    # Two against two: there is no majority, so all are kept, with a fault.
    even = {place: point for place, point in off_by_one.items() if place.level is level and place.side is not None}
    found = check_marks(even)
    assert set(found.mark_of) == set(even) and [problem.action for problem in found.problems] == 4 * ["kept"]
    sideways = moved(spine(), (pair[0], (90.0, 0, 0)))
    assert set(sideways) - set(check_marks(sideways).mark_of) == {pair[0]}


def test_canal_marks_on_another_station_are_set_aside() -> None:
    up = moved(spine(), *((place, (0, 0, 350.0)) for place in SITES if place.condition is CANAL))
    assert {place.condition for place in set(up) - set(check_marks(up).mark_of)} == {CANAL}


def test_longest_descents_against_all_subsets() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        values = random.integers(0, 12, random.integers(1, 6)).astype(float) * 6
        subsets = [set(s) for n in range(6) for s in combinations(range(len(values)), n)]
        good = [s for s in subsets if all(values[a] - values[b] >= STEP_MM for a in s for b in s if a < b)]
        longest = [s for s in good if len(s) == max(map(len, good))]
        assert _in_every_longest_descent(values.tolist()) == set.intersection(*longest)


def test_a_study_without_marks_has_no_problems() -> None:
    assert check_marks({}).mark_of == {} and not check_marks({}).problems


@pytest.mark.parametrize("condition", [FORAMEN, RECESS])
@pytest.mark.parametrize("reversed_by", [0.0, 0.001, 0.4, 2.2, 4.4, -0.001, -4.4])
def test_marks_of_a_pair_on_one_slice_are_not_exchanged(condition: Condition, reversed_by: float) -> None:
    left, canal = site(condition, Level.L4_L5, Side.LEFT), site(CANAL, Level.L4_L5)
    points = {left: (-20.9 - reversed_by, 0.0, 0.0), left.mirrored: (-20.9, 8.0, 3.0), canal: (0.0, 0.0, 0.0)}
    found = check_marks(points)
    assert found.mark_of == {place: place for place in points}
    assert [(problem.kind, problem.action) for problem in found.problems] == [(FaultKind.MARK_WRONG_SIDE, "kept")]
    # If the rest of the level shows the midline, the one that is wrong is set aside, and the other one kept.
    whole = spine()
    x = whole[left.mirrored][0]
    found = check_marks(moved(whole, (left, (x - reversed_by - whole[left][0], 0.0, 0.0))))
    assert set(whole) - set(found.mark_of) == {left} and found.mark_of[left.mirrored] == left.mirrored
    assert [problem.kind for problem in found.problems] == [FaultKind.MARK_WRONG_SIDE]


def test_on_the_midline_both_marks_of_one_slice_are_used() -> None:
    left = site(FORAMEN, Level.L4_L5, Side.LEFT)
    whole = spine()
    middle = (whole[left][0] + whole[left.mirrored][0]) / 2
    points = whole | {p: (middle - d, *whole[p][1:]) for p, d in ((left, 0.001), (left.mirrored, 0.0))}
    found = check_marks(points)
    assert found.mark_of == {place: place for place in points} and not found.problems


@pytest.mark.parametrize("error", [0.0, 0.0005, -0.0005])
def test_rounding_does_not_decide_on_order_or_nearness(error: float) -> None:
    canal = {site(CANAL, level): (0.0, 0.0, -STEP_MM * index) for index, level in enumerate(Level)}
    moved_by = {place: (0.0, 0.0, error * (-1) ** index) for index, place in enumerate(canal)}
    found = check_marks(moved(canal, *moved_by.items()))
    assert found.mark_of == {place: place for place in canal} and not found.problems
    pair = [site(RECESS, Level.L1_L2, side) for side in Side]
    apart = {pair[0]: (9.0, 0.0, 0.0), pair[1]: (-9.0, 0.0, LEVEL_MM + error)}
    assert not check_marks(apart).problems
