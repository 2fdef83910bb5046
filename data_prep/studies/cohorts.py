"""Determine the studies of a cohort from its tables and its image folder.

The image folder of a split holds study folders, and these hold series folders: ``<study_id>/<series_id>/*.dcm``. A
misplaced series folder is read too if the table leaves no doubt about its study (`misplaced_series`). New studies may
lie in any layout: their headers tell them apart (`new_studies`).
"""

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.faults import Action, Fault, FaultKind
from data_prep.folders import Listing, fault_path, is_id, list_folder
from data_prep.studies.image_tree import Share, read_image_tree, share_of_folders
from data_prep.studies.misplaced_series import misplaced_series
from data_prep.studies.new_studies import find_new_studies
from data_prep.studies.studies import StudyFolder
from data_prep.studies.tables import Tables, read_description_table, read_test_tables, read_train_tables
from workspace.layout import DataRoot, Split
from workspace.setting_error import SettingError

_NOT_IN_TABLE = "the image folder contains this study, but no table names it"


@dataclass(frozen=True)
class Cohort:
    """The studies to convert, in order.

    study_ids: all that the tables name, even without a folder.
    folder_names: the folder of each new study, relative to the folder of all; empty for a split.
    layout: one line that says how new studies were told apart; empty for a split.
    """

    split: str
    folders: tuple[StudyFolder, ...]
    study_ids: tuple[int, ...]
    faults: tuple[Fault, ...]
    hashes: dict[str, str] = field(default_factory=dict)
    folder_names: dict[int, str] = field(default_factory=dict)
    layout: str = ""


def split_cohort(root: DataRoot, split: Split) -> Cohort:
    """Return the cohort of a split of the data root.

    The image folder of the test split may be missing: its studies then have no folders. Raises ValueError or OSError
    if the tables or the image folder cannot be read, or if there is no study.
    """
    images = root.images(split)
    tables = read_train_tables(root.dataset) if split == "train" else read_test_tables(root.dataset)
    if not images.is_dir():
        if split == "test" and tables.study_ids and not images.exists():
            return _cohort(split, images, tables, _Numbered())  # the submission includes these studies all the same
        raise ValueError(f"{images}: no such folder; it should hold the DICOM files of the {split} split")
    studies = _numbered(images, images)
    misplaced = misplaced_series(images, [*studies.paths.values(), *studies.others], tables.views, tables.study_ids)
    return _cohort(split, images, tables, studies, misplaced)


def folder_cohort(images: Path, descriptions: Path | None, share: Share | None = None) -> Cohort:
    """Return the cohort of new studies in a folder, or in a share of the folders directly within it.

    Their headers tell the studies apart (`new_studies`).

    Raises ValueError if `images` holds no image, ValueError or OSError if `descriptions` is not a table.
    """
    if not images.is_dir():
        raise ValueError(f"{images}: no such folder; it should hold DICOM files")
    images = images.resolve()
    tree = read_image_tree(images, share)
    if not tree.folders:
        if share is not None:
            _check_share(images, share)
        raise ValueError(f"{images}: holds no study: no file below it is a DICOM image")
    found, root = find_new_studies(tree), images
    if any(images in study.folders for study in found.studies.values()):  # it is itself a study
        found, root = found.within(images), images.parent
    names = {study_id: study.names for study_id, study in found.studies.items()}
    tables = read_description_table(descriptions, names) if descriptions else Tables()
    faults = [*tables.faults, *found.faults]
    owners = _owners(tables)
    folders: list[StudyFolder] = []
    for study_id, study in sorted(found.studies.items()):
        if tables.study_ids and study_id not in tables.study_ids:
            where = fault_path(study.folders[0], root)
            faults.append(Fault(study_id, None, where, FaultKind.NOT_IN_TABLE, "kept", _NOT_IN_TABLE))
        paths = {series_id: series.folder for series_id, series in study.series.items()}
        faults += _drop_series_of_others(paths, root, study_id, owners)
        files = {series_id: study.series[series_id].files for series_id in paths}
        folder = StudyFolder(study_id, root, paths, tables.views.get(study_id), files=files)
        faults += _series_faults(folder, {})
        if folder.series:
            folders.append(folder)
    folder_names = {
        study_id: "; ".join(fault_path(folder, root) for folder in study.folders)
        for study_id, study in sorted(found.studies.items())
    }
    layout = found.layout
    if descriptions is not None and (strange := folder_names.keys() - set(tables.study_ids)):
        described = len(folder_names) - len(strange)
        layout += f"; {descriptions.name} describes {described or 'none'} of them"
    return Cohort("new", tuple(folders), tuple(folder_names), tuple(faults), tables.hashes, folder_names, layout)


def _check_share(images: Path, share: Share) -> None:
    """Raise SettingError if there are fewer folders than shares, so that this one has none."""
    count = len(share_of_folders(images, Share()))
    if count and not share_of_folders(images, share):
        raise SettingError(
            "share",
            f"{share.number + 1}/{share.count}: no folder of {images} is in this share, because there are {count}; "
            f"give at most {count} shares",
        )


@dataclass
class _Numbered:
    """Folders by their number, `others` whose names are not numbers, and the faults."""

    paths: dict[int, Path] = field(default_factory=dict)
    others: list[Path] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def _cohort(
    split: str,
    images: Path,
    tables: Tables,
    studies: _Numbered,
    misplaced: Mapping[tuple[int, int], Path] | None = None,
) -> Cohort:
    """Return the studies with a folder, in the order of the tables, then those that no table names.

    Raises ValueError if no study has a folder and no table names one.
    """
    misplaced = misplaced or {}
    found = {study_id: path for study_id, path in studies.paths.items() if path not in misplaced.values()}
    named = tables.study_ids or tuple(sorted(found))
    faults = [*tables.faults, *studies.faults]
    owners = _owners(tables)
    folders = []
    for study_id in dict.fromkeys([*named, *sorted(found)]):
        moved = {series_id: path for (owner, series_id), path in sorted(misplaced.items()) if owner == study_id}
        path = found.get(study_id)
        if path is None and not moved:
            message = "the tables name this study, but the image folder does not contain it"
            faults.append(Fault(study_id, None, str(study_id), FaultKind.MISSING_STUDY, "skipped", message))
            continue
        if study_id not in named:
            faults.append(Fault(study_id, None, str(study_id), FaultKind.NOT_IN_TABLE, "kept", _NOT_IN_TABLE))
        series = _Numbered() if path is None else _numbered(path, images, study_id)
        series.paths = {number: path for number, path in series.paths.items() if path not in misplaced.values()}
        series.faults += _drop_series_of_others(series.paths, images, study_id, owners)
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
        raise ValueError(f"{images}: holds no study; expected files <study_id>/<series_id>/<N>.dcm")
    return Cohort(split, tuple(folders), named, tuple(faults), tables.hashes)


def _owners(tables: Tables) -> dict[int, set[int]]:
    """Return series_id -> the studies that the table assigns it to."""
    owners = defaultdict(set)
    for study_id, series_views in tables.views.items():
        for series_id in series_views:
            owners[series_id].add(study_id)
    return owners


def _drop_series_of_others(
    paths: dict[int, Path], images: Path, study_id: int, owners: Mapping[int, set[int]]
) -> list[Fault]:
    """Remove series that the table assigns only to other studies: their images may be another patient's."""
    faults = []
    for series_id in sorted(paths):
        known = owners.get(series_id, {study_id})
        if study_id not in known:
            message = f"the table assigns series {series_id} to study {min(known)}, not to study {study_id}"
            path = fault_path(paths.pop(series_id), images)
            faults.append(Fault(study_id, series_id, path, FaultKind.MISPLACED, "skipped", message))
    return faults


def _series_faults(folder: StudyFolder, moved: Mapping[int, Path]) -> list[Fault]:
    """Return faults for misplaced series, for described series without a folder, and for a study without series."""
    faults = []

    def note(series_id: int | None, path: str, kind: FaultKind, action: Action, message: str) -> None:
        faults.append(Fault(folder.study_id, series_id, path, kind, action, message))

    for series_id, path in moved.items():
        message = f"read as series {series_id} of study {folder.study_id}, to which the table assigns it"
        note(series_id, fault_path(path, folder.root), FaultKind.MISPLACED, "repaired", message)
    for series_id in sorted(set(folder.views or ()) - set(folder.series)):
        message = "the table describes this series, but the image folder does not contain it"
        note(series_id, f"{folder.study_id}/{series_id}", FaultKind.MISSING_SERIES, "skipped", message)
    if not folder.series:
        note(None, str(folder.study_id), FaultKind.EMPTY_FOLDER, "skipped", "the study's folder holds no series")
    return faults


def _numbered(folder: Path, root: Path, study_id: int | None = None) -> _Numbered:
    """Return the folders inside a folder by number; those whose names are not numbers are set aside."""
    listing = list_folder(folder, root, study_id)
    if folder == root:
        _drop_second_names(listing, root)
    result = _Numbered(faults=listing.faults)
    for path in listing.folders:
        if is_id(path.name):
            result.paths[int(path.name)] = path
            continue
        result.others.append(path)
        message = f"folder {path.name!r}: its name must be a plain whole number"
        result.faults.append(Fault(study_id, None, fault_path(path, root), FaultKind.BAD_ID, "skipped", message))
    for path in listing.files:
        message = "a file where only folders are expected"
        result.faults.append(Fault(study_id, None, fault_path(path, root), FaultKind.MISPLACED, "skipped", message))
    result.faults.sort(key=lambda fault: fault.path)
    return result


def _drop_second_names(listing: Listing, root: Path) -> None:
    """Remove links to studies of the same folder: a study would be read twice, and could end up in two folds."""
    real_root = os.path.realpath(root)
    known: set[str] = set()
    for path in sorted(listing.folders, key=Path.is_symlink):
        target = os.path.realpath(path) if path.is_symlink() else os.path.join(real_root, path.name)  # noqa: PTH118
        if target in known:
            listing.folders.remove(path)
            message = f"a second name of folder {fault_path(Path(target), Path(real_root))}"
            listing.faults.append(Fault(None, None, fault_path(path, root), FaultKind.SECOND_NAME, "skipped", message))
        known.add(target)
