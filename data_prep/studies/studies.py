"""One study: its series read from their folders, in order, windowed; faults are recorded, not raised."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from data_prep.dicom.headers import Header
from data_prep.dicom.pixels import MAX_PIXELS, Grey
from data_prep.faults import Fault, FaultKind
from data_prep.geometry import Frame, stacks
from data_prep.sites import Severity, Site, View
from data_prep.studies.folders import place
from data_prep.studies.series_images import GreyBudget, GreyOnDisk, SeriesFolder, SeriesImage
from data_prep.studies.tables import Mark
from data_prep.studies.views import SeriesLook, plane_of, study_views


@dataclass(frozen=True)
class Slice:
    """One image. `frame` is None where its header has no usable geometry: then it carries no region.

    source: its grey values; of a study that is too large for memory, where they are read from again.
    window: what became 0 and 255, where that is not its series' window.
    """

    instance_number: int
    frame: Frame | None
    source: Grey | GreyOnDisk = field(repr=False, compare=False)
    window: tuple[float, float] | None = None

    @property
    def grey(self) -> Grey:
        """(rows, columns), 0 to 255 over its window. Raises OSError where the file has changed."""
        return self.source.read() if isinstance(self.source, GreyOnDisk) else self.source

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns), without reading anything."""
        rows, columns = self.source.shape
        return rows, columns


@dataclass(frozen=True)
class Series:
    """Images of one series, sorted along their normal, stack after stack; those without geometry come last.

    stacks: indices into `slices`; view: None for what is none of the three kinds;
    window: (low, high) of the values, rescaled where the header says so, that became 0 and 255 in all slices that
    have no window of their own.
    """

    series_id: int
    view: View | None
    slices: tuple[Slice, ...]
    stacks: tuple[tuple[int, ...], ...]
    window: tuple[float, float]

    @cached_property
    def frames(self) -> dict[int, Frame]:
        """Frames by place in `slices`: of those that lie as the view says, which alone carry regions."""
        if self.view is None:
            return {}
        placed = {index: image.frame for index, image in enumerate(self.slices) if image.frame is not None}
        return {index: frame for index, frame in placed.items() if frame.lies_as(plane_of(self.view))}

    def index(self, instance_number: int) -> int | None:
        """Place of an instance in `slices`."""
        for index, image in enumerate(self.slices):
            if image.instance_number == instance_number:
                return index
        return None


@dataclass(frozen=True)
class Study:
    """One examination: its series, what was graded, and where it was marked."""

    study_id: int
    series: tuple[Series, ...]
    severities: dict[Site, Severity] = field(default_factory=dict)
    marks: tuple[Mark, ...] = ()

    def of_view(self, view: View) -> tuple[Series, ...]:
        return tuple(series for series in self.series if series.view is view)


@dataclass(frozen=True)
class StudyFolder:
    """Where a study lies, and what the tables say of it: all that reading it needs.

    series: folder of each series by its id; root: the image folder, which faults name paths in.
    views: what the table of descriptions says; None where there is no such table.
    """

    study_id: int
    root: Path
    series: dict[int, Path]
    views: dict[int, View] | None = None
    severities: dict[Site, Severity] = field(default_factory=dict)
    marks: tuple[Mark, ...] = ()


def read_study(folder: StudyFolder, max_pixels: int = MAX_PIXELS) -> tuple[Study, list[Fault]]:
    """Read every image of a study. A bad file costs that file, a series without any image that series."""
    found: list[Series] = []
    looks: list[SeriesLook] = []
    faults: list[Fault] = []

    budget = GreyBudget()
    for series_id, path in sorted(folder.series.items()):
        files = SeriesFolder(path, folder.root, folder.study_id, series_id, max_pixels)
        images, window = files.read(budget)
        faults += files.faults
        if images:
            found.append(_series(series_id, images, window))
            looks.append(_look(series_id, folder, [image.header for image in images]))
        else:
            message = "no readable image in this series"
            where = place(path, folder.root)
            faults.append(Fault(folder.study_id, series_id, where, FaultKind.EMPTY_FOLDER, "skipped", message))
    views, view_faults = study_views(looks)
    for fault in view_faults:
        where = place(folder.series[fault.series_id], folder.root)
        faults.append(Fault(folder.study_id, fault.series_id, where, fault.kind, fault.action, fault.message))
    series = tuple(replace(series, view=views[series.series_id]) for series in found)
    return Study(folder.study_id, series, folder.severities, folder.marks), faults


def _series(series_id: int, images: list[SeriesImage], window: tuple[float, float]) -> Series:
    """Images by number to images along their normal; the view is still open."""
    placed = [(image, frame) for image in images if (frame := image.header.frame) is not None]
    groups = stacks([frame for _, frame in placed])
    ordered = [placed[index][0] for group in groups for index in group]
    ordered += [image for image in images if image.header.frame is None]
    slices = tuple(
        Slice(image.header.instance_number, image.header.frame, image.grey, image.window) for image in ordered
    )
    starts = [sum(map(len, groups[:position])) for position in range(len(groups))]
    ranges = tuple(tuple(range(start, start + len(group))) for start, group in zip(starts, groups, strict=True))
    return Series(series_id, None, slices, ranges, window)


def _look(series_id: int, folder: StudyFolder, headers: list[Header]) -> SeriesLook:
    frames = tuple(header.frame for header in headers if header.frame is not None)
    weightings = frozenset(header.weighting for header in headers)
    return SeriesLook(series_id, (folder.views or {}).get(series_id), frames, weightings)
