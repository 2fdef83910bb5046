"""Folders that appear whole or not at all; `data_prep.whole_files` does the same for one file."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to fill; when the block ends well it takes the place of the one there, else it goes.

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
