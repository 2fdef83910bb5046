"""Slice images: resampled to the grid, in whatever order the scanner stored slices, rows and columns."""

from dataclasses import replace

import numpy as np
import pytest

from data_prep.geometry import Frame, stacks
from data_prep.sites import View
from data_prep.studies.studies import Series, Slice, Study
from locator.slices import (
    MAX_SLICES,
    SAGITTAL_MM,
    SAGITTAL_SHAPE,
    axial_image,
    axial_triples,
    resample,
    sagittal_images,
)

RANDOM = np.random.default_rng(0)


def a_frame(x: float, spacing: tuple[float, float] = (0.8, 0.8), lean: float = 0.0) -> Frame:
    row = (-np.sin(lean), np.cos(lean), 0.0)
    return Frame((x, -80.0, 90.0), row, (0.0, 0.0, -1.0), spacing, (220, 200))


def a_series(frames: list[Frame], view: View = View.SAGITTAL_T1) -> Series:
    greys = [RANDOM.integers(0, 255, frame.shape, dtype=np.uint8) for frame in frames]
    order = [index for stack in stacks(frames) for index in stack]
    slices = tuple(Slice(index + 1, frames[index], greys[index]) for index in order)
    return Series(1, view, slices, (tuple(range(len(frames))),), (0.0, 255.0))


@pytest.mark.parametrize("spacing", [(0.8, 0.8), (2.0, 1.0), (0.5, 2.5)])
def test_a_pixel_has_the_value_of_its_position_in_the_patient(spacing: tuple[float, float]) -> None:
    """In a smooth slice, each resampled pixel is close to the slice's value at the pixel's position."""
    frame = a_frame(4.0, spacing, lean=0.15)
    rows, columns = np.indices(frame.shape)
    mm_down, mm_along = rows * spacing[0], columns * spacing[1]
    grey = np.rint(127 + 60 * np.sin(mm_down / 19) + 60 * np.cos(mm_along / 23)).astype(np.uint8)
    image, grid = resample(grey, frame, np.array([4.0, -10.0, 10.0]), sagittal=True)
    assert image.shape == SAGITTAL_SHAPE and grid.spacing_mm == (SAGITTAL_MM,) * 2
    checked = 0
    for row in range(0, SAGITTAL_SHAPE[0], 7):
        for column in range(0, SAGITTAL_SHAPE[1], 5):
            position = grid.to_patient((column, row))
            assert abs(frame.distance_mm(position)) < 1e-6
            at_column, at_row = frame.to_pixel(position)
            if 2 < at_column < 197 and 2 < at_row < 217:
                expected = 127 + 60 * np.sin(at_row * spacing[0] / 19) + 60 * np.cos(at_column * spacing[1] / 23)
                assert abs(int(image[row, column]) - expected) < 5
                checked += 1
            elif not frame.contains(position):
                assert abs(at_column - 99.5) < 103 or image[row, column] == 0
    assert checked > 50


def upside_down(image: Slice) -> Slice:
    """Return the same slice, stored with its rows in reverse order."""
    frame = image.frame
    assert frame is not None
    corner = frame.to_patient((0, frame.shape[0] - 1))
    turned = replace(
        frame,
        position_mm=tuple(corner.tolist()),
        column_direction=tuple((-np.array(frame.column_direction)).tolist()),
    )
    return replace(image, frame=turned, source=np.ascontiguousarray(image.grey[::-1]))


def test_rows_stored_upside_down_give_the_same_images() -> None:
    series = a_series([a_frame(x) for x in (-8.0, -4.0, 0.0, 4.0, 8.0)])
    turned = replace(series, slices=tuple(upside_down(image) for image in series.slices))
    for one, other in zip(sagittal_images(Study(1, (series,))), sagittal_images(Study(1, (turned,))), strict=True):
        np.testing.assert_allclose(one.frame.to_patient((3, 5)), other.frame.to_patient((3, 5)), atol=1e-9)
        assert abs(one.grey_3HW.astype(int) - other.grey_3HW).max() <= 1


def test_channels_run_from_the_patients_right_to_the_left() -> None:
    series = a_series([a_frame(x) for x in (4.0, 0.0, -4.0)])
    images = sagittal_images(Study(1, (series,)))
    assert [image.frame.centre_mm[0] for image in images] == pytest.approx([-4.0, 0.0, 4.0])
    for channel in range(3):
        np.testing.assert_array_equal(images[1].grey_3HW[channel], images[channel].grey_3HW[1])
    np.testing.assert_array_equal(images[0].grey_3HW[0], images[0].grey_3HW[1])


def test_a_volume_of_thin_slices_is_thinned_out_and_one_slice_is_enough() -> None:
    many = a_series([a_frame(float(x)) for x in np.arange(-30, 30, 1.0)])
    assert len(sagittal_images(Study(1, (many,)))) == MAX_SLICES
    assert len(sagittal_images(Study(1, (a_series([a_frame(0.0)]),)))) == 1
    assert sagittal_images(Study(1, ())) == []


def test_axial_images_show_the_patients_left_on_the_right() -> None:
    frame = Frame((60.0, 70.0, 3.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (1.0, 1.0), (140, 120))
    grey = np.zeros(frame.shape, dtype=np.uint8)
    column, row = frame.to_pixel((20.0, 10.0, 3.0))
    grey[round(row), round(column)] = 200
    series = Series(1, View.AXIAL_T2, (Slice(1, frame, grey),), ((0,),), (0.0, 255.0))
    (slices,) = axial_triples(Study(1, (series,)))
    image = axial_image(slices, np.array([0.0, 0.0, 9.0]))
    bright = np.argwhere(image.grey_3HW[1] > 40)
    assert (bright[:, 1] > 60).all() and (bright[:, 0] > 50).all()
    np.testing.assert_allclose(image.frame.to_pixel((20.0, 10.0, 3.0)), bright[:, ::-1].mean(axis=0), atol=0.6)
