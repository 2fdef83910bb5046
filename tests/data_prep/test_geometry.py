"""data_prep/geometry.py against the standard's equation, per point, and on real oblique blocks."""

import doctest

import numpy as np
import pytest
from pydicom import dcmread

from data_prep import geometry
from data_prep.geometry import NEIGHBOUR_MM, Frame, Plane, nearest, neighbours, stacks
from tests.dicom_files import AXIAL, PUBLISHED, SAGITTAL, frame, needs_published_files


def oblique(seed: int) -> Frame:
    random = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(random.normal(size=(3, 3)))
    position, spacing = random.normal(scale=100, size=3), random.uniform(0.2, 1.2, size=2)
    return Frame(tuple(position), tuple(turn[0]), tuple(turn[1]), tuple(spacing), (300, 200))


@pytest.mark.parametrize("seed", range(5))
def test_pixels_to_patient_is_the_standards_matrix(seed: int) -> None:
    image = oblique(seed)
    # PS3.3 C.7.6.2.1-1: columns of the matrix are X * column spacing, Y * row spacing; PixelSpacing is (row, column).
    matrix = np.zeros((3, 3))
    matrix[:, 0] = np.array(image.row_direction) * image.spacing_mm[1]
    matrix[:, 1] = np.array(image.column_direction) * image.spacing_mm[0]
    matrix[:, 2] = image.position_mm
    np.testing.assert_allclose(image.to_patient((17.5, 40.25)), matrix @ [17.5, 40.25, 1])
    off_plane = image.to_patient((17.5, 40.25)) - 3.25 * image.normal
    np.testing.assert_allclose(image.to_pixel(off_plane), [17.5, 40.25])
    assert image.distance_mm(off_plane) == pytest.approx(-3.25)


def slow_to_patient(image: Frame, column: float, row: float) -> list[float]:
    """PS3.3 C.7.6.2.1-1 for one pixel, term by term; PixelSpacing is (between rows, between columns)."""
    return [
        image.position_mm[axis]
        + image.row_direction[axis] * image.spacing_mm[1] * column
        + image.column_direction[axis] * image.spacing_mm[0] * row
        for axis in range(3)
    ]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 4), (0,)])
def test_arrays_of_points_are_the_standards_equation_per_point(seed: int, shape: tuple[int, ...]) -> None:
    image, random = oblique(seed), np.random.default_rng(seed)
    pixels = random.uniform(-50, 350, size=(*shape, 2))
    expected = np.zeros((*shape, 3))
    for index in np.ndindex(shape):
        expected[index] = slow_to_patient(image, *pixels[index])
    np.testing.assert_allclose(image.to_patient(pixels), expected, atol=1e-9)

    off_mm = random.uniform(-30, 30, size=shape)
    points = expected + off_mm[..., None] * image.normal
    np.testing.assert_allclose(image.to_pixel(points), pixels, atol=1e-9)
    np.testing.assert_allclose(image.distance_mm(points), off_mm, atol=1e-9)
    inside = [-0.5 <= column <= 199.5 and -0.5 <= row <= 299.5 for column, row in pixels.reshape(-1, 2)]
    assert image.contains(points).shape == shape and image.contains(points).ravel().tolist() == inside


@pytest.mark.parametrize("seed", range(5))
def test_the_affine_and_its_inverse_are_the_standards_equation(seed: int) -> None:
    image = oblique(seed)
    for column, row, across in np.random.default_rng(seed).uniform(-50, 350, size=(20, 3)):
        point = slow_to_patient(image, column, row) + across * image.normal
        np.testing.assert_allclose(image.affine @ (column, row, across, 1), [*point, 1], atol=1e-9)
        np.testing.assert_allclose(image.inverse_affine @ (*point, 1), [column, row, across, 1], atol=1e-9)
    np.testing.assert_allclose(image.inverse_affine, np.linalg.inv(image.affine), atol=1e-12)


def test_examples_in_docstrings() -> None:
    assert doctest.testmod(geometry).failed == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"spacing_mm": (0.0, 1.0)},
        {"spacing_mm": (1.0, 1e-9)},
        {"spacing_mm": (1e6, 1.0)},
        {"position_mm": (0.0, 0.0, 1e30)},
        {"row_direction": (0.0, 0.0, 0.0)},
        {"position_mm": (np.nan, 0.0, 0.0)},
        {"row_direction": (1.0, 1.0, 0.0)},
        {"row_direction": (0.0, 1.0, 0.0)},
        {"shape": (0, 5)},
    ],
)
def test_an_invalid_frame_is_refused(wrong: dict) -> None:
    good = {
        "position_mm": (0.0, 0.0, 0.0),
        "row_direction": (1.0, 0.0, 0.0),
        "column_direction": (0.0, 1.0, 0.0),
        "spacing_mm": (1.0, 1.0),
        "shape": (4, 4),
    }
    with pytest.raises(ValueError, match=r"geometry|spacing|shape|orientation|position"):
        Frame(**(good | wrong))


def test_rounded_directions_are_orthonormalised() -> None:
    image = Frame((5.0, 6.0, 7.0), (0.999, 0.004, 0.0), (0.003, 1.002, 0.001), (0.5, 0.7), (400, 300))
    for column, row in ((0, 0), (299, 399), (-20.5, 1000)):
        point = image.to_patient((column, row))
        np.testing.assert_allclose(image.to_pixel(point), (column, row), atol=1e-9)
        assert image.distance_mm(point) == pytest.approx(0, abs=1e-9)
    one_pixel = image.to_patient((1, 0)) - image.to_patient((0, 0)), image.to_patient((0, 1)) - image.to_patient((0, 0))
    np.testing.assert_allclose([np.linalg.norm(step) for step in one_pixel], (0.7, 0.5))


@pytest.mark.parametrize("seed", range(20))
def test_planes_are_determined_by_the_angles_to_the_axes(seed: int) -> None:
    image = oblique(seed)
    down, right = np.array(image.column_direction), np.array(image.row_direction)
    normal = np.array([right[1] * down[2] - right[2] * down[1], 0, right[0] * down[1] - right[1] * down[0]])
    normal[1] = right[2] * down[0] - right[0] * down[2]
    degrees = {plane: np.rad2deg(np.arccos(abs(normal[axis]))) for axis, plane in enumerate(Plane)}
    assert image.plane is min(degrees, key=lambda plane: degrees[plane])
    assert {plane for plane in Plane if image.lies_as(plane)} == {plane for plane in Plane if degrees[plane] <= 60}


def test_a_localiser_has_a_stack_for_each_plane() -> None:
    coronal = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))
    frames = [frame((z, z, z), directions) for z in (8, 0, 4) for directions in (SAGITTAL, coronal, AXIAL)]
    found = stacks(frames)
    assert sorted(map(sorted, found)) == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    for stack in found:
        axis = frames[stack[0]].plane.axis
        assert [frames[index].position_mm[axis] for index in stack] == [0, 4, 8]


def test_sagittal_slices_run_from_right_to_left_whatever_the_order() -> None:
    xs = [12.0, -8.0, 4.0, -4.0]
    for turned in (SAGITTAL, ((0.0, -1.0, 0.0), (0.0, 0.0, -1.0))):
        frames = [frame((x, 0, 0), turned) for x in xs]
        (order,) = stacks(frames)
        assert [xs[index] for index in order] == sorted(xs)


def test_blocks_of_different_tilt_are_different_stacks() -> None:
    def tilted(z: float, degrees: float) -> Frame:
        angle = np.deg2rad(degrees)
        return frame((0, 0, z), ((1.0, 0.0, 0.0), (0.0, float(np.cos(angle)), float(np.sin(angle)))))

    frames = [tilted(40, 10), tilted(0, -5), tilted(44, 10), tilted(4, -5), tilted(-4, -5)]
    assert stacks(frames) == [[4, 1, 3], [0, 2]]


@needs_published_files
def test_real_oblique_blocks_are_separate_stacks() -> None:
    datasets = [dcmread(path) for path in sorted((PUBLISHED / "ge_axial_t2").glob("*.dcm"))]
    frames = [
        Frame(
            tuple(map(float, ds.ImagePositionPatient)),
            tuple(map(float, ds.ImageOrientationPatient[:3])),
            tuple(map(float, ds.ImageOrientationPatient[3:])),
            tuple(map(float, ds.PixelSpacing)),
            (ds.Rows, ds.Columns),
        )
        for ds in datasets
    ]
    blocks = stacks(frames)
    assert [len(block) for block in blocks] == [3, 3, 3, 3]
    for block in blocks:
        heights = [frames[index].centre_mm[2] for index in block]
        assert heights == sorted(heights)
        assert len({tuple(np.round(frames[index].normal, 3)) for index in block}) == 1


def test_neighbours_stop_at_ends_gaps_and_repetitions() -> None:
    heights = [0, 4, 8, 40, 44, 44, 48]
    frames = [frame((0, 0, z), AXIAL) for z in heights]
    stack = list(range(len(frames)))
    assert neighbours(frames, stack, 1) == (0, 1, 2)
    assert neighbours(frames, stack, 0) == (0, 0, 1)
    assert neighbours(frames, stack, 2) == (1, 2, 2)  # a gap before the next block
    assert neighbours(frames, stack, 3) == (3, 3, 4)
    assert neighbours(frames, stack, 4) == (3, 4, 6)  # a repeated slice is not a neighbour
    assert neighbours(frames, [5], 5) == (5, 5, 5)
    with pytest.raises(ValueError):
        neighbours(frames, [0, 1], 6)


def test_neighbours_of_small_blocks_and_of_single_slices() -> None:
    pairs = [frame((0, 0, z), AXIAL) for z in (0, 4, 35, 39, 70, 74)]
    assert neighbours(pairs, range(6), 1) == (0, 1, 1) and neighbours(pairs, range(6), 2) == (2, 2, 3)
    one_a_disc = [frame((0, 0, z), AXIAL) for z in (0, 35, 70)]
    assert neighbours(one_a_disc, range(3), 1) == (1, 1, 1)
    assert neighbours([frame((0, 0, 0), AXIAL)] * 2, range(2), 0) == (0, 0, 0)


def test_neighbours_against_a_slow_version() -> None:
    random = np.random.default_rng(0)
    for _ in range(100):
        steps = random.choice([0.0, 4.0, 4.4, 5.0, 20.0], size=8)
        heights = np.cumsum(steps)
        frames = [frame((0, 0, z), AXIAL) for z in heights]
        gaps = sorted(step for step in steps[1:] if step > 0)
        limit = min(1.5 * gaps[(len(gaps) - 1) // 2], NEIGHBOUR_MM) if gaps else 0
        for index, here in enumerate(heights):
            below = [z for z in heights if z < here - 0.1 and here - z <= limit]
            above = [z for z in heights if z > here + 0.1 and z - here <= limit]
            expected = (max(below, default=here), here, min(above, default=here))
            assert tuple(heights[i] for i in neighbours(frames, range(8), index)) == pytest.approx(expected)


def test_nearest_is_by_plane_then_by_contents() -> None:
    frames = [frame((0, 0, 0), AXIAL), frame((500, 0, 10), AXIAL), frame((0, 0, 10), AXIAL)]
    assert nearest(frames, (10, 10, 9)) == 2
    assert nearest(frames, (10, 10, 1)) == 0
    with pytest.raises(ValueError, match="no frames"):
        nearest([], (0, 0, 0))


@pytest.mark.parametrize("error", [1e-9, 1e-6, 1e-3, -1e-3])
def test_of_equally_near_frames_the_first_that_contains_the_point_is_nearest(error: float) -> None:
    frames = [frame((500, 0, 0), AXIAL), frame((0, 0, 4.4 + error), AXIAL), frame((0, 0, 0), AXIAL)]
    assert nearest(frames, (10, 10, 2.2)) == 1
    assert nearest(frames[1:], (900, 10, 2.2)) == 0, "none contains it"
    assert nearest(frames, (10, 10, 2.1)) == 2


@pytest.mark.parametrize("error", [0.0, 1e-9, 1e-6, 1e-3])
def test_slices_at_one_position_keep_their_order(error: float) -> None:
    heights = [8.0, 4.0 + error, 0.0, 8.0 - error, 4.0, error]
    (stack,) = stacks([frame((0, 0, z), AXIAL) for z in heights])
    assert stack == [2, 5, 1, 4, 0, 3]


def test_a_gap_at_the_limit_is_no_matter_of_rounding() -> None:
    for error in (0.0, 1e-6, -1e-6):
        frames = [frame((0, 0, z), AXIAL) for z in (0.0, 4.0, 8.0, 14.0 + error)]
        assert neighbours(frames, range(4), 2) == (1, 2, 3)
