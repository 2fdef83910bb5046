"""The folder that a conversion works in: held by one at a time, left without anything half done.

``processed_data/.parts`` holds what is done of each study until all are; it is what an interrupted
conversion goes on from. ``processed_data/.lock`` is there while somebody converts.
"""

import os
import shutil
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from workspace.locks import locked
from workspace.whole_files import is_partial


def parts_folder(processed: Path) -> Path:
    return processed / ".parts"


@contextmanager
def workplace(processed: Path) -> Iterator[Path]:
    """Hold `processed`, made where it is missing, for one conversion; its folder of parts.

    A folder in which nothing came to be is removed again. Raises BlockingIOError where another process holds it.
    """
    processed.mkdir(parents=True, exist_ok=True)
    try:
        with locked(processed / ".lock", "converting into this folder"):
            parts_folder(processed).mkdir(exist_ok=True)
            yield parts_folder(processed)
    finally:
        with suppress(OSError):
            parts_folder(processed).rmdir()
        with suppress(OSError):
            processed.rmdir()


def set_aside(processed: Path, names: Iterable[str]) -> None:
    """Take files of an earlier conversion away, so that nobody takes them for this one's."""
    for name in names:
        aside = parts_folder(processed) / name
        aside.unlink(missing_ok=True)  # of an attempt that was broken off
        if (processed / name).exists():
            (processed / name).replace(aside)


def put_back(processed: Path, names: Iterable[str]) -> None:
    """Undo `set_aside`."""
    for name in names:
        with suppress(FileNotFoundError):
            (parts_folder(processed) / name).replace(processed / name)


def clear_parts(processed: Path) -> None:
    """Remove what was kept for an interruption, and passing files of processes that were killed."""
    shutil.rmtree(parts_folder(processed), ignore_errors=True)
    for path in processed.iterdir():
        if is_partial(path.name):
            path.unlink(missing_ok=True)


def output_sizes(processed: Path, names: Iterable[str]) -> dict[str, int]:
    """Bytes of the files `names` that are there, and number and bytes of the PNGs; nothing is opened."""
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
    """Remove PNGs of a study that are not among `images` (paths within `processed`), and what killed processes left.

    Only what this program writes is removed: ``<number>.png`` in ``<number>/``, and its passing files.
    """
    folder = processed / "images" / str(study_id)
    for series in _scan(folder):
        if not (series.name.isdigit() and series.is_dir(follow_symlinks=False)):
            continue
        for entry in _scan(Path(series.path)):
            name = f"images/{study_id}/{series.name}/{entry.name}"
            if (_is_image(entry.name) and name not in images) or is_partial(entry.name):
                Path(entry.path).unlink()
        with suppress(OSError):
            Path(series.path).rmdir()  # goes only where it is empty
    with suppress(OSError):
        folder.rmdir()


def _is_image(name: str) -> bool:
    """Whether this program gives images such names."""
    return name.endswith(".png") and name.removesuffix(".png").isdigit()


def _scan(folder: Path) -> list["os.DirEntry[str]"]:
    """What lies in a folder; nothing where there is none."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
