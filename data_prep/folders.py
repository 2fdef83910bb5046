"""List folders and files by name and type, before any file is opened.

Links within the image folder are followed; links that point outside are not.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.faults import Fault, FaultKind

#: Files that discs and file managers leave beside images, in addition to names with a leading dot.
CLUTTER = frozenset({
    "DICOMDIR", "THUMBS.DB", "DESKTOP.INI", "__MACOSX", "@EADIR", "LOST+FOUND", "SYSTEM VOLUME INFORMATION",
    "$RECYCLE.BIN", "RECYCLER", "#RECYCLE", "@RECYCLE", "#SNAPSHOT",
})  # fmt: skip


@dataclass
class Listing:
    """The folders and regular files of a folder, sorted by name, and a fault for each other entry."""

    folders: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def list_folder(folder: Path, root: Path, study_id: int | None = None, series_id: int | None = None) -> Listing:
    """List `folder`, which lies in the image folder `root`.

    A folder that cannot be listed is a fault. `study_id` and `series_id` are written to the faults.
    """
    result = Listing()

    def note(path: Path, kind: FaultKind, message: str) -> None:
        result.faults.append(Fault(study_id, series_id, fault_path(path, root), kind, "skipped", message))

    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        note(folder, FaultKind.CANNOT_OPEN, f"the folder cannot be listed: {error.strerror}")
        return result
    if not os.access(folder, os.X_OK):
        note(folder, FaultKind.CANNOT_OPEN, "the folder can be listed, but nothing in it can be opened")
        return result
    for entry in found:
        path = Path(entry.path)
        # realpath, because Path.resolve raises for a link to itself.
        if entry.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
            note(path, FaultKind.LINK_OUTSIDE, "the link points outside the image folder")
        elif _is_clutter(entry.name):
            note(path, FaultKind.NOT_DICOM, "not an image: a file of a disc or a file manager")
        elif os.path.isdir(path):  # noqa: PTH112 - isdir and isfile return False where Path's methods raise
            result.folders.append(path)
        elif os.path.isfile(path):  # noqa: PTH113
            result.files.append(path)
        else:
            note(path, FaultKind.NOT_DICOM, "not a file: a broken link or a device")
    return result


def _is_clutter(name: str) -> bool:
    return name.startswith(".") or name.upper() in CLUTTER


def fault_path(path: Path, root: Path) -> str:
    """Return a path as faults give it: relative to the image folder `root`, with unprintable characters escaped.

    A name may contain line breaks, or bytes that are not UTF-8 and could not be written to a table.
    """
    name = path.relative_to(root).as_posix()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)


def is_id(name: str) -> bool:
    """Return whether a folder's name is a plain whole number; ``007`` is not, as a second name of ``7``."""
    return name.isascii() and name.isdigit() and len(name) <= 18 and str(int(name)) == name


def holds_files(folder: Path) -> bool:
    """Return whether a folder holds files that may be images; the listing stops at the first."""
    try:
        with os.scandir(folder) as entries:
            return any(entry.is_file() and not _is_clutter(entry.name) for entry in entries)
    except OSError:
        return False
