"""Files that a command writes where its user says: checked before anything is computed."""

from collections.abc import Iterable
from pathlib import Path

from workspace.file_modes import check_may_write
from workspace.setting_error import SettingError


def check_output(setting: str, path: Path, inputs: Iterable[Path]) -> None:
    """Check that a file can be written at `path`, and that it does not replace one of the files that are read.

    Args:
        setting: the name of the setting that names the file.
        path: the file.
        inputs: the files that are read.

    Raises:
        SettingError: the path is a folder, lies within a file, or is that of an input.
        PermissionError: this user may not write there.
    """
    if path.is_dir():
        raise SettingError(setting, f"{str(path)!r}: is a folder; it should be a file")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise SettingError(setting, f"{str(path)!r}: {parent} is a file, not a folder")
    if any(path.resolve() == one.resolve() for one in inputs):
        raise SettingError(setting, f"{str(path)!r}: would replace a file that is read; choose another name")
    check_may_write(path.parent)
