"""The images of one series' folder, windowed together, in bounded memory.

A study whose images fit the budgets is decoded once and stays in memory. Of a larger one the first
images do; the others are decoded again, one at a time, when their grey values are asked for.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.dicom.header_values import READ_ERRORS, HeaderError, parse_failure
from data_prep.dicom.headers import Header, read_header
from data_prep.dicom.pixels import Grey, ImageFile, Pixels, open_images, read_image
from data_prep.faults import Action, Fault, FaultKind, FileFault
from data_prep.geometry import Frame
from data_prep.studies.folders import list_folder, place
from data_prep.studies.outlier_images import Reach, odd_reaches, others, reach_of
from data_prep.studies.windows import SeriesHistogram, series_window, to_grey

#: Decoded images of one series that wait for its window, and grey images of one study, are kept up to these sizes.
SIGNAL_BYTES, GREY_BYTES = 48 << 20, 48 << 20
#: An image that would take more than this part of either is not kept: decoding one that large takes the room itself.
_LARGEST_PART = 8
#: Grey images that were read again are kept up to this size for the next who asks: neighbours make a tile together.
RECENT_BYTES = 8 << 20
_FAULTS_OF_A_FILE = 8


@dataclass
class GreyBudget:
    """What a study may still keep in memory, and what was read again last."""

    left: int = field(default_factory=lambda: GREY_BYTES)
    recent: "OrderedDict[tuple[Path, int], Grey]" = field(default_factory=OrderedDict)

    def take(self, size: int) -> bool:
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
    """A grey image that is decoded again when it is asked for."""

    path: Path
    frame: int
    max_pixels: int
    shape: tuple[int, int]
    window: tuple[float, float]
    budget: GreyBudget

    def read(self) -> Grey:
        """Raises OSError where the file is no longer what it was."""
        key = (self.path, self.frame)
        if key in self.budget.recent:
            return self.budget.recent[key]
        try:
            pixels = read_image(self.path, self.max_pixels, self.frame)
        except FileFault as fault:
            raise OSError(f"{self.path}: changed while it was being converted ({fault.message})") from None
        if pixels.shape != self.shape:
            raise OSError(f"{self.path}: changed while it was being converted")
        return self.budget.remember(key, to_grey(pixels, self.window))


@dataclass(frozen=True)
class SeriesImage:
    """One image of a series: what its header says, and its grey values, here or on disk.

    window: its own, where it is too unlike the others for theirs.
    """

    header: Header
    grey: Grey | GreyOnDisk
    window: tuple[float, float] | None = None


@dataclass
class _Found:
    """An image that was decoded once, of a file of `frames`; `pixels` is None where they did not fit."""

    path: Path
    frame: int
    frames: int
    header: Header
    shape: tuple[int, int]
    reach: Reach
    pixels: Pixels | None


class SeriesFolder:
    """Reads the folder of one series. Whatever is wrong with a file is a fault and costs that file, or frame, only.

    path: the series' folder; root: the image folder, which links must not leave and faults name paths in.
    """

    def __init__(self, path: Path, root: Path, study_id: int, series_id: int, max_pixels: int) -> None:
        self.faults: list[Fault] = []
        self._path, self._root, self._max_pixels = path, root, max_pixels
        self._study_id, self._series_id = study_id, series_id
        self._found: dict[int, _Found] = {}
        self._instances: dict[tuple[int, Frame], Path] = {}
        self._signal_left = SIGNAL_BYTES
        self._histogram = SeriesHistogram()
        self._counted_too_many = False

    def read(self, budget: GreyBudget) -> tuple[list[SeriesImage], tuple[float, float]]:
        """Images by instance number, and the window that made them grey; no images where none can be read."""
        for file in self._files():
            self._read_file(file)
        self._leave_out_others()
        if not self._found:
            return [], (0.0, 0.0)
        found = [self._found[number] for number in sorted(self._found)]
        odd = {found[index].header.instance_number for index in odd_reaches([image.reach for image in found])}
        window = self._window([image for image in found if image.header.instance_number not in odd])
        images = []
        for image in found:
            own = self._own_window(image) if image.header.instance_number in odd else None
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
            self._refuse_second(header.instance_number, len(images.headers))
            pixels = images.signal(frame)
            reach = reach_of(pixels, images.slope(frame))
        except FileFault as fault:
            self._note(path, fault.kind, "skipped", fault.message)
        except HeaderError as error:
            self._note(path, FaultKind.UNREADABLE, "skipped", str(error))
        except READ_ERRORS as error:  # of a header that is parsed only now
            self._note(path, FaultKind.UNREADABLE, "skipped", parse_failure(error))
        else:
            kept = pixels if pixels.nbytes <= min(self._signal_left, SIGNAL_BYTES // _LARGEST_PART) else None
            self._signal_left -= 0 if kept is None else pixels.nbytes
            rows, columns = pixels.shape
            self._add(_Found(path, frame, len(images.headers), header, (rows, columns), reach, kept), pixels)

    def _refuse_second(self, instance_number: int, frames: int) -> None:
        """Raises FileFault for a number that is taken, unless it was made up for a frame and is now a file's own."""
        taken = self._found.get(instance_number)
        if taken is not None and not taken.frames > frames == 1:
            message = f"instance {instance_number} is there already, in {taken.path.name}"
            raise FileFault(FaultKind.DUPLICATE_INSTANCE, message)

    def _add(self, image: _Found, pixels: Pixels) -> None:
        """Count an image in, and note what is wrong with it."""
        number = image.header.instance_number
        if number in self._found:
            taken = self._found[number]
            message = f"frame {taken.frame + 1}: instance {number} is that of {image.path.name}"
            self._note(taken.path, FaultKind.DUPLICATE_INSTANCE, "skipped", message)
            self._counted_too_many = True
        self._note_copy(image.path, image.header, image.frames)
        smallest, largest = self._histogram.add(pixels)
        where = f"frame {image.frame + 1}: " if image.frames > 1 else ""
        if smallest == largest:
            self._note(image.path, FaultKind.CONSTANT_IMAGE, "kept", f"{where}every pixel is {smallest:g}")
        if image.header.frame is None:
            self._note(image.path, FaultKind.NO_GEOMETRY, "kept", image.header.problem)
        self._found[number] = image

    def _note_copy(self, path: Path, header: Header, frames: int) -> None:
        """The same instance under another file's name is kept, because tables speak of files; its place shows it."""
        if frames > 1 or header.own_number is None or header.frame is None:
            return
        key = header.own_number, header.frame
        first = self._instances.setdefault(key, path)
        if first != path:
            message = f"its header says that it is the same instance, at the same place, as {first.name}"
            self._note(path, FaultKind.DUPLICATE_INSTANCE, "kept", message)

    def _leave_out_others(self) -> None:
        """Images of another examination than most here are left out; those of another series of it are kept."""
        found = list(self._found.values())
        for index in others([image.header.study_uid for image in found]):
            image = found[index]
            message = "its StudyInstanceUID is not that of the other images here: of another examination"
            self._note(image.path, FaultKind.FOREIGN_IMAGE, "skipped", message)
            del self._found[image.header.instance_number]
            self._counted_too_many = True
        found = list(self._found.values())
        for index in others([image.header.series_uid for image in found]):
            message = "its SeriesInstanceUID is not that of the other images here"
            self._note(found[index].path, FaultKind.FOREIGN_IMAGE, "kept", message)

    def _window(self, ordinary: list[_Found]) -> tuple[float, float]:
        """Of all images but the odd ones; they are counted anew where others were counted with them."""
        if self._counted_too_many or len(ordinary) < len(self._found):
            self._histogram = SeriesHistogram()
            for image in ordinary:
                self._histogram.add(self._signal(image))
        return self._histogram.window(lambda: map(self._signal, ordinary))

    def _own_window(self, image: _Found) -> tuple[float, float]:
        window = series_window([self._signal(image)])
        message = f"most values lie between {image.reach.low:g} and {image.reach.high:g}, far from the other images'"
        self._note(image.path, FaultKind.ODD_VALUES, "guessed", f"{message}: windowed by itself")
        return window

    def _signal(self, image: _Found) -> Pixels:
        if image.pixels is not None:
            return image.pixels
        try:
            return read_image(image.path, self._max_pixels, image.frame)
        except FileFault as fault:
            raise OSError(f"{image.path}: changed while it was being converted ({fault.message})") from None

    def _grey(self, image: _Found, window: tuple[float, float], budget: GreyBudget) -> Grey | GreyOnDisk:
        rows, columns = image.shape
        if budget.take(rows * columns):
            grey = to_grey(self._signal(image), window)
            image.pixels = None
            return grey
        image.pixels = None
        return GreyOnDisk(image.path, image.frame, self._max_pixels, image.shape, window, budget)

    def _files(self) -> list[Path]:
        """Regular files in the order of their numbers; notes what lies there besides."""
        listing = list_folder(self._path, self._root, self._study_id, self._series_id)
        self.faults += listing.faults
        for path in listing.folders:
            self._note(path, FaultKind.MISPLACED, "skipped", "a folder inside a series' folder")
        return sorted(listing.files, key=_numeric_name)

    def _note(self, path: Path, kind: FaultKind, action: Action, message: str) -> None:
        fault = Fault(self._study_id, self._series_id, place(path, self._root), kind, action, message)
        if fault not in self.faults[-_FAULTS_OF_A_FILE:]:  # the frames of a file share what is wrong with all of them
            self.faults.append(fault)


def _numeric_name(path: Path) -> tuple[bool, int, str]:
    """2.dcm before 10.dcm, numbers before names."""
    number = path.stem.isascii() and path.stem.isdigit() and len(path.stem) <= 18
    return (not number, int(path.stem) if number else 0, path.name)
