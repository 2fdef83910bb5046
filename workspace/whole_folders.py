"""Folders that are written completely or not at all; `workspace.whole_files` does the same for one file."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

#: The errors of file systems on which a file or folder cannot be synchronised with the disk.
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP}


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` to fill; it replaces `path` if the block succeeds, else it is deleted.

    It is synchronised with the disk before it is renamed, so that a power cut leaves no empty files under the final
    name. Raises OSError if weights cannot be written: safetensors and torch raise other errors if the disk is full.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for folder, _, names in os.walk(partial, topdown=False):
            for name in names:
                _synchronise(Path(folder, name))
            _synchronise(Path(folder))
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
        _synchronise(path.parent)
    except (SafetensorError, RuntimeError) as error:
        free = shutil.disk_usage(path.parent).free / 2**20
        raise OSError(f"{path}: cannot be written ({error}; {free:.0f} MB of the disk are free)") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
