"""A data root with an evaluated run, without images and without a real model: what the index is made from."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.conversion.pairs import read_dataset, write_dataset
from data_prep.sites import SITES
from tests.vl_model.queries.segments import Parts, make_parts
from vl_model.data.site_rows import group_sites
from vl_model.evaluation.cross_fitting import fit_grader, predict_raw, split_studies
from vl_model.evaluation.embeddings import Embeddings, fingerprint, write_embeddings
from vl_model.evaluation.grader import Grader, write_grader
from vl_model.evaluation.heads import LinearProbe, ZeroShotHead

RUN = "tiny"
FOLDS = 4
HELD_OUT = (0, 1)


def write_indexed_root(root: Path, studies: int = 12) -> Path:
    """Write a train split and the run `tiny`, which held out folds 0 and 1; return the run's folder."""
    processed, run = root / "train" / "processed_data", root / "train" / "checkpoints" / RUN
    parts = make_parts(studies=studies)
    fold_of = {study: place % FOLDS for place, study in enumerate(sorted(parts.study_ids))}
    write_pairs(processed, parts, fold_of)
    (run / "final").mkdir(parents=True)
    (run / "final" / "adapter_model.safetensors").write_bytes(b"weights of a model")
    (run / "final" / "site_model.json").write_text("{}")
    data = read_dataset(processed).fingerprint
    record = {"held_out_folds": HELD_OUT, "dataset_fingerprint": data, "settings": {}, "finished": True}
    (run / "run.json").write_text(json.dumps(record))
    embeddings = write_random_embeddings(run, processed, run / "embeddings" / "train")
    write_grader(run / "heads", fitted_grader(embeddings))
    return run


def write_pairs(processed: Path, parts: Parts, fold_of: dict[int, int]) -> None:
    """Write ``dataset.json`` alone."""
    processed.mkdir(parents=True)
    metadata = {
        "study_ids": parts.study_ids,
        "folds": {"count": FOLDS, "of_study": {str(study): fold for study, fold in fold_of.items()}},
    }
    pairs = [replace(pair, fold=fold_of.get(pair.study_id), crop=row) for row, pair in enumerate(parts.pairs)]
    write_dataset(processed, metadata, pairs, "crops")


def write_random_embeddings(run: Path, processed: Path, folder: Path, seed: int = 0) -> Embeddings:
    """Write embeddings of a data set that depend on the severity."""
    dataset, random = read_dataset(processed), np.random.default_rng(seed)
    rows = group_sites(dataset.pairs)
    image_ND = random.normal(size=(len(rows), 6)).astype(np.float32)
    image_ND[:, 0] += [4.0 * (row.severity or 0) for row in rows]
    image_ND /= np.linalg.norm(image_ND, axis=1, keepdims=True)
    embeddings = Embeddings(rows, image_ND, fingerprint(run / "final", dataset.fingerprint))
    write_embeddings(folder, embeddings)
    return embeddings


def fitted_grader(embeddings: Embeddings) -> Grader:
    table = embeddings.table
    fold_of = {row.study_id: row.fold for row in embeddings.rows if row.fold is not None}
    split = split_studies(table, fold_of, HELD_OUT)
    inside = table.of_studies(split.train.study_ids)
    text_SCD = np.random.default_rng(1).normal(size=(len(SITES), 3, embeddings.image_ND.shape[1]))
    heads = {
        "zero_shot": ZeroShotHead(10.0).fit(text_SCD),
        "linear_probe": LinearProbe().fit(split.train, embeddings.image_ND[inside]),
    }
    raw = predict_raw(heads, split, embeddings)  # type: ignore[arg-type]
    return fit_grader({RUN: heads}, raw, split.train, "linear_probe", embeddings.fingerprint)  # type: ignore[dict-item]
