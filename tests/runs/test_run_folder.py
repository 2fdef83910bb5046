"""A run's folder is locked by one process at a time (runs/run_folder.py and workspace/locks.py)."""

import os
import signal
import time
from pathlib import Path

import pytest

from runs.run_folder import STOP_FILE, check_run, hold_run, prepare_run, remove_run
from workspace.locks import locked


def test_a_run_is_locked_by_one_process(tmp_path: Path) -> None:
    run = tmp_path / "train" / "checkpoints" / "first"
    with hold_run(run), pytest.raises(BlockingIOError, match=r"another process .* is training this run"), hold_run(run):
        pass
    assert not list(tmp_path.iterdir()), "empty folders are removed"
    with hold_run(run):
        (run / "run.json").touch()
    assert [path.name for path in run.iterdir()] == ["run.json"]


def test_an_interruption_says_how_to_continue(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def interrupted() -> str:
        with pytest.raises(KeyboardInterrupt) as error, hold_run(run):
            raise KeyboardInterrupt
        return str(error.value)

    assert interrupted() == "nothing is written yet" and not run.exists()
    run.mkdir(parents=True)
    (run / STOP_FILE).touch()
    assert interrupted() == "nothing is written yet"
    (run / "checkpoint-9").mkdir(parents=True)
    assert interrupted() == "there is no checkpoint yet; --overwrite starts it anew"  # that one is not complete
    for step in (3, 20):
        (run / f"checkpoint-{step}").mkdir()
        (run / f"checkpoint-{step}" / "state.json").touch()
    assert interrupted() == "--resume_from_checkpoint latest continues from checkpoint-20"


def test_only_the_first_process_takes_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hold_run(tmp_path / "run"):
        monkeypatch.setenv("RANK", "1")  # alone it is left over from a job: this process is the first
        with pytest.raises(BlockingIOError), hold_run(tmp_path / "run"):
            pass
        for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
            monkeypatch.setenv(name, value)
        with hold_run(tmp_path / "run"):
            check_run(tmp_path / "run", overwrite=False, resume_from_checkpoint=None)


def test_a_run_is_removed_except_its_lock_and_a_later_stop_file(tmp_path: Path) -> None:
    run, logs = tmp_path / "run", tmp_path / "logs"
    for folder in (run / "final", logs):
        folder.mkdir(parents=True)
        (folder / "x").touch()
    (run / "link").symlink_to(logs)
    with hold_run(run):
        remove_run(run, logs)
        assert [path.name for path in tmp_path.rglob("*")] == ["run", ".lock"]
        with pytest.raises(BlockingIOError), hold_run(run):
            pass
        prepare_run(run, overwrite=True, resume_from_checkpoint=None)
        (run / STOP_FILE).touch()
        remove_run(run, logs)
        assert (run / STOP_FILE).is_file()


def test_a_lock_ends_with_the_process_that_took_it_and_not_with_its_forks(tmp_path: Path) -> None:
    ready, tell = os.pipe()
    holder = os.fork()
    if not holder:
        with locked(tmp_path / ".lock", "testing"):
            worker = os.fork()
            if worker:
                os.write(tell, str(worker).encode())
            time.sleep(600)
    worker = int(os.read(ready, 20))
    try:
        with pytest.raises(BlockingIOError, match=rf"another process \({holder} on "), locked(tmp_path / ".lock", "x"):
            pass
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        with locked(tmp_path / ".lock", "testing"):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
