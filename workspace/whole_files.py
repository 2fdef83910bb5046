"""Files that are written completely or not at all: under a temporary name first, then renamed."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from workspace.file_modes import share_file

SUFFIX = ".partial"
#: How texts that may hold the names of files are encoded: names that are not UTF-8 are written as escapes.
ESCAPED: Final = "backslashreplace"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; it replaces `path` if the block succeeds, else it is deleted.

    The temporary name is unique, because a process that was given up and the one that took over may write the same
    file. It ends in ``.partial``: a writer that derives the format from the suffix must be given the format. Missing
    parent folders are created. The file has the mode of any new file, whatever its writer made of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{SUFFIX}")
    try:
        yield partial
        share_file(partial)
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):  # The first error is the one to report.
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(partial)):
            error.filename = str(path)  # An error of a write has no file name, and the temporary one means nothing.
        raise


def is_partial(name: str) -> bool:
    """Return whether a file's name is such a temporary name, which a killed process leaves behind."""
    return name.startswith(".") and name.endswith(SUFFIX)
