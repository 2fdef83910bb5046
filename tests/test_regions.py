"""data_prep/regions.py: marks to millimetres, millimetres to the right slice of every view."""

import numpy as np
import pytest

from data_prep.faults import FaultKind
from data_prep.geometry import Frame, stacks
from data_prep.regions import Missing, Position, marked_positions, region
from data_prep.sites import Condition, Level, Side, Site, Source, View
from data_prep.studies import Series, Slice, Study
from data_prep.tables import Mark
from tests.dicom_files import AXIAL, SAGITTAL, frame

CANAL = Site(Condition.SPINAL_CANAL_STENOSIS, None, Level.L4_L5)
LEFT_FORAMEN = Site(Condition.NEURAL_FORAMINAL_NARROWING, Side.LEFT, Level.L4_L5)


def series(series_id: int, view: View, frames: list[Frame]) -> Series:
    """Instance numbers count from 1 in the order given, which is the acquisition's."""
    groups = stacks(frames)
    order = [index for group in groups for index in group]
    slices = tuple(Slice(index + 1, frames[index], np.zeros(frames[index].shape, dtype=np.uint8)) for index in order)
    places = iter(range(len(order)))
    ranges = tuple(tuple(next(places) for _ in group) for group in groups)
    return Series(series_id, view, slices, ranges, (0.0, 1.0))


def study(*parts: Series, marks: tuple[Mark, ...] = ()) -> Study:
    return Study(1, parts, {}, marks)


def at(x: float, y: float, z: float, site: Site = CANAL) -> Position:
    return Position(site, (x, y, z), Source.ATLAS)


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


def test_the_marked_instance_counts_even_where_another_is_nearer() -> None:
    repeated = sagittal([0.0, 4.0, 4.0])
    whole = study(repeated, marks=(Mark(CANAL, 1, 3, 60.0, 50.0),))
    own = region(whole, marked_positions(whole)[0][CANAL], View.SAGITTAL_T2_STIR)
    assert not isinstance(own, Missing) and own.instance_number == 3


def test_the_axial_slice_is_sought_over_all_series_and_must_show_the_point() -> None:
    two = study(axial([0.0, 5.0], 2), axial([11.0, 16.0], 3), axial([10.0], 4, y=500))
    found = region(two, at(0, 0, 10), View.AXIAL_T2)
    assert not isinstance(found, Missing) and (found.series_id, found.instance_number) == (3, 1)


@pytest.mark.parametrize(
    ("point", "reason"),
    [((0, 0, 5.1), "beyond_reach"), ((0, 300, 0), "outside_images"), ((0, 0, 4.9), None), ((0, 0, -4.9), None)],
)
def test_not_imaged_here_is_an_answer(point: tuple[float, float, float], reason: str | None) -> None:
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
    point = tuple(half_way.frames[0].to_patient(80, 80))
    found = region(study(half_way), at(*point), View.AXIAL_T2)
    assert not isinstance(found, Missing) and 2 not in found.instance_numbers
