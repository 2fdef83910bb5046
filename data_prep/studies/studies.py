"""Read one study: its series with windows, views and sorted slices; faults are collected, not raised."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from data_prep.dicom.headers import Header
from data_prep.dicom.identity import Identity
from data_prep.dicom.pixels import MAX_PIXELS, Grey
from data_prep.faults import Action, Fault, FaultKind
from data_prep.folders import fault_path
from data_prep.geometry import Frame, stacks
from data_prep.series.grey_images import GreyBudget, GreyOnDisk
from data_prep.series.series_images import SeriesFolder, SeriesImage
from data_prep.sites import Severity, Site, View
from data_prep.studies.identity import StudyIdentity
from data_prep.studies.tables import Mark
from data_prep.studies.views import SeriesHeaders, plane_of, study_views

FOREIGN_SERIES = "its StudyInstanceUID or PatientID is another than the study's, or nothing tells which is the study's"


@dataclass(frozen=True)
class Slice:
    """One image. `frame` is None if its header has no usable geometry: then no region uses the image.

    source: the grey values or, in a study too large for memory, the file that they are read from again.
    window: the values that became 0 and 255 if they are not those of its series, else None.
    other_contrast: whether other images of the same places show the view of the series instead (`contrasts`): then no
    region uses the image, and it is in no stack.
    """

    instance_number: int
    frame: Frame | None
    source: Grey | GreyOnDisk = field(repr=False, compare=False)
    window: tuple[float, float] | None = None
    other_contrast: bool = False

    @property
    def grey(self) -> Grey:
        """Grey values (rows, columns), 0 to 255 over the window. Raises OSError if the file has changed."""
        return self.source.read() if isinstance(self.source, GreyOnDisk) else self.source

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (rows, columns), known without reading the file."""
        rows, columns = self.source.shape
        return rows, columns


@dataclass(frozen=True)
class Series:
    """The images of one series, stack after stack, each sorted along its normal.

    Images without geometry and those of other contrasts come last; they are in no stack.

    view: of the images that are not of another contrast; None if it is none of the three views.
    stacks: indices into `slices`.
    window: the (rescaled) values that became 0 and 255 in all slices without a window of their own.
    """

    series_id: int
    view: View | None
    slices: tuple[Slice, ...]
    stacks: tuple[tuple[int, ...], ...]
    window: tuple[float, float]

    @cached_property
    def frames(self) -> dict[int, Frame]:
        """Frames of the slices that lie in the plane of the view, by index in `slices`; only these carry regions."""
        if self.view is None:
            return {}
        located = {
            index: image.frame
            for index, image in enumerate(self.slices)
            if image.frame is not None and not image.other_contrast
        }
        return {index: frame for index, frame in located.items() if frame.lies_as(plane_of(self.view))}

    def index(self, instance_number: int) -> int | None:
        """Return the index of an instance in `slices`, None if there is no such instance."""
        for index, image in enumerate(self.slices):
            if image.instance_number == instance_number:
                return index
        return None


@dataclass(frozen=True)
class Study:
    """One examination: its series, severities and marks.

    identity: a digest of its StudyInstanceUID, for comparison with other studies; empty if it has none, or several.
    """

    study_id: int
    series: tuple[Series, ...]
    severities: dict[Site, Severity] = field(default_factory=dict)
    marks: tuple[Mark, ...] = ()
    identity: str = ""

    def of_view(self, view: View) -> tuple[Series, ...]:
        return tuple(series for series in self.series if series.view is view)


@dataclass(frozen=True)
class StudyFolder:
    """The folders of a study and its rows of the tables: everything that is needed to read it.

    root: the image folder; paths in faults are relative to it.
    series: the folder of each series, by series id.
    views: the described view of each series; None if the tables do not describe this study.
    files: the files of each series, chosen by their headers; without an entry, all files in the series' folder.
    """

    study_id: int
    root: Path
    series: dict[int, Path]
    views: dict[int, View] | None = None
    severities: dict[Site, Severity] = field(default_factory=dict)
    marks: tuple[Mark, ...] = ()
    files: dict[int, tuple[Path, ...]] = field(default_factory=dict)


def read_study(folder: StudyFolder, max_pixels: int = MAX_PIXELS) -> tuple[Study, list[Fault]]:
    """Read every image of a study. A bad file, or a series without any image, is skipped with a fault."""
    found: dict[int, tuple[list[SeriesImage], tuple[float, float]]] = {}
    headers: list[SeriesHeaders] = []
    faults: list[Fault] = []

    def note(series_id: int, kind: FaultKind, action: Action, message: str) -> None:
        where = fault_path(folder.series[series_id], folder.root)
        faults.append(Fault(folder.study_id, series_id, where, kind, action, message))

    budget = GreyBudget()
    identity = None
    if not folder.files:
        is_named = folder.views is not None
        identity = StudyIdentity(folder.study_id, folder.root, folder.series.values(), is_named)
    identities: dict[int, list[Identity]] = {}
    for series_id, path in sorted(folder.series.items()):
        described = (folder.views or {}).get(series_id)
        marks = [mark.instance_number for mark in folder.marks if mark.series_id == series_id]
        files = SeriesFolder(
            path,
            folder.root,
            folder.study_id,
            series_id,
            max_pixels,
            described=described,
            marks=marks,
            are_foreign=identity.are_foreign if identity else None,
            files=folder.files.get(series_id),
        )
        images, window = files.read(budget)
        faults += files.faults
        if files.is_foreign:
            note(series_id, FaultKind.FOREIGN_IMAGE, "skipped", FOREIGN_SERIES)
        elif not images:
            note(series_id, FaultKind.EMPTY_FOLDER, "skipped", "the series has no readable image")
        else:
            found[series_id] = images, window
            shown = [image.header for image in images if not image.other_contrast]
            headers.append(_series_headers(series_id, described, shown))
            identities[series_id] = [image.header.identity for image in images]
    # Only now is it known whether a series that was read early contradicts the others.
    foreign = identity.foreign_series(identities) if identity else set()
    for series_id in foreign:
        note(series_id, FaultKind.FOREIGN_IMAGE, "skipped", FOREIGN_SERIES)
    if identity and identity.is_ignored:
        message = "StudyInstanceUIDs or PatientIDs differ from file to file, or from series to series: they are ignored"
        faults.append(
            Fault(folder.study_id, None, str(folder.study_id), FaultKind.IDENTITY_IGNORED, "guessed", message)
        )
    views, view_faults = study_views([series for series in headers if series.series_id not in foreign])
    for fault in view_faults:
        note(fault.series_id, fault.kind, fault.action, fault.message)
    series = tuple(
        _series(series_id, images, window, views[series_id])
        for series_id, (images, window) in found.items()
        if series_id not in foreign
    )
    uids = {one.study_uid for series_id in views for one in identities[series_id]} - {""}
    return Study(folder.study_id, series, folder.severities, folder.marks, _digest(uids)), faults


def _digest(uids: set[str]) -> str:
    """Return a digest of a StudyInstanceUID, which itself must not be written anywhere."""
    return hashlib.sha256(uids.pop().encode()).hexdigest()[:16] if len(uids) == 1 else ""


def _series(series_id: int, images: list[SeriesImage], window: tuple[float, float], view: View | None) -> Series:
    """Sort images into stacks along their normal, whose sign is that of the view's plane."""
    located = [
        (image, frame) for image in images if (frame := image.header.frame) is not None and not image.other_contrast
    ]
    groups = stacks([frame for _, frame in located], plane_of(view) if view else None)
    ordered = [located[index][0] for group in groups for index in group]
    ordered += [image for image in images if image.header.frame is None or image.other_contrast]
    slices = tuple(
        Slice(image.number, image.header.frame, image.grey, image.window, image.other_contrast) for image in ordered
    )
    starts = [sum(map(len, groups[:position])) for position in range(len(groups))]
    ranges = tuple(tuple(range(start, start + len(group))) for start, group in zip(starts, groups, strict=True))
    return Series(series_id, view, slices, ranges, window)


def _series_headers(series_id: int, described: View | None, headers: list[Header]) -> SeriesHeaders:
    frames = tuple(header.frame for header in headers if header.frame is not None)
    weightings = frozenset(header.weighting for header in headers)
    return SeriesHeaders(series_id, described, frames, weightings)
