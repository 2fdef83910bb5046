"""Small segments of the query index for tests: random probabilities, vectors, grades and evidence."""

import numpy as np

from data_prep.sites import SITES
from vl_model.calibration.study_answers import QUESTIONS
from vl_model.queries.segment import EVIDENCE, SOURCES, VIEWS, Segment


def random_segment(
    name: str = "train", studies: int = 40, seed: int = 0, seen: float = 0.0, missing: float = 0.0, first_id: int = 1
) -> Segment:
    """Return a segment; each site's grade is drawn from its probabilities, and some sites have no image."""
    random = np.random.default_rng(seed)
    graded_SX3 = random.dirichlet([1.2, 0.5, 0.4], size=(studies, len(SITES))).astype(np.float32)
    label_SX = (random.random((studies, len(SITES), 1)) > graded_SX3.cumsum(axis=2)).sum(axis=2).clip(0, 2)
    vector_XSD = random.normal(size=(len(SITES), studies, 6)).astype(np.float32)
    vector_XSD /= np.linalg.norm(vector_XSD, axis=2, keepdims=True)
    evidence_SX2 = np.zeros((studies, len(SITES), 2), dtype=EVIDENCE)
    for x, site in enumerate(SITES):
        for number, view in enumerate(site.views):
            evidence_SX2["view"][:, x, number] = VIEWS.index(view)
            evidence_SX2["series_id"][:, x, number] = 100 + number
            evidence_SX2["instance_number"][:, x, number] = 1 + x
            evidence_SX2["box"][:, x, number] = (1, 2, 30, 40)
            evidence_SX2["weight"][:, x, number] = 1 / len(site.views)
            evidence_SX2["source"][:, x, number] = random.integers(0, len(SOURCES), studies)
    lost_SX = random.random((studies, len(SITES))) < missing
    graded_SX3[lost_SX], vector_XSD[lost_SX.T] = np.nan, 0
    evidence_SX2["view"][lost_SX] = 255
    sets_SX = random.integers(1, 8, label_SX.shape).astype(np.uint8)
    sets_SX[lost_SX] = 7
    return Segment(
        name=name,
        study_S=np.arange(first_id, first_id + studies, dtype=np.int64),
        seen_S=random.random(studies) < seen,
        graded_SX3=graded_SX3,
        sets_SX=sets_SX,
        answers_SQ=random.random((studies, len(QUESTIONS))),
        typicality_S=random.random(studies),
        vector_XSD=vector_XSD,
        label_SX=label_SX.astype(np.int8),
        evidence_SX2=evidence_SX2,
        fingerprint={"model": name},
    )


def shuffled(segment: Segment, seed: int) -> Segment:
    """Return the same studies in another order of rows (as no file has them)."""
    order = np.random.default_rng(seed).permutation(len(segment))
    return Segment(
        name=segment.name,
        study_S=segment.study_S[order],
        seen_S=segment.seen_S[order],
        graded_SX3=segment.graded_SX3[order],
        sets_SX=segment.sets_SX[order],
        answers_SQ=segment.answers_SQ[order],
        typicality_S=segment.typicality_S[order],
        vector_XSD=segment.vector_XSD[:, order],
        label_SX=segment.label_SX[order],
        evidence_SX2=segment.evidence_SX2[order],
        fingerprint=segment.fingerprint,
    )
