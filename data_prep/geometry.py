"""Geometry of images: the mapping between pixels and patient coordinates, and stacks of parallel slices.

Patient coordinates are DICOM's LPS, in millimetres: +x is the patient's left, +y posterior, +z
cranial. A pixel is named (column, row), both counted from 0 at the *centre* of the first pixel, so
that whole numbers are pixel centres. ``PixelSpacing`` is (between rows, between columns).

The mapping is equation C.7.6.2.1-1 of DICOM PS3.3:
``P = position + row_direction * spacing_between_columns * column + column_direction * spacing_between_rows * row``.

An image has geometry only if its own header contains position, orientation and ``PixelSpacing``. None of
these is guessed: not from ``ImagerPixelSpacing`` (which describes a detector, and does not exist in MR), not
from ``SpacingBetweenSlices`` or ``SliceThickness`` (both are distances across slices, and are often missing),
and not from the neighbouring slice, whose size may differ. An image without geometry is converted, but gets
no region. The distance between slices is computed from their positions, not read from a header.

>>> frame = Frame((-10.0, 0.0, 5.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (2.0, 0.5), (100, 200))
>>> frame.to_patient((20, 3))
array([0., 6., 5.])
>>> frame.to_pixel((0.0, 6.0, 5.0))
array([20.,  3.])
>>> float(frame.distance_mm((0.0, 6.0, 1.0)))
-4.0
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
import numpy.typing as npt

Vector = tuple[float, float, float]
Array = npt.NDArray[np.float64]

#: Largest accepted deviation of a header's direction vectors from length 1, and of their dot product from 0.
DIRECTION_TOLERANCE = 1e-2
#: Bounds of plausible pixel spacings and of the distance from the scanner's isocentre, mm; other headers are wrong.
LEAST_PIXEL_MM, LARGEST_PIXEL_MM, FURTHEST_MM = 0.01, 20.0, 10_000.0
#: Error of the difference of two measured places, mm: headers and tables round each to a thousandth of a millimetre,
#: and the rounding of directions adds a fraction of that. Places that differ by less are equal, and keep their order.
PLACE_MM = 0.002
#: Largest angle between an image and a plane that it is counted to: a block along a steep L5-S1 disc is tilted by 50.
OBLIQUE_DEGREES = 60.0
#: Slices whose normals differ by less than this form one stack; blocks of one series differ by several degrees.
STACK_ANGLE_DEGREES = 1.0
#: A gap between slices that exceeds the median gap of their stack by this factor separates two blocks.
JUMP_RATIO = 1.5
#: Slices further apart than this are never neighbours; it matters for stacks in which every gap separates blocks.
NEIGHBOUR_MM = 12.0
#: Slices nearer to each other than this are repetitions of one slice.
SAME_SLICE_MM = 0.1


class Plane(StrEnum):
    """An anatomical plane."""

    SAGITTAL = "sagittal"
    CORONAL = "coronal"
    AXIAL = "axial"

    @property
    def axis(self) -> int:
        """Index of the patient axis (x, y, z) that is perpendicular to the plane."""
        return list(Plane).index(self)


@dataclass(frozen=True)
class Frame:
    """Position, orientation, pixel spacing and size of one image in the patient.

    Directions are orthonormalised before use, because headers round them. Raises ValueError if they deviate from
    orthogonal unit vectors by more than `DIRECTION_TOLERANCE`, or if a number is not plausible.

    Attributes:
        position_mm: Centre of the first pixel (ImagePositionPatient).
        row_direction: Unit vector along a row, towards increasing column (ImageOrientationPatient[:3]).
        column_direction: Unit vector along a column, towards increasing row (ImageOrientationPatient[3:]).
        spacing_mm: Distances (between rows, between columns), as in PixelSpacing.
        shape: (rows, columns).
    """

    position_mm: Vector
    row_direction: Vector
    column_direction: Vector
    spacing_mm: tuple[float, float]
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        numbers = (*self.position_mm, *self.row_direction, *self.column_direction, *self.spacing_mm)
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"geometry {numbers}: a number is not finite")
        if min(self.spacing_mm) <= 0:
            raise ValueError(f"pixel spacing {self.spacing_mm}: not positive")
        if not LEAST_PIXEL_MM <= min(self.spacing_mm) <= max(self.spacing_mm) <= LARGEST_PIXEL_MM:
            raise ValueError(
                f"pixel spacing {self.spacing_mm}: implausible; expected {LEAST_PIXEL_MM:g} to {LARGEST_PIXEL_MM:g} mm"
            )
        if max(map(abs, self.position_mm)) > FURTHEST_MM:
            raise ValueError(f"position {self.position_mm}: more than {FURTHEST_MM:g} mm from the isocentre")
        if min(self.shape) < 1:
            raise ValueError(f"image shape {self.shape}: not positive")
        row, column = np.asarray(self.row_direction), np.asarray(self.column_direction)
        lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
        if np.any(np.abs(lengths - 1) > DIRECTION_TOLERANCE) or abs(row @ column) > DIRECTION_TOLERANCE:
            raise ValueError(
                f"image orientation {self.row_direction + self.column_direction}: these are not orthogonal unit vectors"
            )

    @cached_property
    def axes(self) -> tuple[Array, Array]:
        """(row_direction, column_direction), orthonormalised."""
        row = np.asarray(self.row_direction) / np.linalg.norm(self.row_direction)
        column = np.asarray(self.column_direction)
        column = column - (column @ row) * row
        return row, column / np.linalg.norm(column)

    @cached_property
    def normal(self) -> Array:
        """Unit vector perpendicular to the image: row_direction x column_direction."""
        return np.cross(*self.axes)

    @property
    def plane(self) -> Plane:
        """The anatomical plane that the image is nearest to."""
        return list(Plane)[int(np.argmax(np.abs(self.normal)))]

    def lies_as(self, plane: Plane) -> bool:
        """Return whether the image is within `OBLIQUE_DEGREES` of a plane; an image may be within it of two planes."""
        return bool(abs(self.normal[plane.axis]) >= np.cos(np.deg2rad(OBLIQUE_DEGREES)))

    @property
    def is_upright(self) -> bool:
        """Whether its columns, and not its rows, run along the patient from head to feet or back."""
        return abs(self.column_direction[2]) >= abs(self.row_direction[2])

    @property
    def length_mm(self) -> float:
        """Length of the image along the patient, mm."""
        rows, columns = self.shape
        return rows * self.spacing_mm[0] if self.is_upright else columns * self.spacing_mm[1]

    @cached_property
    def affine(self) -> Array:
        """(4, 4) matrix from homogeneous (column, row, slice, 1) to homogeneous (x, y, z, 1) in mm, LPS.

        The origin of the indices is the centre of the first pixel. A frame describes a single image, so its slice
        axis is the normal in mm: the pixels of the image have slice 0.

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
    """Return the index of the frame whose plane is nearest to a point.

    Of equally near frames (`PLACE_MM`), one that contains the point is preferred, then the first. Raises ValueError if
    there are no frames.
    """
    if not frames:
        raise ValueError("no frames to choose from")
    equal = equally_near([abs(float(frame.distance_mm(point_mm))) for frame in frames])
    return next((index for index in equal if frames[index].contains(point_mm)), equal[0])


def equally_near(distances_mm: Sequence[float]) -> list[int]:
    """Return the indices of the least distances: those that exceed the least by at most `PLACE_MM`."""
    least = min(distances_mm)
    return [index for index, distance in enumerate(distances_mm) if distance <= least + PLACE_MM]


def stacks(frames: Sequence[Frame], plane: Plane | None = None) -> list[list[int]]:
    """Group frames into stacks of parallel slices; return the indices of each, sorted along the stack's normal.

    The sign of the normal is chosen so that its component across the plane is positive: sagittal slices are sorted from
    the patient's right to left, axial slices from caudal to cranial, whatever the acquisition order was, and however
    oblique they are. For a stack that does not lie in the plane (`Frame.lies_as`), and for all if no plane is given,
    the largest component of the normal is positive.

    A slice belongs to the stack whose first slice it is most parallel to, within `STACK_ANGLE_DEGREES`. Separate but
    parallel blocks form one stack; the three planes of a localiser form three. The stacks are sorted by their first
    slices' positions. Slices at one position (`PLACE_MM`) keep the order in which they are given.
    """
    groups: list[tuple[Array, list[int]]] = []
    for index, frame in enumerate(frames):
        cosines = [abs(float(frame.normal @ normal)) for normal, _ in groups]
        if cosines and max(cosines) >= np.cos(np.deg2rad(STACK_ANGLE_DEGREES)):
            groups[int(np.argmax(cosines))][1].append(index)
        else:
            across = int(np.argmax(np.abs(frame.normal)))
            if plane is not None and frame.lies_as(plane):
                across = plane.axis
            sign = np.sign(frame.normal[across])
            groups.append((frame.normal * sign, [index]))

    def height(normal: Array, index: int) -> float:
        return float(np.asarray(frames[index].centre_mm) @ normal)

    ordered = [(normal, _in_order([(height(normal, i), i) for i in members])) for normal, members in groups]
    ordered.sort(key=lambda group: height(group[0], group[1][0]))
    return [members for _, members in ordered]


def _in_order(heights: list[tuple[float, int]]) -> list[int]:
    """Sort the indices of (height, index) by height; of equal heights (`PLACE_MM`), by index."""
    ordered: list[int] = []
    equal: list[int] = []
    last = 0.0
    for height, index in sorted(heights):
        if equal and height - last > PLACE_MM:
            ordered += sorted(equal)
            equal = []
        equal.append(index)
        last = height
    return ordered + sorted(equal)


def neighbours(frames: Mapping[int, Frame] | Sequence[Frame], stack: Sequence[int], index: int) -> tuple[int, int, int]:
    """Return (before, `index`, after): a slice and its neighbours in its sorted stack.

    `index` stands in for a neighbour that does not exist: at an end of the stack, and at a gap between blocks
    (`JUMP_RATIO`, `NEIGHBOUR_MM`). A repetition of the slice (`SAME_SLICE_MM`) is not a neighbour. Raises ValueError
    if `index` is not in `stack`.
    """
    return triples(frames, stack, index, 0)[0]


def triples(
    frames: Mapping[int, Frame] | Sequence[Frame], stack: Sequence[int], index: int, each_side: int
) -> list[tuple[int, int, int]]:
    """Return triples of neighbouring slices (`neighbours`) that follow each other along a sorted stack.

    The middle slice of one of them is `index`; up to `each_side` others lie before it, and as many after it. From
    middle to middle there are three steps from neighbour to neighbour, so that no slice is in two triples. A triple
    whose middle slice does not exist, because the stack or a block of it ends before, does not exist either.
    """
    positions = list(stack)
    here = positions.index(index)
    normal = frames[stack[0]].normal
    heights = np.array([frames[i].centre_mm @ normal for i in stack])
    gaps = np.abs(np.diff(heights))
    gaps = gaps[gaps > SAME_SLICE_MM]
    # For an even number of gaps, the lower of the two middle ones: in blocks of two slices every second gap is a jump.
    median = float(np.percentile(gaps, 50, method="lower")) if len(gaps) else 0.0
    limit = min(JUMP_RATIO * median, NEIGHBOUR_MM) + PLACE_MM

    def next_to(place: int, step: int) -> int | None:
        there = place + step
        while 0 <= there < len(positions) and abs(heights[there] - heights[place]) <= SAME_SLICE_MM:
            there += step
        inside = 0 <= there < len(positions) and abs(heights[there] - heights[place]) <= limit
        return there if inside else None

    def middles(step: int) -> list[int]:
        found: list[int] = []
        place: int | None = here
        for count in range(1, 3 * each_side + 1):
            place = None if place is None else next_to(place, step)
            if place is not None and count % 3 == 0:
                found.append(place)
        return found

    def triple(place: int) -> tuple[int, int, int]:
        before, after = next_to(place, -1), next_to(place, 1)
        return (
            positions[place if before is None else before],
            positions[place],
            positions[place if after is None else after],
        )

    return [triple(place) for place in (*reversed(middles(-1)), here, *middles(1))]
