"""Series folders one level too high or too low, and whose they are.

A stray is given to a study only where that is certain: exactly one study of the table has a series of its
name, that study has no images of it in the right place, and no second stray is so called.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from data_prep.folders import holds_files, is_id, list_folder
from data_prep.sites import View


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
    for path in _strays(root, folders, set(study_ids), set(wanted.values())):
        if is_id(path.name) and int(path.name) in wanted and holds_files(path):
            found[int(path.name)].append(path)
    return {(wanted[series_id], series_id): paths[0] for series_id, paths in found.items() if len(paths) == 1}


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


def _strays(root: Path, folders: Iterable[Path], named: set[int], incomplete: set[int]) -> Iterator[Path]:
    """Folders that may be series at a wrong level: all but studies of the table and what lies in their place."""

    def inside(path: Path) -> list[Path]:
        return list_folder(path, root).folders

    for path in folders:
        is_study = is_id(path.name) and int(path.name) in named
        if not is_study:
            yield path  # <series>
        if not is_study or int(path.name) in incomplete:
            for inner in inside(path):
                if not is_study:
                    yield inner  # <folder>/<series>
                yield from inside(inner)  # <folder>/<study>/<series>, <study>/<folder>/<series>
