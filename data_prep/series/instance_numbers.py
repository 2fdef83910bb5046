"""Give each image of a series a number of its own, whatever file names and headers say.

The rules, in order:

1. The number of an image is its file's name, if that is a number, else the header's InstanceNumber (`read_header`).
2. If several images have one number, it stays with the image whose file's name is exactly this number, or else with the
   only one whose file's name is this number in another form (``007``). Headers do not decide between images.
3. Every other image gets a new number. New numbers ascend with the place along the stack; images without a place come
   last; images at one place are in the order of SOPInstanceUID and of the files' names. They begin after the numbers
   that are in use, or with 1 if no image keeps its own, and avoid the numbers that the tables or other files name: a
   mark must not fall on an image that received its number here.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from itertools import count
from pathlib import Path

from data_prep.dicom.headers import LARGEST_INSTANCE, Header, named_number
from data_prep.geometry import SAME_SLICE_MM, stacks


def own_numbers(paths: Sequence[Path], headers: Sequence[Header]) -> list[int | None]:
    """Return the number that each image keeps by rules 1 and 2, None for those that need a new one."""
    claims: dict[int, list[int]] = defaultdict(list)
    for index, header in enumerate(headers):
        if header.instance_number is not None:
            claims[header.instance_number].append(index)
    kept: list[int | None] = [None] * len(headers)
    for number, indices in claims.items():
        best = min(_claim_rank(paths[index]) for index in indices)
        owners = [index for index in indices if _claim_rank(paths[index]) == best]
        if len(owners) == 1:
            kept[owners[0]] = number
    return kept


def complete_numbers(
    kept: Sequence[int | None], paths: Sequence[Path], headers: Sequence[Header], reserved: Collection[int]
) -> list[int]:
    """Return the numbers of all images: those that are kept, and new ones by rule 3 that avoid `reserved`."""
    used = {number for number in kept if number is not None}
    start = max(used | set(reserved)) + 1 if used else 1
    if start > LARGEST_INSTANCE - len(headers) - len(reserved):
        start = 1
    free = (number for number in count(start) if number not in used and number not in reserved)
    numbers = list(kept)
    for index in _in_order(paths, headers):
        if numbers[index] is None:
            numbers[index] = next(free)
    return [number for number in numbers if number is not None]


def _claim_rank(path: Path) -> int:
    number = named_number(path)
    return 2 if number is None else int(str(number) != path.stem)


def _in_order(paths: Sequence[Path], headers: Sequence[Header]) -> list[int]:
    """Return the indices of all images in the order of rule 3."""
    located = [index for index, header in enumerate(headers) if header.frame is not None]
    frames = [frame for header in headers if (frame := header.frame) is not None]
    place: dict[int, tuple[int, int]] = {}
    for number, stack in enumerate(stacks(frames)):
        heights = [float(frames[member].centre_mm @ frames[stack[0]].normal) for member in stack]
        level = 0
        for rank, member in enumerate(stack):
            level += rank > 0 and abs(heights[rank] - heights[rank - 1]) > SAME_SLICE_MM
            place[located[member]] = number, level

    def key(index: int) -> tuple[tuple[int, int], tuple[int | str, ...], tuple[int | str, ...], str]:
        last = (len(headers), 0)
        identifier = headers[index].acquisition.identifier
        return place.get(index, last), natural(identifier), natural(paths[index].name), paths[index].name

    return sorted(range(len(headers)), key=key)


def natural(text: str) -> tuple[int | str, ...]:
    """Return a sort key by which numbers within a text count as numbers.

    >>> sorted(["IM10", "IM2", "1.2.10", "1.2.9"], key=natural)
    ['1.2.9', '1.2.10', 'IM2', 'IM10']
    """
    parts = re.split(r"([0-9]+)", text)
    return tuple(int(part) if index % 2 and len(part) <= 64 else part for index, part in enumerate(parts))
