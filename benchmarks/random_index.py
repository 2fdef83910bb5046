"""Random segments of the query index, of any size, and a run that consists of an index alone; used by query.py.

Vectors are uniform on the sphere, probabilities are drawn from a Dirichlet distribution, and every site is imaged in
both of its views. Such studies have no meaning, but they take as long as real ones.
"""

import itertools
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.sites import SITES, Severity
from vl_model.calibration.study_answers import QUESTIONS
from vl_model.data.site_table import UNLABELLED
from vl_model.queries.fingerprints import Fingerprint, fingerprint_of
from vl_model.queries.index import save_segment
from vl_model.queries.run_index import segment_files
from vl_model.queries.segment import EVIDENCE, VIEWS, Segment
from workspace.layout import DataRoot

DIMENSIONS = 512
#: What the segments of `random_segment` are read with.
FINGERPRINT = {"data": "random", "model": "none", "heads": "none", "embeddings": "random"}
RUN = "random"


def random_segment(name: str, studies: int, seed: int, dimensions: int = DIMENSIONS, labelled: bool = False) -> Segment:
    """Return a segment of unseen studies; with `labelled`, all grades are known, and drawn from the probabilities."""
    rng = np.random.default_rng(seed)
    graded_SX3 = rng.dirichlet([2.0, 1.0, 0.6], size=(studies, len(SITES))).astype(np.float32)
    label_SX = np.full((studies, len(SITES)), UNLABELLED, dtype=np.int8)
    if labelled:
        cut_SX2 = graded_SX3.cumsum(axis=2)[..., : len(Severity) - 1]
        label_SX[:] = (rng.random((studies, len(SITES), 1)) > cut_SX2).sum(axis=2)
    return Segment(
        name=name,
        study_S=np.sort(rng.choice(100 * studies, size=studies, replace=False)).astype(np.int64),
        seen_S=np.zeros(studies, dtype=bool),
        graded_SX3=graded_SX3,
        sets_SX=np.full((studies, len(SITES)), 7, dtype=np.uint8),
        answers_SQ=rng.random((studies, len(QUESTIONS))),
        typicality_S=rng.random(studies),
        vector_XSD=random_vectors(rng, studies, dimensions),
        label_SX=label_SX,
        evidence_SX2=_evidence(rng, studies),
        fingerprint=FINGERPRINT,
    )


def random_vectors(rng: np.random.Generator, studies: int, dimensions: int) -> np.ndarray:
    """Return normalised float32 vectors (25, studies, dimensions)."""
    vector_XSD = np.empty((len(SITES), studies, dimensions), dtype=np.float32)
    for vector_SD in vector_XSD:
        rng.standard_normal(out=vector_SD, dtype=np.float32)
        vector_SD /= np.linalg.norm(vector_SD, axis=1, keepdims=True)
    return vector_XSD


def _evidence(rng: np.random.Generator, studies: int) -> np.ndarray:
    evidence_SX2 = np.zeros((studies, len(SITES), 2), dtype=EVIDENCE)
    evidence_SX2["series_id"] = rng.integers(1, 1 << 31, size=(studies, 1, 1))
    evidence_SX2["instance_number"] = rng.integers(1, 40, size=evidence_SX2.shape)
    evidence_SX2["box"] = [40.0, 50.0, 90.0, 100.0]
    evidence_SX2["weight"] = 0.5
    evidence_SX2["view"] = [[VIEWS.index(view) for view in site.views] for site in SITES]
    return evidence_SX2


def write_indexed_run(root: Path, studies: int, known: int) -> None:
    """Write a data root with the run `RUN`, whose index is current: `studies` to search, and `known` graded ones.

    Only graded questions can be asked of it: in place of a model it has files of a few bytes.
    """
    data = DataRoot(root)
    run = data.run(RUN)
    record = {"held_out_folds": [0], "dataset_fingerprint": "random", "settings": {}, "finished": True}
    _write_old(run / "run.json", json.dumps(record))
    _write_old(run / "final" / "site_model.json", "{}")
    for seed, (name, count) in enumerate({"train": known, "test": studies}.items()):
        files = segment_files(data, RUN, name)
        for path in itertools.chain.from_iterable(files.parts.values()):
            _write_old(path, "{}")
        current = fingerprint_of(files.parts, Fingerprint())
        segment = random_segment(name, count, seed, labelled=name == "train")
        save_segment(replace(segment, fingerprint=current.digests), files.index, current.files)


def _write_old(path: Path, text: str) -> None:
    """Write a file whose time of change is an hour ago: what changed just now is digested at each question."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    an_hour_ago = time.time() - 3600
    os.utime(path, (an_hour_ago, an_hour_ago))
