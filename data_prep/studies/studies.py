"""Read one study: its series with windows, views and sorted slices; faults are collected, not raised."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from data_prep.dicom.headers import Header
from data_prep.dicom.pixels import MAX_PIXELS, Grey
from data_prep.faults import Fault, FaultKind
from data_prep.geometry import Frame, stacks
from data_prep.sites import Severity, Site, View
from data_prep.studies.folders import fault_path
from data_prep.studies.series_images import GreyBudget, GreyOnDisk, SeriesFolder, SeriesImage
from data_prep.studies.tables import Mark
from data_prep.studies.views import SeriesHeaders, plane_of, study_views


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
    """One examination: its series, severities and marks."""

    study_id: int
    series: tuple[Series, ...]
    severities: dict[Site, Severity] = field(default_factory=dict)
    marks: tuple[Mark, ...] = ()

    def of_view(self, view: View) -> tuple[Series, ...]:
        return tuple(series for series in self.series if series.view is view)


@dataclass(frozen=True)
class StudyFolder:
    """The folders of a study and its rows of the tables: everything that is needed to read it.

    root: the image folder; paths in faults are relative to it.
    series: the folder of each series, by series id.
    views: the described view of each series; None if the tables do not describe this study.
    """

    study_id: int
    root: Path
    series: dict[int, Path]
    views: dict[int, View] | None = None
    severities: dict[Site, Severity] = field(default_factory=dict)
    marks: tuple[Mark, ...] = ()


def read_study(folder: StudyFolder, max_pixels: int = MAX_PIXELS) -> tuple[Study, list[Fault]]:
    """Read every image of a study. A bad file, or a series without any image, is skipped with a fault."""
    found: list[Series] = []
    headers: list[SeriesHeaders] = []
    faults: list[Fault] = []
    budget = GreyBudget()
    for series_id, path in sorted(folder.series.items()):
        described = (folder.views or {}).get(series_id)
        marks = [mark.instance_number for mark in folder.marks if mark.series_id == series_id]
        files = SeriesFolder(path, folder.root, folder.study_id, series_id, max_pixels, described, marks)
        images, window = files.read(budget)
        faults += files.faults
        if images:
            found.append(_series(series_id, images, window))
            shown = [image.header for image in images if not image.other_contrast]
            headers.append(_series_headers(series_id, described, shown))
        else:
            message = "the series has no readable image"
            where = fault_path(path, folder.root)
            faults.append(Fault(folder.study_id, series_id, where, FaultKind.EMPTY_FOLDER, "skipped", message))
    views, view_faults = study_views(headers)
    for fault in view_faults:
        where = fault_path(folder.series[fault.series_id], folder.root)
        faults.append(Fault(folder.study_id, fault.series_id, where, fault.kind, fault.action, fault.message))
    series = tuple(replace(series, view=views[series.series_id]) for series in found)
    return Study(folder.study_id, series, folder.severities, folder.marks), faults


def _series(series_id: int, images: list[SeriesImage], window: tuple[float, float]) -> Series:
    """Sort images into stacks along their normal; the view is determined later, with those of the other series."""
    located = [
        (image, frame) for image in images if (frame := image.header.frame) is not None and not image.other_contrast
    ]
    groups = stacks([frame for _, frame in located])
    ordered = [located[index][0] for group in groups for index in group]
    ordered += [image for image in images if image.header.frame is None or image.other_contrast]
    slices = tuple(
        Slice(image.number, image.header.frame, image.grey, image.window, image.other_contrast) for image in ordered
    )
    starts = [sum(map(len, groups[:position])) for position in range(len(groups))]
    ranges = tuple(tuple(range(start, start + len(group))) for start, group in zip(starts, groups, strict=True))
    return Series(series_id, None, slices, ranges, window)


def _series_headers(series_id: int, described: View | None, headers: list[Header]) -> SeriesHeaders:
    frames = tuple(header.frame for header in headers if header.frame is not None)
    weightings = frozenset(header.weighting for header in headers)
    return SeriesHeaders(series_id, described, frames, weightings)
