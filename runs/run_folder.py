"""A run's folders: locked while it is trained, never overwritten unasked, and recorded in ``run.json``.

Nothing here imports torch, so that an existing run is refused before that import, which takes seconds.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runs.processes.launch import own_rank
from runs.run_record import RUN_RECORD
from workspace.file_modes import check_may_write
from workspace.json_files import read_object
from workspace.locks import locked
from workspace.setting_error import SettingError
from workspace.tidying import discard_file, discard_folder
from workspace.whole_files import replacing

STOP_FILE = "STOP"
LOCK_FILE = ".lock"
#: The beginning of a checkpoint's name, which ends in its step, and the file that is written last into it.
CHECKPOINT, STATE_FILE = "checkpoint-", "state.json"


@contextmanager
def hold_run(run: Path) -> Iterator[None]:
    """Context manager: the first process locks the run's folder, so that no other training can write to it.

    The folder is made if it is missing, and removed again if it is empty at the end. Raises BlockingIOError if another
    process has locked it, and PermissionError if this user may not write there. An interruption is reported with how to
    continue.
    """
    if own_rank() != 0:
        yield
        return
    check_may_write(run)
    run.mkdir(parents=True, exist_ok=True)
    try:
        with locked(run / LOCK_FILE, "training this run"):
            yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_how_to_continue(run)) from None
    finally:
        for folder in (run, run.parent, run.parent.parent):
            with suppress(OSError):
                folder.rmdir()


def complete_checkpoints(run: Path) -> list[tuple[int, Path]]:
    """Return (step, folder) of each complete checkpoint of the run, oldest first."""
    found = [
        (int(folder.name.removeprefix(CHECKPOINT)), folder)
        for folder in run.glob(f"{CHECKPOINT}*")
        if folder.name.removeprefix(CHECKPOINT).isdigit() and (folder / STATE_FILE).is_file()
    ]
    return sorted(found)


def _how_to_continue(run: Path) -> str:
    """Return in words how an interrupted training continues. Nothing here reads a checkpoint."""
    with suppress(OSError):
        if checkpoints := complete_checkpoints(run):
            return f"--resume_from_checkpoint latest continues from {checkpoints[-1][1].name}"
        if any(path.name not in (LOCK_FILE, STOP_FILE) for path in run.iterdir()):
            return "there is no checkpoint yet; --overwrite starts it anew"
    return "nothing is written yet"


def check_run(run: Path, overwrite: bool, resume_from_checkpoint: str | None) -> None:
    """Raise SettingError if the run exists already and the settings neither resume nor overwrite it."""
    if overwrite and resume_from_checkpoint:
        raise SettingError("overwrite", "true: would delete what resume_from_checkpoint needs; give one of the two")
    found = {path.name for path in run.iterdir()} if run.exists() else set()
    if found - {LOCK_FILE} and not (overwrite or resume_from_checkpoint):
        raise SettingError(
            "run",
            f"{run.name!r}: already exists at {run}; resume it (--resume_from_checkpoint latest), "
            "delete it first (--overwrite), or choose another name",
        )


def prepare_run(run: Path, overwrite: bool, resume_from_checkpoint: str | None) -> None:
    """Check the run (`check_run`), and remove a STOP file that stopped an earlier start of it.

    Call this before anything that takes long: a STOP file that is made later stops this start.
    """
    check_run(run, overwrite, resume_from_checkpoint)
    if own_rank() == 0:
        (run / STOP_FILE).unlink(missing_ok=True)  # it would stop this start too, so that an error here is right


def remove_run(run: Path, logs: Path) -> None:
    """Delete everything that a run wrote, except its lock and a STOP file made after `prepare_run`.

    Raises SettingError if something stays under its name: it could be taken for a part of the new run.
    """
    written = [path for path in run.iterdir() if path.name not in (LOCK_FILE, STOP_FILE)] if run.exists() else []
    for path in [logs, *written]:
        is_folder = path.is_dir() and not path.is_symlink()
        if not (discard_folder(path) if is_folder else discard_file(path)):
            raise SettingError("overwrite", f"true: {path} cannot be removed; choose another name for the run")


def write_record(run: Path, record: dict[str, Any]) -> None:
    """Write ``run.json``."""
    with replacing(run / RUN_RECORD) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_short_starts(run: Path) -> int:
    """Return how many starts of the run in a row the clock ended after one step at most (`runs.shutdown`)."""
    count = read_object(run / RUN_RECORD, "the training").get("short_starts") if (run / RUN_RECORD).is_file() else 0
    return count if isinstance(count, int) else 0


def amend_record(run: Path, entries: dict[str, Any]) -> None:
    """Add entries to an existing ``run.json``. The next start of the run writes a new one without them."""
    write_record(run, read_object(run / RUN_RECORD, "the training") | entries)
