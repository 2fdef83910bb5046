"""What the locator's networks see of a study: slices resampled to one physical grid, in one orientation.

- sagittal: `SAGITTAL_MM` a pixel, centred on the volume's middle; columns run to +y (posterior), rows to -z (caudal);
- axial: `AXIAL_MM` a pixel, centred where the caller says; columns run to +x (the patient's left), rows to +y.

A picture has a `Frame` of its own, so that its pixels are places in the patient, whatever the scanner's order of
slices, rows or columns was, and whether its pixels were square. Three neighbouring slices of one stack (right to
left, caudal to cranial) are the three channels of what a network sees.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_prep.geometry import Array, Frame, neighbours
from data_prep.placement.template_matching import volume_middle
from data_prep.sites import View
from data_prep.studies.studies import Series, Study

Grey = npt.NDArray[np.uint8]

SAGITTAL_MM, SAGITTAL_SHAPE = 2.0, (144, 112)
AXIAL_MM, AXIAL_SHAPE = 1.0, (96, 96)
#: Sagittal slices further than this from their volume's middle show ribs and flanks: foramina lie within 25 mm.
SAGITTAL_REACH_MM = 40.0
#: Slices of a series that are looked at, at most: thin ones of an isotropic volume are thinned out.
MOST_SLICES = 28
#: Grey values of a picture that deviate less than this, of 255, are blank.
LEAST_CONTRAST = 2.0


@dataclass(frozen=True)
class Place:
    """A slice of a series that may be looked at: its place in `slices`, and its neighbours' (before, itself, after)."""

    series: Series
    index: int
    triple: tuple[int, int, int]

    @property
    def frame(self) -> Frame:
        return self.series.frames[self.index]


@dataclass(frozen=True)
class Picture:
    """Three neighbouring slices as a network sees them; `frame` is that of the middle one's pixels."""

    grey_3HW: Grey
    frame: Frame
    place: Place

    @property
    def view(self) -> View:
        assert self.place.series.view is not None
        return self.place.series.view

    @property
    def shows_something(self) -> bool:
        """A blank slice shows nothing, but a network has an opinion of everything."""
        return bool(self.grey_3HW[1].std() >= LEAST_CONTRAST)


def sagittal_pictures(study: Study) -> list[Picture]:
    """Every sagittal slice around the middle of its volume, series by series."""
    return [
        picture
        for series in study.series
        if series.view is not None and series.view.is_sagittal and series.frames
        for picture in _sagittal_pictures_of(series)
    ]


def _sagittal_pictures_of(series: Series) -> list[Picture]:
    middle = volume_middle(series)
    places = [place for place in places_of(series) if abs(place.frame.centre_mm[0] - middle[0]) <= SAGITTAL_REACH_MM]
    kept = _thinned(places)
    seen = {
        index: resampled(series.slices[index].grey, series.frames[index], middle, sagittal=True)
        for place in kept
        for index in place.triple
    }
    pictures = [
        Picture(np.stack([seen[index][0] for index in place.triple]), seen[place.index][1], place) for place in kept
    ]
    return [picture for picture in pictures if picture.shows_something]


def axial_places(study: Study) -> list[Place]:
    """Every axial slice with a place in the patient."""
    return [place for series in study.of_view(View.AXIAL_T2) for place in places_of(series)]


def axial_picture(place: Place, centre_mm: Array) -> Picture:
    """An axial slice and its neighbours around a place."""
    seen = [
        resampled(place.series.slices[index].grey, place.series.frames[index], centre_mm, sagittal=False)
        for index in place.triple
    ]
    return Picture(np.stack([grey for grey, _ in seen]), seen[1][1], place)


def places_of(series: Series) -> list[Place]:
    """The slices of a series that lie as its view says, stack by stack, each with its neighbours."""
    places = []
    for whole_stack in series.stacks:
        stack = [index for index in whole_stack if index in series.frames]
        places += [Place(series, index, neighbours(series.frames, stack, index)) for index in stack]
    return places


def resampled(grey: Grey, frame: Frame, centre_mm: Array, sagittal: bool) -> tuple[Grey, Frame]:
    """One slice on its view's grid around the foot of a place in its plane, and that grid's frame; 0 off the image.

    Fine images are first averaged over whole blocks of pixels, then read bilinearly.
    """
    grid = grid_around(frame, centre_mm, sagittal)
    step = [max(1, int(grid.spacing_mm[0] / spacing)) for spacing in frame.spacing_mm]  # rows, columns
    small = _block_means(grey, *step)
    to_image = frame.inverse_affine @ grid.affine
    columns, rows = np.arange(grid.shape[1])[None, :], np.arange(grid.shape[0])[:, None]
    at_column, at_row = (along * columns + down * rows + first for along, down, _, first in to_image[:2])
    # A block's mean stands at its middle.
    return _bilinear(small, (at_row + 0.5) / step[0] - 0.5, (at_column + 0.5) / step[1] - 0.5), grid


def grid_around(frame: Frame, centre_mm: Array, sagittal: bool) -> Frame:
    """The grid in a slice's plane, as square to the patient's axes as the plane allows."""
    to_columns, to_rows = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0]] if sagittal else [[1.0, 0, 0], [0, 1.0, 0]])
    normal = frame.normal
    row_direction = to_columns - (to_columns @ normal) * normal
    row_direction = row_direction / np.linalg.norm(row_direction)
    column_direction = np.cross(normal, row_direction)
    column_direction *= np.sign(column_direction @ to_rows)
    spacing, shape = (SAGITTAL_MM, SAGITTAL_SHAPE) if sagittal else (AXIAL_MM, AXIAL_SHAPE)
    foot = np.asarray(centre_mm) - frame.distance_mm(centre_mm) * normal
    corner = foot - spacing * (row_direction * (shape[1] - 1) / 2 + column_direction * (shape[0] - 1) / 2)
    return Frame(
        tuple(corner.tolist()), tuple(row_direction.tolist()), tuple(column_direction.tolist()), (spacing,) * 2, shape
    )


def _thinned(places: list[Place]) -> list[Place]:
    if len(places) <= MOST_SLICES:
        return places
    kept = np.unique(np.linspace(0, len(places) - 1, MOST_SLICES).round().astype(int))
    return [places[index] for index in kept]


def _block_means(grey: Grey, rows: int, columns: int) -> npt.NDArray[np.float32]:
    high, wide = grey.shape[0] // rows, grey.shape[1] // columns
    if (rows, columns) == (1, 1) or not high or not wide:
        return grey.astype(np.float32)
    blocks = grey[: high * rows, : wide * columns].reshape(high, rows, wide, columns)
    summed = blocks.sum(axis=3, dtype=np.uint32).sum(axis=1)
    return (summed / np.float32(rows * columns)).astype(np.float32)


def _bilinear(image: npt.NDArray[np.float32], rows: Array, columns: Array) -> Grey:
    """Values at fractional places; 0 where one is off the image."""
    last_row, last_column = image.shape[0] - 1, image.shape[1] - 1
    inside = (rows >= -0.5) & (rows <= last_row + 0.5) & (columns >= -0.5) & (columns <= last_column + 0.5)
    rows, columns = np.clip(rows, 0, last_row), np.clip(columns, 0, last_column)
    top, left = np.floor(rows).astype(np.intp), np.floor(columns).astype(np.intp)
    bottom, right = np.minimum(top + 1, last_row), np.minimum(left + 1, last_column)
    down, across = (rows - top).astype(np.float32), (columns - left).astype(np.float32)
    upper = image[top, left] * (1 - across) + image[top, right] * across
    lower = image[bottom, left] * (1 - across) + image[bottom, right] * across
    return np.rint((upper * (1 - down) + lower * down) * inside).astype(np.uint8)


def as_batch(pictures: Sequence[Picture]) -> Grey:
    """(B, 3, H, W)."""
    return np.stack([picture.grey_3HW for picture in pictures])
