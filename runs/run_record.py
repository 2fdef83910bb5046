"""``run.json``, the record of a run: the training writes it, and every command that uses a finished run reads it.

Nothing here imports torch, so that a missing run is refused before that import, which takes seconds.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workspace.json_files import read_object
from workspace.setting_error import SettingError

RUN_RECORD = "run.json"


@dataclass(frozen=True)
class RunRecord:
    """The record of a finished run.

    Args:
        held_out_folds: the folds that neither its adapters nor its heads were trained on.
        dataset_fingerprint: the fingerprint of the data set that it was trained on.
        settings: the resolved settings of its training.
        final_sha256: the digest of its ``final/`` (`final_sha256`); None if an earlier version trained it.
    """

    held_out_folds: tuple[int, ...]
    dataset_fingerprint: str
    settings: dict[str, Any]
    final_sha256: str | None = None


def final_files(final: Path) -> list[Path]:
    """Return the files of a run's ``final/`` that make its model."""
    suffixes = (".safetensors", ".json", ".txt", ".model")  # the last two: files of tokenizers
    return [path for path in sorted(final.iterdir()) if path.suffix in suffixes]


def final_sha256(final: Path) -> str:
    """Return the SHA-256 over the names and contents of the files of a run's ``final/`` that make its model."""
    return files_sha256(final_files(final))


def files_sha256(paths: Iterable[Path]) -> str:
    """Return the SHA-256 over the names and contents of some files, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def read_run_record(folder: Path) -> RunRecord:
    """Read ``run.json`` of a finished run.

    Raises ValueError if the run does not exist, is not finished, or has a damaged record. That ``final/`` exists is not
    enough: a run that is being trained again may still have its former one.
    """
    name = folder.name
    if not folder.is_dir():
        others = sorted(path.name for path in folder.parent.glob("*") if path.is_dir() and path.name[0] != ".")
        remedy = f"the runs there are {', '.join(others)}" if others else "train_vl.py makes one"
        raise SettingError("run", f"{name!r}: no such run in {folder.parent}; {remedy}")
    if not (folder / "final").is_dir():
        raise SettingError("run", f"{name!r}: {folder} has no final/ yet; train_vl.py writes it when training ends")
    path = folder / RUN_RECORD
    content = read_object(path, "train_vl.py")
    try:
        is_finished = content["finished"]
        folds = tuple(int(fold) for fold in content["held_out_folds"])
        record = RunRecord(
            folds, str(content["dataset_fingerprint"]), dict(content["settings"]), content.get("final_sha256")
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: is not the record of a run ({error!r}); train_vl.py writes it") from None
    if not is_finished:
        raise SettingError(
            "run",
            f"{name!r}: its training has not ended; if it was interrupted, repeat its command with "
            "--resume_from_checkpoint latest",
        )
    return record
