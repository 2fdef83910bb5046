"""Where each site is seen: reader's marks to patient millimetres, and those to a region in each view.

A site seen in one view is projected into the others through patient space, never through slice
numbers: the nearest slice is the one whose plane is nearest, over all series of that view, among
those whose image shows the point. Beyond `REACH_MM` the site is not imaged there, which is an
answer (`Missing`), not an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from data_prep.faults import Action, Fault, FaultKind
from data_prep.geometry import Array, Frame, Plane, Vector, neighbours
from data_prep.placement.mark_checks import judge
from data_prep.sites import SITES, Site, Source, View
from data_prep.studies.studies import Series, Study
from data_prep.studies.tables import Mark
from data_prep.studies.views import extent_mm, of_one_station, plane_of

#: A slice further than this from a site does not show it.
REACH_MM = 5.0
#: The side of a region's box.
BOX_MM = 48.0


@dataclass(frozen=True)
class Position:
    """Where a site lies in the patient; `mark` is the reader's point that says so, if one does."""

    site: Site
    point_mm: Vector
    source: Source
    mark: Mark | None = None


def points_of(positions: Mapping[Site, Position]) -> Array:
    """(25, 3) mm in the order of `SITES`; NaN where there is no position."""
    point_N3 = np.full((len(SITES), 3), np.nan)
    for site, position in positions.items():
        point_N3[SITES.index(site)] = position.point_mm
    return point_N3


@dataclass(frozen=True)
class Region:
    """A site in one view.

    instance_numbers: three neighbouring slices of one stack, ordered along the patient's axis (right to
    left, or caudal to cranial), the middle one nearest to the site; an end is repeated where the stack stops.
    box: (x0, y0, x1, y1) in (column, row) pixels of the middle slice, counted from its first pixel's centre,
    `BOX_MM` wide and clipped to the image.
    """

    site: Site
    view: View
    series_id: int
    instance_numbers: tuple[int, int, int]
    centre_mm: Vector
    box: tuple[float, float, float, float]
    source: Source

    @property
    def instance_number(self) -> int:
        return self.instance_numbers[1]


@dataclass(frozen=True)
class Missing:
    """Why a site has no region in a view."""

    site: Site
    view: View
    reason: str


def marked_positions(study: Study) -> tuple[dict[Site, Position], list[Fault]]:
    """Each marked site's position; what is wrong with marks is a fault.

    A mark needs an image with geometry, and to lie on it; of several such marks of one site the first counts. A
    mark in another view than its site is marked in counts, because it says millimetres all the same, but not in a
    coronal image or at another station of the spine. Then the marks are held against each other: see `marks`.
    """
    series_by_id = {series.series_id: series for series in study.series}
    found: dict[Site, Position] = {}
    faults = []

    def note(mark: Mark, kind: FaultKind, message: str, action: Action = "skipped") -> None:
        place = f"{study.study_id}/{mark.series_id}/{mark.instance_number}"
        faults.append(Fault(study.study_id, mark.series_id, place, kind, action, f"{mark.site.key}: {message}"))

    for mark in study.marks:
        series = series_by_id.get(mark.series_id)
        place = None if series is None else series.index(mark.instance_number)
        frame = None if series is None or place is None else series.slices[place].frame
        if series is None or place is None or frame is None:
            note(mark, FaultKind.MARK_WITHOUT_IMAGE, "the mark's image is missing or has no geometry")
        elif not (-0.5 <= mark.x <= frame.shape[1] - 0.5 and -0.5 <= mark.y <= frame.shape[0] - 0.5):
            message = f"mark ({mark.x:g}, {mark.y:g}) is off its image of {frame.shape[1]} x {frame.shape[0]} pixels"
            note(mark, FaultKind.MARK_OFF_IMAGE, message)
        elif reason := _not_lumbar(study, series, place, frame):
            note(mark, FaultKind.MARK_IN_OTHER_VIEW, reason)
        elif mark.site in found:
            note(mark, FaultKind.DUPLICATE_MARK, "a second mark of this site: the first is kept")
        else:
            found[mark.site] = Position(mark.site, vector(frame.to_patient((mark.x, mark.y))), Source.ANNOTATED, mark)
            if place not in series.frames or series.view is not mark.site.views[0]:
                message = f"marked in {_words(series, frame)}, not in {mark.site.views[0].words}: the place counts"
                note(mark, FaultKind.MARK_IN_OTHER_VIEW, message, "kept")

    judgement = judge({site: position.point_mm for site, position in found.items()})
    for doubt in judgement.doubts:
        doubted = found[doubt.site].mark
        assert doubted is not None
        note(doubted, doubt.kind, doubt.message, doubt.action)
    return {site: replace(found[marked], site=site) for site, marked in judgement.places.items()}, faults


def _not_lumbar(study: Study, series: Series, place: int, frame: Frame) -> str:
    """Why a mark on a slice says nothing of a lumbar site; empty where it may."""
    if place in series.frames:
        return ""
    if frame.plane is Plane.CORONAL:
        return "marked in a coronal image, which no reader of this site would choose: its orientation must be wrong"
    shown = [extent_mm(list(other.frames.values())) for other in study.series if other.frames]
    if series.view is None and shown:
        own = extent_mm([image.frame for image in series.slices if image.frame is not None])
        if not any(of_one_station(own, other) for other in shown):
            return "marked in a series of another station of the spine"
    return ""


def _words(series: Series, frame: Frame) -> str:
    return series.view.words if series.view and frame.lies_as(plane_of(series.view)) else f"a {frame.plane} image"


def not_found(study: Study, positions: Mapping[Site, Position]) -> list[Fault]:
    """One fault where sites have no position: nobody marked them, and no atlas, or no image with a place, tells."""
    missing = [site for site in SITES if site not in positions]
    if not missing:
        return []
    what = "all" if len(missing) == len(SITES) else str(len(missing))
    message = (
        f"{what} of the 25 sites lack a position: unmarked, and without an atlas or without images that have a place"
    )
    return [Fault(study.study_id, None, str(study.study_id), FaultKind.SITES_NOT_FOUND, "skipped", message)]


def region(study: Study, position: Position, view: View) -> Region | Missing:
    """The site's region in one view."""
    choice = _marked_slice(study, position, view) or _nearest_slice(study, position, view)
    if isinstance(choice, Missing):
        return choice
    series, place = choice
    # Slices of a stack that leans half way to another plane may differ in what they count as.
    stack = [index for stack in series.stacks if place in stack for index in stack if index in series.frames]
    triple = neighbours(series.frames, stack, place)
    return Region(
        position.site,
        view,
        series.series_id,
        tuple(series.slices[index].instance_number for index in triple),  # type: ignore[arg-type]
        position.point_mm,
        _box(series.frames[place], position.point_mm),
        position.source,
    )


def _marked_slice(study: Study, position: Position, view: View) -> tuple[Series, int] | None:
    """The slice that the reader marked, where it is of this view."""
    mark = position.mark
    for series in study.of_view(view):
        if mark is not None and series.series_id == mark.series_id:
            place = series.index(mark.instance_number)
            if place in series.frames:
                return series, place
    return None


def _nearest_slice(study: Study, position: Position, view: View) -> tuple[Series, int] | Missing:
    candidates = [
        (abs(frame.distance_mm(position.point_mm)), series, place, frame)
        for series in study.of_view(view)
        for place, frame in series.frames.items()
    ]
    if not candidates:
        return Missing(position.site, view, "no_series")
    near = [choice for choice in candidates if choice[0] <= REACH_MM]
    if not near:
        return Missing(position.site, view, "beyond_reach")
    shown = [choice for choice in near if choice[3].contains(position.point_mm)]
    if not shown:
        return Missing(position.site, view, "outside_images")
    _, series, place, _ = min(shown, key=lambda choice: choice[0])
    return series, place


def _box(frame: Frame, point_mm: Vector) -> tuple[float, float, float, float]:
    column, row = frame.to_pixel(point_mm)
    half_column, half_row = BOX_MM / 2 / frame.spacing_mm[1], BOX_MM / 2 / frame.spacing_mm[0]
    last_column, last_row = frame.shape[1] - 1, frame.shape[0] - 1

    def inside(value: float, last: int) -> float:
        return round(min(max(float(value), 0.0), float(last)), 2)

    return (
        inside(column - half_column, last_column),
        inside(row - half_row, last_row),
        inside(column + half_column, last_column),
        inside(row + half_row, last_row),
    )


def vector(point: Array) -> Vector:
    """Three plain numbers, to a thousandth of a millimetre, as they are written."""
    x, y, z = (round(float(number), 3) for number in point)
    return x, y, z
