"""Positions and regions: readers' marks become positions in mm, and positions become a region in each view.

A position from one view is projected into the others through patient space, never through slice
numbers: of all series of a view, the slice whose plane is nearest is chosen among those whose image
contains the point. If no slice is within `REACH_MM`, the site is not imaged in that view, which is a
result (`Missing`), not an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from data_prep.faults import Action, Fault, FaultKind
from data_prep.geometry import Array, Frame, Plane, Vector, equally_near, triples
from data_prep.placement.mark_checks import check_marks
from data_prep.sites import SITES, Site, Source, View
from data_prep.studies.studies import Series, Study
from data_prep.studies.tables import Mark
from data_prep.studies.views import extent_mm, of_one_station, plane_of

#: A slice whose plane is further than this from a site does not show it.
REACH_MM = 5.0
#: The levels of a study are in doubt if a site has a smaller level confidence than this.
DOUBTFUL_CONFIDENCE = 0.8
#: The side of a region's box.
BOX_MM = 48.0


@dataclass(frozen=True)
class Position:
    """A site's position in the patient.

    Attributes:
        site: The site.
        point_mm: (x, y, z) in mm, LPS.
        source: The origin of the position.
        mark: The reader's mark if the position comes from one.
        expected_error_mm: The error that the position is expected to have (root of the mean squared distance); None if
            it is annotated.
        level_confidence: The probability that the position lies on the site's own level and not on another one; None
            if it is annotated, or if what placed it does not know.
    """

    site: Site
    point_mm: Vector
    source: Source
    mark: Mark | None = None
    expected_error_mm: float | None = None
    level_confidence: float | None = None


def points_of(positions: Mapping[Site, Position]) -> Array:
    """Return the positions as an array (25, 3) in mm, in the order of `SITES`; NaN for a site without one."""
    point_N3 = np.full((len(SITES), 3), np.nan)
    for site, position in positions.items():
        point_N3[SITES.index(site)] = position.point_mm
    return point_N3


@dataclass(frozen=True)
class Region:
    """A site in one view: the slices of its tiles and a box.

    Attributes:
        instance_numbers: The slices of the tiles, three neighbouring ones each, of one stack, ordered along the
            patient's axis (right to left, or caudal to cranial). At an end of the stack the middle slice of a tile
            stands in for the missing one.
        instance_number: The slice nearest to the site, the middle one of its tile.
        centre_mm: The site's position.
        box: (x0, y0, x1, y1) in (column, row) pixels of the middle slice, relative to its first pixel's centre,
            `BOX_MM` wide and clipped to the image.
    """

    site: Site
    view: View
    series_id: int
    instance_numbers: tuple[int, ...]
    instance_number: int
    centre_mm: Vector
    box: tuple[float, float, float, float]
    source: Source

    @property
    def tiles(self) -> int:
        """The number of tiles."""
        return len(self.instance_numbers) // 3


@dataclass(frozen=True)
class Missing:
    """The reason why a site has no region in a view."""

    site: Site
    view: View
    reason: str


def marked_positions(study: Study) -> tuple[dict[Site, Position], list[Fault]]:
    """Return the position of each marked site, and the faults of the marks.

    A mark is used if its image has geometry and contains it; of several such marks of one site, the first is used. A
    mark in another view than readers use for its site is used as well, because its position in the patient is the
    same, but not if it is in a coronal image or at another station of the spine. Finally, the marks are checked
    against each other (`mark_checks`).
    """
    series_by_id = {series.series_id: series for series in study.series}
    found: dict[Site, Position] = {}
    faults = []

    def note(mark: Mark, kind: FaultKind, message: str, action: Action = "skipped") -> None:
        path = f"{study.study_id}/{mark.series_id}/{mark.instance_number}"
        faults.append(Fault(study.study_id, mark.series_id, path, kind, action, f"{mark.site.key}: {message}"))

    for mark in study.marks:
        series = series_by_id.get(mark.series_id)
        index = None if series is None else series.index(mark.instance_number)
        frame = None if series is None or index is None else series.slices[index].frame
        if series is None or index is None or frame is None:
            note(mark, FaultKind.MARK_WITHOUT_IMAGE, "the mark's image is missing or has no geometry")
        elif not (-0.5 <= mark.x <= frame.shape[1] - 0.5 and -0.5 <= mark.y <= frame.shape[0] - 0.5):
            message = f"mark ({mark.x:g}, {mark.y:g}) is off its image of {frame.shape[1]} x {frame.shape[0]} pixels"
            note(mark, FaultKind.MARK_OFF_IMAGE, message)
        elif reason := _not_lumbar(study, series, index, frame):
            note(mark, FaultKind.MARK_IN_OTHER_VIEW, reason)
        elif mark.site in found:
            note(mark, FaultKind.DUPLICATE_MARK, "this is a second mark of the site; the first is used")
        else:
            found[mark.site] = Position(mark.site, vector(frame.to_patient((mark.x, mark.y))), Source.ANNOTATED, mark)
            if index not in series.frames or series.view is not mark.site.views[0]:
                message = (
                    f"marked in {_words(series, index, frame)}, not in {mark.site.views[0].words}; the position is used"
                )
                note(mark, FaultKind.MARK_IN_OTHER_VIEW, message, "kept")

    checked = check_marks({site: position.point_mm for site, position in found.items()})
    for problem in checked.problems:
        mark_at_fault = found[problem.site].mark
        assert mark_at_fault is not None
        note(mark_at_fault, problem.kind, problem.message, problem.action)
    return {site: replace(found[marked], site=site) for site, marked in checked.mark_of.items()}, faults


def _not_lumbar(study: Study, series: Series, index: int, frame: Frame) -> str:
    """Return why a mark on a slice cannot be of a lumbar site; an empty text if it can."""
    if index in series.frames:
        return ""
    if frame.plane is Plane.CORONAL:
        return "marked in a coronal image, which readers do not use for this site: its orientation must be wrong"
    shown = [extent_mm(list(other.frames.values())) for other in study.series if other.frames]
    if series.view is None and shown:
        own = extent_mm([image.frame for image in series.slices if image.frame is not None])
        if not any(of_one_station(own, other) for other in shown):
            return "marked in a series of another station of the spine"
    return ""


def _words(series: Series, index: int, frame: Frame) -> str:
    """Return the view or the plane of an image as text."""
    if series.slices[index].other_contrast:
        return "another contrast of its series"
    return series.view.words if series.view and frame.lies_as(plane_of(series.view)) else f"a {frame.plane} image"


def not_found(study: Study, positions: Mapping[Site, Position]) -> list[Fault]:
    """Return one fault if sites have no position: they are unannotated, and could not be placed either."""
    missing = [site for site in SITES if site not in positions]
    if not missing:
        return []
    what = "all" if len(missing) == len(SITES) else str(len(missing))
    message = (
        f"{what} of the 25 sites lack a position: they are unannotated, and there is no atlas or no image with geometry"
    )
    return [Fault(study.study_id, None, str(study.study_id), FaultKind.SITES_NOT_FOUND, "skipped", message)]


def doubtful_levels(study: Study, positions: Mapping[Site, Position]) -> list[Fault]:
    """Return one fault if the count of levels of a study is in doubt (`DOUBTFUL_CONFIDENCE`)."""
    confidence_of = {
        site: position.level_confidence for site, position in positions.items() if position.level_confidence is not None
    }
    doubtful = [confidence for confidence in confidence_of.values() if confidence < DOUBTFUL_CONFIDENCE]
    if not doubtful:
        return []
    message = (
        f"{len(doubtful)} site{'s' if len(doubtful) > 1 else ''} may lie a level too high or too low: the probability "
        f"of the right level is {min(doubtful):.2f}; compare the levels of the study with its images"
    )
    return [Fault(study.study_id, None, str(study.study_id), FaultKind.LEVEL_IN_DOUBT, "kept", message)]


def region(study: Study, position: Position, view: View, tiles: int = 1) -> Region | Missing:
    """Return the site's region in a view, or why it has none.

    tiles: the largest number of its tiles, an odd number: one at the site, and equally many before and after it.
    """
    choice = _marked_slice(study, position, view) or _nearest_slice(study, position, view)
    if isinstance(choice, Missing):
        return choice
    series, chosen = choice
    # Some slices of a stack at the limit of obliqueness may be excluded from the view, and so from its frames.
    stack = [index for stack in series.stacks if chosen in stack for index in stack if index in series.frames]
    slices = [index for triple in triples(series.frames, stack, chosen, tiles // 2) for index in triple]
    return Region(
        position.site,
        view,
        series.series_id,
        tuple(series.slices[index].instance_number for index in slices),
        series.slices[chosen].instance_number,
        position.point_mm,
        _box(series.frames[chosen], position.point_mm),
        position.source,
    )


def _marked_slice(study: Study, position: Position, view: View) -> tuple[Series, int] | None:
    """Return the series and the index of the slice that the reader marked; None if it is not of this view."""
    mark = position.mark
    for series in study.of_view(view):
        if mark is not None and series.series_id == mark.series_id:
            index = series.index(mark.instance_number)
            if index in series.frames:
                return series, index
    return None


def _nearest_slice(study: Study, position: Position, view: View) -> tuple[Series, int] | Missing:
    """Return the series and the index of the nearest slice that contains the position."""
    candidates = [
        (abs(frame.distance_mm(position.point_mm)), series, index, frame)
        for series in study.of_view(view)
        for index, frame in series.frames.items()
    ]
    if not candidates:
        return Missing(position.site, view, "no_series")
    near = [choice for choice in candidates if choice[0] <= REACH_MM]
    if not near:
        return Missing(position.site, view, "beyond_reach")
    shown = [choice for choice in near if choice[3].contains(position.point_mm)]
    if not shown:
        return Missing(position.site, view, "outside_images")
    _, series, index, _ = shown[equally_near([float(choice[0]) for choice in shown])[0]]
    return series, index


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
    """Return a point as three floats, rounded to a thousandth of a millimetre as in the written tables."""
    x, y, z = (round(float(number), 3) for number in point)
    return x, y, z
