"""Checks at the door of the query index: values that no build can have written are refused.

The vectors are not among them, because reading them all would take longer than most queries: `nearest` checks those
that it uses. Legend: as in `vl_model.queries.segment`.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.sites import SITES, Severity
from vl_model.calibration.prediction_sets import ALL_GRADES
from vl_model.data.site_table import UNLABELLED
from vl_model.queries.segment import NONE, SOURCES, VIEWS, IndexRefused, Segment

#: How far from 1 the sum of a site's probabilities may be.
SUM_TOLERANCE = 1e-3
#: Studies that are looked at together: their arrays fit into the processor's cache.
BLOCK = 2048

#: The view of each record of evidence, as an index in `VIEWS`.
_VIEW_X2 = np.array([[VIEWS.index(view) for view in site.views] for site in SITES], dtype=np.uint8)


def check_arrays(segment: Segment, where: Path | str) -> None:
    """Raise IndexRefused, which names `where`, if a value cannot be right."""
    study_S = segment.study_S
    if len(study_S) and (study_S[0] < 0 or not (study_S[1:] > study_S[:-1]).all()):
        raise IndexRefused(where, "the ids of its studies are negative or not ascending")
    for block in _blocks(len(segment)):
        imaged_SX = _check_graded(np.asarray(segment.graded_SX3[block]), where)
        label_SX = np.asarray(segment.label_SX[block])
        if label_SX.min() < UNLABELLED or label_SX.max() >= len(Severity):
            raise IndexRefused(where, f"labels.npy has grades outside {UNLABELLED} to {len(Severity) - 1}")
        _check_evidence(np.asarray(segment.evidence_SX2[block]), imaged_SX, where)
        _check_sets(np.asarray(segment.sets_SX[block]), imaged_SX, where)
        _check_probabilities(np.asarray(segment.answers_SQ[block]), where, "answers.npy has probabilities")
        _check_probabilities(np.asarray(segment.typicality_S[block]), where, "typicality.npy has values")
        _release(segment.evidence_SX2)


def _release(array: NDArray[Any]) -> None:
    """Let go of the memory that pages of a mapped file take: a query reads the evidence of its answers alone."""
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, count, BLOCK))


def _check_graded(graded_SX3: NDArray[np.float32], where: Path | str) -> NDArray[np.bool_]:
    """Return which sites are graded."""
    with np.errstate(invalid="ignore"):  # infinities of both signs
        sum_SX = graded_SX3[..., 0] + graded_SX3[..., 1] + graded_SX3[..., 2]
    missing_SX = np.isnan(sum_SX)
    # The sum is NaN if one of the three is, and three times as many NaNs as sums means that all of them are.
    if np.count_nonzero(np.isnan(graded_SX3)) != 3 * np.count_nonzero(missing_SX):
        raise IndexRefused(where, "graded.npy has a site of which only some probabilities are numbers")
    is_right = missing_SX | (np.abs(sum_SX - 1) <= SUM_TOLERANCE)
    if not is_right.all() or np.fmin.reduce(graded_SX3, axis=None) < 0:
        raise IndexRefused(where, "graded.npy has probabilities that are negative or whose sum is not 1")
    imaged_SX: NDArray[np.bool_] = ~missing_SX
    return imaged_SX


def _check_sets(sets_SX: NDArray[np.uint8], imaged_SX: NDArray[np.bool_], where: Path | str) -> None:
    if sets_SX.min(initial=ALL_GRADES) < 1 or sets_SX.max(initial=1) > ALL_GRADES:
        raise IndexRefused(where, f"sets.npy has sets outside 1 to {ALL_GRADES}")
    if (sets_SX[~imaged_SX] != ALL_GRADES).any():
        raise IndexRefused(where, "sets.npy tells the grade of a site that no image shows")


def _check_probabilities(values: NDArray[np.float64], where: Path | str, what: str) -> None:
    if not (np.isnan(values) | (values >= 0) & (values <= 1)).all():
        raise IndexRefused(where, f"{what} outside 0 to 1")


def _check_evidence(evidence_SX2: NDArray[Any], imaged_SX: NDArray[np.bool_], where: Path | str) -> None:
    view_SX2 = evidence_SX2["view"]
    none_SX2 = view_SX2 == NONE
    if not ((view_SX2 == _VIEW_X2) | none_SX2).all():
        raise IndexRefused(where, "evidence.npy has a view that does not show its site")
    if not np.array_equal(imaged_SX, ~(none_SX2[..., 0] & none_SX2[..., 1])):
        raise IndexRefused(where, "evidence.npy and graded.npy are of different sites")
    ids_SX2 = (evidence_SX2["series_id"] >= 0) & (evidence_SX2["instance_number"] >= 0)
    if not (none_SX2 | ids_SX2 & (evidence_SX2["source"] < len(SOURCES))).all():
        raise IndexRefused(where, "evidence.npy has a series, an instance or a source that cannot exist")
    if not np.isfinite(evidence_SX2["box"]).all():
        raise IndexRefused(where, "evidence.npy has a box that is not finite")
    weight_SX2 = np.where(none_SX2, 0, evidence_SX2["weight"])
    unknown_SX = (none_SX2 | np.isnan(weight_SX2)).all(axis=2)
    is_one_SX = np.abs(weight_SX2[..., 0] + weight_SX2[..., 1] - 1) <= SUM_TOLERANCE  # False if only one is known
    if not (unknown_SX | is_one_SX).all() or (weight_SX2 < 0).any():
        raise IndexRefused(where, "evidence.npy has weights of views that are negative or whose sum is not 1")
