"""The input of the locator's networks: slices of a study, resampled to one physical grid per orientation.

- sagittal: `SAGITTAL_MM` per pixel, centred on the middle of the volume; columns run to +y (posterior), rows to -z
  (caudal);
- axial: `AXIAL_MM` per pixel, centred on a point that the caller gives; columns run to +x (the patient's left), rows
  to +y.

A slice image has its own `Frame`, so that its pixels have positions in the patient, in whatever order the scanner
stored slices, rows and columns, and whether or not its pixels were square. Three neighbouring slices of one stack
(right to left, caudal to cranial) are the three channels of a network's input.
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
#: Sagittal slices further than this from the middle of their volume show ribs and flanks: foramina lie within 25 mm.
SAGITTAL_REACH_MM = 40.0
#: The largest number of slices that is used per series: of the thin slices of an isotropic volume, only some are.
MAX_SLICES = 28
#: An image whose grey values have a smaller standard deviation than this, of 255, is blank.
MIN_CONTRAST = 2.0
#: A row of an image is visible if one of its pixels is brighter than this, of 255.
DARK_GREY = 24


@dataclass(frozen=True)
class SliceTriple:
    """A slice of a series, with its two neighbours in its stack.

    index: of the slice in `series.slices`; triple: the indices of the slice before it, of itself, and of the one after.
    """

    series: Series
    index: int
    triple: tuple[int, int, int]

    @property
    def frame(self) -> Frame:
        return self.series.frames[self.index]


@dataclass(frozen=True)
class SliceImage:
    """Three neighbouring slices, resampled as a network's input; `frame` describes the pixels of the middle one."""

    grey_3HW: Grey
    frame: Frame
    slices: SliceTriple

    @property
    def view(self) -> View:
        assert self.slices.series.view is not None
        return self.slices.series.view

    @property
    def has_contrast(self) -> bool:
        """Whether the middle slice is not blank: a network returns heatmaps for a blank slice too."""
        return bool(self.grey_3HW[1].std() >= MIN_CONTRAST)


def sagittal_images(study: Study) -> list[SliceImage]:
    """Return all sagittal slice images around the middle of their volume, series by series."""
    return [
        image
        for series in study.series
        if series.view is not None and series.view.is_sagittal and series.frames
        for image in _sagittal_images_of_series(series)
    ]


def _sagittal_images_of_series(series: Series) -> list[SliceImage]:
    middle = volume_middle(series)
    triples = [
        triple for triple in slice_triples(series) if abs(triple.frame.centre_mm[0] - middle[0]) <= SAGITTAL_REACH_MM
    ]
    kept = _thin_out(triples)
    resampled = {
        index: resample(series.slices[index].grey, series.frames[index], middle, sagittal=True)
        for slices in kept
        for index in slices.triple
    }
    images = [
        SliceImage(np.stack([resampled[index][0] for index in slices.triple]), resampled[slices.index][1], slices)
        for slices in kept
    ]
    return [image for image in images if image.has_contrast]


def axial_triples(study: Study) -> list[SliceTriple]:
    """Return all axial slices that have a position in the patient, with their neighbours."""
    return [slices for series in study.of_view(View.AXIAL_T2) for slices in slice_triples(series)]


def axial_image(slices: SliceTriple, centre_mm: Array) -> SliceImage:
    """Resample an axial slice and its neighbours around a point."""
    resampled = [
        resample(slices.series.slices[index].grey, slices.series.frames[index], centre_mm, sagittal=False)
        for index in slices.triple
    ]
    return SliceImage(np.stack([grey for grey, _ in resampled]), resampled[1][1], slices)


def slice_triples(series: Series) -> list[SliceTriple]:
    """Return the slices whose orientation fits the view of their series, stack by stack, with their neighbours."""
    triples = []
    for complete_stack in series.stacks:
        stack = [index for index in complete_stack if index in series.frames]
        triples += [SliceTriple(series, index, neighbours(series.frames, stack, index)) for index in stack]
    return triples


def resample(grey: Grey, frame: Frame, centre_mm: Array, sagittal: bool) -> tuple[Grey, Frame]:
    """Resample one slice to the grid of its orientation, centred on the projection of a point onto its plane.

    Fine images are first averaged over whole blocks of pixels, then interpolated bilinearly.

    Returns:
        The grey values, 0 outside the image, and the frame of the grid.
    """
    grid = grid_around(frame, centre_mm, sagittal)
    step = [  # rows, columns
        max(1, min(int(grid.spacing_mm[0] / spacing), size))
        for spacing, size in zip(frame.spacing_mm, frame.shape, strict=True)
    ]
    small = _block_means(grey, *step)
    to_image = frame.inverse_affine @ grid.affine
    columns, rows = np.arange(grid.shape[1])[None, :], np.arange(grid.shape[0])[:, None]
    at_column, at_row = (along * columns + down * rows + first for along, down, _, first in to_image[:2])
    # The mean of a block is the value at the block's middle.
    return _bilinear(small, (at_row + 0.5) / step[0] - 0.5, (at_column + 0.5) / step[1] - 0.5), grid


def grid_around(frame: Frame, centre_mm: Array, sagittal: bool) -> Frame:
    """Return the grid in the plane of a slice that is as parallel to the patient's axes as the plane allows."""
    to_columns, to_rows = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0]] if sagittal else [[1.0, 0, 0], [0, 1.0, 0]])
    normal = frame.normal
    row_direction = to_columns - (to_columns @ normal) * normal
    row_direction = row_direction / np.linalg.norm(row_direction)
    column_direction = np.cross(normal, row_direction)
    column_direction *= np.sign(column_direction @ to_rows)
    spacing, shape = (SAGITTAL_MM, SAGITTAL_SHAPE) if sagittal else (AXIAL_MM, AXIAL_SHAPE)
    projection = np.asarray(centre_mm) - frame.distance_mm(centre_mm) * normal
    corner = projection - spacing * (row_direction * (shape[1] - 1) / 2 + column_direction * (shape[0] - 1) / 2)
    return Frame(
        tuple(corner.tolist()), tuple(row_direction.tolist()), tuple(column_direction.tolist()), (spacing,) * 2, shape
    )


def _thin_out(triples: list[SliceTriple]) -> list[SliceTriple]:
    if len(triples) <= MAX_SLICES:
        return triples
    kept = np.unique(np.linspace(0, len(triples) - 1, MAX_SLICES).round().astype(int))
    return [triples[index] for index in kept]


def _block_means(grey: Grey, rows: int, columns: int) -> npt.NDArray[np.float32]:
    high, wide = grey.shape[0] // rows, grey.shape[1] // columns
    if (rows, columns) == (1, 1):
        return grey.astype(np.float32)
    blocks = grey[: high * rows, : wide * columns].reshape(high, rows, wide, columns)
    summed = blocks.sum(axis=3, dtype=np.uint32).sum(axis=1)
    return (summed / np.float32(rows * columns)).astype(np.float32)


def _bilinear(image: npt.NDArray[np.float32], rows: Array, columns: Array) -> Grey:
    """Return the image's values at fractional rows and columns; 0 outside the image."""
    last_row, last_column = image.shape[0] - 1, image.shape[1] - 1
    inside = (rows >= -0.5) & (rows <= last_row + 0.5) & (columns >= -0.5) & (columns <= last_column + 0.5)
    rows, columns = np.clip(rows, 0, last_row), np.clip(columns, 0, last_column)
    top, left = np.floor(rows).astype(np.intp), np.floor(columns).astype(np.intp)
    bottom, right = np.minimum(top + 1, last_row), np.minimum(left + 1, last_column)
    down, across = (rows - top).astype(np.float32), (columns - left).astype(np.float32)
    upper = image[top, left] * (1 - across) + image[top, right] * across
    lower = image[bottom, left] * (1 - across) + image[bottom, right] * across
    return np.rint((upper * (1 - down) + lower * down) * inside).astype(np.uint8)


def stack_images(images: Sequence[SliceImage]) -> Grey:
    """Return the grey values of slice images as one array, (B, 3, H, W)."""
    return np.stack([image.grey_3HW for image in images])
