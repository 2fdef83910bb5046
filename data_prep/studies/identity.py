"""Decide whose images a study folder of the competition's layout holds, if their headers disagree.

The tables say which study a folder is, and all its images should have one StudyInstanceUID. If they do not, those of
another examination must answer for nobody. The study's own identifier is the one that equals the study's id, as in the
competition's files; else the one of most series. If as many series have another one, none can be believed. Identifiers
that differ from file to file say nothing and are ignored.
"""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

from data_prep.dicom.identity import read_identity
from data_prep.studies.folders import list_folder

#: A series needs this many images for the identifiers of all of them to differ by design, not by chance.
LEAST_IMAGES = 3

Thing = TypeVar("Thing")


class StudyIdentity:
    """Holds the images of one study to one StudyInstanceUID. All files are looked at only if two images disagree."""

    def __init__(self, study_id: int, root: Path, series: Collection[Path]) -> None:
        """Args: the study's id in the tables; the image folder; the study's series folders."""
        self._study_id, self._root, self._folders = study_id, root, series
        self._seen: set[str] = set()
        self._believed: set[str] | None = None

    def foreign(self, uids: Collection[str]) -> set[str]:
        """Return which of a series' StudyInstanceUIDs, empty ones aside, are those of another examination."""
        self._seen |= {uid for uid in uids if uid}
        if len(self._seen) < 2:
            return set()
        if self._believed is None:
            self._believed = self._decide()
        return {uid for uid in uids if uid} - self._believed

    def _decide(self) -> set[str]:
        """Return the identifiers to believe: the study's own and those that say nothing; or only the latter."""
        counts = [count for folder in self._folders if (count := self._count(folder))]
        together: Counter[str] = sum(counts, Counter())
        if says_nothing(together):
            return set(together)
        nothing = {uid for count in counts if says_nothing(count) for uid in count}
        telling = [count for count in counts if not says_nothing(count)]
        own = str(self._study_id)
        if any(own in count for count in telling):
            return {own, *nothing}
        best = most(Counter(uid for count in telling if (uid := most(count))))
        return nothing if best is None else {best, *nothing}

    def _count(self, folder: Path) -> Counter[str]:
        count: Counter[str] = Counter()
        for path in list_folder(folder, self._root).files:
            if (identity := read_identity(path)) and identity.study_uid:
                count[identity.study_uid] += identity.frames
        return count


def says_nothing(count: Counter[str]) -> bool:
    """Return whether identifiers differ from image to image, as those that an anonymiser makes up for each.

    count: the number of images of each identifier. The frames of one file are several images.
    """
    return count.total() >= LEAST_IMAGES and len(count) == count.total()


def most(count: Counter[Thing]) -> Thing | None:
    """Return what is more frequent than anything else; None if nothing is."""
    ranked = count.most_common(2)
    return ranked[0][0] if ranked and (len(ranked) == 1 or ranked[0][1] > ranked[1][1]) else None
