"""A run's folders: not trained over by accident, recorded in ``run.json``.

Nothing here imports torch: a run that is in the way is refused before that takes its seconds.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from data_prep.whole_files import replacing
from vl_model.run_record import RUN_RECORD

STOP_FILE = "STOP"


def check_run(run: Path, overwrite: bool, resume_from_checkpoint: str | None) -> None:
    """Raises ValueError where the run is there already and nobody said what to do with it."""
    if overwrite and resume_from_checkpoint:
        raise ValueError("--overwrite deletes what --resume_from_checkpoint needs: give one of them")
    if run.exists() and any(run.iterdir()) and not (overwrite or resume_from_checkpoint):
        raise ValueError(
            f"--run {run.name!r} exists at {run}: go on with --resume_from_checkpoint latest, "
            "replace it with --overwrite true, or choose another name"
        )


def forget_stop(run: Path) -> None:
    """Remove the STOP file that ended an earlier start; by the first process, before anything that takes long."""
    (run / STOP_FILE).unlink(missing_ok=True)


def remove_run(run: Path, logs: Path) -> None:
    for folder in (run, logs):
        if folder.exists():
            shutil.rmtree(folder)


def write_record(run: Path, record: dict[str, Any]) -> None:
    with replacing(run / RUN_RECORD) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
