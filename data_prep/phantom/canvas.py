"""Paint tissues over one another with soft edges, back to front.

Every shape is a signed distance in mm, negative inside. Its coverage falls from 1 to 0 across `EDGE_MM`, which
simulates the partial volume effect. All painters use these names: u, v, s as in `curve`; `across` is |u|; `w` is the
distance in mm behind the posterior wall; `t` is the height in mm above the centre of the nearest disc.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.phantom.anatomy import Patient
from data_prep.phantom.curve import arc_index
from data_prep.phantom.tissues import ROUGHNESS, Palette, Texture, Tissue

Field = npt.NDArray[np.floating[Any]]
Index = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

EDGE_MM = 1.2


def cover(distance: Field, edge: float = EDGE_MM) -> Field:
    """Return the share of each pixel inside a shape, from the signed distance in mm.

    >>> cover(np.array([-2.0, 0.0, 0.3, 2.0]))
    array([1.  , 0.5 , 0.25, 0.  ])
    """
    share = distance * (-1 / edge)
    share += 0.5
    np.maximum(share, 0, out=share)
    return np.minimum(share, 1, out=share)


def ellipse(a: Field, b: Field, half_a: Field | float, half_b: Field | float) -> Field:
    """Return the approximate signed distance from an ellipse centred at (0, 0)."""
    a, b = a / half_a, b / half_b
    radius = np.sqrt(a * a + b * b)
    radius -= 1
    return radius * np.minimum(half_a, half_b)


def band(distance: Field, half_thickness: Field | float) -> Field:
    """Return the signed distance from a shell along the surface of a shape."""
    return np.abs(distance) - half_thickness


def common(first: Field, *others: Field) -> Field:
    """Return the signed distance from the intersection of all shapes."""
    for other in others:
        first = np.maximum(first, other)
    return first


def bump(distance: Field, width: float) -> Field:
    """Return a flat-topped bump: 1 at 0, 0.37 at `width`, and close to 0 beyond."""
    share = distance * (1 / width)
    share *= share
    share *= share
    return np.exp(-share)


@dataclass
class Canvas:
    """The brightness of some pixels, with their spine coordinates."""

    patient: Patient
    palette: Palette
    image: Field
    texture: Texture
    u: Field
    v: Field
    s: Field

    @cached_property
    def entry(self) -> Index:
        return arc_index(self.s)

    @cached_property
    def across(self) -> Field:
        return np.abs(self.u)

    @cached_property
    def w(self) -> Field:
        return self.v - self.along(self.patient.wall)

    @cached_property
    def t(self) -> Field:
        return self.s - self.by_disc(self.patient.disc_arc)

    @cached_property
    def from_body(self) -> Field:
        """Height in mm above the centre of the nearest vertebral body."""
        return self.s - self.by_body(self.patient.body_arc)

    def along(self, profile: Field) -> Field:
        """Return the value of a profile along the spine at each pixel."""
        return profile.astype(np.float32).take(self.entry)

    def by_disc(self, values: Field) -> Field:
        """Return per pixel the value of the nearest disc, from one value per disc."""
        return self.along(values[self.patient.nearest_disc])

    def by_body(self, values: Field) -> Field:
        """Return per pixel the value of the nearest vertebral body, from one value per body."""
        return self.along(values[self.patient.nearest_body])

    def by_side(self, values: Field) -> Field:
        """Return per pixel the value of the nearest disc on the pixel's side, from values (discs, 2), left first."""
        left, right = (self.by_disc(values[:, side]) for side in (0, 1))
        return np.where(self.u > 0, left, right)

    def reaches(self, low: float, high: float) -> bool:
        """Return whether |u| of some pixel may lie between `low` and `high`."""
        return bool(self._nearest_across < high and self._farthest_across > low)

    @cached_property
    def _nearest_across(self) -> float:
        return float(self.across.min())

    @cached_property
    def _farthest_across(self) -> float:
        return float(self.across.max())

    def paint(self, tissue: Tissue, coverage: Field, gain: Field | float = 1.0) -> None:
        """Paint a tissue over the present content, with the given coverage per pixel."""
        signal = gain * np.float32(self.palette.signal[tissue])
        rough = ROUGHNESS[tissue]
        if rough:
            signal = signal + (signal * rough) * self.texture.grain
        change = signal - self.image
        change *= coverage
        self.image += change

    def within(self, inside: Mask, painter: Callable[["Canvas"], None]) -> None:
        """Run a painter on only those pixels that are `inside`."""
        index = np.flatnonzero(inside)
        if not len(index):
            return
        part = Canvas(
            self.patient, self.palette, self.image.take(index), self.texture.take(index),
            self.u.take(index), self.v.take(index), self.s.take(index),
        )  # fmt: skip
        painter(part)
        self.image[index] = part.image
