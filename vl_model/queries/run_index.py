"""A run's query index: opened where it is still true, else made anew from the run's embeddings and heads.

It lies in ``train/checkpoints/<run>/index/<split>/``. Neither way needs torch.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from runs.run_record import read_run_record
from vl_model.evaluation.embeddings import fingerprint
from vl_model.queries.index import Index, IndexRefused, build_index, load_index, save_index
from workspace.layout import DataRoot, Split

SPLITS: tuple[Split, ...] = ("train", "test")


def check_evaluated(root: DataRoot, run: str) -> None:
    """Raise ValueError if the run has no heads yet."""
    if not (root.run(run) / "heads" / "heads.json").is_file():
        raise ValueError(f"run {run!r}: has no heads yet; run eval_vl.py first")


def available_splits(root: DataRoot, run: str) -> list[Split]:
    """The splits that this run has embeddings of. Raises ValueError where there is none."""
    found = [split for split in SPLITS if (_embeddings(root, run, split) / "embeddings.json").is_file()]
    if not found:
        raise ValueError(f"run {run!r}: has no embeddings yet; run eval_vl.py first")
    return found


def open_run_index(root: DataRoot, run: str, split: Split) -> Index:
    """The index of one split, made and kept where it is missing or was made of something else.

    Raises ValueError where the run's embeddings or heads are missing, or belong to another model or data set.
    """
    folder = root.run(run) / "index" / split
    made_of = _fingerprint(root, run, split)
    try:
        return load_index(folder, made_of)
    except IndexRefused:
        index = _build(root, run, split, made_of)
    # A run may be shared read-only, or another query be writing the same index: then this one is only not kept.
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


def _build(root: DataRoot, run: str, split: Split, made_of: dict[str, Any]) -> Index:
    # scikit-learn, seconds to import, is needed here and not where an index is there already.
    from data_prep.conversion.pairs import read_dataset
    from vl_model.evaluation.embeddings import read_embeddings
    from vl_model.evaluation.grader import read_grader

    folder = root.run(run)
    dataset = read_dataset(root.processed(split))
    embeddings = read_embeddings(
        _embeddings(root, run, split), {"checkpoint": made_of["model"], "dataset": dataset.fingerprint}
    )
    grader = read_grader(folder / "heads", made_of["model"])
    held_out = read_run_record(folder).held_out_folds
    return build_index(
        split=split,
        keys=[(row.study_id, row.site) for row in embeddings.rows],
        image_ND=embeddings.image_ND,
        probability_N3=grader.predict_proba(embeddings.table, embeddings, "calibrated"),
        pairs=dataset.pairs,
        seen={row.study_id for row in embeddings.rows if row.fold is not None and row.fold not in held_out},
        fingerprint=made_of,
    )


def _embeddings(root: DataRoot, run: str, split: Split) -> Path:
    return root.run(run) / "embeddings" / split
