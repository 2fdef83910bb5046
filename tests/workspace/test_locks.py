"""Locks that several users share; tests/runs/test_run_folder.py has those of one user."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.two_users import COLLEAGUE, OWNER, as_user, group_folder, needs_users

REPOSITORY = Path(__file__).parents[2]
TAKE = """
import sys, time
from pathlib import Path
from workspace.locks import locked
with locked(Path(sys.argv[1]), "working here"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""

pytestmark = needs_users


@pytest.fixture
def folder() -> Iterator[Path]:
    with group_folder() as folder:
        yield folder


def start(user: int, path: Path, seconds: float = 0, umask: int = 0o022) -> "subprocess.Popen[str]":
    words = as_user(user, sys.executable, "-c", TAKE, str(path), str(seconds), umask=umask)
    return subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outcome(process: "subprocess.Popen[str]") -> str:
    out, err = process.communicate(timeout=60)
    return out.strip() or err.strip().splitlines()[-1]


def left_by_a_dead_process(path: Path, mode: int) -> None:
    process = start(OWNER, path, 60)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    process.kill()
    process.communicate()
    path.chmod(mode)


@pytest.mark.parametrize("mode", [0o644, 0o664, 0o444, 0o640, 0o604])
def test_the_lock_of_a_dead_process_is_taken_over(mode: int, folder: Path) -> None:
    left_by_a_dead_process(folder / ".lock", mode)
    expected = "you may not open this lock file" if mode == 0o604 else "held"
    assert expected in outcome(start(COLLEAGUE, folder / ".lock"))


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o177, 0o007])
def test_the_lock_of_a_dead_process_is_taken_over_whatever_its_umask(umask: int, folder: Path) -> None:
    process = start(OWNER, folder / ".lock", 60, umask)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    assert "another process" in outcome(start(COLLEAGUE, folder / ".lock"))
    process.kill()
    process.communicate()
    assert outcome(start(COLLEAGUE, folder / ".lock", umask=umask)) == "held" and not list(folder.iterdir())


def test_a_lock_that_cannot_be_read_is_named(folder: Path) -> None:
    left_by_a_dead_process(folder / ".lock", 0o600)
    said = outcome(start(COLLEAGUE, folder / ".lock"))
    assert f"user {OWNER} and has the mode 0600" in said and "delete the file" in said


@pytest.mark.parametrize("mode", [0o644, 0o664])
def test_a_living_holder_is_respected_and_named(mode: int, folder: Path) -> None:
    holder = start(OWNER, folder / ".lock", 60)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    (folder / ".lock").chmod(mode)
    assert f"another process ({holder.pid} on " in outcome(start(COLLEAGUE, folder / ".lock"))
    holder.send_signal(signal.SIGINT)
    holder.communicate()
    assert outcome(start(COLLEAGUE, folder / ".lock")) == "held" and not list(folder.iterdir())


def test_a_folder_that_may_not_be_written_is_named(folder: Path) -> None:
    folder.chmod(0o2755)
    left_by_a_dead_process(folder / ".lock", 0o664)
    assert f"{folder}: you may not write into this folder" in outcome(start(COLLEAGUE, folder / ".lock"))


def test_where_files_are_their_makers_to_remove_the_lock_is_held_as_it_is(folder: Path) -> None:
    left_by_a_dead_process(folder / ".lock", 0o644)
    folder.chmod(0o3775)
    first = start(COLLEAGUE, folder / ".lock", 60)
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    assert "another process" in outcome(start(OWNER, folder / ".lock"))
    first.kill()
    first.communicate()


def test_of_many_that_take_over_at_once_one_at_a_time_holds_it(folder: Path) -> None:
    code = TAKE.replace(
        "time.sleep(float(sys.argv[2]))", "Path(sys.argv[2]).mkdir(); time.sleep(0.2); Path(sys.argv[2]).rmdir()"
    )
    for _ in range(3):
        left_by_a_dead_process(folder / ".lock", 0o644)
        words = as_user(COLLEAGUE, sys.executable, "-c", code, str(folder / ".lock"), str(folder / "alone"))
        many = [
            subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(4)
        ]
        said = [outcome(process) for process in many]
        assert "held" in said and not any("FileExistsError" in line for line in said), said


def test_with_shared_locks_as_on_nfs_two_do_not_both_remove_the_file(folder: Path) -> None:
    """A second process that still has the dead one's file open must not remove the file of the first one."""
    from workspace.locks import _remove_stale

    path = folder / ".lock"
    path.write_text("dead")
    locks = [os.open(path, os.O_RDONLY) for _ in range(2)]
    for lock in locks:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    assert _remove_stale(path, locks[0], is_exclusive=False) and not path.exists()
    path.write_text("new")
    assert _remove_stale(path, locks[1], is_exclusive=False) and path.read_text() == "new"
    (folder / ".lock.turn").mkdir()
    with pytest.raises(OSError, match=r"remove the empty folder \.lock\.turn"):
        _remove_stale(path, locks[1], is_exclusive=False)
    for lock in locks:
        os.close(lock)
