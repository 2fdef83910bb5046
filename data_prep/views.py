"""Which view each series of a study is: from the table's word, and from how and where its images lie."""

from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.faults import Action, FaultKind
from data_prep.geometry import Frame
from data_prep.sites import View


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


@dataclass(frozen=True)
class ViewFault:
    """What was found wrong with a series' view, and done about it."""

    series_id: int
    kind: FaultKind
    action: Action
    message: str


def study_views(looks: Sequence[SeriesLook]) -> tuple[dict[int, View | None], list[ViewFault]]:
    """The view of each series of one study by its id, None for what is none of the three kinds."""
    views: dict[int, View | None] = {}
    faults: list[ViewFault] = []
    for look in looks:
        views[look.series_id] = _view(look, faults)
    return views, faults


def _view(look: SeriesLook, faults: list[ViewFault]) -> View | None:
    """What the table says, unless the images lie otherwise; where it says nothing, what they look like."""

    def note(kind: FaultKind, action: Action, message: str) -> None:
        faults.append(ViewFault(look.series_id, kind, action, message))

    stated, plane, guess = look.stated, orientation(look.frames), guess_view(look)
    if stated is not None and plane in ("", "mixed", "sagittal" if stated.is_sagittal else "axial"):
        return stated
    if stated is not None:
        message = f"described as {stated.words}, but its images are {plane}: taken as {_words(guess)}"
        note(FaultKind.VIEW_MISMATCH, "repaired" if guess else "skipped", message)
    elif guess is None:
        message = f"no description, {plane or 'unknown'} images: not one of the three kinds of series"
        note(FaultKind.UNKNOWN_VIEW, "kept", message)
    else:
        note(FaultKind.VIEW_GUESSED, "guessed", f"no description: taken as {_words(guess)}")
    return guess


def orientation(frames: Sequence[Frame]) -> str:
    """``sagittal``, ``axial`` or ``coronal`` where all frames agree, ``mixed``, or empty for none."""
    found = {"sagittal" if frame.is_sagittal else "axial" if frame.is_axial else "coronal" for frame in frames}
    return "mixed" if len(found) > 1 else found.pop() if found else ""


def guess_view(look: SeriesLook) -> View | None:
    """The view of a series that no table describes; None for what is none of the three (a localiser, an axial T1)."""
    weighting = next(iter(look.weightings)) if len(look.weightings) == 1 else ""
    match orientation(look.frames), weighting:
        case "sagittal", "t1":
            return View.SAGITTAL_T1
        case "sagittal", "t2":
            return View.SAGITTAL_T2_STIR
        case "axial", "t2" | "":
            return View.AXIAL_T2
    return None


def _words(view: View | None) -> str:
    return "none of the three kinds" if view is None else view.words
