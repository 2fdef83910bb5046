"""One study for the page: its 25 sites with probabilities, known grades and evidence, and its slices."""

from typing import Any

from data_prep.sites import SITES, Severity
from vl_model.page.slices import SliceTable
from vl_model.queries.reply import evidence_json
from vl_model.queries.segment import Segment


def study_json(segment: Segment, row: int, slices: SliceTable) -> dict[str, Any]:
    """Return a study of a segment as plain values."""
    return {
        "study_id": int(segment.study_S[row]),
        "split": segment.name,
        "seen": bool(segment.seen_S[row]),
        "typicality": segment.typicality(row),
        "sites": [_site_json(segment, row, index) for index in range(len(SITES))],
        "slices": slices.of_study(int(segment.study_S[row])),
    }


def _site_json(segment: Segment, row: int, index: int) -> dict[str, Any]:
    site, label = SITES[index], int(segment.label_SX[row, index])
    imaged = bool(segment.imaged_SX[row, index])
    return {
        "key": site.key,
        **site.columns,
        "words": site.words,
        "probabilities": [float(p) for p in segment.graded_SX3[row, index]] if imaged else None,
        "truth": None if label < 0 else Severity(label).key,
        "views": [evidence_json(evidence) for evidence in segment.evidence(row, index)],
    }
