"""Folders that appear whole or not at all; `workspace.whole_files` does the same for one file."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

#: What a file system that cannot be told to write a file or folder out answers.
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP}


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to fill; when the block ends well it takes the place of the one there, else it goes.

    It is on the disk before it gets its name: a power cut must not leave empty files under a complete one. Raises
    OSError where weights could not be written: a full disk is none to safetensors or torch.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for folder, _, names in os.walk(partial, topdown=False):
            for name in names:
                _write_out(Path(folder, name))
            _write_out(Path(folder))
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
        _write_out(path.parent)
    except (SafetensorError, RuntimeError) as error:
        free = shutil.disk_usage(path.parent).free / 2**20
        raise OSError(f"{path}: cannot be written ({error}; {free:.0f} MB of the disk are free)") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_out(path: Path) -> None:
    """To the disk, what the operating system still keeps of a file or of a folder's names."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(opened)
