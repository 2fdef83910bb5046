"""Find files that repeat an image of their series: copies, newer versions, and frames that are also single files."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.dicom.headers import Header
from data_prep.dicom.pixels import Pixels
from data_prep.geometry import Frame
from data_prep.series.outlier_images import ValueRange

Note = tuple[Path, str]
"""A file, and what is to be said of it."""


@dataclass
class DecodedImage:
    """An image that was decoded once, from a file of `frames`; `pixels` is None if they did not fit into memory.

    number: the number that no other image of the series has, once it is known.
    digest: of the pixels, once it was asked for.
    """

    path: Path
    frame: int
    frames: int
    header: Header
    shape: tuple[int, int]
    values: ValueRange
    pixels: Pixels | None
    number: int = -1
    digest: bytes = b""


def find_copies(images: Sequence[DecodedImage], digest: Callable[[DecodedImage], bytes]) -> tuple[set[int], list[Note]]:
    """Return the indices of images that repeat an earlier one, or a single-frame file of their number; and notes."""
    removed: set[int] = set()
    notes: list[Note] = []
    identifiers = Counter(image.header.acquisition.identifier for image in images)
    for indices in _alike(images):
        for place, index in enumerate(indices[1:], start=1):
            image = images[index]
            earlier = [images[other] for other in indices[:place] if other not in removed]
            first = next((other for other in earlier if _is_copy(image, other, identifiers, digest)), None)
            if first is not None:
                notes.append((image.path, f"{_called(image)} already been read from {first.path.name}"))
                removed.add(index)
    claims: dict[int, list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        if image.header.instance_number is not None:
            claims[image.header.instance_number].append(index)
    for number, indices in claims.items():
        single = [images[index] for index in indices if images[index].frames == 1]
        for index in indices if single else ():
            image = images[index]
            if image.frames > 1:
                what = f"frame {image.frame + 1}: its instance number {number} is also that of {single[0].path.name}"
                notes.append((image.path, what))
                removed.add(index)
    return removed, notes


def find_second_names(images: Sequence[DecodedImage]) -> list[Note]:
    """Return a note for single files whose header has the instance number and geometry of an earlier one.

    All of these are kept, because the tables name files.
    """
    instances: dict[tuple[int, Frame], DecodedImage] = {}
    notes = []
    for image in images:
        header = image.header
        if image.frames > 1 or header.own_number is None or header.frame is None:
            continue
        first = instances.setdefault((header.own_number, header.frame), image)
        if first is not image and header.acquisition.same_contrast(first.header.acquisition):
            message = f"its header has the same instance number and geometry as that of {first.path.name}"
            notes.append((image.path, message))
    return notes


def _alike(images: Sequence[DecodedImage]) -> list[list[int]]:
    """Return the indices of images that have one number, or else identifier, and one place."""
    alike: dict[tuple[int | None, str, Frame | None], list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        number = image.header.instance_number
        identifier = image.header.acquisition.identifier if number is None else ""
        alike[number, identifier, image.header.frame].append(index)
    return list(alike.values())


def _is_copy(
    image: DecodedImage,
    other: DecodedImage,
    identifiers: Mapping[str, int],
    digest: Callable[[DecodedImage], bytes],
) -> bool:
    """Return whether two images of one number and place are one image in two files.

    identifiers: how many images of the series have each SOPInstanceUID.
    """
    if image.path == other.path:
        return False
    one, two = image.header.acquisition, other.header.acquisition
    identified = bool(one.identifier) and one.identifier == two.identifier
    if image.header.instance_number is None and not identified:
        return False
    if digest(image) == digest(other):
        return True
    # Compressed anew, an image keeps its identifiers while its pixels change. An identifier of more images than two is
    # a constant.
    is_new_version = identified and identifiers[one.identifier] == 2 and image.header.frame is not None
    return is_new_version and image.header.instance_number is not None and one.same_contrast(two)


def _called(image: DecodedImage) -> str:
    if image.frames > 1:
        return "its images have"
    number = image.header.instance_number
    return "its image has" if number is None else f"instance {number} has"
