"""The lordotic curve, and coordinates that follow it.

Anatomy is drawn in *spine coordinates*: u, mm to the patient's left of the spine's midline; v, mm
posterior of the vertebral bodies' centre line; s, mm along that line, growing cranially, 0 at L3-L4.
In them every disc is level and the canal is a straight tube; bending them along the curve gives each disc its own angle
and each vertebra its wedge.

In the sagittal plane the centre line runs along ``t = (-sin phi, cos phi)`` in (y, z), with phi(s) the
tilt of the plane across it; the posterior direction is ``n = (cos phi, sin phi)``, and a point is
``P = C(s) + v n(s)``.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d, map_coordinates

Array = npt.NDArray[np.float64]
Field = npt.NDArray[np.floating[Any]]

#: Arc length is tabulated at this step, mm, over this range.
ARC_STEP_MM = 0.5
ARC_RANGE_MM = (-190.0, 230.0)

# The inverse, (y, z) -> (v, s), is tabulated on this grid, mm, and read bilinearly: it is smooth, and 2 mm is exact
# to some hundredths of a millimetre.
_GRID_STEP_MM = 2.0
_GRID_Y_MM = (-160.0, 160.0)
_GRID_Z_MM = (-170.0, 190.0)
_NEWTON_STEPS = 8
#: Posterior of the curve's centre of curvature there is no unique foot: the stretch is held above this.
_LEAST_STRETCH = 0.35


def arc_table() -> Array:
    """The arc lengths s, mm, at which everything along the spine is tabulated."""
    return np.arange(ARC_RANGE_MM[0], ARC_RANGE_MM[1] + ARC_STEP_MM / 2, ARC_STEP_MM)


def arc_index(s: Field) -> npt.NDArray[np.intp]:
    """Index of the nearest entry of `arc_table`."""
    index = ((s - np.float32(ARC_RANGE_MM[0] - ARC_STEP_MM / 2)) * np.float32(1 / ARC_STEP_MM)).astype(np.intp)
    return np.clip(index, 0, len(arc_table()) - 1, out=index)


@dataclass(frozen=True)
class SpineCurve:
    """tilt: phi at each of `arc_table`, radians; lateral: x of the midline there, mm (scoliosis)."""

    tilt: Array
    lateral: Array

    @classmethod
    def through(cls, arc_mm: Array, tilt_degrees: Array, lateral_mm: Array) -> "SpineCurve":
        """A smooth curve with the given tilt and lateral deviation at the given (ascending) arc lengths."""
        table = arc_table()
        tilt = gaussian_filter1d(np.interp(table, arc_mm, np.deg2rad(tilt_degrees)), 9.0 / ARC_STEP_MM, mode="nearest")
        lateral = gaussian_filter1d(np.interp(table, arc_mm, lateral_mm), 12.0 / ARC_STEP_MM, mode="nearest")
        return cls(tilt, lateral)

    @cached_property
    def centre_line(self) -> Array:
        """C(s) in (y, z), mm: (entries, 2), with C(0) = 0."""
        tangent = np.stack([-np.sin(self.tilt), np.cos(self.tilt)], axis=1)
        line = np.cumsum((tangent[1:] + tangent[:-1]) / 2 * ARC_STEP_MM, axis=0)
        line = np.concatenate([np.zeros((1, 2)), line])
        return line - line[round(-ARC_RANGE_MM[0] / ARC_STEP_MM)]

    def to_anatomy(self, u: float, v: float, s: float) -> Array:
        """Spine coordinates -> (x, y, z) in mm."""
        table = arc_table()
        phi = np.interp(s, table, self.tilt)
        y = np.interp(s, table, self.centre_line[:, 0]) + v * np.cos(phi)
        z = np.interp(s, table, self.centre_line[:, 1]) + v * np.sin(phi)
        return np.array([u + np.interp(s, table, self.lateral), y, z])

    def to_spine(self, x: Field, y: Field, z: Field) -> tuple[Field, Field, Field]:
        """(x, y, z) in mm -> (u, v, s), for arrays of one shape."""
        places = [(z - _GRID_Z_MM[0]) / _GRID_STEP_MM, (y - _GRID_Y_MM[0]) / _GRID_STEP_MM]
        v, s = (map_coordinates(channel, places, order=1, mode="nearest") for channel in self._grid)
        return x - np.interp(s, arc_table(), self.lateral), v, s

    @cached_property
    def _grid(self) -> Array:
        """(v, s) at the grid's points: (2, rows along z, columns along y), by Newton's method on the foot of each."""
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
        """Tilt and curvature at s, and the offset of (y, z) from C(s)."""
        table, line = arc_table(), self.centre_line
        phi, curvature = np.interp(s, table, self.tilt), np.interp(s, table, bend)
        return phi, curvature, y - np.interp(s, table, line[:, 0]), z - np.interp(s, table, line[:, 1])
