"""Folders that are written completely or not at all; `workspace.whole_files` does the same for one file."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from workspace.file_modes import share_folder
from workspace.tidying import SUFFIX, discard_folder, remove_what_can_be

#: The errors of file systems on which a file or folder cannot be synchronised with the disk.
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP}


@contextmanager
def whole_folder(path: Path, is_shared: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path` to fill; it replaces `path` if the block succeeds, else it is deleted.

    is_shared: several processes may write this folder at the same time; each has a temporary folder of its own.

    It is synchronised with the disk before it is renamed, so that a power cut leaves no empty files under the final
    name. Its files have the modes of any new files, whatever their writers made of them. An earlier folder that cannot
    be removed completely is out of the way all the same. Raises OSError if weights cannot be written: safetensors and
    torch raise other errors if the disk is full.
    """
    partial = _new_folder(path, is_shared)
    try:
        yield partial
        share_folder(partial)
        for folder, _, names in os.walk(partial, topdown=False):
            for name in names:
                _synchronise(Path(folder, name))
            _synchronise(Path(folder))
        _replace(path, partial)
        _synchronise(path.parent)
    except (SafetensorError, RuntimeError) as error:
        free = shutil.disk_usage(path.parent).free / 2**20
        raise OSError(f"{path}: cannot be written ({error}; {free:.0f} MB of the disk are free)") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _new_folder(path: Path, is_shared: bool) -> Path:
    """Make the temporary folder of `path`, unless it is shared in the place of one that a killed process left."""
    partial = path.with_name(f".{path.name}.partial")
    if is_shared or not discard_folder(partial):
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir(parents=True)
    return partial


def _replace(path: Path, partial: Path) -> None:
    """Rename `partial` to `path`, and then remove what was there."""
    try:
        partial.rename(path)
    except OSError:  # An empty folder is replaced by the rename itself, a full one is not.
        if not os.path.lexists(path):
            raise
    else:
        return
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}{SUFFIX}")
    try:
        path.rename(aside)
    except OSError as error:
        raise OSError(f"{path}: cannot be replaced ({error.strerror or error})") from None
    try:
        partial.rename(path)
    except BaseException:
        aside.rename(path)
        raise
    remove_what_can_be(aside)


def _synchronise(path: Path) -> None:
    """Make the operating system write a file, or a folder's entries, to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(opened)
