"""Two users of one group, who share a folder: processes that are allowed what the users are, as far as folders go.

The interpreter may lie in a folder of root's. So the colleague is root without its privileges over files, and the owner
is a user of another id who may read everything and write only what is theirs.
"""

import os
import shutil

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
