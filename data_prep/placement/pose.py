"""The pose of a patient's spine: the translation, scale and sagittal tilt that align the mean spine with it."""

from dataclasses import dataclass

import numpy as np

from data_prep.geometry import Array

#: Points within this distance along the spine belong to one level and do not determine scale or tilt.
ONE_LEVEL_MM = 20.0
#: Bounds of plausible poses, as scale, scale and tilt: a pose beyond them was fitted to wrong points.
SMALLEST, LARGEST, STEEPEST = 0.6, 1.6, np.deg2rad(40.0)


@dataclass(frozen=True)
class Pose:
    """The mapping ``origin_mm + scale * tilted(point)`` from the mean spine to the patient.

    The tilt is in radians and rotates +y towards +z. Points are arrays of shape (..., 3) in mm.
    """

    origin_mm: Array
    scale: float = 1.0
    tilt: float = 0.0

    @property
    def is_plausible(self) -> bool:
        """Whether a patient may have this pose (`SMALLEST`, `LARGEST`, `STEEPEST`)."""
        finite = np.isfinite(self.origin_mm).all()
        return bool(finite and SMALLEST <= self.scale <= LARGEST and abs(self.tilt) <= STEEPEST)

    def apply(self, point_N3: Array) -> Array:
        """Map points of the mean spine to the patient."""
        return self.origin_mm + self.scale * point_N3 @ tilt_matrix(self.tilt).T

    def invert(self, point_N3: Array) -> Array:
        """Map points of the patient to the mean spine."""
        return (point_N3 - self.origin_mm) @ tilt_matrix(self.tilt) / self.scale


def tilt_matrix(angle: float) -> Array:
    """Return the (3, 3) matrix that rotates (y, z) by `angle` in radians, +y towards +z."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])


def fit_pose(shape_N3: Array, position_N3: Array) -> Pose:
    """Fit a pose by least squares (Umeyama 1991, with the sagittal plane as complex numbers).

    Points of a single level (`ONE_LEVEL_MM`) do not determine scale and tilt, which then stay 1 and 0.

    Args:
        shape_N3: Points of the mean spine, NaN if unknown.
        position_N3: The same points in the patient, NaN if unknown.
    """
    found = np.isfinite(position_N3 + shape_N3).all(axis=1)
    shape, position = shape_N3[found], position_N3[found]
    shape_middle, position_middle = shape.mean(axis=0), position.mean(axis=0)
    scale, tilt = 1.0, 0.0
    if np.ptp(shape[:, 2]) > ONE_LEVEL_MM:
        q, p = (points[:, 1] + 1j * points[:, 2] for points in (shape - shape_middle, position - position_middle))
        turn = np.vdot(q, p) / np.vdot(q, q)
        scale, tilt = float(abs(turn)), float(np.angle(turn))
    return Pose(position_middle - scale * tilt_matrix(tilt) @ shape_middle, scale, tilt)
