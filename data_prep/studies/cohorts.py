"""Which studies there are: tables and image folders held against each other.

Study folders lie in an image folder, series folders in them: ``<study_id>/<series_id>/*.dcm``. A series
folder that lies elsewhere is read from there where the table makes certain whose it is (`strays`).
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.faults import Action, Fault, FaultKind
from data_prep.studies.folders import Listing, holds_files, is_id, list_folder, place
from data_prep.studies.misplaced_series import misplaced_series
from data_prep.studies.studies import StudyFolder
from data_prep.studies.tables import Tables, read_description_table, read_test_tables, read_train_tables
from workspace.layout import DataRoot, Split


@dataclass(frozen=True)
class Cohort:
    """Studies to convert, in order. `study_ids` are all that the tables name, also those that lie nowhere."""

    split: str
    folders: tuple[StudyFolder, ...]
    study_ids: tuple[int, ...]
    faults: tuple[Fault, ...]
    hashes: dict[str, str] = field(default_factory=dict)


def split_cohort(root: DataRoot, split: Split) -> Cohort:
    """A split of the data root. It may have no folders: then its tables name studies that lie nowhere.

    Raises ValueError or OSError for tables or an image folder that cannot be read, and where there is no study.
    """
    images = root.images(split)
    tables = read_train_tables(root.dataset) if split == "train" else read_test_tables(root.dataset)
    if not images.is_dir():
        if split == "test" and tables.study_ids and not images.exists():
            return _cohort(split, images, tables, _Numbered())  # each is owed an answer all the same
        raise ValueError(f"{images}: no such folder; the {split} studies' DICOM files should lie there")
    studies = _numbered(images, images)
    strays = misplaced_series(images, [*studies.paths.values(), *studies.others], tables.views, tables.study_ids)
    return _cohort(split, images, tables, studies, strays)


def folder_cohort(images: Path, descriptions: Path | None) -> Cohort:
    """New studies: a folder of study folders, or one study's folder of series folders.

    Folders whose names are no numbers are given some (a fault says which), because ids are numbers.
    Raises ValueError where `images` holds no series.
    """
    if not images.is_dir():
        raise ValueError(f"{images}: no such folder; it should hold <study>/<series>/*.dcm")
    tables = read_description_table(descriptions) if descriptions else Tables()
    images = images.resolve()
    single = _holds_series(images)
    root = images.parent if single else images
    studies = _assigned(root, [images]) if single else _numbered(images, images, assign=True)
    if not any(map(_holds_series, studies.paths.values())):
        raise ValueError(f"{images}: holds no study; it should hold <study>/<series>/*.dcm")
    return _cohort("new", root, tables, studies)


@dataclass
class _Numbered:
    """Folders by their number, those whose names are none, and a fault for all that is wrong."""

    paths: dict[int, Path] = field(default_factory=dict)
    others: list[Path] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def _cohort(
    split: str,
    images: Path,
    tables: Tables,
    studies: _Numbered,
    strays: Mapping[tuple[int, int], Path] | None = None,
) -> Cohort:
    """Studies that are on the disk, in the tables' order, then those that no table names.

    Raises ValueError where there are none, and no table names any.
    """
    strays = strays or {}
    found = {study_id: path for study_id, path in studies.paths.items() if path not in strays.values()}
    named = tables.study_ids or tuple(sorted(found))
    faults = [*tables.faults, *studies.faults]
    owners = defaultdict(set)  # series_id -> the studies that the table gives it to
    for study_id, series_views in tables.views.items():
        for series_id in series_views:
            owners[series_id].add(study_id)
    folders = []
    for study_id in dict.fromkeys([*named, *sorted(found)]):
        moved = {series_id: path for (owner, series_id), path in sorted(strays.items()) if owner == study_id}
        path = found.get(study_id)
        if path is None and not moved:
            if split != "new":  # new studies are those in the folder: a table may speak of others too
                message = "the tables name this study, the image folder has it not"
                faults.append(Fault(study_id, None, str(study_id), FaultKind.MISSING_STUDY, "skipped", message))
            continue
        if study_id not in named:
            message = "no table names this study"
            faults.append(Fault(study_id, None, str(study_id), FaultKind.NOT_IN_TABLE, "kept", message))
        series = _Numbered() if path is None else _numbered(path, images, study_id, assign=split == "new")
        series.paths = {number: path for number, path in series.paths.items() if path not in strays.values()}
        series.faults += _drop_others(series.paths, images, study_id, owners)
        folder = StudyFolder(
            study_id,
            images,
            series.paths | moved,
            tables.views.get(study_id),
            tables.severities.get(study_id, {}),
            tuple(tables.marks.get(study_id, ())),
        )
        faults += [*series.faults, *_series_faults(folder, moved)]
        if folder.series:
            folders.append(folder)
    if not folders and not tables.study_ids:
        raise ValueError(f"{images}: holds no study's folder with series; expected <study_id>/<series_id>/<N>.dcm")
    study_ids = named if split != "new" else tuple(sorted(found))
    return Cohort(split, tuple(folders), study_ids, tuple(faults), tables.hashes)


def _drop_others(paths: dict[int, Path], images: Path, study_id: int, owners: Mapping[int, set[int]]) -> list[Fault]:
    """Take out series that the table gives to other studies alone: their pictures are another patient's."""
    faults = []
    for series_id in sorted(paths):
        known = owners.get(series_id, {study_id})
        if study_id not in known:
            message = f"the table gives series {series_id} to study {min(known)}, not to {study_id}"
            path = place(paths.pop(series_id), images)
            faults.append(Fault(study_id, series_id, path, FaultKind.MISPLACED, "skipped", message))
    return faults


def _series_faults(folder: StudyFolder, moved: Mapping[int, Path]) -> list[Fault]:
    """Series found elsewhere; series that only the table, or nobody, knows; a study without any series."""
    faults = []

    def note(series_id: int | None, path: str, kind: FaultKind, action: Action, message: str) -> None:
        faults.append(Fault(folder.study_id, series_id, path, kind, action, message))

    for series_id, path in moved.items():
        message = f"read as series {series_id} of study {folder.study_id}, as the table says"
        note(series_id, place(path, folder.root), FaultKind.MISPLACED, "repaired", message)
    for series_id in sorted(set(folder.views or ()) - set(folder.series)):
        message = "the table describes this series, the image folder has it not"
        note(series_id, f"{folder.study_id}/{series_id}", FaultKind.MISSING_SERIES, "skipped", message)
    if not folder.series:
        note(None, str(folder.study_id), FaultKind.EMPTY_FOLDER, "skipped", "no series in this study's folder")
    return faults


def _numbered(folder: Path, root: Path, study_id: int | None = None, assign: bool = False) -> _Numbered:
    """The folders in a folder of folders; `assign`: those whose names are no numbers get some."""
    listing = list_folder(folder, root, study_id)
    if folder == root:
        _leave_second_names(listing, root)
    result = _assigned(root, listing.folders, study_id) if assign else _refused(root, listing.folders, study_id)
    result.faults += listing.faults
    for path in listing.files:
        message = "a file where folders are expected"
        result.faults.append(Fault(study_id, None, place(path, root), FaultKind.MISPLACED, "skipped", message))
    result.faults.sort(key=lambda fault: fault.path)
    return result


def _leave_second_names(listing: Listing, root: Path) -> None:
    """Take out links to studies that lie here anyway: each would be read twice, and perhaps into two folds."""
    place_of = os.path.realpath(root)
    known: set[str] = set()
    for path in sorted(listing.folders, key=Path.is_symlink):
        target = os.path.realpath(path) if path.is_symlink() else os.path.join(place_of, path.name)  # noqa: PTH118
        if target in known:
            listing.folders.remove(path)
            message = f"a second name of folder {place(Path(target), Path(place_of))}"
            listing.faults.append(Fault(None, None, place(path, root), FaultKind.SECOND_NAME, "skipped", message))
        known.add(target)


def _refused(root: Path, folders: Iterable[Path], study_id: int | None) -> _Numbered:
    """Folders by number; those named otherwise are set aside."""
    result = _split_by_name(folders)
    for path in result.others:
        message = f"folder {path.name!r}: its name should be a plain whole number"
        result.faults.append(Fault(study_id, None, place(path, root), FaultKind.BAD_ID, "skipped", message))
    return result


def _assigned(root: Path, folders: Iterable[Path], study_id: int | None = None) -> _Numbered:
    """Folders by number; those named otherwise get the smallest numbers that are free, in the order of their names."""
    result = _split_by_name(folders)
    number = 0
    for path in result.others:
        number = next(n for n in range(number + 1, number + 2 + len(result.paths)) if n not in result.paths)
        result.paths[number] = path
        message = f"folder {path.name!r} is no number: it is called {number} here"
        result.faults.append(Fault(study_id, None, place(path, root), FaultKind.ID_ASSIGNED, "guessed", message))
    return result


def _split_by_name(folders: Iterable[Path]) -> _Numbered:
    result = _Numbered()
    for path in folders:
        if is_id(path.name):
            result.paths[int(path.name)] = path
        else:
            result.others.append(path)
    return result


def _holds_series(path: Path) -> bool:
    """Whether a folder holds folders that hold files."""
    return any(holds_files(folder) for folder in list_folder(path, path).folders)
