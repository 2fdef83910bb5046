"""data_prep/geometry.py against the standard's equation, written out, and against real oblique blocks."""

import numpy as np
import pytest
from pydicom import dcmread

from data_prep.geometry import Frame, nearest, neighbours, stacks
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
    np.testing.assert_allclose(image.to_patient(17.5, 40.25), matrix @ [17.5, 40.25, 1])
    off_plane = image.to_patient(17.5, 40.25) - 3.25 * image.normal
    np.testing.assert_allclose(image.to_pixel(off_plane), [17.5, 40.25])
    assert image.distance_mm(off_plane) == pytest.approx(-3.25)


@pytest.mark.parametrize(
    "wrong",
    [
        {"spacing_mm": (0.0, 1.0)},
        {"position_mm": (np.nan, 0.0, 0.0)},
        {"row_direction": (1.0, 1.0, 0.0)},
        {"row_direction": (0.0, 1.0, 0.0)},
        {"shape": (0, 5)},
    ],
)
def test_a_frame_that_is_none_is_refused(wrong: dict) -> None:
    good = {
        "position_mm": (0.0, 0.0, 0.0),
        "row_direction": (1.0, 0.0, 0.0),
        "column_direction": (0.0, 1.0, 0.0),
        "spacing_mm": (1.0, 1.0),
        "shape": (4, 4),
    }
    with pytest.raises(ValueError, match=r"geometry|spacing|shape|orientation"):
        Frame(**(good | wrong))


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
def test_real_oblique_blocks_are_told_apart() -> None:
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


def test_neighbours_stop_at_ends_jumps_and_repeats() -> None:
    heights = [0, 4, 8, 40, 44, 44, 48]
    frames = [frame((0, 0, z), AXIAL) for z in heights]
    stack = list(range(len(frames)))
    assert neighbours(frames, stack, 1) == (0, 1, 2)
    assert neighbours(frames, stack, 0) == (0, 0, 1)
    assert neighbours(frames, stack, 2) == (1, 2, 2)  # a jump to the next block
    assert neighbours(frames, stack, 3) == (3, 3, 4)
    assert neighbours(frames, stack, 4) == (3, 4, 6)  # a repeated place is no neighbour
    assert neighbours(frames, [5], 5) == (5, 5, 5)
    with pytest.raises(ValueError):
        neighbours(frames, [0, 1], 6)


def test_nearest_is_by_plane_then_by_what_it_shows() -> None:
    frames = [frame((0, 0, 0), AXIAL), frame((500, 0, 10), AXIAL), frame((0, 0, 10), AXIAL)]
    assert nearest(frames, (10, 10, 9)) == 2
    assert nearest(frames, (10, 10, 1)) == 0
    with pytest.raises(ValueError, match="no frames"):
        nearest([], (0, 0, 0))
