"""The sites whose embeddings have the highest cosine with a vector: exact, in one pass over the vectors of those sites.

Legend: as in `vl_model.queries.segment`; M of the X sites.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.sites import SITES, Site
from vl_model.queries.segment import IndexRefused, Segment

#: How far a cosine, or the length of a vector, may exceed 1.
LENGTH_TOLERANCE = 1e-3
#: Cosines of float32 are exact to this. Sites that are so near to being answers are compared in float64, so that no
#: order of rows, which the products of float32 depend on, decides between them.
ROUNDING = 1e-5
#: Digits that cosines are compared by: sites with equal ones are in the order of study ids.
DIGITS = 9
_REMEDY = "remove its folder (index/ in the run, or kept/.../index/), and the next question makes it again"
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
    seen: bool = True,
) -> list[Similar]:
    """Return the `top` studies with the highest cosine, each with its best site, best first.

    Equal cosines are in the order of study ids, sites and segments. A study is what has one id in one segment.

    Args:
        segments: where to look.
        sites: the sites that may be answers, as indices in `SITES`.
        vector_D: L2-normalised.
        top: at least 1.
        left_out: the segment's name and the id of a study that is no answer.
        seen: whether studies that the model was trained on may be answers.

    Raises:
        ValueError: the vector has another length than the segments'.
        IndexRefused: a vector of a segment is damaged.
    """
    found = [
        (-cosine, study_id, site, place)
        for place, segment in enumerate(segments)
        for study_id, site, cosine in _of_segment(segment, sorted(set(sites)), vector_D, top, left_out, seen)
    ]
    answers: dict[tuple[int, int], Similar] = {}
    for negative, study_id, site, place in sorted(found):
        answers.setdefault((place, study_id), Similar(segments[place].name, study_id, SITES[site], -negative))
        if len(answers) == top:
            break
    return list(answers.values())


def check_dimensions(segment: Segment, dimensions: int) -> None:
    """Raise ValueError unless the segment's vectors have so many dimensions."""
    if segment.vector_XSD.shape[2] != dimensions:
        raise ValueError(
            f"segment {segment.name!r} has embeddings of {segment.vector_XSD.shape[2]} dimensions, not {dimensions}"
        )


def check_cosines(segment: Segment, largest: np.float32) -> None:
    """Raise IndexRefused unless the largest of some cosines is possible; NaN is not."""
    if not largest <= 1 + LENGTH_TOLERANCE:
        raise IndexRefused(f"segment {segment.name!r}", f"vectors.npy has vectors that are not normalised; {_REMEDY}")


def _of_segment(
    segment: Segment,
    sites: Sequence[int],
    vector_D: NDArray[np.float32],
    top: int,
    left_out: tuple[str, int] | None,
    seen: bool,
) -> list[tuple[int, int, float]]:
    """Return (study id, site, cosine) of the best sites of the `top` best studies, and of what is as near."""
    check_dimensions(segment, len(vector_D))
    if not sites or not len(segment):
        return []
    cosine_MS = np.concatenate([_products(segment, run, vector_D) for run in _runs(sites)])
    # A site that is not imaged has the vector 0. Only of these few is it read whether they are imaged.
    site_Z, row_Z = np.nonzero(cosine_MS == 0)
    missing_Z = np.isnan(segment.graded_SX3[row_Z, np.array(sites)[site_Z], 0])
    cosine_MS[site_Z[missing_Z], row_Z[missing_Z]] = -np.inf
    if left_out is not None and left_out[0] == segment.name and (own := segment.row_of(left_out[1])) is not None:
        cosine_MS[:, own] = -np.inf
    best_S = cosine_MS.max(axis=0)
    check_cosines(segment, best_S.max())
    if not seen:
        best_S[segment.seen_S] = -np.inf
    least = np.partition(best_S, -top)[-top] if top < len(best_S) else -np.inf
    row_C = np.flatnonzero((best_S >= least - ROUNDING) & (best_S > -np.inf))
    site_K, column_K = np.nonzero(cosine_MS[:, row_C] >= best_S[row_C] - ROUNDING)
    site_K, row_K = np.array(sites)[site_K], row_C[column_K]
    cosine_K = [
        cosine
        for start in range(0, len(row_K), BLOCK)
        for cosine in _exact_cosines(segment, site_K[start : start + BLOCK], row_K[start : start + BLOCK], vector_D)
    ]
    return list(zip(segment.study_S[row_K].tolist(), site_K.tolist(), cosine_K, strict=True))


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


def _exact_cosines(
    segment: Segment, site_K: NDArray[np.int64], row_K: NDArray[np.int64], vector_D: NDArray[np.float32]
) -> list[float]:
    """Return cosines in float64. Raises IndexRefused if a vector is not normalised, or of a site without an image."""
    vector_KD = np.asarray(segment.vector_XSD[site_K, row_K], dtype=np.float64)
    if not (np.abs(np.linalg.norm(vector_KD, axis=1) - 1) <= LENGTH_TOLERANCE).all():
        raise IndexRefused(f"segment {segment.name!r}", f"vectors.npy has vectors that are not normalised; {_REMEDY}")
    if np.isnan(segment.graded_SX3[row_K, site_K, 0]).any():
        raise IndexRefused(f"segment {segment.name!r}", f"vectors.npy and graded.npy are of different sites; {_REMEDY}")
    cosines: list[float] = np.round((vector_KD * vector_D.astype(np.float64)).sum(axis=1), DIGITS).tolist()
    return cosines
