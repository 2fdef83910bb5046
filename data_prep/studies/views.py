"""Determine the view of each series of a study from its description in the table and from its images' geometry.

The rules, in order; each departure from the table is a fault that gives the reason and the decision:

1. The described view is used as long as images of the series lie in its plane (`Frame.lies_as`). Single slices in
   other planes, as in a localiser, are noted and carry no region.
2. If most images lie in another plane, or none in the described one, the description is wrong: an axial series
   described as sagittal, or the reverse, gets the view of its plane and weighting. A coronal series has none of the
   three views.
3. Without a description, plane and weighting decide. Sagittal images of unknown weighting get no view, and neither do
   the images of a localiser, which lie in several planes.
4. If a T1 and a T2 sagittal series both contradict their headers, their views are exchanged. A single contradiction is
   only noted: T1-weighted sequences with long repetition times can be mistaken for T2.
5. A series whose extent along the patient hardly overlaps with the others shows another station of the spine (the neck,
   the chest) and carries no region. The station with most series is the lumbar one; of equally many, the lower one. If
   there are only two single series that do not overlap, this is only noted.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data_prep.faults import Action, FaultKind
from data_prep.geometry import Frame, Plane
from data_prep.sites import View

#: Share of the images of a series that must lie in one plane for that plane to be the series' plane.
MOST = 0.75
#: Two series show one station if they overlap by at least this part of the shorter extent. Sagittal images of
#: neighbouring stations overlap by less, all series of one station by more.
SHARED_EXTENT = 1 / 3
#: An axial slice is taken to extend this far above and below its middle.
HALF_SLICE_MM = 2.5

Extent = tuple[float, float]


@dataclass(frozen=True)
class SeriesHeaders:
    """The description and the headers of a series, without its pixels.

    described: the view that the table gives, or None.
    frames: the geometry of all images that have one.
    weightings: the weightings of its images: ``t1``, ``t2``, or empty if unknown.
    """

    series_id: int
    described: View | None
    frames: tuple[Frame, ...]
    weightings: frozenset[str]

    @property
    def plane(self) -> Plane | None:
        """The plane that most of the images lie in; None if there is none, as in a localiser."""
        counts = Counter(frame.plane for frame in self.frames)
        plane, count = counts.most_common(1)[0] if counts else (None, 0)
        return plane if count >= MOST * len(self.frames) else None

    @property
    def weighting(self) -> str:
        """The weighting of the series; empty if it is unknown or the images differ."""
        known = self.weightings - {""}
        return next(iter(known)) if len(known) == 1 else ""

    def frames_in_plane_of(self, view: View) -> tuple[Frame, ...]:
        return tuple(frame for frame in self.frames if frame.lies_as(plane_of(view)))


@dataclass(frozen=True)
class ViewFault:
    """A fault about the view of a series."""

    series_id: int
    kind: FaultKind
    action: Action
    message: str


def plane_of(view: View) -> Plane:
    return Plane.SAGITTAL if view.is_sagittal else Plane.AXIAL


def study_views(series: Sequence[SeriesHeaders]) -> tuple[dict[int, View | None], list[ViewFault]]:
    """Determine the views of one study's series by the rules above.

    Returns the view of each series by its id, None for a series that carries no region, and the faults.
    """
    views: dict[int, View | None] = {}
    faults: list[ViewFault] = []
    for headers in series:
        views[headers.series_id] = _view_alone(headers, faults)
    _exchange_weightings(series, views, faults)
    _set_other_stations_aside(series, views, faults)
    return views, faults


def _view_alone(headers: SeriesHeaders, faults: list[ViewFault]) -> View | None:
    """Apply rules 1 to 3, which need no other series."""

    def note(kind: FaultKind, action: Action, message: str) -> None:
        faults.append(ViewFault(headers.series_id, kind, action, message))

    described, guess, count = headers.described, guess_view(headers), len(headers.frames)
    plane = headers.plane or ("of several planes" if headers.frames else "without geometry")
    if described is not None and not headers.frames:
        return described
    if described is not None:
        fitting = len(headers.frames_in_plane_of(described))
        if fitting and (headers.plane is None or fitting >= MOST * count):
            if fitting < count:
                message = f"{count - fitting} of {count} images do not lie in the plane of {described.words}: "
                note(FaultKind.ODD_SLICES, "kept", f"{message}they carry no region")
            return described
        message = f"described as {described.words}, but its images are {plane}: taken as {_words(guess)}"
        note(FaultKind.VIEW_MISMATCH, "repaired" if guess else "skipped", message)
    elif guess is None:
        message = f"the series is not described and its images are {plane}: it has none of the three views"
        note(FaultKind.UNKNOWN_VIEW, "kept", message)
    else:
        note(FaultKind.VIEW_GUESSED, "guessed", f"the series is not described: taken as {_words(guess)}")
    return guess


def guess_view(headers: SeriesHeaders) -> View | None:
    """Return the view that plane and weighting imply; None if it is none of the three (a localiser, an axial T1)."""
    match headers.plane, headers.weighting:
        case Plane.SAGITTAL, "t1":
            return View.SAGITTAL_T1
        case Plane.SAGITTAL, "t2":
            return View.SAGITTAL_T2_STIR
        case Plane.AXIAL, "t2" | "":
            return View.AXIAL_T2
    return None


def _exchange_weightings(
    series: Sequence[SeriesHeaders], views: dict[int, View | None], faults: list[ViewFault]
) -> None:
    """Apply rule 4."""
    wrong = [one for one in series if one.described and views[one.series_id] is one.described and _contradicted(one)]
    both = {one.described for one in wrong} >= {View.SAGITTAL_T1, View.SAGITTAL_T2_STIR}
    for one in wrong:
        message = f"described as {_words(one.described)}, but the weighting of its header is {one.weighting.upper()}"
        if both and one.described is not View.AXIAL_T2:
            views[one.series_id] = View.SAGITTAL_T1 if one.weighting == "t1" else View.SAGITTAL_T2_STIR
            message += f", and for the other sagittal series the reverse: taken as {_words(views[one.series_id])}"
            faults.append(ViewFault(one.series_id, FaultKind.VIEW_MISMATCH, "repaired", message))
        else:
            message += ": taken as described"
            faults.append(ViewFault(one.series_id, FaultKind.WEIGHTING_MISMATCH, "kept", message))


def _contradicted(headers: SeriesHeaders) -> bool:
    """Return whether the weighting of the headers contradicts the described view."""
    return headers.weighting == ("t2" if headers.described is View.SAGITTAL_T1 else "t1")


def _set_other_stations_aside(
    series: Sequence[SeriesHeaders], views: dict[int, View | None], faults: list[ViewFault]
) -> None:
    """Apply rule 5."""
    extents = {}
    for headers in series:
        view = views[headers.series_id]
        frames = headers.frames_in_plane_of(view) if view else ()
        if frames:
            extents[headers.series_id] = extent_mm(frames)
    groups = stations(extents)
    # Axial series alone need not overlap: one may show the upper levels, another the lower ones.
    if len(groups) < 2 or all(views[series_id] is View.AXIAL_T2 for series_id in extents):
        return
    lumbar, *others = groups
    for series_id in sorted(series_id for group in others for series_id in group):
        low, high = extents[series_id]
        message = f"the series lies at z {low:.0f} to {high:.0f} mm, apart from the other series of the study"
        if len(lumbar) == 1:
            message += ": it may show another station of the spine, or the other series may"
            faults.append(ViewFault(series_id, FaultKind.OTHER_STATION, "kept", message))
            continue
        views[series_id] = None
        equal = any(len(group) == len(lumbar) for group in others)
        message += ": it shows another station of the spine and carries no region"
        faults.append(ViewFault(series_id, FaultKind.OTHER_STATION, "guessed" if equal else "skipped", message))


def extent_mm(frames: Sequence[Frame]) -> Extent:
    """Return the (lowest, highest) patient z in mm that images show.

    Sagittal and coronal images count up to their edges, axial ones from `HALF_SLICE_MM` below to above their middle.
    """
    heights: list[float] = []
    for frame in frames:
        rows, columns = frame.shape
        if frame.lies_as(Plane.AXIAL):
            heights += [float(frame.centre_mm[2]) + half for half in (-HALF_SLICE_MM, HALF_SLICE_MM)]
        else:
            corners = [(column, row) for column in (0, columns - 1) for row in (0, rows - 1)]
            heights += frame.to_patient(corners)[:, 2].tolist()
    return min(heights), max(heights)


def stations(extents: Mapping[int, Extent]) -> list[list[int]]:
    """Group series ids by station: two series that share enough extent, directly or through others, are together.

    The lumbar group comes first: the largest or, of equally large groups, the lowest.
    """
    groups: list[list[int]] = []
    for series_id, extent in extents.items():
        touching = [group for group in groups if any(of_one_station(extent, extents[other]) for other in group)]
        groups = [group for group in groups if group not in touching]
        groups.append([*(other for group in touching for other in group), series_id])

    def rank(group: list[int]) -> tuple[int, float]:
        return -len(group), sum(sum(extents[series_id]) for series_id in group) / len(group)

    return sorted(groups, key=rank)


def of_one_station(one: Extent, other: Extent) -> bool:
    """Return whether two extents overlap by at least `SHARED_EXTENT` of the shorter one."""
    shared = min(one[1], other[1]) - max(one[0], other[0])
    shorter = min(one[1] - one[0], other[1] - other[0])
    return shared >= SHARED_EXTENT * shorter


def _words(view: View | None) -> str:
    return "none of the three views" if view is None else view.words
