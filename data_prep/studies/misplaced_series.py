"""Find series folders one level too high or too low, or in another study's folder, and the studies that own them.

Series of a study folder that no table names belong to the study that has their StudyInstanceUID.

A misplaced folder is assigned to a study only if that is certain: exactly one study of the table has a series of this
name, that study has no images of it in the right folder, and no second misplaced folder has this name (a folder and
links to it count as one). A folder inside another study's folder is assigned only if no series id of the table occurs
in two studies: with ids such as 1, 2 and 3 the series may be that other study's own.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from data_prep.dicom.identity import Identity, read_identity
from data_prep.folders import holds_files, is_id, list_folder
from data_prep.sites import View


def misplaced_series(
    root: Path, folders: Iterable[Path], views: Mapping[int, Mapping[int, View]], study_ids: Iterable[int]
) -> dict[tuple[int, int], Path]:
    """Find the misplaced series folders whose owner is certain.

    Args:
        root: the image folder.
        folders: the folders directly in it.
        views: study_id -> series_id -> view, from the table.
        study_ids: all studies that the tables name.

    Returns:
        (study_id, series_id) -> folder of images.
    """
    missing = _missing(root, views)
    if not missing:
        return {}
    found = defaultdict(list)
    counts = Counter(series_id for series in views.values() for series_id in series)
    unique = max(counts.values(), default=0) == 1
    for path in _candidates(root, folders, set(study_ids), set(missing.values()), among_others=unique):
        if is_id(path.name) and int(path.name) in missing and holds_files(path):
            found[int(path.name)].append(path)
    return {
        (missing[series_id], series_id): min(paths, key=Path.is_symlink)
        for series_id, paths in found.items()
        if len(set(map(os.path.realpath, paths))) == 1
    }


def series_by_identity(root: Path, named: Mapping[int, Path], unnamed: Iterable[Path]) -> dict[tuple[int, int], Path]:
    """Find the series in study folders that no table names (`unnamed`) whose images are those of a `named` study.

    All images of the folder, and all of exactly one named study, have one StudyInstanceUID and one PatientID, and no
    other folder has that identifier. Series whose number the study has already are left where they are.
    """
    identities = {folder: one for folder in unnamed if (one := _identity(folder, root))}
    if not identities:
        return {}
    first = {study_id: _first_identity(folder, root) for study_id, folder in named.items()}
    found: dict[tuple[int, int], Path] = {}
    for folder, identity in identities.items():
        owners = [study_id for study_id, one in first.items() if one and one.study_uid == identity.study_uid]
        is_shared = sum(one.study_uid == identity.study_uid for one in identities.values()) > 1
        if is_shared or len(owners) != 1 or _identity(named[owners[0]], root) != identity:
            continue
        for path in list_folder(folder, root).folders:
            if is_id(path.name) and not (named[owners[0]] / path.name).exists():
                found[owners[0], int(path.name)] = path
    return found


def _identity(folder: Path, root: Path) -> Identity | None:
    """Return the StudyInstanceUID and PatientID that all images below a folder have; None if they differ or lack it."""
    found = {Identity(one.patient, one.study_uid) for one in _identities(folder, root)}
    one = next(iter(found)) if len(found) == 1 else None
    return one if one and one.study_uid and one.patient else None


def _first_identity(folder: Path, root: Path) -> Identity | None:
    return next((one for one in _identities(folder, root) if one.study_uid), None)


def _identities(folder: Path, root: Path) -> Iterator[Identity]:
    """Yield the identities of all images below a folder."""
    listing = list_folder(folder, root)
    yield from (identity for path in listing.files if (identity := read_identity(path)))
    for inner in listing.folders:
        yield from _identities(inner, root)


def _missing(root: Path, views: Mapping[int, Mapping[int, View]]) -> dict[int, int]:
    """Return series_id -> study_id of the series that belong to one study only and have no images in its folder."""
    owners = defaultdict(list)
    for study_id, series in views.items():
        for series_id in series:
            owners[series_id].append(study_id)
    return {
        series_id: studies[0]
        for series_id, studies in owners.items()
        if len(studies) == 1 and not holds_files(root / str(studies[0]) / str(series_id))
    }


def _candidates(
    root: Path, folders: Iterable[Path], named: set[int], incomplete: set[int], among_others: bool
) -> Iterator[Path]:
    """Yield folders that may be misplaced series.

    These are all folders except the studies that the table names and the series folders directly inside them.

    Args:
        root: the image folder.
        folders: the folders directly in it.
        named: studies that the tables name.
        incomplete: studies without the images of some series.
        among_others: whether to yield the series folders inside named studies too; a study's own are never missing.
    """

    def inside(path: Path) -> list[Path]:
        return list_folder(path, root).folders

    for path in folders:
        is_study = is_id(path.name) and int(path.name) in named
        if not is_study:
            yield path  # <series>
        if not is_study or among_others or int(path.name) in incomplete:
            for inner in inside(path):
                if not is_study or among_others:
                    yield inner  # <folder>/<series>
                if not is_study or int(path.name) in incomplete:
                    yield from inside(inner)  # <folder>/<study>/<series>, <study>/<folder>/<series>
