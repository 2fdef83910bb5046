"""Lock files: only one process at a time works in a folder, also if several machines share it."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: The errors of file systems without locks, as some clusters have.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}
_LONGEST_HOLDER = 100

#: The file descriptors of the locks that this process holds.
_held: set[int] = set()


def _close_in_fork() -> None:
    """Close a forked process's copies, which would hold a lock for longer than the process that took it."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_close_in_fork)


@contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock while the block runs.

    Args:
        path: the lock file, which is created and afterwards removed.
        doing: what the holder does, in the error for other processes ("training this run").

    Raises:
        BlockingIOError: if another process holds the lock; the message names its process id and machine.
    """
    lock = _locked(path, doing)
    _held.add(lock)
    try:
        os.truncate(lock, 0)
        os.write(lock, f"{os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        if lock in _held:  # A forked process has closed it, and must not remove the file.
            path.unlink(missing_ok=True)
            _held.remove(lock)
            os.close(lock)


def _locked(path: Path, doing: str) -> int:
    """Return the descriptor of the locked file.

    The holder removes the file before it releases the lock, so a lock on a removed file is worthless.
    """
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_ino == path.stat().st_ino:
                return lock
        except FileNotFoundError:
            pass  # It was removed between opening and locking: try again with a new file.
        except BlockingIOError:
            holder = os.read(lock, _LONGEST_HOLDER).decode(errors="replace")
            os.close(lock)
            which = f" ({holder})" if holder else ""
            raise BlockingIOError(f"{path.parent}: another process{which} is {doing}") from None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return lock
            os.close(lock)
            raise
        os.close(lock)
