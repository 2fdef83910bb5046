"""Lock files: only one process at a time works in a folder, also if several machines and several users share it.

A lock is the kernel's, on an open file (flock), so that a process that dies holds nothing. Its file may stay behind,
and only its maker may be allowed to write to it. Whoever may write into the folder takes its place all the same:

- The file is opened for reading, which suffices for a lock on a local disk. While a process holds that lock, nobody
  else can take the file for held or for free, so it removes the file and starts again with its own.
- On NFS a lock that excludes others needs a file that is open for writing. There a shared lock is taken instead: it is
  refused while anybody holds the file, but two processes may have it at once. Both could then remove the file, the
  second one the first one's new one. A folder beside it, which only one of them can make, decides which of them may.
"""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from workspace.file_modes import check_may_write, owner_in_words

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
        PermissionError: if this user may not write into the folder, or may not open the lock file.
    """
    check_may_write(path.parent)
    lock = _locked(path, doing)
    _held.add(lock)
    try:
        _write_holder(lock)
        yield
    finally:
        if lock in _held:  # A forked process has closed it, and must not remove the file.
            with suppress(OSError):  # A file that stays behind is locked by nobody.
                path.unlink(missing_ok=True)
            _held.remove(lock)
            os.close(lock)


def _locked(path: Path, doing: str) -> int:
    """Return the descriptor of the locked file.

    The holder removes the file before it releases the lock, so a lock on a removed file is worthless.
    """
    while True:
        lock = _open(path)
        try:
            is_exclusive = _flock(lock)
            if os.fstat(lock).st_ino == path.stat().st_ino and (
                _is_writable(lock) or not _remove_stale(path, lock, is_exclusive)
            ):
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


def _open(path: Path) -> int:
    """Open the lock file, which is made if it is missing; for reading alone if that is all that this user may do."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except PermissionError:
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except PermissionError:
            # Whether somebody holds it cannot be known without opening it.
            raise PermissionError(
                f"{path}: you may not open this lock file ({owner_in_words(path)}); if nobody works in the folder, "
                "delete the file"
            ) from None


def _flock(lock: int) -> bool:
    """Lock the open file; return whether the lock excludes all others. Raises BlockingIOError if it is held."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EBADF:  # NFS: the file is not open for writing
            raise
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    return True


def _remove_stale(path: Path, lock: int, is_exclusive: bool) -> bool:
    """Remove the file of another user that nobody holds; return False if the lock on it has to do.

    Raises OSError if another process removes it at this moment, and PermissionError if it has to be removed and cannot.
    """
    if is_exclusive:
        try:
            path.unlink()
        except PermissionError:
            return False  # The folder is one in which users remove only what is theirs, as /tmp.
        return True
    turn = path.with_name(f"{path.name}.turn")
    try:
        turn.mkdir()
    except FileExistsError:
        raise OSError(
            f"{path.parent}: another process is starting here; if none is, remove the empty folder {turn.name}"
        ) from None
    try:
        if os.fstat(lock).st_ino == path.stat().st_ino:
            path.unlink()
    finally:
        turn.rmdir()
    return True


def _write_holder(lock: int) -> None:
    if _is_writable(lock):
        with suppress(OSError):  # another user's file, whose mode has to do
            # Whoever may write into the folder takes the lock over by reading it, whatever this process's umask.
            os.fchmod(lock, os.fstat(lock).st_mode | 0o444)
        os.truncate(lock, 0)
        os.write(lock, f"{os.getpid()} on {socket.gethostname()}".encode())


def _is_writable(lock: int) -> bool:
    return fcntl.fcntl(lock, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
