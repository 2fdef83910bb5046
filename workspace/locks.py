"""Lock files: what one process at a time may do to a folder, also among machines that share it."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: What a file system that knows no locks answers: some clusters' do not.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}
_LONGEST_HOLDER = 100

#: Descriptors of what this process has locked.
_held: set[int] = set()


def _let_go() -> None:
    """In a fork, whose copies would keep a lock for as long as it outlives the process that took it."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Hold the lock file `path`, which is made for it and removed after it.

    Raises BlockingIOError where another process holds it: which one it is, and that it is `doing` this.
    """
    lock = _locked(path, doing)
    _held.add(lock)
    try:
        os.truncate(lock, 0)
        os.write(lock, f"{os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        if lock in _held:  # not in a fork
            path.unlink(missing_ok=True)
            _held.remove(lock)
            os.close(lock)


def _locked(path: Path, doing: str) -> int:
    """A descriptor of the file, locked. Whoever lets go of the lock removes the file: one that is gone is no lock."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_ino == path.stat().st_ino:
                return lock
        except FileNotFoundError:
            pass  # removed between opening and locking: again, with a new file
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
