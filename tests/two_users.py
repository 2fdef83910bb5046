"""Two users of one group, who share a folder: processes that are allowed what the users are, as far as folders go.

The interpreter may lie in a folder of root's. So the colleague is root without its privileges over files, and the owner
is a user of another id who may read everything and write only what is theirs.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

OWNER, COLLEAGUE, GROUP = 41234, 0, 41000

needs_users = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="two users: needs root and setpriv"
)


def as_user(user: int, *words: str, umask: int = 0o022) -> list[str]:
    """Return a command that runs `words` as that user of the group, with a umask."""
    powers = "-dac_override,-dac_read_search,-fowner,-fsetid,-chown"
    if user == OWNER:
        who = [f"--reuid={user}", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    else:
        who = [f"--bounding-set={powers}", f"--inh-caps={powers}"]
    shell = ["bash", "-c", f'umask {umask:03o}; exec "$@"', "bash"]
    return ["setpriv", *who, f"--regid={GROUP}", "--clear-groups", *shell, *words]


@contextmanager
def group_folder() -> Iterator[Path]:
    """Yield a temporary folder that the group may write to; pytest's own are for one user."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chown(folder, OWNER, GROUP)
        folder.chmod(0o2775)
        yield folder
