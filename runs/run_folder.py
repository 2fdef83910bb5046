"""A run's folders: held by one process, not trained over by accident, recorded in ``run.json``.

Nothing here imports torch: a run that is in the way is refused before that takes its seconds.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runs.launch import own_rank
from runs.run_record import RUN_RECORD
from workspace.json_files import read_object
from workspace.locks import locked
from workspace.setting_error import SettingError
from workspace.whole_files import replacing

STOP_FILE = "STOP"
LOCK_FILE = ".lock"


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Let the first process hold a run's folder, made where it is missing: two would write into each other's states.

    A folder in which nothing came to be is removed again. Raises BlockingIOError where another process holds it.
    """
    if own_rank() != 0:
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    try:
        with locked(run / LOCK_FILE, "training this run"):
            yield
    finally:
        for folder in (run, run.parent, run.parent.parent):
            with suppress(OSError):
                folder.rmdir()


def check_run(run: Path, overwrite: bool, resume_from_checkpoint: str | None) -> None:
    """Raises ValueError where the run is there already and nobody said what to do with it."""
    if overwrite and resume_from_checkpoint:
        raise SettingError("overwrite", "true: deletes what resume_from_checkpoint needs; give one of the two")
    found = {path.name for path in run.iterdir()} if run.exists() else set()
    if found - {LOCK_FILE} and not (overwrite or resume_from_checkpoint):
        raise SettingError(
            "run",
            f"{run.name!r}: exists at {run}; resume it (--resume_from_checkpoint latest), replace it (--overwrite), or "
            "choose another name",
        )


def claim_run(run: Path, overwrite: bool, resume_from_checkpoint: str | None) -> None:
    """`check_run`; then the first process removes the STOP file that ended an earlier start.

    To be called before anything that takes long: a file that is made from then on stops this start.
    """
    check_run(run, overwrite, resume_from_checkpoint)
    if own_rank() == 0:
        (run / STOP_FILE).unlink(missing_ok=True)


def remove_run(run: Path, logs: Path) -> None:
    """Delete what a run wrote; its lock is held, and stays, as does a STOP that came since the run was claimed."""
    if logs.exists():
        shutil.rmtree(logs)
    for path in run.iterdir() if run.exists() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in (LOCK_FILE, STOP_FILE):
            path.unlink()


def write_record(run: Path, record: dict[str, Any]) -> None:
    with replacing(run / RUN_RECORD) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def amend_record(run: Path, facts: dict[str, Any]) -> None:
    """Add to the record of a run that has one; the next start writes a new one."""
    write_record(run, read_object(run / RUN_RECORD, "the training") | facts)
