"""The lordotic curve of the spine, and coordinates that follow it.

Anatomy is drawn in *spine coordinates*, in mm: u, to the patient's left of the midline of the spine; v, posterior of
the centre line of the vertebral bodies; s, along that line, increasing cranially, 0 at L3-L4. In these coordinates
every disc is level and the canal is a straight tube; the curve bends them, so that each disc gets its own angle and
each vertebra the shape of a wedge.

In the sagittal plane the centre line has the tangent ``t = (-sin phi, cos phi)`` in (y, z), where phi(s) is the tilt of
the plane across it. The posterior direction is ``n = (cos phi, sin phi)``, and a point is ``P = C(s) + v n(s)``.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d, map_coordinates

Array = npt.NDArray[np.float64]
Field = npt.NDArray[np.floating[Any]]

#: Step and range of the tabulated arc lengths, in mm.
ARC_STEP_MM = 0.5
ARC_RANGE_MM = (-190.0, 230.0)

# The inverse mapping, (y, z) -> (v, s), is tabulated on this grid (mm) and interpolated bilinearly. It is smooth, so
# that a step of 2 mm is exact to some hundredths of a millimetre.
_GRID_STEP_MM = 2.0
_GRID_Y_MM = (-160.0, 160.0)
_GRID_Z_MM = (-170.0, 190.0)
_NEWTON_STEPS = 8
#: Posterior of the centre of curvature the nearest point of the curve is not unique: the stretch is kept above this.
_LEAST_STRETCH = 0.35


def arc_table() -> Array:
    """Return the arc lengths s, in mm, at which all profiles along the spine are tabulated."""
    return np.arange(ARC_RANGE_MM[0], ARC_RANGE_MM[1] + ARC_STEP_MM / 2, ARC_STEP_MM)


def arc_index(s: Field) -> npt.NDArray[np.intp]:
    """Return the index of the nearest entry of `arc_table`."""
    index = ((s - np.float32(ARC_RANGE_MM[0] - ARC_STEP_MM / 2)) * np.float32(1 / ARC_STEP_MM)).astype(np.intp)
    return np.clip(index, 0, len(arc_table()) - 1, out=index)


@dataclass(frozen=True)
class SpineCurve:
    """The curve of one spine, at the entries of `arc_table`.

    tilt: phi in radians.
    lateral: x of the midline in mm (scoliosis).
    """

    tilt: Array
    lateral: Array

    @classmethod
    def through(cls, arc_mm: Array, tilt_degrees: Array, lateral_mm: Array) -> "SpineCurve":
        """Return a smooth curve with the given tilt and lateral deviation at the given (ascending) arc lengths."""
        table = arc_table()
        tilt = gaussian_filter1d(np.interp(table, arc_mm, np.deg2rad(tilt_degrees)), 9.0 / ARC_STEP_MM, mode="nearest")
        lateral = gaussian_filter1d(np.interp(table, arc_mm, lateral_mm), 12.0 / ARC_STEP_MM, mode="nearest")
        return cls(tilt, lateral)

    @cached_property
    def centre_line(self) -> Array:
        """C(s) as (y, z) in mm: (entries, 2), with C(0) = 0."""
        tangent = np.stack([-np.sin(self.tilt), np.cos(self.tilt)], axis=1)
        line = np.cumsum((tangent[1:] + tangent[:-1]) / 2 * ARC_STEP_MM, axis=0)
        line = np.concatenate([np.zeros((1, 2)), line])
        return line - line[round(-ARC_RANGE_MM[0] / ARC_STEP_MM)]

    def to_anatomy(self, u: float, v: float, s: float) -> Array:
        """Map spine coordinates to (x, y, z) in mm."""
        table = arc_table()
        phi = np.interp(s, table, self.tilt)
        y = np.interp(s, table, self.centre_line[:, 0]) + v * np.cos(phi)
        z = np.interp(s, table, self.centre_line[:, 1]) + v * np.sin(phi)
        return np.array([u + np.interp(s, table, self.lateral), y, z])

    def to_spine(self, x: Field, y: Field, z: Field) -> tuple[Field, Field, Field]:
        """Map (x, y, z) in mm, arrays of one shape, to spine coordinates (u, v, s)."""
        grid_points = [(z - _GRID_Z_MM[0]) / _GRID_STEP_MM, (y - _GRID_Y_MM[0]) / _GRID_STEP_MM]
        v, s = (map_coordinates(channel, grid_points, order=1, mode="nearest") for channel in self._grid)
        return x - np.interp(s, arc_table(), self.lateral), v, s

    @cached_property
    def _grid(self) -> Array:
        """(v, s) at the points of the grid, (2, rows along z, columns along y).

        Newton's method finds the foot of each point: the nearest point of the centre line.
        """
        y, z = np.meshgrid(
            np.arange(_GRID_Y_MM[0], _GRID_Y_MM[1] + 1, _GRID_STEP_MM),
            np.arange(_GRID_Z_MM[0], _GRID_Z_MM[1] + 1, _GRID_STEP_MM),
        )
        table, line = arc_table(), self.centre_line
        bend = np.gradient(self.tilt, ARC_STEP_MM)
        s = np.interp(z.ravel(), line[:, 1], table).reshape(z.shape)
        for _ in range(_NEWTON_STEPS):
            phi, curvature, from_y, from_z = self._foot(s, y, z, bend)
            along = -np.sin(phi) * from_y + np.cos(phi) * from_z
            across = np.cos(phi) * from_y + np.sin(phi) * from_z
            s = s + np.clip(along / np.maximum(1 + curvature * across, _LEAST_STRETCH), -20, 20)
            s = np.clip(s, table[0], table[-1])
        phi, _, from_y, from_z = self._foot(s, y, z, bend)
        return np.stack([np.cos(phi) * from_y + np.sin(phi) * from_z, s])

    def _foot(self, s: Array, y: Array, z: Array, bend: Array) -> tuple[Array, Array, Array, Array]:
        """Return the tilt and curvature at s, and the two components of the offset of (y, z) from C(s)."""
        table, line = arc_table(), self.centre_line
        phi, curvature = np.interp(s, table, self.tilt), np.interp(s, table, bend)
        return phi, curvature, y - np.interp(s, table, line[:, 0]), z - np.interp(s, table, line[:, 1])
