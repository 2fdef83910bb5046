"""Render the anatomy of a patient on the plane of an image, without noise."""

from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.geometry import Frame
from data_prep.phantom.anatomy import Patient
from data_prep.phantom.arch import paint_arch
from data_prep.phantom.canal import paint_canal
from data_prep.phantom.canvas import Canvas
from data_prep.phantom.column import paint_column
from data_prep.phantom.surroundings import paint_surroundings
from data_prep.phantom.tissues import Palette, Texture, Tissue, grain_at, swell_at, texture_index

Field = npt.NDArray[np.floating[Any]]
Points = tuple[Field, Field, Field]

#: Spine coordinates and the coarse texture vary slowly: they are computed at this distance and interpolated linearly.
#: On a curve of 110 mm radius the error is less than 0.05 mm.
_CURVE_STEP_MM = 6.0
_SWELL_STEP_MM = 3.0


def render(patient: Patient, frame: Frame, palette: Palette, offset_mm: float = 0.0) -> Field:
    """Return the noiseless image (rows, columns) of the tissues' signals.

    `offset_mm` moves the plane along its normal.
    """
    canvas = _blank(patient, frame, palette, offset_mm)
    paint_surroundings(canvas)
    across, w = canvas.across, canvas.w
    canvas.within((across < 46) & (w < 3) & (canvas.v > -48), paint_column)
    canvas.within((across < 44) & (w > -5) & (w < 56), paint_arch)
    canvas.within((across < 28) & (w > -4) & (w < 24) & (canvas.s > patient.sacrum_end), paint_canal)
    return canvas.image.reshape(frame.shape)


def _blank(patient: Patient, frame: Frame, palette: Palette, offset_mm: float) -> Canvas:
    """Return a canvas of all pixels of a plane, with their coordinates and texture, filled with fat."""
    rows, columns = (np.arange(count, dtype=np.float32) for count in frame.shape)
    start = patient.body.texture_origin_mm.astype(np.float32)

    def at(rows: Field, columns: Field) -> Points:
        return _anatomy_points(patient, frame, offset_mm, rows, columns)

    def cells(points: Points) -> npt.NDArray[np.intp]:
        x, y, z = (axis + first for axis, first in zip(points, start, strict=True))
        return texture_index(x, y, z)

    knot_rows, knot_columns = (_knots(count, frame.spacing_mm[0], _CURVE_STEP_MM) for count in frame.shape)
    u, v, s = (
        _between(values, knot_rows, knot_columns, frame.shape)
        for values in patient.curve.to_spine(*at(knot_rows, knot_columns))
    )
    knot_rows, knot_columns = (_knots(count, frame.spacing_mm[0], _SWELL_STEP_MM) for count in frame.shape)
    swell = _between(swell_at(cells(at(knot_rows, knot_columns))), knot_rows, knot_columns, frame.shape)
    index = cells(at(rows, columns)).ravel()
    image = np.full(index.shape, palette.signal[Tissue.FAT], dtype=np.float32)
    return Canvas(patient, palette, image, Texture(index, grain_at(index), swell), u, v, s)


def _anatomy_points(patient: Patient, frame: Frame, offset_mm: float, rows: Field, columns: Field) -> Points:
    """Return x, y, z of the pixels in these rows and columns, each (len(rows), len(columns)), in the anatomy's axes."""
    to_anatomy = patient.body.rotation.T
    # The header's directions as they are: the orthonormalised ones of `Frame.affine` would change a cohort's pixels.
    corner = to_anatomy @ (frame.to_patient((0, 0)) + frame.normal * offset_mm - patient.body.origin_mm)
    along = to_anatomy @ np.asarray(frame.row_direction) * frame.spacing_mm[1]
    down = to_anatomy @ np.asarray(frame.column_direction) * frame.spacing_mm[0]
    x, y, z = (
        (np.float32(corner[axis]) + np.float32(along[axis]) * columns[None, :]) + np.float32(down[axis]) * rows[:, None]
        for axis in range(3)
    )
    return x, y, z


def _knots(count: int, spacing_mm: float, step_mm: float) -> Field:
    """Return pixel coordinates from the first to the last pixel, about `step_mm` apart."""
    pieces = max(int(np.ceil((count - 1) * spacing_mm / step_mm)), 1)
    return np.linspace(0, count - 1, pieces + 1, dtype=np.float32)


def _between(values: Field, knot_rows: Field, knot_columns: Field, shape: tuple[int, int]) -> Field:
    """Interpolate values at the knots bilinearly to every pixel; return them flattened."""
    down, along = _weights(knot_rows, shape[0]), _weights(knot_columns, shape[1])
    return (down @ values.astype(np.float32) @ along.T).ravel()


def _weights(knots: Field, count: int) -> Field:
    """Return the weights (count, knots) of linear interpolation at each pixel."""
    pixels = np.arange(count, dtype=np.float32)
    right = np.clip(np.searchsorted(knots, pixels), 1, len(knots) - 1)
    share = (pixels - knots[right - 1]) / (knots[right] - knots[right - 1])
    weights = np.zeros((count, len(knots)), dtype=np.float32)
    weights[np.arange(count), right - 1] = 1 - share
    weights[np.arange(count), right] = share
    return weights
