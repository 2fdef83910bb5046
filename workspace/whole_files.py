"""Files that are written completely or not at all: under a temporary name first, then renamed."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUFFIX = ".partial"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; it replaces `path` if the block succeeds, else it is deleted.

    The temporary name is unique, because a process that was given up and the one that took over may write the same
    file. It ends in ``.partial``: a writer that derives the format from the suffix must be given the format. Missing
    parent folders are created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{SUFFIX}")
    try:
        yield partial
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(partial)):
            error.filename = str(path)  # An error of a write has no file name, and the temporary one means nothing.
        raise


def is_partial(name: str) -> bool:
    """Return whether a file's name is such a temporary name, which a killed process leaves behind."""
    return name.startswith(".") and name.endswith(SUFFIX)
