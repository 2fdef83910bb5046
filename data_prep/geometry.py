"""Patient millimetres and pixels.

Patient coordinates are DICOM's LPS, in millimetres: +x is the patient's left, +y posterior, +z
cranial. A pixel is named (column, row), both counted from 0 at the *centre* of the first pixel, so
that whole numbers are pixel centres. ``PixelSpacing`` is (between rows, between columns).

The mapping is equation C.7.6.2.1-1 of DICOM PS3.3:
``P = position + row_direction * spacing_between_columns * column + column_direction * spacing_between_rows * row``.

An image lies somewhere only if its own header says position, orientation and ``PixelSpacing``. None of
these is guessed: not from ``ImagerPixelSpacing`` (of a detector: no MR has one), not from
``SpacingBetweenSlices`` or ``SliceThickness`` (both across the slices, and often missing), not from the
slice next to it, which may be of another size. What lies nowhere still is a picture, but no region is
drawn on it. The distance between slices is that of their positions, never what a header says of it.

>>> frame = Frame((-10.0, 0.0, 5.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (2.0, 0.5), (100, 200))
>>> frame.to_patient((20, 3))
array([0., 6., 5.])
>>> frame.to_pixel((0.0, 6.0, 5.0))
array([20.,  3.])
>>> float(frame.distance_mm((0.0, 6.0, 1.0)))
-4.0
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
import numpy.typing as npt

Vector = tuple[float, float, float]
Array = npt.NDArray[np.float64]

#: A unit vector read from a header may be this far from length 1, and two of them this far from a right angle.
DIRECTION_TOLERANCE = 1e-2
#: Pixels smaller or larger than these, and places further than this from the scanner's middle, are slips of a header.
LEAST_PIXEL_MM, LARGEST_PIXEL_MM, FURTHEST_MM = 0.01, 20.0, 10_000.0
#: A slice tilted by no more than this still lies as its series does: a block along a steep L5-S1 disc leans 50 degrees.
OBLIQUE_DEGREES = 60.0
#: Slices whose normals differ by less than this lie in one stack: blocks of one series differ by several degrees.
STACK_ANGLE_DEGREES = 1.0
#: Neighbours further apart than this many times their stack's median gap lie on two sides of a jump between blocks.
JUMP_RATIO = 1.5
#: Neither are slices further apart than this, where a stack has nothing but jumps.
NEIGHBOUR_MM = 12.0
#: Slices nearer to each other than this show the same place twice.
SAME_PLACE_MM = 0.1


class Plane(StrEnum):
    """An anatomical plane; its number is the patient axis that it is square to."""

    SAGITTAL = "sagittal"
    CORONAL = "coronal"
    AXIAL = "axial"

    @property
    def axis(self) -> int:
        return list(Plane).index(self)


@dataclass(frozen=True)
class Frame:
    """Where one image lies in the patient.

    position_mm: centre of the first pixel (ImagePositionPatient).
    row_direction: unit vector along a row, towards growing column (ImageOrientationPatient[:3]).
    column_direction: unit vector down a column, towards growing row (ImageOrientationPatient[3:]).
    spacing_mm: (between rows, between columns), as PixelSpacing.
    shape: (rows, columns).

    Directions that are unit and square but for a header's rounding (`DIRECTION_TOLERANCE`) are made so before use.
    Raises ValueError where they are not, where a spacing is not positive, or where numbers are beyond any scanner's.
    """

    position_mm: Vector
    row_direction: Vector
    column_direction: Vector
    spacing_mm: tuple[float, float]
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        numbers = (*self.position_mm, *self.row_direction, *self.column_direction, *self.spacing_mm)
        if not np.all(np.isfinite(numbers)):
            raise ValueError(f"geometry with a number that is not finite: {numbers}")
        if min(self.spacing_mm) <= 0:
            raise ValueError(f"pixel spacing {self.spacing_mm}: must be positive")
        if not LEAST_PIXEL_MM <= min(self.spacing_mm) <= max(self.spacing_mm) <= LARGEST_PIXEL_MM:
            raise ValueError(f"pixel spacing {self.spacing_mm}: no scanner's")
        if max(map(abs, self.position_mm)) > FURTHEST_MM:
            raise ValueError(f"position {self.position_mm}: further than {FURTHEST_MM:g} mm from the scanner's middle")
        if min(self.shape) < 1:
            raise ValueError(f"image shape {self.shape}: must be positive")
        row, column = np.asarray(self.row_direction), np.asarray(self.column_direction)
        lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
        if np.any(np.abs(lengths - 1) > DIRECTION_TOLERANCE) or abs(row @ column) > DIRECTION_TOLERANCE:
            raise ValueError(
                f"image orientation {self.row_direction + self.column_direction}: not orthogonal unit vectors"
            )

    @cached_property
    def axes(self) -> tuple[Array, Array]:
        """(row_direction, column_direction), unit and square to the last bit."""
        row = np.asarray(self.row_direction) / np.linalg.norm(self.row_direction)
        column = np.asarray(self.column_direction)
        column = column - (column @ row) * row
        return row, column / np.linalg.norm(column)

    @cached_property
    def normal(self) -> Array:
        """Unit vector across the image: row_direction x column_direction."""
        return np.cross(*self.axes)

    @property
    def plane(self) -> Plane:
        """The anatomical plane that the image is nearest to."""
        return list(Plane)[int(np.argmax(np.abs(self.normal)))]

    def lies_as(self, plane: Plane) -> bool:
        """Whether the image is tilted by at most `OBLIQUE_DEGREES` from a plane; it may be from two."""
        return bool(abs(self.normal[plane.axis]) >= np.cos(np.deg2rad(OBLIQUE_DEGREES)))

    @cached_property
    def affine(self) -> Array:
        """(4, 4) matrix from homogeneous (column, row, slice, 1) to homogeneous (x, y, z, 1) in mm, LPS.

        The origin of the indices is the centre of the first pixel. A frame is one image, which has no neighbours:
        its slice axis is the normal, in mm, and the pixels of the image have slice 0.

        >>> frame = Frame((-10.0, 0.0, 5.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (2.0, 0.5), (100, 200))
        >>> frame.affine @ (20, 3, 0, 1)
        array([0., 6., 5., 1.])
        >>> frame.inverse_affine @ (0, 6, 1, 1)
        array([20.,  3., -4.,  1.])
        """
        row_direction, column_direction = self.axes
        matrix = np.eye(4)
        matrix[:3, 0] = row_direction * self.spacing_mm[1]
        matrix[:3, 1] = column_direction * self.spacing_mm[0]
        matrix[:3, 2] = self.normal
        matrix[:3, 3] = self.position_mm
        return matrix

    @cached_property
    def inverse_affine(self) -> Array:
        """(4, 4) matrix from homogeneous (x, y, z, 1) in mm, LPS, to homogeneous (column, row, slice, 1).

        The slice of a point is its signed distance from the image plane in mm (`distance_mm`).
        """
        row_direction, column_direction = self.axes
        matrix = np.eye(4)
        matrix[0, :3] = row_direction / self.spacing_mm[1]
        matrix[1, :3] = column_direction / self.spacing_mm[0]
        matrix[2, :3] = self.normal
        matrix[:3, 3] = -matrix[:3, :3] @ self.position_mm
        return matrix

    @cached_property
    def centre_mm(self) -> Array:
        """Middle of the image, (x, y, z) in mm."""
        rows, columns = self.shape
        return self.to_patient(((columns - 1) / 2, (rows - 1) / 2))

    def to_patient(self, pixel: npt.ArrayLike) -> Array:
        """Map pixels to the patient: (..., 2) as (column, row) -> (..., 3) as (x, y, z) in mm."""
        pixel = np.asarray(pixel, dtype=float)
        row_direction, column_direction = self.axes
        along_row, down_column = self.spacing_mm[1] * pixel[..., :1], self.spacing_mm[0] * pixel[..., 1:]
        return np.asarray(self.position_mm) + row_direction * along_row + column_direction * down_column

    def to_pixel(self, point_mm: npt.ArrayLike) -> Array:
        """Project points onto the image plane: (..., 3) as (x, y, z) in mm -> (..., 2) as (column, row) in pixels.

        The result may lie off the image.
        """
        offset = np.asarray(point_mm, dtype=float) - np.asarray(self.position_mm)
        row_direction, column_direction = self.axes
        column, row = offset @ row_direction / self.spacing_mm[1], offset @ column_direction / self.spacing_mm[0]
        return np.stack([column, row], axis=-1)

    def distance_mm(self, point_mm: npt.ArrayLike) -> Array:
        """Return the signed distance of points (..., 3) from the image plane, (...), positive along the normal."""
        distance: Array = (np.asarray(point_mm, dtype=float) - np.asarray(self.position_mm)) @ self.normal
        return distance

    def contains(self, point_mm: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Return whether the projections of points (..., 3) lie on the image, up to its outer pixels' edges: (...)."""
        pixel = self.to_pixel(point_mm)
        return np.all((pixel >= -0.5) & (pixel <= np.subtract(self.shape[::-1], 0.5)), axis=-1)


def nearest(frames: Sequence[Frame], point_mm: Sequence[float] | Array) -> int:
    """Index of the frame whose plane is nearest to a point; of equals, one that shows it, then the first.

    Raises ValueError for no frames.
    """
    if not frames:
        raise ValueError("no frames to choose from")
    ranks = [(round(abs(float(frame.distance_mm(point_mm))), 6), not frame.contains(point_mm)) for frame in frames]
    return min(range(len(frames)), key=lambda i: ranks[i])


def stacks(frames: Sequence[Frame]) -> list[list[int]]:
    """Indices of frames in stacks of parallel slices, each sorted by its place along the stack's normal.

    The normal is turned so that its largest component is positive: sagittal slices run from the
    patient's right to left, axial ones from caudal to cranial, whatever the acquisition order was.
    A slice belongs to the stack whose first slice it is most parallel to, within
    `STACK_ANGLE_DEGREES`; blocks that are parallel but lie apart are one stack, and a localiser's
    three planes are three. Stacks come in the order of their lowest place.
    """
    groups: list[tuple[Array, list[int]]] = []
    for index, frame in enumerate(frames):
        cosines = [abs(float(frame.normal @ normal)) for normal, _ in groups]
        if cosines and max(cosines) >= np.cos(np.deg2rad(STACK_ANGLE_DEGREES)):
            groups[int(np.argmax(cosines))][1].append(index)
        else:
            sign = np.sign(frame.normal[np.argmax(np.abs(frame.normal))])
            groups.append((frame.normal * sign, [index]))

    def place(normal: Array, index: int) -> float:
        return float(np.asarray(frames[index].centre_mm) @ normal)

    ordered = [(normal, sorted(members, key=lambda i: place(normal, i))) for normal, members in groups]
    ordered.sort(key=lambda group: place(group[0], group[1][0]))
    return [members for _, members in ordered]


def neighbours(frames: Mapping[int, Frame] | Sequence[Frame], stack: Sequence[int], index: int) -> tuple[int, int, int]:
    """(before, `index`, after): the slices next to one in its sorted stack, `index` itself where the stack stops.

    A stack stops at its ends and at a jump between blocks (`JUMP_RATIO`, `NEIGHBOUR_MM`); a slice at the
    same place (`SAME_PLACE_MM`) is no neighbour. Raises ValueError where `index` is not in `stack`.
    """
    here = list(stack).index(index)
    normal = frames[stack[0]].normal
    places = np.array([frames[i].centre_mm @ normal for i in stack])
    gaps = np.abs(np.diff(places))
    gaps = gaps[gaps > SAME_PLACE_MM]
    # Of an even number the lower middle one: in blocks of two slices every second gap is a jump.
    usual = float(np.percentile(gaps, 50, method="lower")) if len(gaps) else 0.0
    limit = min(JUMP_RATIO * usual, NEIGHBOUR_MM)

    def next_to(step: int) -> int:
        there = here + step
        while 0 <= there < len(stack) and abs(places[there] - places[here]) <= SAME_PLACE_MM:
            there += step
        inside = 0 <= there < len(stack) and abs(places[there] - places[here]) <= limit
        return stack[there] if inside else index

    return next_to(-1), index, next_to(1)
