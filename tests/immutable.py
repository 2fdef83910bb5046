"""Files that nobody can remove, not even root, as others on a shared disk: by ``chattr +i``."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def immutable(path: Path) -> Iterator[None]:
    """Make a file or folder immutable while the block runs; skip the test where that is not possible."""
    if shutil.which("chattr") is None or subprocess.run(["chattr", "+i", path], capture_output=True).returncode:
        pytest.skip("chattr +i is not possible: no such program, no such file system, or not root")
    try:
        yield
    finally:
        release(path)


def release(path: Path) -> None:
    """Undo it, also if the file has another name now: below the nearest folder that is still there."""
    folder = next(parent for parent in path.parents if parent.is_dir())
    subprocess.run(["chattr", "-R", "-i", path if path.exists() else folder], capture_output=True)
