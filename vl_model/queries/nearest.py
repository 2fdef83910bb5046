"""The sites whose embeddings have the highest cosine with a vector: exact, in one pass over the vectors of those sites.

Legend: as in `vl_model.queries.segment`; M of the X sites.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.sites import SITES, Site
from vl_model.data.site_table import Floats
from vl_model.queries.segment import IndexRefused, Segment

#: How far a cosine, or the length of a vector, may exceed 1.
LENGTH_TOLERANCE = 1e-3
#: Cosines of float32 are exact to this. Sites that are so near to being answers are compared in float64, so that no
#: order of rows, which the products of float32 depend on, decides between them.
ROUNDING = 1e-5
#: Digits that cosines are compared by: sites with equal ones are in the order of study ids.
DIGITS = 9
#: Vectors that are converted to float64 together.
BLOCK = 4096


@dataclass(frozen=True)
class Similar:
    """A site of a study, and the cosine of its embedding."""

    segment: str
    study_id: int
    site: Site
    cosine: float


def nearest_sites(
    segments: Sequence[Segment],
    sites: Sequence[int],
    vector_D: NDArray[np.float32],
    top: int,
    left_out: tuple[str, int] | None = None,
) -> list[Similar]:
    """Return the `top` studies with the highest cosine, each with its best site, best first.

    Equal cosines are in the order of study ids, sites and segments. A study is what has one id in one segment.

    Args:
        segments: where to look.
        sites: the sites that may be answers, as indices in `SITES`.
        vector_D: L2-normalised.
        top: at least 1.
        left_out: the segment's name and the id of a study that is no answer.

    Raises:
        ValueError: the vector has another length than the segments'.
        IndexRefused: a vector of a segment is damaged.
    """
    found = [
        (-cosine, study_id, site, place)
        for place, segment in enumerate(segments)
        for study_id, site, cosine in _of_segment(segment, sorted(set(sites)), vector_D, top, left_out)
    ]
    return [
        Similar(segments[place].name, study_id, SITES[site], -negative)
        for negative, study_id, site, place in sorted(found)[:top]
    ]


def check_dimensions(segment: Segment, dimensions: int) -> None:
    """Raise ValueError unless the segment's vectors have so many dimensions."""
    if segment.vector_XSD.shape[2] != dimensions:
        raise ValueError(
            f"segment {segment.name!r} has embeddings of {segment.vector_XSD.shape[2]} dimensions, not {dimensions}"
        )


def check_cosines(segment: Segment, largest: np.float32) -> None:
    """Raise IndexRefused unless the largest of some absolute cosines is possible; NaN is not."""
    if not largest <= 1 + LENGTH_TOLERANCE:
        raise IndexRefused(f"segment {segment.name!r}", "vectors.npy has vectors that are not normalised")


def _of_segment(
    segment: Segment,
    sites: Sequence[int],
    vector_D: NDArray[np.float32],
    top: int,
    left_out: tuple[str, int] | None,
) -> list[tuple[int, int, float]]:
    """Return (study id, site, cosine) of the best site of at least the `top` best studies, and a few more."""
    check_dimensions(segment, len(vector_D))
    if not sites or not len(segment):
        return []
    cosine_MS = np.concatenate([_products(segment, run, vector_D) for run in _runs(sites)])
    check_cosines(segment, max(cosine_MS.max(), -cosine_MS.min()))
    for row, site in zip(cosine_MS, sites, strict=True):
        row[np.isnan(segment.graded_SX3[:, site, 0])] = -np.inf
    if left_out is not None and left_out[0] == segment.name and (own := segment.row_of(left_out[1])) is not None:
        cosine_MS[:, own] = -np.inf
    best_S = cosine_MS.max(axis=0)
    least = np.partition(best_S, -top)[-top] if top < len(best_S) else -np.inf
    row_C = np.flatnonzero((best_S >= least - ROUNDING) & (best_S > -np.inf))
    site_K, column_K = np.nonzero(cosine_MS[:, row_C] >= best_S[row_C] - ROUNDING)
    return _best_of_each_study(segment, np.array(sites)[site_K], row_C[column_K], vector_D)


def _runs(sites: Sequence[int]) -> Iterator[slice]:
    """Yield the runs of sites that follow each other, and so lie in one block of memory."""
    start = 0
    for place in range(1, len(sites) + 1):
        if place == len(sites) or sites[place] != sites[place - 1] + 1:
            yield slice(sites[start], sites[place - 1] + 1)
            start = place


def _products(segment: Segment, run: slice, vector_D: NDArray[np.float32]) -> NDArray[np.float32]:
    block_MSD = np.asarray(segment.vector_XSD[run])
    with np.errstate(invalid="ignore"):  # infinities, which `check_cosines` refuses
        product_N: NDArray[np.float32] = block_MSD.reshape(-1, len(vector_D)) @ vector_D
    return product_N.reshape(block_MSD.shape[:2])


def _best_of_each_study(
    segment: Segment, site_K: NDArray[np.int64], row_K: NDArray[np.int64], vector_D: NDArray[np.float32]
) -> list[tuple[int, int, float]]:
    """Return the best of K sites of each of their studies. Raises IndexRefused if a vector is not normalised."""
    cosine_K = np.concatenate(
        [
            _exact_cosines(segment, site_K[start : start + BLOCK], row_K[start : start + BLOCK], vector_D)
            for start in range(0, len(row_K), BLOCK)
        ]
        or [np.zeros(0)]
    )
    order = np.lexsort((site_K, -cosine_K, row_K))
    _, first = np.unique(row_K[order], return_index=True)
    best = order[first]
    return list(zip(segment.study_S[row_K[best]].tolist(), site_K[best].tolist(), cosine_K[best].tolist(), strict=True))


def _exact_cosines(
    segment: Segment, site_K: NDArray[np.int64], row_K: NDArray[np.int64], vector_D: NDArray[np.float32]
) -> Floats:
    vector_KD = np.asarray(segment.vector_XSD[site_K, row_K], dtype=np.float64)
    length_K = np.sqrt((vector_KD**2).sum(axis=1))
    if not (np.abs(length_K - 1) <= LENGTH_TOLERANCE).all():
        raise IndexRefused(f"segment {segment.name!r}", "vectors.npy has vectors that are not normalised")
    cosine_K: Floats = np.round((vector_KD * vector_D.astype(np.float64)).sum(axis=1), DIGITS)
    return cosine_K
