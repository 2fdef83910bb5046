"""Series folders one level too high or too low, or in another study's folder, and whose they are.

A stray is given to a study only where that is certain: exactly one study of the table has a series of its
name, that study has no images of it in the right place, and no second stray is so called (a folder and links
to it are one). From another study's folder only where no name in the table is that of two studies' series:
else names such as 1, 2 and 3 say nothing, and the series may be that study's own.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from data_prep.sites import View
from data_prep.studies.folders import holds_files, is_id, list_folder


def misplaced_series(
    root: Path, folders: Iterable[Path], views: Mapping[int, Mapping[int, View]], study_ids: Iterable[int]
) -> dict[tuple[int, int], Path]:
    """(study_id, series_id) -> folder of images, for the strays that are certain.

    root: the image folder; folders: what lies in it; views: study_id -> series_id, as the table has them;
    study_ids: all studies that the tables name.
    """
    wanted = _wanted(root, views)
    if not wanted:
        return {}
    found = defaultdict(list)
    counts = Counter(series_id for series in views.values() for series_id in series)
    unique = max(counts.values(), default=0) == 1
    for path in _strays(root, folders, set(study_ids), set(wanted.values()), lent=unique):
        if is_id(path.name) and int(path.name) in wanted and holds_files(path):
            found[int(path.name)].append(path)
    return {
        (wanted[series_id], series_id): min(paths, key=Path.is_symlink)
        for series_id, paths in found.items()
        if len(set(map(os.path.realpath, paths))) == 1
    }


def _wanted(root: Path, views: Mapping[int, Mapping[int, View]]) -> dict[int, int]:
    """series_id -> study_id of series that one study alone has, without images in their place."""
    owners = defaultdict(list)
    for study_id, series in views.items():
        for series_id in series:
            owners[series_id].append(study_id)
    return {
        series_id: studies[0]
        for series_id, studies in owners.items()
        if len(studies) == 1 and not holds_files(root / str(studies[0]) / str(series_id))
    }


def _strays(root: Path, folders: Iterable[Path], named: set[int], incomplete: set[int], lent: bool) -> Iterator[Path]:
    """Folders that may be series in a wrong place: all but studies of the table and what lies in their place.

    lent: also what lies in the place of a series there; what is that study's own is never wanted.
    """

    def inside(path: Path) -> list[Path]:
        return list_folder(path, root).folders

    for path in folders:
        is_study = is_id(path.name) and int(path.name) in named
        if not is_study:
            yield path  # <series>
        if not is_study or lent or int(path.name) in incomplete:
            for inner in inside(path):
                if not is_study or lent:
                    yield inner  # <folder>/<series>
                if not is_study or int(path.name) in incomplete:
                    yield from inside(inner)  # <folder>/<study>/<series>, <study>/<folder>/<series>
