"""Laying a mean spine on a patient: a shift, one scale, and one tilt in the sagittal plane."""

from dataclasses import dataclass

import numpy as np

from data_prep.geometry import Array

#: Points nearer together than this along the spine do not tell scale or tilt: they are of one level.
ONE_LEVEL_MM = 20.0
#: No spine is smaller, larger, or lies more tilted in the scanner: a pose beyond these comes of wrong points.
SMALLEST, LARGEST, STEEPEST = 0.6, 1.6, np.deg2rad(40.0)


@dataclass(frozen=True)
class Pose:
    """Mean spine -> patient: ``origin_mm + scale * tilted(point)``; the tilt, in radians, turns +y towards +z.

    Points are in mm, (x, y, z) last, in an array of any shape.
    """

    origin_mm: Array
    scale: float = 1.0
    tilt: float = 0.0

    @property
    def is_plausible(self) -> bool:
        finite = np.isfinite(self.origin_mm).all()
        return bool(finite and SMALLEST <= self.scale <= LARGEST and abs(self.tilt) <= STEEPEST)

    def apply(self, point_N3: Array) -> Array:
        return self.origin_mm + self.scale * point_N3 @ tilt_matrix(self.tilt).T

    def invert(self, point_N3: Array) -> Array:
        return (point_N3 - self.origin_mm) @ tilt_matrix(self.tilt) / self.scale


def tilt_matrix(angle: float) -> Array:
    """(3, 3): turns (y, z) by `angle` in radians, +y towards +z."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])


def fit_pose(shape_N3: Array, position_N3: Array) -> Pose:
    """Least squares over the positions that are finite (Umeyama 1991, in the sagittal plane as complex numbers).

    shape_N3, position_N3: the same points in the mean spine and in the patient, NaN where unknown. From points
    of one level alone (`ONE_LEVEL_MM`) no scale and tilt can be told: they stay 1 and 0.
    """
    found = np.isfinite(position_N3 + shape_N3).all(axis=1)
    shape, place = shape_N3[found], position_N3[found]
    shape_middle, place_middle = shape.mean(axis=0), place.mean(axis=0)
    scale, tilt = 1.0, 0.0
    if np.ptp(shape[:, 2]) > ONE_LEVEL_MM:
        q, p = (points[:, 1] + 1j * points[:, 2] for points in (shape - shape_middle, place - place_middle))
        turn = np.vdot(q, p) / np.vdot(q, q)
        scale, tilt = float(abs(turn)), float(np.angle(turn))
    return Pose(place_middle - scale * tilt_matrix(tilt) @ shape_middle, scale, tilt)
