"""Find the studies and series in a folder of new studies, and give each its number.

`study_groups` decides which images are one study, `series_groups` which are one series. A study folder directly in the
folder of all studies whose name is a number gives this number to the study that it mainly holds: the one whose
StudyInstanceUID is that number, else the one with most series, else that with most images. A series folder does the
same for its series. Any other study or series gets a number that is computed from its StudyInstanceUID or
SeriesInstanceUID and its folder's name.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_prep.faults import Fault, FaultKind
from data_prep.folders import fault_path, is_id
from data_prep.studies.assigned_numbers import assigned_numbers
from data_prep.studies.image_tree import ImageTree
from data_prep.studies.series_groups import SeriesGroup, group_by_series
from data_prep.studies.study_groups import FoundImage, GroupNote, group_by_study, grouped_by
from data_prep.studies.tables import StudyNames


@dataclass(frozen=True)
class NewSeries:
    """One series: its folder, and its files in that folder."""

    folder: Path
    files: tuple[Path, ...]


@dataclass
class NewStudy:
    """One study: its folders, that with most of its images first, its series by id, and what tables may call it."""

    folders: tuple[Path, ...]
    series: dict[int, NewSeries] = field(default_factory=dict)
    names: StudyNames = field(default_factory=StudyNames, repr=False)


@dataclass
class NewStudies:
    """All studies of a folder by id, the faults, and one line that says how the studies were told apart."""

    studies: dict[int, NewStudy]
    faults: list[Fault]
    layout: str

    def within(self, images: Path) -> "NewStudies":
        """Return the same with paths in faults that begin with the name of `images`, the folder of all studies."""
        faults = [replace(fault, path=f"{images.name}/{fault.path}".removesuffix("/.")) for fault in self.faults]
        return replace(self, faults=faults)


@dataclass(frozen=True, eq=False)
class _Study:
    """The images of one study and its folders; `strays` are those of them within the folder of another study."""

    images: Sequence[FoundImage] = field(repr=False)
    folders: tuple[Path, ...]
    strays: tuple[Path, ...]
    number: int | None

    @property
    def texts(self) -> tuple[str, ...]:
        """What a number may be computed from, in the order of preference."""
        uid = Counter(image.stated_uid for image in self.images).most_common(1)[0][0]
        series = min(image.identity.series_uid for image in self.images)
        return f"{uid}|{self.folders[0].name}", f"{uid}|{self.folders[0]}", f"{uid}|{self.folders[0]}|{series}"


def find_new_studies(tree: ImageTree) -> NewStudies:
    """Return the studies among the images of a folder."""
    grouping = group_by_study(tree)
    found = _with_folders(grouping.groups, tree.root)
    numbers = {study: study.number for study in found if study.number is not None}
    unnumbered = {study: study.texts for study in found if study.number is None}
    ids = {**numbers, **assigned_numbers(unnumbered, numbers.values())}
    studies, faults = {}, [_fault(tree.root, None, note) for note in grouping.notes]
    for study, study_id in ids.items():
        series, unnamed = _series_by_id(study)
        names = {study.images[0].uid, *(text for folder in study.folders for text in _names(folder, tree.root))}
        studies[study_id] = NewStudy(
            study.folders,
            {series_id: NewSeries(one.folder, tuple(image.path for image in one.images)) for series_id, one in series},
            StudyNames(frozenset(names - {""}), frozenset(dict(series)), _series_names(series, tree.root)),
        )
        faults += [_fault(tree.root, study_id, note) for note in _notes(study, study_id, unnamed, tree.root)]
    for folder in _studies_without_images(tree):
        studies.setdefault(int(folder.name), NewStudy((folder,)))
    owners = {fault_path(folder, tree.root): number for number, one in studies.items() for folder in one.folders}
    faults = sorted([*tree.faults, *faults], key=lambda fault: fault.path)
    count = f"{len(studies)} {'studies' if len(studies) != 1 else 'study'}"
    return NewStudies(studies, [_with_study(fault, owners) for fault in faults], f"{count}, by {grouping.basis}")


def _with_folders(groups: Sequence[Sequence[FoundImage]], top: Path) -> list[_Study]:
    """Return the studies with their folders. A study within another one's folder has the folder of its images alone."""
    mainly = _main_groups(groups)
    sharing = Counter(folder for group in groups for folder in {image.study_folder for image in group})
    studies, taken = [], set()
    for index, group in enumerate(groups):
        counts: Counter[Path] = Counter()
        strays = set()
        for folder, images in grouped_by(group, "study_folder").items():
            own = folder
            if sharing[folder] > 1 and (folder == top or mainly.get(folder) != index):
                own = Path(os.path.commonpath([image.folder for image in images]))
                if folder != top:
                    strays.add(own)
            counts[own] += len(images)
        folders = tuple(sorted(counts, key=lambda folder: (-counts[folder], folder)))
        first = folders[0]
        is_own = first not in strays and first.parent in (top, top.parent) and (first != top or sharing[top] == 1)
        number = int(first.name) if is_own and is_id(first.name) and int(first.name) not in taken else None
        taken.add(number)
        studies.append(_Study(group, folders, tuple(strays), number))
    return studies


def _main_groups(groups: Sequence[Sequence[FoundImage]]) -> dict[Path, int]:
    """Return study folder -> the index of the study that it mainly holds; without those of which none can be told."""
    sizes: dict[Path, dict[int, tuple[bool, int, int]]] = defaultdict(dict)
    for index, group in enumerate(groups):
        for folder, images in grouped_by(group, "study_folder").items():
            series = {(image.folder, image.identity.series_uid) for image in images}
            sizes[folder][index] = any(image.uid == folder.name for image in images), len(series), len(images)
    mainly = {}
    for folder, of in sizes.items():
        largest = [index for index, size in of.items() if size == max(of.values())]
        if len(largest) == 1:
            mainly[folder] = largest[0]
    return mainly


def _series_by_id(study: _Study) -> tuple[list[tuple[int, SeriesGroup]], dict[int, SeriesGroup]]:
    """Return a study's series with their ids, and those of them whose folder gives no number."""
    numbered: dict[int, SeriesGroup] = {}
    texts: dict[SeriesGroup, tuple[str, ...]] = {}
    for group in group_by_series(study.images):
        is_series_folder = group.is_alone and group.folder not in study.folders and is_id(group.folder.name)
        if is_series_folder and int(group.folder.name) not in numbered:
            numbered[int(group.folder.name)] = group
            continue
        uid, first = group.series_uid, min(image.path for image in group.images)
        texts[group] = f"{uid}|{group.folder.name if group.is_alone else ''}", f"{uid}|{group.folder}", f"{uid}|{first}"
    unnamed = {number: group for group, number in assigned_numbers(texts, numbered).items()}
    return sorted([*numbered.items(), *unnamed.items()], key=lambda entry: entry[0]), unnamed


def _names(folder: Path, root: Path) -> tuple[str, str]:
    """Return what a table may call a folder: its name, and its path."""
    return folder.name, fault_path(folder, root)


def _series_names(series: Iterable[tuple[int, SeriesGroup]], root: Path) -> dict[str, int]:
    """Return name -> id for the names that mean one series only."""
    meant: dict[str, set[int]] = defaultdict(set)
    for series_id, group in series:
        for name in {group.series_uid, *(_names(group.folder, root) if group.is_alone else ())} - {""}:
            meant[name].add(series_id)
    return {name: next(iter(ids)) for name, ids in meant.items() if len(ids) == 1}


def _notes(study: _Study, study_id: int, unnamed: Mapping[int, SeriesGroup], root: Path) -> list[GroupNote]:
    """Return what was decided about a study: assigned numbers, further folders, and folders within another's."""
    first = study.folders[0]
    notes = []
    if study.number is None:
        notes.append(_assigned(first, "study", study_id))
    for folder in study.folders:
        if folder in study.strays:
            message = "images here belong to another examination than most beside them, by their identifiers"
            notes.append(GroupNote(folder, FaultKind.FOREIGN_IMAGE, "repaired", f"{message}: read as {study_id}"))
        elif folder != first:
            message = f"its images have the StudyInstanceUID and PatientID of those in {fault_path(first, root)}"
            notes.append(GroupNote(folder, FaultKind.SPLIT_STUDY, "repaired", f"{message}: read as one study"))
    return notes + [_assigned(group.folder, "series", series_id) for series_id, group in unnamed.items()]


def _assigned(folder: Path, what: str, number: int) -> GroupNote:
    message = f"folder {folder.name!r} gives this {what} no number; in all outputs it is called {number}"
    return GroupNote(folder, FaultKind.ID_ASSIGNED, "guessed", message)


def _studies_without_images(tree: ImageTree) -> list[Path]:
    """Return the study folders that are called a number and in which there is no file at all."""
    if not tree.is_deep:
        return []
    in_use = {path for folder in tree.folders for path in (folder.path, *folder.path.parents)}
    faulty = {Path(tree.root, fault.path) for fault in tree.faults}
    in_use |= {path for fault in faulty for path in (fault, *fault.parents)}
    empty = {next(path for path in (folder, *folder.parents) if path.parent == tree.root) for folder in tree.empty}
    return sorted(path for path in empty - in_use if is_id(path.name))


def _fault(root: Path, study_id: int | None, note: GroupNote) -> Fault:
    return Fault(study_id, None, fault_path(note.path, root), note.kind, note.action, note.message)


def _with_study(fault: Fault, owners: Mapping[str, int]) -> Fault:
    """Return the fault with the number of the study in whose folder its path lies, if it lies in one."""
    above = [fault.path, *map(str, Path(fault.path).parents)]
    found = next((owners[path] for path in above if path in owners), None)
    return fault if fault.study_id is not None or found is None else replace(fault, study_id=found)
