"""Tidying: what is no longer needed is removed if possible, and no work ends because something cannot be removed.

A file may be in use on a shared disk, belong to another user, or be immutable. What stays is named once, on one line.
"""

import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUFFIX = ".removed"

#: What this process has named already.
_named: set[Path] = set()


def discard_file(path: Path, named_once_for: Path | None = None) -> bool:
    """Remove a file; return whether nothing of this name is left.

    named_once_for: the folder of whose files only the first that stays is named.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _name(path, error, named_once_for)
        return False
    return True


def discard_folder(folder: Path, mark: str | None = None) -> bool:
    """Remove a folder; return whether nothing that could be mistaken for a whole one is left under its name.

    A folder that is half removed must never be read: first of all its `mark` is removed, the file without which it does
    not count. A folder without one gets a hidden name first. If neither is possible, it stays as it is.
    """
    if not os.path.lexists(folder):
        return True
    try:
        if mark is None:
            raise FileNotFoundError
        (folder / mark).unlink()
    except OSError:
        aside = folder.with_name(f".{folder.name.lstrip('.')}.{secrets.token_hex(4)}{SUFFIX}")
        try:
            folder.rename(aside)
        except OSError as error:
            _name(folder, error)
            return False
        folder = aside
    remove_what_can_be(folder)
    return True


def remove_what_can_be(folder: Path) -> None:
    """Remove a folder with everything in it, or what can be removed of it; name the first thing that stays."""
    shutil.rmtree(folder, ignore_errors=True)
    if not os.path.lexists(folder):
        return
    # Once more, for the reason: what is deepest keeps the folders above it.
    for parent, folders, files in os.walk(folder, topdown=False):
        for name in [*files, *folders]:
            path = Path(parent, name)
            try:
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
            except OSError as error:
                _name(path, error, once_for=folder)
                return
    try:
        folder.rmdir()
    except OSError as error:
        _name(folder, error)


@contextmanager
def keeping(path: Path) -> Iterator[None]:
    """Write in the block what only spares later work: in a folder of another user it is not kept, which is said."""
    try:
        yield
    except PermissionError as error:
        print(f"{path}: cannot be written ({error.strerror or error}); it is computed again next time", file=sys.stderr)


def _name(path: Path, error: OSError, once_for: Path | None = None) -> None:
    """Print that a path cannot be removed, once."""
    if (once_for or path) in _named:
        return
    _named.add(once_for or path)
    from tqdm import tqdm

    line = f"{path}: cannot be removed ({error.strerror or error}); it is no longer used"
    tqdm.write(line, file=sys.stderr)  # above a progress bar, not into its line
