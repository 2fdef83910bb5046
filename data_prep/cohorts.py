"""Which studies there are: tables and image folders held against each other.

Study folders lie in an image folder, series folders in them: ``<study_id>/<series_id>/*.dcm``.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.faults import Fault, FaultKind
from data_prep.layout import DataRoot, Split
from data_prep.studies import StudyFolder
from data_prep.tables import Tables, read_description_table, read_test_tables, read_train_tables


@dataclass(frozen=True)
class Cohort:
    """Studies to convert, in order. `study_ids` are all that the tables name, also those that lie nowhere."""

    split: str
    folders: tuple[StudyFolder, ...]
    study_ids: tuple[int, ...]
    faults: tuple[Fault, ...]
    hashes: dict[str, str] = field(default_factory=dict)


def split_cohort(root: DataRoot, split: Split) -> Cohort:
    """A split of the data root. Raises ValueError or OSError for tables or folders that cannot be read."""
    images = root.images(split)
    if not images.is_dir():
        raise ValueError(f"{images}: no such folder; the {split} studies' DICOM files should lie there")
    tables = read_train_tables(root.dataset) if split == "train" else read_test_tables(root.dataset)
    return _cohort(split, images, tables, _numbered(images))


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
    paths = [images] if single else _folders(images)
    if not any(map(_holds_series, paths)):
        raise ValueError(f"{images}: holds no study; it should hold <study>/<series>/*.dcm")
    root = images.parent if single else images
    return _cohort("new", root, tables, _numbered_or_assigned(root, paths), assign=True)


@dataclass
class _Numbered:
    """Folders by their number, and what was wrong with the others."""

    paths: dict[int, Path] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


def _cohort(split: str, images: Path, tables: Tables, found: _Numbered, assign: bool = False) -> Cohort:
    """Studies that are on the disk, in the tables' order, then those that no table names.

    Raises ValueError where there are none.
    """
    named = tables.study_ids or tuple(sorted(found.paths))
    faults = [*tables.faults, *found.faults]
    folders = []
    for study_id in dict.fromkeys([*named, *sorted(found.paths)]):
        path = found.paths.get(study_id)
        if path is None and split == "new":
            continue
        if path is None:
            message = "the tables name this study, the image folder has it not"
            faults.append(Fault(study_id, None, str(study_id), FaultKind.MISSING_STUDY, "skipped", message))
            continue
        if study_id not in named:
            message = "no table names this study"
            faults.append(Fault(study_id, None, path.name, FaultKind.NOT_IN_TABLE, "kept", message))
        series = (
            _numbered_or_assigned(images, _folders(path), study_id) if assign else _numbered(path, study_id, images)
        )
        faults += series.faults
        folder = StudyFolder(
            study_id,
            images,
            series.paths,
            tables.views.get(study_id),
            tables.severities.get(study_id, {}),
            tuple(tables.marks.get(study_id, ())),
        )
        faults += _series_faults(folder, path.name)
        if folder.series:
            folders.append(folder)
    if not folders:
        raise ValueError(f"{images}: holds no study's folder with series; expected <study_id>/<series_id>/<N>.dcm")
    # New studies are those in the folder: a table of descriptions may speak of others too.
    study_ids = named if split != "new" else tuple(sorted(found.paths))
    return Cohort(split, tuple(folders), study_ids, tuple(faults), tables.hashes)


def _series_faults(folder: StudyFolder, name: str) -> list[Fault]:
    """Series that only the table, or nobody, knows; a study without any series."""
    faults = []
    for series_id in sorted(set(folder.views or ()) - set(folder.series)):
        message = "the table describes this series, the image folder has it not"
        place = f"{name}/{series_id}"
        faults.append(Fault(folder.study_id, series_id, place, FaultKind.MISSING_SERIES, "skipped", message))
    if not folder.series:
        message = "no series in this study's folder"
        faults.append(Fault(folder.study_id, None, name, FaultKind.EMPTY_FOLDER, "skipped", message))
    return faults


def _numbered(folder: Path, study_id: int | None = None, root: Path | None = None) -> _Numbered:
    """The folders in `folder` whose names are numbers; whatever else lies there is a fault."""
    result = _Numbered()
    for path in sorted(folder.iterdir()):
        place = path.relative_to(root or folder).as_posix()
        if not path.is_dir():
            message = "a file where folders are expected"
            result.faults.append(Fault(study_id, None, place, FaultKind.MISPLACED, "skipped", message))
        elif not _is_number(path.name):
            message = f"folder {path.name!r}: its name should be a whole number"
            result.faults.append(Fault(study_id, None, place, FaultKind.BAD_ID, "skipped", message))
        else:
            result.paths[int(path.name)] = path
    return result


def _numbered_or_assigned(root: Path, folders: Iterable[Path], study_id: int | None = None) -> _Numbered:
    """Folders by number; those named otherwise get the smallest numbers that are free, in the order of their names."""
    result = _Numbered()
    others = []
    for path in folders:
        if _is_number(path.name):
            result.paths[int(path.name)] = path
        else:
            others.append(path)
    number = 0
    for path in others:
        number = next(n for n in range(number + 1, number + 2 + len(result.paths)) if n not in result.paths)
        result.paths[number] = path
        place = path.relative_to(root).as_posix()
        message = f"folder {path.name!r} is no number: it is called {number} here"
        result.faults.append(Fault(study_id, None, place, FaultKind.ID_ASSIGNED, "guessed", message))
    return result


def _is_number(name: str) -> bool:
    """A plain id: ``007`` would be a second name of ``7``."""
    return name.isascii() and name.isdigit() and len(name) <= 18 and str(int(name)) == name


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _holds_series(path: Path) -> bool:
    """Whether a folder holds folders that hold files."""
    return any(any(entry.is_file() for entry in folder.iterdir()) for folder in _folders(path))
