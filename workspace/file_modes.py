"""The modes of written files: those that the umask, or the folder's default access list, gives to any new file.

Some libraries write to a file of mode 0600 and rename it (safetensors, everything from `tempfile`), so that nobody but
its maker could read it in a folder that a group shares.
"""

import os
import pwd
import secrets
import stat
from contextlib import suppress
from pathlib import Path

_FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def share_file(path: Path) -> None:
    """Give a file that its maker alone may read the mode of a new file in its folder."""
    if not path.stat().st_mode & _FOR_OTHERS:
        _set_mode(path, _mode_of_new_file(path.parent))


def share_folder(folder: Path) -> None:
    """Give all files within a new folder the mode of a new file in it, and all folders the folder's own mode."""
    file_mode, folder_mode = _mode_of_new_file(folder), stat.S_IMODE(folder.stat().st_mode)
    for parent, folders, files in os.walk(folder):
        for names, mode in ((folders, folder_mode), (files, file_mode)):
            for name in names:
                path = Path(parent, name)
                if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) != mode:
                    _set_mode(path, mode)


def check_may_write(folder: Path) -> None:
    """Raise PermissionError if this user may not write into the folder or, while it is missing, may not make it."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if existing.is_dir() and not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"{existing}: you may not write into this folder ({owner_in_words(existing)})")


def owner_in_words(path: Path) -> str:
    """Return whose a file or folder is, and its mode."""
    status = path.stat()
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = f"user {status.st_uid}"
    return f"it belongs to {owner} and has the mode {stat.S_IMODE(status.st_mode):04o}"


def _mode_of_new_file(folder: Path) -> int:
    """Return the mode of a new file in the folder. A file is made to learn it, because access lists have a say too."""
    probe = folder / f".{secrets.token_hex(4)}.partial"
    opened = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(opened).st_mode)
    finally:
        os.close(opened)
        probe.unlink()


def _set_mode(path: Path, mode: int) -> None:
    with suppress(OSError):  # Some file systems have no modes, and the file is whole without.
        path.chmod(mode)
