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
class RunKind:
    """What a run makes: the file of ``final/`` that only such runs have, and the script that writes it."""

    file: str
    script: str
    words: str


MODEL_RUN = RunKind("site_model.json", "train_vl.py", "model")
LOCATOR_RUN = RunKind("locator.json", "train_locator.py", "locator")


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


def kind_of(folder: Path) -> RunKind | None:
    """Return what a run made; None if it is not finished."""
    return next((kind for kind in (MODEL_RUN, LOCATOR_RUN) if (folder / "final" / kind.file).is_file()), None)


def runs_there(runs: Path, kind: RunKind) -> str:
    """Return in words which runs a folder has, without those that made something else; or what makes one."""
    folders = [path for path in runs.glob("*") if path.is_dir() and path.name[0] != "."]
    others = sorted(path.name for path in folders if kind_of(path) in (kind, None))
    words = "runs" if kind is MODEL_RUN else f"{kind.words}s"
    return f"the {words} there are {', '.join(others)}" if others else f"{kind.script} makes one"


def check_kind(setting: str, folder: Path, kind: RunKind) -> None:
    """Raise SettingError, for this setting, if a run made something else than the kind."""
    found = kind_of(folder)
    if found is not None and found != kind:
        there = runs_there(folder.parent, kind)
        raise SettingError(setting, f"{folder.name!r}: is a {found.words} of {found.script}, no {kind.words}; {there}")


def read_run_record(folder: Path, kind: RunKind = MODEL_RUN) -> RunRecord:
    """Read ``run.json`` of a finished run.

    Raises ValueError if the run does not exist, is not finished, is of another kind, or has a damaged record. That
    ``final/`` exists is not enough: a run that is being trained again may still have its former one.
    """
    name = folder.name
    if not folder.is_dir():
        raise SettingError("run", f"{name!r}: no such run in {folder.parent}; {runs_there(folder.parent, kind)}")
    if not (folder / "final").is_dir():
        raise SettingError("run", f"{name!r}: {folder} has no final/ yet; {kind.script} writes it when training ends")
    check_kind("run", folder, kind)
    path = folder / RUN_RECORD
    content = read_object(path, kind.script)
    try:
        is_finished = content["finished"]
        folds = tuple(int(fold) for fold in content["held_out_folds"])
        record = RunRecord(
            folds, str(content["dataset_fingerprint"]), dict(content["settings"]), content.get("final_sha256")
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: is not the record of a run ({error!r}); {kind.script} writes it") from None
    if not is_finished:
        raise SettingError(
            "run",
            f"{name!r}: its training has not ended; if it was interrupted, repeat its command with "
            "--resume_from_checkpoint latest",
        )
    return record
