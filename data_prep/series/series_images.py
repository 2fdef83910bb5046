"""Read the images of one series folder and map them to grey with a common window, in bounded memory.

A study whose images fit into the budgets is decoded once and stays in memory. Of a larger study only the first images
stay; the others are decoded again, one at a time, whenever their grey values are needed.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from data_prep.dicom.dicom_file import pydicom_warnings_ignored
from data_prep.dicom.header_values import READ_ERRORS, HeaderError, parse_failure
from data_prep.dicom.headers import Header, named_number, read_header
from data_prep.dicom.identity import Identity
from data_prep.dicom.pixels import Grey, ImageFile, Pixels, open_images, read_image
from data_prep.faults import Action, Fault, FaultKind, FileFault
from data_prep.folders import fault_path, list_folder
from data_prep.series.contrasts import Contrast, choose, contrasts
from data_prep.series.copies import DecodedImage, find_copies, find_second_names
from data_prep.series.grey_images import LARGEST_PART, GreyBudget, GreyOnDisk
from data_prep.series.instance_numbers import complete_numbers, own_numbers
from data_prep.series.outlier_images import foreign_images, outlier_ranges, value_range
from data_prep.series.series_places import PlaceJudge, contradicted_places, labelled_places
from data_prep.series.windows import SeriesHistogram, series_window, to_grey
from data_prep.sites import View

#: Memory budget for the decoded images of one series until its window is known.
SIGNAL_BYTES = 48 << 20
_FAULTS_PER_FILE = 8
FOREIGN_FILE = "its StudyInstanceUID or PatientID is not that of the study: it belongs to another examination"


@dataclass(frozen=True)
class SeriesImage:
    """One image of a series: its header and its grey values, in memory or on disk.

    number: its instance number, which no other image of the series has.
    window: its own window if its values are outliers, or that of its contrast if it is another one; else None.
    other_contrast: whether other images of the same places show the view of the series instead.
    """

    number: int
    header: Header
    grey: Grey | GreyOnDisk
    window: tuple[float, float] | None = None
    other_contrast: bool = False


class SeriesFolder:
    """Reads the folder of one series. Anything wrong with a file is a fault and affects only that file or frame.

    path: the series folder.
    root: the image folder; links must not point outside it, and paths in faults are relative to it.
    described: the view that the table gives, or None.
    marks: the instance number of each mark of readers on this series.
    are_foreign: tells which images belong to another examination; None if they were chosen by their identifiers.
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
        described: View | None = None,
        marks: Collection[int] = (),
        are_foreign: Callable[[Sequence[Identity]], list[bool]] | None = None,
        files: Sequence[Path] | None = None,
    ) -> None:
        self.faults: list[Fault] = []
        self._path, self._root, self._max_pixels = path, root, max_pixels
        self._study_id, self._series_id = study_id, series_id
        self._described, self._marks = described, Counter(marks)
        self._are_foreign, self._chosen = are_foreign, files
        self.is_foreign = False
        self._found: list[DecodedImage] = []
        self._signal_left = SIGNAL_BYTES
        self._histogram = SeriesHistogram()
        self._histogram_outdated = False

    def read(self, budget: GreyBudget) -> tuple[list[SeriesImage], tuple[float, float]]:
        """Return the images, sorted by instance number, and the window of those that show the view of the series.

        There are no images if none can be read.
        """
        files = self._files()
        for file in files:
            self._read_file(file)
        self._drop_foreign_images()
        self._drop_copies()
        if not self._found:
            return [], (0.0, 0.0)
        self._number_images(files)
        self._found.sort(key=lambda image: image.number)
        shown, others = self._contrasts()
        images, window = self._windowed(shown, budget)
        for group in others:
            images += [
                replace(image, window=image.window or own, other_contrast=True)
                for found, own in [self._windowed(group, budget)]
                for image in found
            ]
        return sorted(images, key=lambda image: image.number), window

    def _windowed(self, found: list[DecodedImage], budget: GreyBudget) -> tuple[list[SeriesImage], tuple[float, float]]:
        """Return images as grey with a common window, or with their own if they are outliers."""
        outliers = set(outlier_ranges([image.values for image in found]))
        window = self._window([image for index, image in enumerate(found) if index not in outliers])
        images = []
        for index, image in enumerate(found):
            own = self._own_window(image) if index in outliers else None
            images.append(SeriesImage(image.number, image.header, self._grey(image, own or window, budget), own))
        return images, window

    def _read_file(self, path: Path) -> None:
        try:
            with pydicom_warnings_ignored(), open_images(path, self._max_pixels) as images:
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
            kept = pixels if pixels.nbytes <= min(self._signal_left, SIGNAL_BYTES // LARGEST_PART) else None
            self._signal_left -= 0 if kept is None else pixels.nbytes
            rows, columns = pixels.shape
            self._add(DecodedImage(path, frame, len(images.headers), header, (rows, columns), values, kept), pixels)

    def _add(self, image: DecodedImage, pixels: Pixels) -> None:
        """Add an image to the series and to its histogram, and note its faults."""
        smallest, largest = self._histogram.add(pixels)
        where = f"frame {image.frame + 1}: " if image.frames > 1 else ""
        if smallest == largest:
            self._note(image.path, FaultKind.CONSTANT_IMAGE, "kept", f"{where}every pixel has the value {smallest:g}")
        if image.header.frame is None:
            self._note(image.path, FaultKind.NO_GEOMETRY, "kept", image.header.problem)
        self._found.append(image)

    def _drop_foreign_images(self) -> None:
        """Remove images of another examination; keep, but note, images of another series than most."""
        found = list(self._found)
        judge = self._are_foreign or (lambda identities: [False] * len(identities))
        foreign = [index for index, is_so in enumerate(judge([one.header.identity for one in found])) if is_so]
        self.is_foreign = bool(foreign) and len(foreign) == len(found)
        for index in () if self.is_foreign else foreign:
            self._note(found[index].path, FaultKind.FOREIGN_IMAGE, "skipped", FOREIGN_FILE)
        self._remove(foreign)
        found = list(self._found)
        for index in foreign_images([image.header.identity.series_uid for image in found]):
            message = "its SeriesInstanceUID differs from that of the other images"
            self._note(found[index].path, FaultKind.FOREIGN_IMAGE, "kept", message)

    def _remove(self, indices: Collection[int]) -> None:
        """Remove images, and see to it that they do not affect the window."""
        removed = set(indices)
        self._found = [image for index, image in enumerate(self._found) if index not in removed]
        self._histogram_outdated |= bool(removed)

    def _drop_copies(self) -> None:
        """Remove images that others repeat (`copies`)."""
        removed, notes = find_copies(self._found, self._digest)
        for path, message in notes:
            self._note(path, FaultKind.DUPLICATE_INSTANCE, "skipped", message)
        self._remove(removed)
        for path, message in find_second_names(self._found):
            self._note(path, FaultKind.DUPLICATE_INSTANCE, "kept", message)

    def _digest(self, image: DecodedImage) -> bytes:
        """Return a digest of an image's pixels."""
        if not image.digest:
            pixels = self._signal(image)
            image.digest = hashlib.blake2b(pixels.tobytes(), digest_size=16).digest() + repr(pixels.shape).encode()
        return image.digest

    def _number_images(self, files: Sequence[Path]) -> None:
        """Give each image its number (`instance_numbers`); note it if some needed a new one."""
        paths, headers = [image.path for image in self._found], [image.header for image in self._found]
        kept = own_numbers(paths, headers)
        numbers: list[int] = [number for number in kept if number is not None]
        if len(numbers) < len(kept):
            reserved = {number for path in files if (number := named_number(path)) is not None} | set(self._marks)
            numbers = complete_numbers(kept, paths, headers, reserved)
            new = sorted(number for number, old in zip(numbers, kept, strict=True) if old is None)
            missing = sum(header.instance_number is None for header in headers)
            message = (
                f"{len(new)} of {len(kept)} images have no instance number of their own ({missing} have none, "
                f"{len(new) - missing} that of another image): they get {new[0]} to {new[-1]} in the order of their "
                "places"
            )
            self._note(self._path, FaultKind.NUMBER_ASSIGNED, "repaired", message)
        for image, number in zip(self._found, numbers, strict=True):
            image.number = number

    def _contrasts(self) -> tuple[list[DecodedImage], list[list[DecodedImage]]]:
        """Return the images that show the view of the series, and those of each other contrast; judge their places."""
        headers = [image.header for image in self._found]
        labels = labelled_places(headers)
        contradicted = contradicted_places(headers, labels)
        self._lose_places(contradicted)
        labels = {index: label for index, label in labels.items() if index not in contradicted}
        headers = [image.header for image in self._found]
        found = contrasts(headers, labels)
        for group in found.groups:
            self._judge_places(group, labels)
        marked = {index: self._marks[image.number] for index, image in enumerate(self._found)}
        chosen = choose(found, headers, self._described, marked)
        shown = sorted(index for group in chosen for index in group.indices)
        others = [group for group in found.groups if group not in chosen]
        if not chosen:
            message = "all images show the phase or a part of a complex image: none carries a region"
            self._note(self._path, FaultKind.UNKNOWN_VIEW, "kept", message)
        elif others:
            by_marks = any(marked[index] for index in chosen[0].indices)
            message = (
                f"images of several contrasts (they differ in {', '.join(found.keywords)}): {len(shown)} of "
                f"{len(headers)} are used{', which readers marked' if by_marks else ''}; the others carry no region"
            )
            self._note(self._path, FaultKind.SEVERAL_CONTRASTS, "kept" if by_marks else "guessed", message)
        return [self._found[i] for i in shown], [[self._found[i] for i in group.indices] for group in others]

    def _judge_places(self, group: Contrast, labels: Mapping[int, int]) -> None:
        located = [index for index in group.indices if index in labels]
        images = [self._found[index] for index in located]
        judge = PlaceJudge(
            [image.header for image in images],
            [labels[index] for index in located],
            [image.header.instance_number for image in images],
            self._described,
            partial(self._distinct, images),
        )
        self._lose_places({located[index]: problem for index, problem in judge.judge().items()})

    def _distinct(self, images: Sequence[DecodedImage], indices: Sequence[int]) -> int:
        """Return how many different pictures some of the images are."""
        return len({self._digest(images[index]) for index in indices})

    def _lose_places(self, problems: Mapping[int, str]) -> None:
        """Take the place from images by index, and note why, once per reason."""
        for index, problem in problems.items():
            image = self._found[index]
            image.header = replace(image.header, frame=None, problem=problem)
        for problem in dict.fromkeys(problems.values()):
            lost = [self._found[index].path for index, own in problems.items() if own == problem]
            where = lost[0] if len(lost) == 1 else self._path
            message = f"{problem}: {len(lost)} of {len(self._found)} images have no place"
            self._note(where, FaultKind.NO_GEOMETRY, "kept", message)

    def _window(self, ordinary: list[DecodedImage]) -> tuple[float, float]:
        """Return the window of the ordinary images; count them again if the histogram includes other images."""
        if self._histogram_outdated or len(ordinary) < len(self._found):
            self._histogram = SeriesHistogram()
            for image in ordinary:
                self._histogram.add(self._signal(image))
        return self._histogram.window(lambda: map(self._signal, ordinary))

    def _own_window(self, image: DecodedImage) -> tuple[float, float]:
        window = series_window([self._signal(image)])
        low, high = image.values.low, image.values.high
        message = f"most values lie between {low:g} and {high:g}, far from those of the other images"
        self._note(image.path, FaultKind.ODD_VALUES, "guessed", f"{message}: it gets a window of its own")
        return window

    def _signal(self, image: DecodedImage) -> Pixels:
        if image.pixels is not None:
            return image.pixels
        try:
            return read_image(image.path, self._max_pixels, image.frame)
        except FileFault as fault:
            raise OSError(f"{image.path}: the file changed while it was being converted ({fault.message})") from None

    def _grey(self, image: DecodedImage, window: tuple[float, float], budget: GreyBudget) -> Grey | GreyOnDisk:
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
