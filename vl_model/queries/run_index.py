"""A run's query index: read if it is current, else made from the run's embeddings and heads.

It is in ``train/checkpoints/<run>/index/<split>/``. Nothing here imports torch.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from runs.run_record import read_run_record
from vl_model.evaluation.embeddings import fingerprint
from vl_model.queries.index import Index, IndexRefused, build_index, load_index, save_index
from workspace.layout import SPLITS, DataRoot, Split
from workspace.setting_error import SettingError


def check_evaluated(root: DataRoot, run: str) -> None:
    """Raise ValueError if the run has no heads yet."""
    if not (root.run(run) / "heads" / "heads.json").is_file():
        raise SettingError("run", f"{run!r}: has no heads yet; run eval_vl.py first")


def available_splits(root: DataRoot, run: str) -> list[Split]:
    """Return the splits that the run has embeddings of. Raises ValueError if there is none."""
    found = [split for split in SPLITS if (_embeddings(root, run, split) / "embeddings.json").is_file()]
    if not found:
        raise SettingError("run", f"{run!r}: has no embeddings yet; run eval_vl.py first")
    return found


def open_run_index(root: DataRoot, run: str, split: Split) -> Index:
    """Return the index of one split; it is made and written if it is missing or not current.

    Raises ValueError if the run's embeddings or heads are missing, or belong to another model or data set.
    """
    folder = root.run(run) / "index" / split
    expected = _fingerprint(root, run, split)
    try:
        return load_index(folder, expected)
    except IndexRefused:
        index = _build(root, run, split, expected)
    # If the run's folder is read-only, or if another query writes the same index, this one is used without being kept.
    with suppress(OSError):
        save_index(index, folder)
    return index


def _fingerprint(root: DataRoot, run: str, split: Split) -> dict[str, Any]:
    folder = root.run(run)
    heads = [folder / "heads" / name for name in ("heads.json", "heads.npz")]
    return {
        "data": _sha256([root.processed(split) / "dataset.json"]),
        "model": fingerprint(folder / "final", "")["checkpoint"],
        "heads": _sha256(heads),
        "embeddings": _sha256([_embeddings(root, run, split) / "embeddings.json"]),
    }


def _sha256(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(path.read_bytes())
        except FileNotFoundError:
            maker = "prepare_data.py" if path.name == "dataset.json" else "eval_vl.py"
            raise ValueError(f"{path}: no such file; {maker} writes it") from None
    return digest.hexdigest()


def _build(root: DataRoot, run: str, split: Split, expected: dict[str, Any]) -> Index:
    # These import scikit-learn, which takes seconds and is not required if the index is current.
    from data_prep.conversion.pairs import read_dataset
    from vl_model.evaluation.embeddings import read_embeddings
    from vl_model.evaluation.grader import read_grader

    folder = root.run(run)
    dataset = read_dataset(root.processed(split))
    embeddings = read_embeddings(
        _embeddings(root, run, split), {"checkpoint": expected["model"], "dataset": dataset.fingerprint}
    )
    record = read_run_record(folder)
    grader = read_grader(folder / "heads", {"checkpoint": expected["model"], "dataset": record.dataset_fingerprint})
    held_out = record.held_out_folds
    return build_index(
        split=split,
        keys=[(row.study_id, row.site) for row in embeddings.rows],
        image_ND=embeddings.image_ND,
        probability_N3=grader.predict_proba(embeddings.table, [embeddings], "calibrated"),
        pairs=dataset.pairs,
        training_studies={row.study_id for row in embeddings.rows if row.fold is not None and row.fold not in held_out},
        fingerprint=expected,
    )


def _embeddings(root: DataRoot, run: str, split: Split) -> Path:
    return root.run(run) / "embeddings" / split
