"""Read the images of one series folder and map them to grey with a common window, in bounded memory.

A study whose images fit into the budgets is decoded once and stays in memory. Of a larger study only the first images
stay; the others are decoded again, one at a time, whenever their grey values are needed.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.dicom.header_values import READ_ERRORS, HeaderError, parse_failure
from data_prep.dicom.headers import Header, read_header
from data_prep.dicom.pixels import Grey, ImageFile, Pixels, open_images, read_image
from data_prep.faults import Action, Fault, FaultKind, FileFault
from data_prep.geometry import Frame
from data_prep.studies.folders import fault_path, list_folder
from data_prep.studies.identity import StudyIdentity
from data_prep.studies.outlier_images import ValueRange, foreign_images, outlier_ranges, value_range
from data_prep.studies.windows import SeriesHistogram, series_window, to_grey

#: Memory budgets: for the decoded images of one series until its window is known, and for the grey images of one study.
SIGNAL_BYTES, GREY_BYTES = 48 << 20, 48 << 20
#: An image larger than a budget divided by this is not kept: decoding so large an image needs the memory itself.
_LARGEST_PART = 8
#: Memory budget for grey images that were decoded again: a tile needs the same neighbouring slices as the next one.
RECENT_BYTES = 8 << 20
_FAULTS_PER_FILE = 8
FOREIGN_FILE = "its StudyInstanceUID is not that of the study: it belongs to another examination"


@dataclass
class GreyBudget:
    """The memory that a study may still use for grey images, and the images that were read again most recently."""

    left: int = field(default_factory=lambda: GREY_BYTES)
    recent: "OrderedDict[tuple[Path, int], Grey]" = field(default_factory=OrderedDict)

    def take(self, size: int) -> bool:
        """Reserve `size` bytes if they fit; return whether they do."""
        fits = size <= min(self.left, GREY_BYTES // _LARGEST_PART)
        self.left -= size if fits else 0
        return fits

    def remember(self, key: tuple[Path, int], grey: Grey) -> Grey:
        self.recent[key] = grey
        while sum(image.nbytes for image in self.recent.values()) > RECENT_BYTES and len(self.recent) > 1:
            self.recent.popitem(last=False)
        return grey


@dataclass(frozen=True)
class GreyOnDisk:
    """A grey image that is decoded again whenever it is needed."""

    path: Path
    frame: int
    max_pixels: int
    shape: tuple[int, int]
    window: tuple[float, float]
    budget: GreyBudget

    def read(self) -> Grey:
        """Decode the image and map it to grey. Raise OSError if the file has changed."""
        key = (self.path, self.frame)
        if key in self.budget.recent:
            return self.budget.recent[key]
        try:
            pixels = read_image(self.path, self.max_pixels, self.frame)
        except FileFault as fault:
            raise OSError(f"{self.path}: the file changed while it was being converted ({fault.message})") from None
        if pixels.shape != self.shape:
            raise OSError(f"{self.path}: the file changed while it was being converted")
        return self.budget.remember(key, to_grey(pixels, self.window))


@dataclass(frozen=True)
class SeriesImage:
    """One image of a series: its header and its grey values, in memory or on disk.

    window: its own window if its values are outliers, else None.
    """

    header: Header
    grey: Grey | GreyOnDisk
    window: tuple[float, float] | None = None


@dataclass
class _Found:
    """An image that was decoded once, from a file of `frames`; `pixels` is None if they did not fit into memory."""

    path: Path
    frame: int
    frames: int
    header: Header
    shape: tuple[int, int]
    values: ValueRange
    pixels: Pixels | None


class SeriesFolder:
    """Reads the folder of one series. Anything wrong with a file is a fault and affects only that file or frame.

    path: the series folder.
    root: the image folder; links must not point outside it, and paths in faults are relative to it.
    identity: holds the images to the study's StudyInstanceUID; None if they were chosen by it.
    files: the series' files if others lie beside them; by default all files of the folder.

    `is_foreign` tells, after reading, whether all its images belong to another examination.
    """

    def __init__(
        self,
        path: Path,
        root: Path,
        study_id: int,
        series_id: int,
        max_pixels: int,
        identity: StudyIdentity | None = None,
        files: Sequence[Path] | None = None,
    ) -> None:
        self.faults: list[Fault] = []
        self._path, self._root, self._max_pixels = path, root, max_pixels
        self._study_id, self._series_id = study_id, series_id
        self._chosen, self._identity = files, identity
        self.is_foreign = False
        self._found: dict[int, _Found] = {}
        self._instances: dict[tuple[int, Frame], Path] = {}
        self._signal_left = SIGNAL_BYTES
        self._histogram = SeriesHistogram()
        self._histogram_outdated = False

    def read(self, budget: GreyBudget) -> tuple[list[SeriesImage], tuple[float, float]]:
        """Return the images, sorted by instance number, and their window; no images if none can be read."""
        for file in self._files():
            self._read_file(file)
        self._drop_foreign_images()
        if not self._found:
            return [], (0.0, 0.0)
        found = [self._found[number] for number in sorted(self._found)]
        outliers = {found[index].header.instance_number for index in outlier_ranges([image.values for image in found])}
        window = self._window([image for image in found if image.header.instance_number not in outliers])
        images = []
        for image in found:
            own = self._own_window(image) if image.header.instance_number in outliers else None
            images.append(SeriesImage(image.header, self._grey(image, own or window, budget), own))
        return images, window

    def _read_file(self, path: Path) -> None:
        try:
            with open_images(path, self._max_pixels) as images:
                try:
                    for frame in range(len(images.headers)):
                        self._read_frame(path, images, frame)
                finally:
                    for repair in images.repairs:
                        self._note(path, repair.kind, repair.action, repair.message)
        except FileFault as fault:
            self._note(path, fault.kind, "skipped", fault.message)

    def _read_frame(self, path: Path, images: ImageFile, frame: int) -> None:
        try:
            header = read_header(images.headers[frame], path, frame, len(images.headers))
            self._check_number_is_free(header.instance_number, len(images.headers))
            pixels = images.signal(frame)
            values = value_range(pixels, images.slope(frame))
        except FileFault as fault:
            self._note(path, fault.kind, "skipped", fault.message)
        except HeaderError as error:
            self._note(path, FaultKind.UNREADABLE, "skipped", str(error))
        except READ_ERRORS as error:  # pydicom parses some header values only on access
            self._note(path, FaultKind.UNREADABLE, "skipped", parse_failure(error))
        else:
            for repair in header.repairs:
                self._note(path, repair.kind, repair.action, repair.message)
            kept = pixels if pixels.nbytes <= min(self._signal_left, SIGNAL_BYTES // _LARGEST_PART) else None
            self._signal_left -= 0 if kept is None else pixels.nbytes
            rows, columns = pixels.shape
            self._add(_Found(path, frame, len(images.headers), header, (rows, columns), values, kept), pixels)

    def _check_number_is_free(self, instance_number: int, frames: int) -> None:
        """Raise FileFault for a number that is taken, unless a single-frame file takes that of a multi-frame file."""
        taken = self._found.get(instance_number)
        if taken is not None and not taken.frames > frames == 1:
            message = f"instance {instance_number} has already been read from {taken.path.name}"
            raise FileFault(FaultKind.DUPLICATE_INSTANCE, message)

    def _add(self, image: _Found, pixels: Pixels) -> None:
        """Add an image to the series and to its histogram, and note its faults."""
        number = image.header.instance_number
        if number in self._found:
            taken = self._found[number]
            message = f"frame {taken.frame + 1}: its instance number {number} is also that of {image.path.name}"
            self._note(taken.path, FaultKind.DUPLICATE_INSTANCE, "skipped", message)
            self._histogram_outdated = True
        self._note_copy(image.path, image.header, image.frames)
        smallest, largest = self._histogram.add(pixels)
        where = f"frame {image.frame + 1}: " if image.frames > 1 else ""
        if smallest == largest:
            self._note(image.path, FaultKind.CONSTANT_IMAGE, "kept", f"{where}every pixel has the value {smallest:g}")
        if image.header.frame is None:
            self._note(image.path, FaultKind.NO_GEOMETRY, "kept", image.header.problem)
        self._found[number] = image

    def _note_copy(self, path: Path, header: Header, frames: int) -> None:
        """Note a file whose header has the instance number and geometry of an earlier one.

        Both are kept, because the tables name files.
        """
        if frames > 1 or header.own_number is None or header.frame is None:
            return
        key = header.own_number, header.frame
        first = self._instances.setdefault(key, path)
        if first != path:
            message = f"its header has the same instance number and geometry as that of {first.name}"
            self._note(path, FaultKind.DUPLICATE_INSTANCE, "kept", message)

    def _drop_foreign_images(self) -> None:
        """Remove images of another examination; keep, but note, images of another series than most."""
        uids = {image.header.study_uid for image in self._found.values()}
        others = self._identity.foreign(uids) if self._identity else set()
        foreign = {number for number, image in self._found.items() if image.header.study_uid in others}
        self.is_foreign = bool(foreign) and len(foreign) == len(self._found)
        for number in foreign:
            image = self._found.pop(number)
            self._histogram_outdated = True
            if not self.is_foreign:
                self._note(image.path, FaultKind.FOREIGN_IMAGE, "skipped", FOREIGN_FILE)
        found = list(self._found.values())
        for index in foreign_images([image.header.series_uid for image in found]):
            message = "its SeriesInstanceUID differs from that of the other images"
            self._note(found[index].path, FaultKind.FOREIGN_IMAGE, "kept", message)

    def _window(self, ordinary: list[_Found]) -> tuple[float, float]:
        """Return the window of the ordinary images; count them again if the histogram includes other images."""
        if self._histogram_outdated or len(ordinary) < len(self._found):
            self._histogram = SeriesHistogram()
            for image in ordinary:
                self._histogram.add(self._signal(image))
        return self._histogram.window(lambda: map(self._signal, ordinary))

    def _own_window(self, image: _Found) -> tuple[float, float]:
        window = series_window([self._signal(image)])
        low, high = image.values.low, image.values.high
        message = f"most values lie between {low:g} and {high:g}, far from those of the other images"
        self._note(image.path, FaultKind.ODD_VALUES, "guessed", f"{message}: it gets a window of its own")
        return window

    def _signal(self, image: _Found) -> Pixels:
        if image.pixels is not None:
            return image.pixels
        try:
            return read_image(image.path, self._max_pixels, image.frame)
        except FileFault as fault:
            raise OSError(f"{image.path}: the file changed while it was being converted ({fault.message})") from None

    def _grey(self, image: _Found, window: tuple[float, float], budget: GreyBudget) -> Grey | GreyOnDisk:
        rows, columns = image.shape
        if budget.take(rows * columns):
            grey = to_grey(self._signal(image), window)
            image.pixels = None
            return grey
        image.pixels = None
        return GreyOnDisk(image.path, image.frame, self._max_pixels, image.shape, window, budget)

    def _files(self) -> list[Path]:
        """Return the regular files in the order of their numbers; note everything else in the folder."""
        if self._chosen is not None:
            return sorted(self._chosen, key=_numeric_name)
        listing = list_folder(self._path, self._root, self._study_id, self._series_id)
        self.faults += listing.faults
        for path in listing.folders:
            self._note(path, FaultKind.MISPLACED, "skipped", "a folder inside a series folder")
        return sorted(listing.files, key=_numeric_name)

    def _note(self, path: Path, kind: FaultKind, action: Action, message: str) -> None:
        fault = Fault(self._study_id, self._series_id, fault_path(path, self._root), kind, action, message)
        if fault not in self.faults[-_FAULTS_PER_FILE:]:  # all frames of a file may have the same fault: note it once
            self.faults.append(fault)


def _numeric_name(path: Path) -> tuple[bool, int, str]:
    """Sort key of file names: 2.dcm before 10.dcm, numbers before other names."""
    number = path.stem.isascii() and path.stem.isdigit() and len(path.stem) <= 18
    return (not number, int(path.stem) if number else 0, path.name)
