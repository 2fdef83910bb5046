"""Decide which images of a folder of new studies are one study, and which of those are one series.

A study is what the headers say: the images with one StudyInstanceUID, in whatever folders they lie. Folders decide
where the headers say nothing: if no image has a StudyInstanceUID, if all images of several study folders share one (a
constant that an anonymiser wrote), or if every image of a folder has one of its own. Then a folder that holds images of
several patients, by their PatientIDs, is a study for each of them. The study folder of an image is the folder above its
series folder, ``<study>/<series>/*.dcm`` at any depth; if no image lies so deep, all folders are series of one study.
An image without StudyInstanceUID belongs to the study of its folder, if that holds only one and not another patient's.

A series is the folder of its images, unless the headers tell several series apart in it, as in a flat folder.

Numbers: a study folder whose name is a number gives the study that number. Any other study gets a number that is
computed from its StudyInstanceUID and its folder's name alone, so that it has the same number whatever lies beside it.
"""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from data_prep.dicom.identity import Identity
from data_prep.faults import Action, Fault, FaultKind
from data_prep.studies.folders import fault_path, is_id
from data_prep.studies.identity import most, says_nothing
from data_prep.studies.image_tree import ImageFolder, ImageTree
from data_prep.studies.tables import StudyNames

#: Assigned numbers lie between these, so that they are seldom the number of a folder.
_LEAST_NUMBER, _NUMBERS = 10**11, 9 * 10**11
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class NewSeries:
    """One series: its folder, its files in that folder, and the names by which a table may speak of it."""

    folder: Path
    files: tuple[Path, ...]
    names: frozenset[str] = field(repr=False)


@dataclass
class NewStudy:
    """One study: its folders, that with most of its images first, its series by id, and its names in a table."""

    folders: tuple[Path, ...]
    names: frozenset[str] = field(repr=False)
    series: dict[int, NewSeries] = field(default_factory=dict)

    def names_in_tables(self) -> StudyNames:
        """Return the names by which a table may speak of the study and of each series; shared ones name no series."""
        counts = Counter(name for series in self.series.values() for name in series.names)
        names = {
            name: series_id for series_id, series in self.series.items() for name in series.names if counts[name] == 1
        }
        return StudyNames(self.names, frozenset(self.series), names)


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


@dataclass(frozen=True)
class _Image:
    """An image, the folder that it lies in, and its study folder (`home`)."""

    path: Path
    identity: Identity
    folder: Path
    home: Path


@dataclass(frozen=True)
class _Key:
    """What the images of one study share: their StudyInstanceUID, their patient (if two share that), their folder."""

    uid: str = ""
    patient: str = ""
    home: Path | None = None


def find_new_studies(tree: ImageTree) -> NewStudies:
    """Return the studies among the images of a folder."""
    return _Arrangement(tree).result()


class _Arrangement:
    def __init__(self, tree: ImageTree) -> None:
        self._tree, self._top = tree, tree.root
        self._faults: list[Fault] = []
        self._images = _with_believed_uids(
            [
                _Image(path, identity, folder.path, home)
                for folder, home in _with_homes(tree)
                for path, identity in folder.images.items()
            ]
        )
        self._patients = _patients_by_image(self._images)

    def result(self) -> NewStudies:
        groups, basis = self._groups()
        strays = self._narrow_homes(groups)
        main = _main_keys(groups)
        ids = self._study_ids(groups, main)
        studies = {}
        for key, group in groups.items():
            study_id = ids[key]
            homes = tuple(home for home, _ in _most_first(image.home for image in group))
            names = {key.uid, *(home.name for home in homes), *(self._relative(home) for home in homes)}
            studies[study_id] = NewStudy(homes, frozenset(names - {""}), self._series(study_id, group))
            self._note_study(study_id, homes, group, strays)
        for home in self._empty_studies(groups):
            studies[int(home.name)] = NewStudy((home,), frozenset({home.name}))
        count = f"{len(studies)} {'studies' if len(studies) != 1 else 'study'}"
        faults = sorted([*self._tree.faults, *self._faults], key=lambda fault: fault.path)
        owners = {self._relative(folder): number for number, study in studies.items() for folder in study.folders}
        return NewStudies(studies, [_with_study(fault, owners) for fault in faults], f"{count}, by {basis}")

    def _groups(self) -> tuple[dict[_Key, list[_Image]], str]:
        """Return the images of each study, and the words for what they were told apart by."""
        uids = {image.identity.study_uid for image in self._images} - {""}
        identified = [image for image in self._images if image.identity.study_uid] or self._images
        homes = {image.home for image in identified}
        patients = {self._patients[image.path] for image in identified} - {""}
        if len(uids) < 2 and len(patients) > 1:
            if uids:
                message = f"the images of {len(patients)} patients, by their PatientIDs, have one StudyInstanceUID"
                self._note(None, self._top, FaultKind.SHARED_IDENTITY, "guessed", f"{message}: it is not believed")
            return self._by_patient(), "folder and PatientID: no StudyInstanceUID tells them apart"
        if not uids:
            return self._by_folder(), "folder: no StudyInstanceUID tells them apart"
        if len(uids) == 1 and len(homes) > 1:
            message = f"all images of {len(homes)} study folders have one StudyInstanceUID: the folders are the studies"
            self._note(None, self._top, FaultKind.SHARED_IDENTITY, "guessed", message)
            return self._by_folder(), "folder: all images have one StudyInstanceUID"
        return self._by_uid(), "StudyInstanceUID"

    def _by_folder(self) -> dict[_Key, list[_Image]]:
        groups = defaultdict(list)
        is_one = len({image.home for image in self._images}) == 1
        for image in self._images:
            if image.home == self._top and not is_one:
                self._note(None, image.path, FaultKind.MISPLACED, "skipped", "a file where only folders are expected")
            else:
                groups[_Key(home=image.home)].append(image)
        return groups

    def _by_patient(self) -> dict[_Key, list[_Image]]:
        """Return a study per study folder, and per patient where it holds several."""
        of_folder, of_home = defaultdict(set), defaultdict(set)
        for image in self._images:
            if patient := self._patients[image.path]:
                of_folder[image.folder].add(patient)
                of_home[image.home].add(patient)
        groups = defaultdict(list)
        for image in self._images:
            possible = {self._patients[image.path]} - {""} or of_folder[image.folder] or of_home[image.home]
            if len(of_home[image.home]) < 2 and image.home != self._top:
                groups[_Key(home=image.home)].append(image)
            elif len(possible) == 1:
                home = None if image.home == self._top else image.home
                groups[_Key(patient=next(iter(possible)), home=home)].append(image)
            else:
                message = f"it has no PatientID, and its folder holds images of {len(possible)} patients"
                self._note(None, image.path, FaultKind.FOREIGN_IMAGE, "skipped", message)
        return groups

    def _by_uid(self) -> dict[_Key, list[_Image]]:
        of_folder, of_home, patients = defaultdict(set), defaultdict(set), defaultdict(set)
        for image in self._images:
            if uid := image.identity.study_uid:
                of_folder[image.folder].add(uid)
                of_home[image.home].add(uid)
                patients[uid].update({self._patients[image.path]} - {""})
        groups = defaultdict(list)
        for image in self._images:
            patient = self._patients[image.path]
            possible = {image.identity.study_uid} - {""} or {
                uid
                for uid in of_folder[image.folder] or of_home[image.home]
                if not patient or not patients[uid] or patient in patients[uid]
            }
            if len(possible) > 1:
                message = f"it has no StudyInstanceUID, and its folder holds images of {len(possible)} examinations"
                self._note(None, image.path, FaultKind.FOREIGN_IMAGE, "skipped", message)
            elif not possible and image.home == self._top:
                self._note(None, image.path, FaultKind.MISPLACED, "skipped", "a file where only folders are expected")
            elif possible:
                groups[_Key(uid=next(iter(possible)))].append(image)
            else:
                groups[_Key(home=image.home)].append(image)
        return self._told_apart_by_patient(groups)

    def _told_apart_by_patient(self, groups: Mapping[_Key, list[_Image]]) -> dict[_Key, list[_Image]]:
        """Divide a study whose folders have one PatientID each, and not the same: the StudyInstanceUID is a constant.

        These folders are the study folders; where there are none, they are those directly in the folder of all studies.
        Several PatientIDs in one study folder are noted: the StudyInstanceUID is believed.
        """
        result: dict[_Key, list[_Image]] = {}
        for key, group in groups.items():
            of_folder = defaultdict(set)
            is_lower = not key.uid
            places = {
                image.path: image.folder if is_lower or image.home == self._top else image.home for image in group
            }
            for path, place in places.items():
                of_folder[place].update({self._patients[path]} - {""})
            named = set().union(*of_folder.values())
            if len(named) > 1 and all(len(found) == 1 for found in of_folder.values()):
                for image in group:
                    patient = next(iter(of_folder[places[image.path]]))
                    result.setdefault(replace(key, patient=patient), []).append(image)
                continue
            result[key] = list(group)
            if len(named) > 1:
                message = f"images of one StudyInstanceUID have {len(named)} PatientIDs: read as one study"
                self._note(None, _most_first(places.values())[0][0], FaultKind.FOREIGN_IMAGE, "kept", message)
        return result

    def _narrow_homes(self, groups: dict[_Key, list[_Image]]) -> set[Path]:
        """Give a study whose images lie within another study's folder the folder that holds them alone.

        Returns the folders within the folder of a study with more images. They are not within that of all studies.
        """
        main = _main_keys(groups)
        keys = {(image.home, key) for key, group in groups.items() for image in group}
        strays = set()
        for home, key in keys:
            is_shared = sum(home == other for other, _ in keys) > 1
            if not is_shared or (home != self._top and main.get(home) == key):
                continue
            inside = [image.folder for image in groups[key] if image.home == home]
            own = Path(os.path.commonpath(inside))
            groups[key] = [replace(image, home=own) if image.home == home else image for image in groups[key]]
            if home != self._top:
                strays.add(own)
        return strays

    def _study_ids(self, groups: Mapping[_Key, list[_Image]], main: Mapping[Path, _Key]) -> dict[_Key, int]:
        """Return the number of each study: its folder's name if that is a number, else a computed one."""
        ids: dict[_Key, int] = {}
        texts: dict[_Key, tuple[str, str]] = {}
        for key, group in groups.items():
            homes = _most_first(image.home for image in group)
            home = homes[0][0]
            is_own = main.get(home) == key
            numbered = is_own and is_id(home.name) and home.parent in (self._top, self._top.parent)
            if numbered and int(home.name) not in ids.values():
                ids[key] = int(home.name)
            # A study that shares its folder, or lies in several, has only its identifier for a name.
            name, where = (home.name, self._relative(home)) if is_own and len(homes) == 1 else ("", "")
            texts[key] = (f"{key.uid}|{key.patient}|{name}", f"{key.uid}|{key.patient}|{where}")
        return ids | _numbers({key: text for key, text in texts.items() if key not in ids}, ids.values())

    def _series(self, study_id: int, group: Sequence[_Image]) -> dict[int, NewSeries]:
        """Return a study's series by number, which is that of the folder if it holds one series and is called so."""
        found: dict[int, NewSeries] = {}
        texts: dict[NewSeries, tuple[str, str]] = {}
        for (folder, uid), images in _series_groups(group).items():
            alone = len({other.identity.series_uid for other in group if other.folder == folder}) == 1 or not uid
            uids = {image.identity.series_uid for image in images}
            own = next(iter(uids)) if len(uids) == 1 else ""
            series = NewSeries(
                folder,
                tuple(image.path for image in images),
                frozenset({own, folder.name, self._relative(folder)} - {""}) if alone else frozenset({own} - {""}),
            )
            if alone and folder != images[0].home and is_id(folder.name) and int(folder.name) not in found:
                found[int(folder.name)] = series
            else:
                texts[series] = (f"{own}|{folder.name if alone else ''}", f"{own}|{self._relative(folder)}")
        for series, number in _numbers(texts, found).items():
            found[number] = series
            message = f"{_called(series.folder)} gives this series no number; in all outputs it is called {number}"
            self._note(study_id, series.folder, FaultKind.ID_ASSIGNED, "guessed", message)
        return found

    def _note_study(
        self,
        study_id: int,
        homes: Sequence[Path],
        group: Sequence[_Image],
        strays: Container[Path],
    ) -> None:
        """Note a study's number if its folder does not give it, its further folders, and its images in another's."""
        if str(study_id) != homes[0].name:
            message = f"{_called(homes[0])} gives this study no number; in all outputs it is called {study_id}"
            self._note(study_id, homes[0], FaultKind.ID_ASSIGNED, "guessed", message)
        for home in homes:
            if home in strays:
                count = sum(image.home == home for image in group)
                message = f"{count} images belong to another examination than the others here, by their identifiers"
                self._note(study_id, home, FaultKind.FOREIGN_IMAGE, "repaired", f"{message}: read as {study_id}")
            elif home != homes[0]:
                message = f"its images have the StudyInstanceUID of those in {self._relative(homes[0])}"
                self._note(study_id, home, FaultKind.SPLIT_STUDY, "repaired", f"{message}: read as one study")

    def _empty_studies(self, groups: Mapping[_Key, list[_Image]]) -> list[Path]:
        """Return the folders that are called a number and hold no file: studies whose images are missing."""
        taken = {image.home for group in groups.values() for image in group}
        if taken == {self._top}:
            return []
        in_use = {path for folder in self._tree.folders for path in (folder.path, *folder.path.parents)}
        empty = {next(p for p in (path, *path.parents) if p.parent == self._top) for path in self._tree.empty}
        holding = {Path(self._tree.root, fault.path) for fault in self._tree.faults}
        inside = {path for fault in holding for path in (fault, *fault.parents)}
        return sorted(path for path in empty - in_use - inside if is_id(path.name))

    def _relative(self, path: Path) -> str:
        return fault_path(path, self._tree.root)

    def _note(self, study_id: int | None, path: Path, kind: FaultKind, action: Action, message: str) -> None:
        self._faults.append(Fault(study_id, None, self._relative(path), kind, action, message))


def _with_study(fault: Fault, owners: Mapping[str, int]) -> Fault:
    """Return the fault with the number of the study whose folder its path is or lies in, if it does."""
    if fault.study_id is not None:
        return fault
    inside = [folder for folder in owners if f"{fault.path}/".startswith(f"{folder}/") and fault.path != "."]
    return replace(fault, study_id=owners[max(inside, key=len)]) if inside else fault


def _with_homes(tree: ImageTree) -> list[tuple[ImageFolder, Path]]:
    """Return each folder of images with its study folder.

    A folder of several images within a study folder is a series, and what lies within it belongs to the same study.
    """
    folders = {folder.path: folder for folder in tree.folders}

    def home(folder: ImageFolder) -> Path:
        if not tree.is_deep or folder.depth == 0:
            return tree.root
        above = folders.get(folder.path.parent)
        if folder.depth > 2 and above is not None and len(above.images) > 1:
            return home(above)
        return folder.path if folder.depth == 1 else folder.path.parent

    return [(folder, home(folder)) for folder in tree.folders]


def _patients_by_image(images: Sequence[_Image]) -> dict[Path, str]:
    """Return the PatientID of each image, in one spelling; all are empty if each image has another one."""
    found = {image.path: re.sub(r"[\s._/-]", "", image.identity.patient).casefold() for image in images}
    patients = {path: patient.lstrip("0") or patient for path, patient in found.items()}
    counts: Counter[str] = Counter()
    for image in images:
        if patient := patients[image.path]:
            counts[patient] += image.identity.frames
    return dict.fromkeys(patients, "") if says_nothing(counts) else patients


def _with_believed_uids(images: Sequence[_Image]) -> list[_Image]:
    """Return images, without the StudyInstanceUIDs of a folder or study folder in which each image has another one."""
    counts: dict[tuple[str, Path], Counter[str]] = defaultdict(Counter)
    for image in images:
        for place in (("folder", image.folder), ("home", image.home)):
            if image.identity.study_uid:
                counts[place][image.identity.study_uid] += image.identity.frames
    silent = {place for place, count in counts.items() if says_nothing(count)}
    return [
        replace(image, identity=replace(image.identity, study_uid=""))
        if silent & {("folder", image.folder), ("home", image.home)}
        else image
        for image in images
    ]


def _main_keys(groups: Mapping[_Key, list[_Image]]) -> dict[Path, _Key]:
    """Return the study that each study folder is: the one of most of its images; none if two have equally many."""
    counts: dict[Path, Counter[_Key]] = defaultdict(Counter)
    for key, group in groups.items():
        for image in group:
            counts[image.home][key] += 1
    ranked = {home: most(count) for home, count in counts.items()}
    return {home: key for home, key in ranked.items() if key is not None}


def _series_groups(group: Sequence[_Image]) -> dict[tuple[Path, str], list[_Image]]:
    """Return (folder, SeriesInstanceUID) -> images, with an empty identifier where the folder is the series.

    Identifiers divide a folder if most of them have several images. In a series folder a single image with another
    identifier stays; in a folder that is a whole study it is a series of its own, as screenshots and localisers are.
    """
    folders: dict[Path, list[_Image]] = defaultdict(list)
    for image in group:
        folders[image.folder].append(image)
    result: dict[tuple[Path, str], list[_Image]] = {}
    for folder, images in folders.items():
        counts: Counter[str] = Counter()
        for image in images:
            if image.identity.series_uid:
                counts[image.identity.series_uid] += image.identity.frames
        several = sum(count > 1 for count in counts.values())
        is_flat = folder == images[0].home
        is_divided = len(counts) > 1 and (2 * len(counts) <= counts.total() if is_flat else several > 1)
        for image in images:
            uid = image.identity.series_uid if is_divided else ""
            if is_divided and not is_flat and counts[uid] <= 1:
                uid = counts.most_common(1)[0][0]
            result.setdefault((folder, uid), []).append(image)
    return result


def _numbers(texts: Mapping[Thing, tuple[str, str]], taken: Iterable[int]) -> dict[Thing, int]:
    """Return a number for each thing: computed from its first text, from its second one if two share the first."""
    numbers: dict[Thing, int] = {}
    used = set(taken)
    first = Counter(text for text, _ in texts.values())
    for thing, (text, longer) in sorted(texts.items(), key=lambda entry: entry[1]):
        number = _computed(text if first[text] == 1 else longer)
        while number in used:
            number = _computed(str(number))
        used.add(number)
        numbers[thing] = number
    return numbers


def _computed(text: str) -> int:
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return _LEAST_NUMBER + int.from_bytes(digest[:16]) % _NUMBERS


def _most_first(homes: Iterable[Path]) -> list[tuple[Path, int]]:
    """Return folders with the number of their images, that with most first; of equal ones the first by name."""
    return sorted(Counter(homes).items(), key=lambda entry: (-entry[1], entry[0]))


def _called(folder: Path) -> str:
    return f"folder {folder.name!r}"
