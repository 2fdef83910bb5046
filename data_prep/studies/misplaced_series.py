"""Find series folders one level too high or too low, or in another study's folder, and the studies that own them.

A misplaced folder is assigned to a study only if that is certain: exactly one study of the table has a series of this
name, that study has no images of it in the right folder, and no second misplaced folder has this name (a folder and
links to it count as one). A folder inside another study's folder is assigned only if no series id of the table occurs
in two studies: with ids such as 1, 2 and 3 the series may be that other study's own.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

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
