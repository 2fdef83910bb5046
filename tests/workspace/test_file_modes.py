"""Every written file has the mode that the umask gives to a new file, whatever its writer made of it."""

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from workspace.whole_files import replacing
from workspace.whole_folders import whole_folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o002, 0o022, 0o027, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    previous = os.umask(request.param)
    yield request.param
    os.umask(previous)


def by_safetensors(path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.ones(2)}, path)


def by_tempfile(path: Path) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent)
    os.close(handle)
    Path(name).replace(path)


def by_copy(path: Path) -> None:
    by_tempfile(path.with_name("source"))
    shutil.copy(path.with_name("source"), path)
    path.with_name("source").unlink()


def by_hand(path: Path) -> None:
    path.write_text("a")


WRITERS = [by_safetensors, by_tempfile, by_copy, by_hand]


@pytest.mark.parametrize("write", WRITERS)
def test_a_file(write: Callable[[Path], None], umask: int, tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as partial:
        write(partial)
    assert mode(tmp_path / "a") == 0o666 & ~umask and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("write", WRITERS)
def test_the_files_and_folders_of_a_folder(write: Callable[[Path], None], umask: int, tmp_path: Path) -> None:
    parent = tmp_path / "shared"
    parent.mkdir()
    os.chown(parent, -1, os.getgid())
    parent.chmod(0o2777)
    with whole_folder(parent / "a") as partial:
        write(partial / "file")
        within = Path(tempfile.mkdtemp(dir=partial))
        write(within / "file")
        (partial / "link").symlink_to("file")
    folder = parent / "a"
    assert mode(folder) == mode(folder / within.name) == 0o2777 & ~umask
    assert mode(folder / "file") == mode(folder / within.name / "file") == 0o666 & ~umask
    assert {path.stat().st_gid for path in folder.rglob("*")} == {parent.stat().st_gid}
    assert sorted(path.name for path in folder.iterdir()) == sorted(["file", "link", within.name])
