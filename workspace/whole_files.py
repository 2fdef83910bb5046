"""Files that appear whole or not at all: written under a passing name, then renamed."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUFFIX = ".partial"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, which takes `path`'s place when the block ends well, and goes when it fails.

    The name is nobody else's: a process that was given up and the one that took over may write the same file. It
    ends in ``.partial``: writers that go by the ending must be told the format. Folders on the way are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{SUFFIX}")
    try:
        yield partial
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(partial)):
            error.filename = str(path)  # which a write does not say, and nobody knows the passing name
        raise


def is_partial(name: str) -> bool:
    """Whether a file's name is one of those passing ones, which a killed process leaves behind."""
    return name.startswith(".") and name.endswith(SUFFIX)
