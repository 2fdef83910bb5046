"""Decide which of the images of a folder of new studies are one study.

A study is what the headers say: images with one StudyInstanceUID and one PatientID, in whatever folders they lie. The
rules are on the safe side: two patients are never joined, if need be at the price of a study in two parts.

1. An identifier says nothing if all images of several study folders share it, a constant that an anonymiser wrote, or
   if it differs from file to file within a study folder of one patient. Then the study folder counts.
2. Images with one StudyInstanceUID in several study folders are one study if they all name the same patient; otherwise
   each folder is a study.
3. An image without StudyInstanceUID belongs to the study of its series folder, or else of its study folder, if there
   is only one that its PatientID does not contradict. If there is none, its study folder is its study.
4. Whatever identifier they share, images of two patients are two studies. An image without PatientID is of the only
   patient of its folder; if there are several, it is set aside.

The study folder of an image is the folder above its series folder, ``<study>/<series>/*.dcm`` at any depth. If no image
lies so deep, all folders are series of one study.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_prep.dicom.identity import Identity
from data_prep.faults import Action, FaultKind
from data_prep.studies.evidence import differ_per_file
from data_prep.studies.image_tree import ImageFolder, ImageTree


@dataclass(frozen=True)
class FoundImage:
    """An image: its file, the folder of that, its study folder, and what its header says of its study and patient.

    stated_uid: the StudyInstanceUID. uid: the same, but empty if it says nothing.
    """

    path: Path
    folder: Path
    study_folder: Path
    identity: Identity = field(repr=False)
    uid: str = field(default="", repr=False)

    @property
    def patient(self) -> str:
        return self.identity.plain_patient

    @property
    def stated_uid(self) -> str:
        return self.identity.study_uid


@dataclass(frozen=True)
class GroupNote:
    """What was decided about the images in a folder, or about one file."""

    path: Path
    kind: FaultKind
    action: Action
    message: str


@dataclass
class StudyGroups:
    """The images of each study, what they were told apart by in words, and what had to be decided."""

    groups: list[list[FoundImage]]
    basis: str
    notes: list[GroupNote] = field(default_factory=list)


def group_by_study(tree: ImageTree) -> StudyGroups:
    """Return the studies among the images of a folder."""
    notes: list[GroupNote] = []
    images = _with_telling_uids(_found_images(tree), tree.root, notes)
    stated = any(image.stated_uid for image in images)
    basis = "StudyInstanceUID" if any(image.uid for image in images) else "folder"
    if basis == "folder":
        basis += ": the StudyInstanceUIDs say nothing" if stated else ": there is no StudyInstanceUID"
    groups = []
    for group in _by_uid_or_folder(images, tree.root, notes):
        for one_folder in _divided_by_folder(group, notes):
            patients = _divided_by_patient(one_folder, notes)
            if len(patients) > 1 and "PatientID" not in basis:
                basis += " and PatientID"
            groups += patients
    return StudyGroups(groups, basis, notes)


def _found_images(tree: ImageTree) -> list[FoundImage]:
    folders = {folder.path: folder for folder in tree.folders}

    def study_folder(folder: ImageFolder) -> Path:
        if not tree.is_deep or folder.depth == 0:
            return tree.root
        above = folders.get(folder.path.parent)
        if folder.depth > 2 and above is not None and len(above.images) > 1:  # it lies in a series folder
            return study_folder(above)
        return folder.path if folder.depth == 1 else folder.path.parent

    return [
        FoundImage(path, folder.path, study_folder(folder), identity, identity.study_uid)
        for folder in tree.folders
        for path, identity in folder.images.items()
    ]


def _with_telling_uids(images: Sequence[FoundImage], top: Path, notes: list[GroupNote]) -> list[FoundImage]:
    """Apply rule 1: return the images, with an empty `uid` where the StudyInstanceUID says nothing."""
    uids = {image.uid for image in images} - {""}
    folders = {image.study_folder for image in images}
    if len(uids) == 1 and len(folders) > 1:
        message = f"all images of {len(folders)} study folders have one StudyInstanceUID: the folders are the studies"
        notes.append(GroupNote(top, FaultKind.IDENTITY_IGNORED, "guessed", message))
        return [replace(image, uid="") for image in images]
    result: list[FoundImage] = []
    for folder, members in grouped_by(images, "study_folder").items():
        single = all(image.identity.frames == 1 for image in members)
        if single and len(_patients(members)) < 2 and differ_per_file(image.uid for image in members):
            message = "the StudyInstanceUIDs differ from file to file: the folder is one study"
            notes.append(GroupNote(folder, FaultKind.IDENTITY_IGNORED, "guessed", message))
            result += [replace(image, uid="") for image in members]
        else:
            result += members
    return result


def _by_uid_or_folder(images: Sequence[FoundImage], top: Path, notes: list[GroupNote]) -> list[list[FoundImage]]:
    """Apply rule 3: group images by StudyInstanceUID, and those without one by their folder."""
    with_uid = [image for image in images if image.uid]
    in_folder, in_study = grouped_by(with_uid, "folder"), grouped_by(with_uid, "study_folder")
    several_folders = len({image.study_folder for image in images}) > 1
    groups: dict[tuple[str, Path | None], list[FoundImage]] = defaultdict(list)
    lost: dict[tuple[Path, FaultKind, str], list[FoundImage]] = defaultdict(list)
    for image in images:
        beside = in_folder.get(image.folder) or in_study.get(image.study_folder, [])
        possible = {image.uid} if image.uid else {uid for uid in _uids(beside) if _may_be_of(image, beside, uid)}
        if len(possible) == 1:
            groups[next(iter(possible)), None].append(image)
        elif possible:
            what = f"no readable StudyInstanceUID, and the folder holds images of {len(possible)} examinations"
            lost[image.folder, FaultKind.FOREIGN_IMAGE, what].append(image)
        elif image.folder == top and several_folders:
            lost[image.path, FaultKind.MISPLACED, "a file where only folders are expected"].append(image)
        else:
            groups["", image.study_folder].append(image)
    for (path, kind, message), members in lost.items():
        count = "" if path == members[0].path else f"{len(members)} image{'s' * (len(members) > 1)}: "
        notes.append(GroupNote(path, kind, "skipped", count + message))
    return list(groups.values())


def _may_be_of(image: FoundImage, beside: Iterable[FoundImage], uid: str) -> bool:
    """Return whether an image may be of the study `uid` beside it: no PatientID says otherwise."""
    patients = _patients([other for other in beside if other.uid == uid])
    return not image.patient or not patients or image.patient in patients


def _divided_by_folder(group: list[FoundImage], notes: list[GroupNote]) -> list[list[FoundImage]]:
    """Apply rule 2: divide images of several study folders unless all name the same patient."""
    folders = grouped_by(group, "study_folder")
    if len(folders) == 1 or (len(_patients(group)) == 1 and all(_patients(images) for images in folders.values())):
        return [group]
    if len(_patients(group)) < 2:
        for folder in folders:
            message = f"{len(folders)} folders have its StudyInstanceUID, but not each names the same patient"
            notes.append(GroupNote(folder, FaultKind.SPLIT_STUDY, "guessed", f"{message}: read as a study of its own"))
        return list(folders.values())
    of_patient: dict[str | Path, list[FoundImage]] = defaultdict(list)
    for folder, images in folders.items():
        patients = _patients(images)
        for image in images:  # an image without PatientID in a folder of one patient is of that patient
            of_patient[image.patient or (next(iter(patients)) if len(patients) == 1 else folder)].append(image)
    return list(of_patient.values())


def _divided_by_patient(group: list[FoundImage], notes: list[GroupNote]) -> list[list[FoundImage]]:
    """Apply rule 4."""
    patients = _patients(group)
    if len(patients) < 2 or differ_per_file(image.patient for image in group):
        return [group]
    in_folder, in_study = grouped_by(group, "folder"), grouped_by(group, "study_folder")
    divided: dict[str, list[FoundImage]] = defaultdict(list)
    lost: dict[Path, int] = defaultdict(int)
    for image in group:
        beside = _patients(in_folder[image.folder]) or _patients(in_study[image.study_folder])
        if image.patient or len(beside) == 1:
            divided[image.patient or next(iter(beside))].append(image)
        else:
            lost[image.folder] += 1
    for folder, count in lost.items():
        message = f"{count} images without PatientID in a folder of several patients"
        notes.append(GroupNote(folder, FaultKind.FOREIGN_IMAGE, "skipped", message))
    folders = sorted({image.study_folder for image in group})
    message = f"images of {len(patients)} patients, by their PatientIDs, are not told apart by a StudyInstanceUID"
    notes.append(GroupNote(folders[0], FaultKind.IDENTITY_IGNORED, "repaired", f"{message}: each is a study"))
    return list(divided.values())


def grouped_by(images: Iterable[FoundImage], attribute: str) -> Mapping[Path, list[FoundImage]]:
    """Return the images of each folder; `attribute` is "folder" or "study_folder"."""
    groups: dict[Path, list[FoundImage]] = defaultdict(list)
    for image in images:
        groups[getattr(image, attribute)].append(image)
    return groups


def _patients(images: Iterable[FoundImage]) -> set[str]:
    return {image.patient for image in images} - {""}


def _uids(images: Iterable[FoundImage]) -> set[str]:
    return {image.uid for image in images} - {""}
