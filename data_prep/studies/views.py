"""Which view each series of a study is: from the table's word, and from how and where its images lie.

The rules, in order; each departure from the table is a fault that says what was done:

1. The table's word stands while images of the series lie in its plane (`Frame.lies_as`). Odd slices among
   them, as a localiser has, are noted and carry no region.
2. Where most lie in another plane, or none in its own, the word is wrong: an axial series called sagittal, or
   the reverse, becomes what its plane and weighting say. A coronal one is none of the three kinds.
3. Without a word, plane and weighting decide; sagittal images of unknown weighting stay undecided, as do
   a localiser's, which lie in several planes alike.
4. A pair of sagittal series whose T1 and T2 words both contradict their headers is exchanged. A header that
   contradicts its word alone is only noted: T1-weighted sequences with long repetition times look so too.
5. A series whose extent along the patient hardly meets the others' is of another station of the spine (the
   neck, the chest) and carries no region. Which station is the lumbar one, most series say; of equally many,
   the lower one. A single series against another single one is only noted.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data_prep.faults import Action, FaultKind
from data_prep.geometry import Frame, Plane
from data_prep.sites import View

#: Share of a series' images that must lie in one plane before the others are odd ones.
MOST = 0.75
#: Two series are of one station where the shorter shares this part of its extent with the other: neighbouring
#: stations' sagittal images overlap by less, all series of one station by more.
SHARED_EXTENT = 1 / 3
#: An axial slice reaches this far above and below its middle.
HALF_SLICE_MM = 2.5

Extent = tuple[float, float]


@dataclass(frozen=True)
class SeriesLook:
    """What can be said of a series without its pixels.

    stated: the table's word; None where it has none. frames: of its images with geometry.
    weightings: of its images, ``t1``, ``t2`` or empty where the header does not tell.
    """

    series_id: int
    stated: View | None
    frames: tuple[Frame, ...]
    weightings: frozenset[str]

    @property
    def plane(self) -> Plane | None:
        """The plane that most of its images lie in; None where there is no such, as in a localiser."""
        counts = Counter(frame.plane for frame in self.frames)
        plane, count = counts.most_common(1)[0] if counts else (None, 0)
        return plane if count >= MOST * len(self.frames) else None

    @property
    def weighting(self) -> str:
        known = self.weightings - {""}
        return next(iter(known)) if len(known) == 1 else ""

    def lying_as(self, view: View) -> tuple[Frame, ...]:
        return tuple(frame for frame in self.frames if frame.lies_as(plane_of(view)))


@dataclass(frozen=True)
class ViewFault:
    """What was found wrong with a series' view, and done about it."""

    series_id: int
    kind: FaultKind
    action: Action
    message: str


def plane_of(view: View) -> Plane:
    return Plane.SAGITTAL if view.is_sagittal else Plane.AXIAL


def study_views(looks: Sequence[SeriesLook]) -> tuple[dict[int, View | None], list[ViewFault]]:
    """The view of each series of one study by its id, None for one that carries no region; see the rules above."""
    views: dict[int, View | None] = {}
    faults: list[ViewFault] = []
    for look in looks:
        views[look.series_id] = _view_alone(look, faults)
    _exchange_weightings(looks, views, faults)
    _set_other_stations_aside(looks, views, faults)
    return views, faults


def _view_alone(look: SeriesLook, faults: list[ViewFault]) -> View | None:
    """Rules 1 to 3, which need no other series."""

    def note(kind: FaultKind, action: Action, message: str) -> None:
        faults.append(ViewFault(look.series_id, kind, action, message))

    stated, guess = look.stated, guess_view(look)
    planes = look.plane or ("mixed" if look.frames else "unknown")
    if stated is not None and not look.frames:
        return stated
    if stated is not None and (look.lying_as(stated) if look.plane is None else _stands(look, stated)):
        odd = len(look.frames) - len(look.lying_as(stated))
        if odd:
            message = f"{odd} of {len(look.frames)} images do not lie as {stated.words} does: they carry no region"
            note(FaultKind.ODD_SLICES, "kept", message)
        return stated
    if stated is not None:
        message = f"described as {stated.words}, but its images are {planes}: taken as {_words(guess)}"
        note(FaultKind.VIEW_MISMATCH, "repaired" if guess else "skipped", message)
    elif guess is None:
        message = f"no description, {planes} images: not one of the three kinds of series"
        note(FaultKind.UNKNOWN_VIEW, "kept", message)
    else:
        note(FaultKind.VIEW_GUESSED, "guessed", f"no description: taken as {_words(guess)}")
    return guess


def _stands(look: SeriesLook, stated: View) -> bool:
    """Whether most images lie in a stated view's plane, oblique ones included."""
    return len(look.lying_as(stated)) >= MOST * len(look.frames)


def guess_view(look: SeriesLook) -> View | None:
    """The view of a series by itself; None for what is none of the three (a localiser, an axial T1)."""
    match look.plane, look.weighting:
        case Plane.SAGITTAL, "t1":
            return View.SAGITTAL_T1
        case Plane.SAGITTAL, "t2":
            return View.SAGITTAL_T2_STIR
        case Plane.AXIAL, "t2" | "":
            return View.AXIAL_T2
    return None


def _exchange_weightings(looks: Sequence[SeriesLook], views: dict[int, View | None], faults: list[ViewFault]) -> None:
    """Rule 4."""
    wrong = [look for look in looks if look.stated and views[look.series_id] is look.stated and _contradicted(look)]
    both = {look.stated for look in wrong} >= {View.SAGITTAL_T1, View.SAGITTAL_T2_STIR}
    for look in wrong:
        message = f"described as {_words(look.stated)}, but its header says {look.weighting.upper()}"
        if both and look.stated is not View.AXIAL_T2:
            views[look.series_id] = View.SAGITTAL_T1 if look.weighting == "t1" else View.SAGITTAL_T2_STIR
            message += f", and its fellow's the reverse: taken as {_words(views[look.series_id])}"
            faults.append(ViewFault(look.series_id, FaultKind.VIEW_MISMATCH, "repaired", message))
        else:
            message += ": taken as described"
            faults.append(ViewFault(look.series_id, FaultKind.WEIGHTING_MISMATCH, "kept", message))


def _contradicted(look: SeriesLook) -> bool:
    return look.weighting == ("t2" if look.stated is View.SAGITTAL_T1 else "t1")


def _set_other_stations_aside(
    looks: Sequence[SeriesLook], views: dict[int, View | None], faults: list[ViewFault]
) -> None:
    """Rule 5."""
    extents = {}
    for look in looks:
        view = views[look.series_id]
        frames = look.lying_as(view) if view else ()
        if frames:
            extents[look.series_id] = extent_mm(frames)
    groups = stations(extents)
    # Axial series alone need not meet: one shows the upper levels, one the lower.
    if len(groups) < 2 or all(views[series_id] is View.AXIAL_T2 for series_id in extents):
        return
    lumbar, *others = groups
    for series_id in sorted(series_id for group in others for series_id in group):
        low, high = extents[series_id]
        message = f"lies at z {low:.0f} to {high:.0f} mm, apart from the study's other series"
        if len(lumbar) == 1:
            faults.append(ViewFault(series_id, FaultKind.OTHER_STATION, "kept", f"{message}: which of two is lumbar?"))
            continue
        views[series_id] = None
        equal = any(len(group) == len(lumbar) for group in others)
        message += ": another station of the spine, it carries no region"
        faults.append(ViewFault(series_id, FaultKind.OTHER_STATION, "guessed" if equal else "skipped", message))


def extent_mm(frames: Sequence[Frame]) -> Extent:
    """(lowest, highest) patient z that images show: to the edges of upright ones, the middles of axial ones."""
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
    """Series ids in groups that share extent, directly or through others; the lumbar group first.

    The largest group is the lumbar one; of equally large ones, the lowest.
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
    """Whether two series share enough of the patient's length."""
    shared = min(one[1], other[1]) - max(one[0], other[0])
    shorter = min(one[1] - one[0], other[1] - other[0])
    return shared >= SHARED_EXTENT * shorter


def _words(view: View | None) -> str:
    return "none of the three kinds" if view is None else view.words
