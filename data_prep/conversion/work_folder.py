"""The folder that a conversion works in: locked by one process at a time, and left without unfinished files.

``processed_data/.parts`` holds the part of each converted study until all studies are converted; an
interrupted conversion is resumed from it. ``processed_data/.lock`` exists during a conversion.
"""

import os
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from workspace.file_modes import check_may_write
from workspace.locks import locked
from workspace.tidying import discard_file, discard_folder
from workspace.whole_files import is_partial


def parts_folder(processed: Path) -> Path:
    """Return the folder of the converted studies' parts."""
    return processed / ".parts"


@contextmanager
def locked_folder(processed: Path) -> Iterator[Path]:
    """Lock `processed`, which is made if it does not exist, for one conversion; yield its folder of parts.

    Parts of another user, to which this one may not add, are given up. A folder that stays empty is removed again.
    Raises BlockingIOError if another process holds the lock.
    """
    check_may_write(processed)
    processed.mkdir(parents=True, exist_ok=True)
    try:
        with locked(processed / ".lock", "converting into this folder"):
            parts = parts_folder(processed)
            if parts.is_dir() and not os.access(parts, os.W_OK | os.X_OK):
                discard_folder(parts)
            parts.mkdir(exist_ok=True)
            yield parts
    finally:
        with suppress(OSError):
            parts_folder(processed).rmdir()
        with suppress(OSError):
            processed.rmdir()


def set_aside(processed: Path, names: Iterable[str]) -> None:
    """Move files of an earlier conversion to the folder of parts, so that they are not mistaken for the new ones."""
    for name in names:
        aside = parts_folder(processed) / name
        aside.unlink(missing_ok=True)  # left by an interrupted attempt
        if (processed / name).exists():
            (processed / name).replace(aside)


def put_back(processed: Path, names: Iterable[str]) -> None:
    """Move the files back, undoing `set_aside`."""
    for name in names:
        with suppress(FileNotFoundError):
            (parts_folder(processed) / name).replace(processed / name)


def clear_parts(processed: Path) -> None:
    """Remove the parts of all studies, and partial files of processes that were killed."""
    discard_folder(parts_folder(processed))
    for path in processed.iterdir():
        if is_partial(path.name):
            discard_file(path, named_once_for=processed)


def output_sizes(processed: Path, names: Iterable[str]) -> dict[str, int]:
    """Return the sizes in bytes of those files `names` that exist, and the number and total size of the PNGs.

    No file is opened.
    """
    images = [
        entry.stat(follow_symlinks=False).st_size
        for study in _scan(processed / "images")
        if study.is_dir()
        for series in _scan(Path(study.path))
        if series.is_dir()
        for entry in _scan(Path(series.path))
        if _is_image(entry.name)
    ]
    sizes = {name: (processed / name).stat().st_size for name in names if (processed / name).is_file()}
    return {**sizes, "images": len(images), "image_bytes": sum(images)}


def remove_stale_studies(processed: Path, study_ids: Container[int]) -> None:
    """Remove the images of studies that are not among `study_ids`."""
    for study in _scan(processed / "images"):
        if study.name.isdigit() and study.is_dir(follow_symlinks=False) and int(study.name) not in study_ids:
            remove_stale_images(processed, int(study.name), set())


def remove_stale_images(processed: Path, study_id: int, images: Container[str]) -> None:
    """Remove PNGs of a study that are not among `images` (paths within `processed`), and partial files.

    Only files that this program writes are removed: ``<number>.png`` in ``<number>/``, and their partial files.
    """
    folder = processed / "images" / str(study_id)
    for series in _scan(folder):
        if not (series.name.isdigit() and series.is_dir(follow_symlinks=False)):
            continue
        for entry in _scan(Path(series.path)):
            name = f"images/{study_id}/{series.name}/{entry.name}"
            if (_is_image(entry.name) and name not in images) or is_partial(entry.name):
                discard_file(Path(entry.path), named_once_for=processed)
        with suppress(OSError):
            Path(series.path).rmdir()  # fails if it is not empty
    with suppress(OSError):
        folder.rmdir()


def _is_image(name: str) -> bool:
    """Return whether a file has the name of an image of this program."""
    return name.endswith(".png") and name.removesuffix(".png").isdigit()


def _scan(folder: Path) -> list["os.DirEntry[str]"]:
    """Return the entries of a folder; empty if it does not exist."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
