"""``run.json``: what a run is. train_vl.py writes it; all that use a run ask it whether the run is finished.

Nothing here imports torch: a run that is not there is refused before that takes its seconds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workspace.json_files import read_object
from workspace.setting_error import SettingError

RUN_RECORD = "run.json"


@dataclass(frozen=True)
class RunRecord:
    """A finished run.

    held_out_folds: those that neither its adapters nor its heads saw. dataset_fingerprint: of what it was trained on.
    settings: those of train_vl.py, as resolved.
    """

    held_out_folds: tuple[int, ...]
    dataset_fingerprint: str
    settings: dict[str, Any]


def read_run_record(folder: Path) -> RunRecord:
    """Read ``run.json`` of a finished run. Raises ValueError where there is none, saying what to do.

    A run that is being trained again may still have its former ``final/``, which is not what its record speaks of.
    """
    name = folder.name
    if not folder.is_dir():
        others = sorted(path.name for path in folder.parent.glob("*") if path.is_dir() and path.name[0] != ".")
        known = f"the runs there are {', '.join(others)}" if others else "train_vl.py makes one"
        raise SettingError("run", f"{name!r}: no such run in {folder.parent}; {known}")
    if not (folder / "final").is_dir():
        raise SettingError("run", f"{name!r}: {folder} has no final/ yet; train_vl.py writes it when training ends")
    path = folder / RUN_RECORD
    content = read_object(path, "train_vl.py")
    try:
        is_finished = content["finished"]
        folds = tuple(int(fold) for fold in content["held_out_folds"])
        record = RunRecord(folds, str(content["dataset_fingerprint"]), dict(content["settings"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: does not say what the run is ({error!r}); train_vl.py writes it") from None
    if not is_finished:
        raise SettingError(
            "run",
            f"{name!r}: its training has not ended; if it was interrupted, train_vl.py --resume_from_checkpoint latest "
            "resumes it",
        )
    return record
