"""Files and folders that appear whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; when the block ends well that file takes `path`'s place, else it is deleted.

    Folders on the way are made. The temporary name ends in ``.partial``: writers that go by the ending must be told
    the format.
    """
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """The same for a folder, which replaces the one that is there.

    Raises OSError where weights could not be written: a full disk is none to safetensors or torch.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
    except (SafetensorError, RuntimeError) as error:
        raise OSError(f"{path}: cannot be written ({error})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
