"""Decide which images of a new study are one series: those of a folder, unless their headers tell series apart."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data_prep.studies.study_groups import FoundImage, grouped_by


@dataclass(frozen=True)
class SeriesGroup:
    """The images of one series; `is_alone`: no other series of the study lies in its folder."""

    folder: Path
    images: tuple[FoundImage, ...]
    is_alone: bool

    @property
    def series_uid(self) -> str:
        """The SeriesInstanceUID that all images share; empty if they do not."""
        uids = {image.identity.series_uid for image in self.images}
        return next(iter(uids)) if len(uids) == 1 else ""


def group_by_series(images: Iterable[FoundImage]) -> list[SeriesGroup]:
    """Return the series of one study.

    SeriesInstanceUIDs divide a folder if at least two of them have several images; in a study folder one is enough. The
    images with an identifier each, as screenshots have, are then one more series. One identifier per slice, or a single
    image with another one in a series folder, divides nothing.
    """
    groups = []
    for folder, members in grouped_by(images, "folder").items():
        parts: dict[str, list[FoundImage]] = defaultdict(list)
        large = _large_series(members)
        is_divided = len(large) > 1 or (large and folder == members[0].study_folder)
        for image in members:
            uid = image.identity.series_uid
            parts[uid if is_divided and uid in large else ""].append(image)
        groups += [SeriesGroup(folder, tuple(part), len(parts) == 1) for part in parts.values()]
    return groups


def _large_series(images: Iterable[FoundImage]) -> set[str]:
    """Return the SeriesInstanceUIDs of several images."""
    counts: Counter[str] = Counter()
    for image in images:
        counts[image.identity.series_uid] += image.identity.frames
    return {uid for uid, count in counts.items() if uid and count > 1}
