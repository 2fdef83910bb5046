"""data_prep/placement/regions.py: from marks to positions, and from positions to the right slice of every view."""

from dataclasses import replace

import numpy as np
import pytest

from data_prep.faults import FaultKind
from data_prep.geometry import Frame, stacks
from data_prep.placement.regions import Missing, Position, doubtful_levels, marked_positions, not_found, region
from data_prep.sites import SITES, Condition, Level, Side, Site, Source, View
from data_prep.studies.studies import Series, Slice, Study
from data_prep.studies.tables import Mark
from tests.dicom_files import AXIAL, SAGITTAL, frame

CANAL = Site(Condition.SPINAL_CANAL_STENOSIS, None, Level.L4_L5)
RECESS = Condition.SUBARTICULAR_STENOSIS
CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))
LEFT_FORAMEN = Site(Condition.NEURAL_FORAMINAL_NARROWING, Side.LEFT, Level.L4_L5)


def series(series_id: int, view: View, frames: list[Frame]) -> Series:
    """Return a series whose instance numbers count from 1 in the order given, that of the acquisition."""
    groups = stacks(frames)
    order = [index for group in groups for index in group]
    slices = tuple(Slice(index + 1, frames[index], np.zeros(frames[index].shape, dtype=np.uint8)) for index in order)
    indices = iter(range(len(order)))
    ranges = tuple(tuple(next(indices) for _ in group) for group in groups)
    return Series(series_id, view, slices, ranges, (0.0, 1.0))


def study(*parts: Series, marks: tuple[Mark, ...] = ()) -> Study:
    return Study(1, parts, {}, marks)


def at(x: float, y: float, z: float, site: Site = CANAL) -> Position:
    return Position(site, (x, y, z), Source.ATLAS)


@pytest.mark.parametrize(
    ("confidences", "doubtful"),
    [([None], 0), ([0.95, 0.9], 0), ([0.8], 0), ([0.79], 1), ([0.95, 0.3, None], 1), ([0.1, 0.2], 2), ([], 0)],
)
def test_a_study_whose_levels_are_in_doubt_has_one_fault(confidences: list[float | None], doubtful: int) -> None:
    positions = {
        site: replace(at(0, 0, 0, site), level_confidence=confidence)
        for site, confidence in zip(SITES, confidences, strict=False)
    }
    faults = doubtful_levels(study(), positions)
    assert [fault.kind for fault in faults] == [FaultKind.LEVEL_IN_DOUBT] * min(doubtful, 1)
    for fault in faults:
        assert fault.message.startswith(f"{doubtful} site")
        assert f"{min(one for one in confidences if one is not None):.2f}" in fault.message


def sagittal(xs: list[float], series_id: int = 1, view: View = View.SAGITTAL_T2_STIR) -> Series:
    return series(series_id, view, [frame((x, -30, 60), SAGITTAL, (1.0, 0.5), (120, 140)) for x in xs])


def axial(zs: list[float], series_id: int = 2, y: float = -30) -> Series:
    return series(series_id, View.AXIAL_T2, [frame((-40, y, z), AXIAL, (0.5, 0.5), (160, 160)) for z in zs])


@pytest.mark.parametrize("xs", [[-8.0, -4.0, 0.0, 4.0, 8.0], [8.0, 4.0, 0.0, -4.0, -8.0]])
def test_a_mark_is_followed_from_its_slice_into_the_other_view(xs: list[float]) -> None:
    marked = sagittal(xs)
    instance = xs.index(4.0) + 1
    mark = Mark(CANAL, 1, instance, x=60.0, y=50.0)
    whole = study(marked, axial([0.0, 5.0, 10.0, 15.0]), marks=(mark,))
    positions, faults = marked_positions(whole)
    # x is the plane; y = -30 + 0.5 mm * column; z = 60 - 1 mm * row.
    assert positions[CANAL].point_mm == (4.0, 0.0, 10.0) and not faults

    own = region(whole, positions[CANAL], View.SAGITTAL_T2_STIR)
    assert not isinstance(own, Missing)
    assert [xs[number - 1] for number in own.instance_numbers] == [0.0, 4.0, 8.0]  # right to left
    assert own.box == (12.0, 26.0, 108.0, 74.0)  # 48 mm about (60, 50): 96 columns of 0.5 mm, 48 rows of 1 mm
    other = region(whole, positions[CANAL], View.AXIAL_T2)
    assert not isinstance(other, Missing)
    assert other.series_id == 2 and other.instance_numbers == (2, 3, 4) and other.source is Source.ANNOTATED
    assert other.box == (40.0, 12.0, 136.0, 108.0)


def test_the_marked_instance_is_used_even_if_another_is_nearer() -> None:
    repeated = sagittal([0.0, 4.0, 4.0])
    whole = study(repeated, marks=(Mark(CANAL, 1, 3, 60.0, 50.0),))
    own = region(whole, marked_positions(whole)[0][CANAL], View.SAGITTAL_T2_STIR)
    assert not isinstance(own, Missing) and own.instance_number == 3


def test_the_axial_slice_is_chosen_over_all_series_and_must_contain_the_point() -> None:
    two = study(axial([0.0, 5.0], 2), axial([11.0, 16.0], 3), axial([10.0], 4, y=500))
    found = region(two, at(0, 0, 10), View.AXIAL_T2)
    assert not isinstance(found, Missing) and (found.series_id, found.instance_number) == (3, 1)


@pytest.mark.parametrize(
    ("point", "reason"),
    [((0, 0, 5.1), "beyond_reach"), ((0, 300, 0), "outside_images"), ((0, 0, 4.9), None), ((0, 0, -4.9), None)],
)
def test_a_site_that_is_not_imaged_is_missing_with_a_reason(
    point: tuple[float, float, float], reason: str | None
) -> None:
    found = region(study(axial([0.0])), at(*point), View.AXIAL_T2)
    assert (found.reason if isinstance(found, Missing) else None) == reason
    missing = region(study(axial([0.0])), at(*point), View.SAGITTAL_T1)
    assert isinstance(missing, Missing) and missing.reason == "no_series"


def test_neighbours_are_not_taken_from_the_next_block() -> None:
    blocks = study(axial([0.0, 4.0, 8.0, 30.0, 34.0, 38.0]))
    found = region(blocks, at(0, 0, 8, LEFT_FORAMEN), View.AXIAL_T2)
    assert not isinstance(found, Missing) and found.instance_numbers == (2, 3, 3)


def test_a_box_is_clipped_to_its_image() -> None:
    found = region(study(axial([0.0])), at(-38, -28, 0), View.AXIAL_T2)
    assert not isinstance(found, Missing) and found.box == (0.0, 0.0, 52.0, 52.0)


def test_marks_that_cannot_be_used_are_recorded() -> None:
    marks = (
        Mark(CANAL, 9, 1, 1.0, 1.0),
        Mark(CANAL, 1, 99, 1.0, 1.0),
        Mark(CANAL, 1, 1, 140.0, 1.0),
        Mark(CANAL, 1, 1, 10.0, 10.0),
        Mark(CANAL, 1, 2, 20.0, 20.0),
    )
    positions, faults = marked_positions(study(sagittal([0.0, 4.0]), marks=marks))
    assert [fault.kind for fault in faults] == [
        FaultKind.MARK_WITHOUT_IMAGE,
        FaultKind.MARK_WITHOUT_IMAGE,
        FaultKind.MARK_OFF_IMAGE,
        FaultKind.DUPLICATE_MARK,
    ]
    assert positions[CANAL].mark == marks[3]


def test_a_stack_at_the_limit_of_tilt_keeps_its_axial_slices() -> None:
    def leaning(z: float, degrees: float) -> Frame:
        angle = np.deg2rad(degrees)
        return frame((-40, -30, z), ((1.0, 0.0, 0.0), (0.0, np.cos(angle), np.sin(angle))), (0.5, 0.5), (160, 160))

    half_way = series(2, View.AXIAL_T2, [leaning(z, degrees) for z, degrees in ((0, 59.9), (4, 60.1), (8, 59.9))])
    assert len(half_way.stacks) == 1 and len(half_way.frames) == 2
    point = tuple(half_way.frames[0].to_patient((80, 80)))
    found = region(study(half_way), at(*point), View.AXIAL_T2)
    assert not isinstance(found, Missing) and 2 not in found.instance_numbers


def leaning_blocks(random: np.random.Generator, series_id: int) -> Series:
    """Return a series of axial blocks of random tilts, sizes and pixel shapes, in random order."""
    frames = []
    for z in random.uniform(-80, 80, 4):
        angle = random.uniform(-0.6, 0.6)
        directions = ((1.0, 0.0, 0.0), (0.0, float(np.cos(angle)), float(np.sin(angle))))
        spacing = (float(random.uniform(0.4, 1.1)), float(random.uniform(0.4, 1.1)))
        shape = (int(random.integers(60, 200)), int(random.integers(60, 200)))
        normal = np.cross(*directions)
        corner = np.array([random.uniform(-70, -30), random.uniform(-70, -30), z])
        frames += [frame(tuple(corner + 4 * step * normal), directions, spacing, shape) for step in range(3)]
    return series(series_id, View.AXIAL_T2, [frames[index] for index in random.permutation(len(frames))])


def test_the_axial_slice_against_a_search_over_all_slices() -> None:
    """The slow version solves for (column, row, distance) with the inverse of the slice's matrix."""
    random = np.random.default_rng(0)
    answers = set()
    for _ in range(60):
        whole = study(leaning_blocks(random, 2), leaning_blocks(random, 3))
        point = random.uniform((-50, -50, -90), (50, 50, 90))
        best: tuple[float, int, int, list[float]] | None = None
        near = False
        for part in whole.series:
            for image in part.slices:
                assert image.frame is not None
                row, column = np.array(image.frame.row_direction), np.array(image.frame.column_direction)
                matrix = np.stack(
                    [row * image.frame.spacing_mm[1], column * image.frame.spacing_mm[0], np.cross(row, column)], axis=1
                )
                across, down, away = np.linalg.inv(matrix) @ (point - np.array(image.frame.position_mm))
                near |= abs(away) <= 5
                rows, columns = image.frame.shape
                inside = -0.5 <= across <= columns - 0.5 and -0.5 <= down <= rows - 0.5
                if abs(away) <= 5 and inside and (best is None or abs(away) < best[0]):
                    half = 24 / image.frame.spacing_mm[1], 24 / image.frame.spacing_mm[0]
                    corners = [across - half[0], down - half[1], across + half[0], down + half[1]]
                    box = np.clip(corners, 0, [columns - 1, rows - 1] * 2)
                    best = (abs(away), part.series_id, image.instance_number, box.tolist())
        found = region(whole, at(*point), View.AXIAL_T2)
        if isinstance(found, Missing):
            assert best is None and found.reason == ("outside_images" if near else "beyond_reach")
            answers.add(found.reason)
        else:
            assert best is not None and (found.series_id, found.instance_number) == best[1:3]
            np.testing.assert_allclose(found.box, best[3], atol=0.006)
            answers.add("found")
    assert answers == {"found", "outside_images", "beyond_reach"}


def test_slices_of_another_plane_have_no_region() -> None:
    localiser = series(2, View.AXIAL_T2, [frame((0, -30, 0), SAGITTAL), frame((-30, -30, 9), AXIAL)])
    found = region(study(localiser), at(0, 0, 9), View.AXIAL_T2)
    assert not isinstance(found, Missing) and found.instance_numbers == (2, 2, 2)
    assert isinstance(region(study(localiser), at(0, 0, -20), View.AXIAL_T2), Missing)


def test_slices_without_geometry_have_no_region() -> None:
    whole = axial([0.0, 4.0])
    bare = Slice(9, None, np.zeros((4, 4), dtype=np.uint8))
    mixed = Series(2, View.AXIAL_T2, (*whole.slices, bare), whole.stacks, whole.window)
    found = region(study(mixed), at(0, 0, 5), View.AXIAL_T2)
    assert not isinstance(found, Missing) and found.instance_numbers == (1, 2, 2)
    mark = Mark(CANAL, 2, 9, 1.0, 1.0)
    positions, faults = marked_positions(study(mixed, marks=(mark,)))
    assert not positions and [fault.kind for fault in faults] == [FaultKind.MARK_WITHOUT_IMAGE]


def recess(side: Side) -> Site:
    return Site(RECESS, side, Level.L4_L5)


def test_left_and_right_of_a_level_may_lie_in_different_series() -> None:
    left, right = Mark(recess(Side.LEFT), 2, 1, 98.0, 60.0), Mark(recess(Side.RIGHT), 3, 2, 62.0, 60.0)
    whole = study(axial([0.0, 5.0]), axial([2.0, 7.0], 3), marks=(left, right))
    positions, faults = marked_positions(whole)
    assert not faults and [positions[recess(side)].point_mm[0] for side in Side] == [9.0, -9.0]
    regions = [region(whole, positions[recess(side)], View.AXIAL_T2) for side in Side]
    assert [(r.series_id, r.instance_number) for r in regions if not isinstance(r, Missing)] == [(2, 1), (3, 2)]


def test_a_swapped_pair_exchanges_position_slice_and_series() -> None:
    left, right = Mark(recess(Side.LEFT), 2, 1, 62.0, 60.0), Mark(recess(Side.RIGHT), 3, 2, 98.0, 60.0)
    whole = study(axial([0.0, 5.0]), axial([2.0, 7.0], 3), marks=(left, right))
    positions, faults = marked_positions(whole)
    assert [fault.kind for fault in faults] == 2 * [FaultKind.MARKS_SWAPPED]
    assert [positions[recess(side)].point_mm[0] for side in Side] == [9.0, -9.0]
    assert {site: position.site for site, position in positions.items()} == {site: site for site in positions}
    regions = [region(whole, positions[recess(side)], View.AXIAL_T2) for side in Side]
    assert [(r.series_id, r.instance_number) for r in regions if not isinstance(r, Missing)] == [(3, 2), (2, 1)]
    assert all(r.source is Source.ANNOTATED for r in regions if not isinstance(r, Missing))


def test_a_mark_in_another_view_is_used_by_its_position() -> None:
    in_t1, in_axial = sagittal([0.0, 4.0], 5, View.SAGITTAL_T1), axial([10.0], 6)
    for part, mark in ((in_t1, Mark(CANAL, 5, 2, 60.0, 50.0)), (in_axial, Mark(CANAL, 6, 1, 88.0, 60.0))):
        whole = study(sagittal([0.0, 4.0]), part, marks=(mark,))
        positions, faults = marked_positions(whole)
        assert positions[CANAL].point_mm == (4.0, 0.0, 10.0)
        assert [(fault.kind, fault.action) for fault in faults] == [(FaultKind.MARK_IN_OTHER_VIEW, "kept")]
        own = region(whole, positions[CANAL], View.SAGITTAL_T2_STIR)
        assert not isinstance(own, Missing) and (own.series_id, own.instance_number) == (1, 2)


def test_a_mark_in_a_coronal_image_or_at_another_station_is_not_used() -> None:
    tagged = series(7, View.AXIAL_T2, [frame((-30, 0, 30), CORONAL)])
    no_view = Series(7, None, tagged.slices, tagged.stacks, tagged.window)
    neck = series(8, View.SAGITTAL_T2_STIR, [frame((0, -30, 460), SAGITTAL, shape=(120, 120))])
    set_aside = Series(8, None, neck.slices, neck.stacks, neck.window)
    for part in (tagged, no_view, set_aside):
        mark = Mark(CANAL, part.series_id, 1, 10.0, 10.0)
        positions, faults = marked_positions(study(sagittal([0.0, 4.0]), part, marks=(mark,)))
        assert not positions
        assert [(fault.kind, fault.action) for fault in faults] == [(FaultKind.MARK_IN_OTHER_VIEW, "skipped")]
    # A mark in a sagittal image of unknown weighting is used.
    unknown = Series(1, None, (old := sagittal([0.0, 4.0])).slices, old.stacks, old.window)
    positions, faults = marked_positions(study(unknown, marks=(Mark(CANAL, 1, 2, 60.0, 50.0),)))
    assert positions[CANAL].point_mm == (4.0, 0.0, 10.0) and [fault.action for fault in faults] == ["kept"]


def test_sites_without_a_position_are_one_fault_per_study() -> None:
    whole = {site: at(0, 0, 0, site) for site in SITES}
    assert not_found(study(), whole) == []
    (some,) = not_found(study(), {site: whole[site] for site in SITES[:20]})
    (none,) = not_found(study(), {})
    assert some.kind is none.kind is FaultKind.SITES_NOT_FOUND
    assert "5 of the 25" in some.message and "all of the 25" in none.message
