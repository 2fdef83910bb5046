"""One study: its series read from their folders, in order, windowed; faults are recorded, not raised."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from data_prep.faults import Action, Fault, FaultKind
from data_prep.geometry import Frame, stacks
from data_prep.headers import Header, read_header
from data_prep.pixels import MAX_PIXELS, Grey, PixelFault, Pixels, grey_image, read_dicom, series_window, to_grey
from data_prep.sites import Severity, Site, View
from data_prep.tables import Mark
from data_prep.views import SeriesLook, plane_of, study_views


@dataclass(frozen=True)
class Slice:
    """One image. `frame` is None where its header has no usable geometry: then it carries no region."""

    instance_number: int
    frame: Frame | None
    grey: Grey = field(repr=False, compare=False)


@dataclass(frozen=True)
class Series:
    """Images of one series, sorted along their normal, stack after stack; those without geometry come last.

    stacks: indices into `slices`; view: None for what is none of the three kinds;
    window: (low, high) of the values, rescaled where the header says so, that became 0 and 255.
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
        placed = {place: image.frame for place, image in enumerate(self.slices) if image.frame is not None}
        return {place: frame for place, frame in placed.items() if frame.lies_as(plane_of(self.view))}

    def index(self, instance_number: int) -> int | None:
        """Place of an instance in `slices`."""
        for place, image in enumerate(self.slices):
            if image.instance_number == instance_number:
                return place
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
    for series_id, path in sorted(folder.series.items()):
        read = _SeriesReader(folder, series_id, path, faults).read(max_pixels)
        if read is not None:
            found.append(read[0])
            looks.append(read[1])
    views, view_faults = study_views(looks)
    for fault in view_faults:
        place = folder.series[fault.series_id].relative_to(folder.root).as_posix()
        faults.append(Fault(folder.study_id, fault.series_id, place, fault.kind, fault.action, fault.message))
    series = tuple(replace(series, view=views[series.series_id]) for series in found)
    return Study(folder.study_id, series, folder.severities, folder.marks), faults


@dataclass
class _SeriesReader:
    """Reads one series' folder and notes what is wrong with it."""

    folder: StudyFolder
    series_id: int
    path: Path
    faults: list[Fault]

    def read(self, max_pixels: int) -> tuple[Series, SeriesLook] | None:
        """The series, its view still open, and what its view is told from; None where it has no readable image."""
        images: dict[int, tuple[Header, Pixels]] = {}
        for file in self._files():
            try:
                dataset = read_dicom(file)
                header = read_header(dataset, file)
                if header.instance_number in images:
                    message = f"instance {header.instance_number} is there already"
                    raise PixelFault(FaultKind.DUPLICATE_INSTANCE, message)
                pixels, repaired = grey_image(dataset, max_pixels)
            except PixelFault as fault:
                self._note(file, fault.kind, "skipped", fault.message)
                continue
            except ValueError as error:
                self._note(file, FaultKind.UNREADABLE, "skipped", str(error))
                continue
            if repaired:
                self._note(file, repaired, "repaired", "bytes after the promised pixels were left out")
            if header.frame is None:
                self._note(file, FaultKind.NO_GEOMETRY, "kept", header.problem)
            images[header.instance_number] = (header, pixels)
        if not images:
            self._note(self.path, FaultKind.EMPTY_FOLDER, "skipped", "no readable image in this series")
            return None
        return self._series(images), self._look([header for header, _ in images.values()])

    def _files(self) -> Iterator[Path]:
        """Regular files in the order of their numbers; notes what lies there besides."""
        try:
            paths = sorted(self.path.iterdir(), key=_numeric_name)
        except OSError as error:
            self._note(self.path, FaultKind.UNREADABLE, "skipped", error.strerror or "cannot be listed")
            return
        for path in paths:
            if path.is_dir():
                self._note(path, FaultKind.MISPLACED, "skipped", "a folder inside a series' folder")
            elif path.name.startswith(".") or path.name == "DICOMDIR":
                self._note(path, FaultKind.NOT_DICOM, "skipped", "not an image file")
            elif not path.is_file():
                self._note(path, FaultKind.NOT_DICOM, "skipped", "not a file: a broken link, or a device")
            else:
                yield path

    def _series(self, images: dict[int, tuple[Header, Pixels]]) -> Series:
        window = series_window([pixels for _, pixels in images.values()])
        placed = [number for number, (header, _) in sorted(images.items()) if header.frame is not None]
        unplaced = [number for number, (header, _) in sorted(images.items()) if header.frame is None]
        groups = stacks([frame for number in placed if (frame := images[number][0].frame) is not None])
        order = [placed[index] for group in groups for index in group] + unplaced
        slices = tuple(Slice(number, images[number][0].frame, to_grey(images[number][1], window)) for number in order)
        starts = [sum(map(len, groups[:position])) for position in range(len(groups))]
        ranges = tuple(tuple(range(start, start + len(group))) for start, group in zip(starts, groups, strict=True))
        return Series(self.series_id, None, slices, ranges, window)

    def _look(self, headers: list[Header]) -> SeriesLook:
        stated = (self.folder.views or {}).get(self.series_id)
        frames = tuple(header.frame for header in headers if header.frame is not None)
        return SeriesLook(self.series_id, stated, frames, frozenset(header.weighting for header in headers))

    def _note(self, path: Path, kind: FaultKind, action: Action, message: str) -> None:
        place = path.relative_to(self.folder.root).as_posix()
        self.faults.append(Fault(self.folder.study_id, self.series_id, place, kind, action, message))


def _numeric_name(path: Path) -> tuple[bool, int, str]:
    """2.dcm before 10.dcm, numbers before names."""
    number = path.stem.isascii() and path.stem.isdigit()
    return (not number, int(path.stem) if number else 0, path.name)
