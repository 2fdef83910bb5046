"""The search for studies that fulfil a tree: ranked by composed probability, with what the query is worth.

Legend: N studies of the segments that are searched, one after the other; M studies with known grades; X sites.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_prep.sites import SITES, Severity, Site
from prompts.canonical import canonical_line
from prompts.formula import formula_of, support
from prompts.tree import Tree, tree_sites, within
from vl_model.calibration.recalibration import assessable, fit_recalibration
from vl_model.data.site_table import SITE_INDEX
from vl_model.queries.buckets import Buckets, bucket_of, count_buckets, told_by_sets
from vl_model.queries.expected_matches import forecast
from vl_model.queries.segment import Evidence, Segment
from vl_model.queries.speaking_sites import speaking_sites
from vl_model.queries.tree_probability import possible_severities, tree_probability, tree_truth
from vl_model.queries.worth import UNKNOWN, Worth, worth_of

#: Answers that are less probable than this are not shown, unless the question sets a limit of its own.
LEAST_SHOWN = 0.05
#: Among studies whose scores lie in one band of this width, the words that were not graded decide.
BAND = 0.05
#: Studies that are looked at together for one with an image of a site.
_BLOCK = 64


@dataclass(frozen=True)
class SpeakingSite:
    """A site of an answer: its probabilities, its known severity, and the slices and boxes that show it."""

    site: Site
    probabilities: tuple[float, float, float]
    severity: Severity | None
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class Answer:
    """A study that was found.

    segment: the split or kept set that it is in. seen: the model was trained on it. score: the composed probability,
    which orders; None if free words alone were asked. probability: recalibrated for this query, None where too few
    known grades allow it. likeness: the cosine of its best site with the free words, if they were used. matches:
    whether its known grades fulfil the tree; None if they leave it open. by_sets: the same by its prediction sets.
    study_answers: the calibrated probability of each question about the whole study, whatever was asked; None where the
    heads know of no answer. typicality: of the study's images; None if it is not known.
    """

    rank: int
    segment: str
    study_id: int
    seen: bool
    score: float | None
    probability: float | None
    sites: tuple[SpeakingSite, ...]
    likeness: float | None = None
    matches: bool | None = None
    by_sets: bool | None = None
    study_answers: Mapping[str, float | None] = field(default_factory=dict)
    typicality: float | None = None


@dataclass(frozen=True)
class NotAssessable:
    """A study that lacks sites on which the answer turns: no image shows them."""

    segment: str
    study_id: int
    missing: tuple[Site, ...]


@dataclass(frozen=True)
class Found:
    """What a search found.

    tree: what was asked of the sites that there are. top: how many answers were asked for. studies: how many were
    searched. left_out: how many were not, because the model was trained on them. not_assessable: those that cannot be
    ranked. buckets: what the prediction sets tell of all that were searched.
    """

    tree: Tree
    top: int
    studies: int
    left_out: int
    answers: tuple[Answer, ...]
    not_assessable: tuple[NotAssessable, ...]
    worth: Worth
    buckets: Buckets
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Bounds:
    """The limits of a search: how many answers, their least probability (None: `LEAST_SHOWN`), seen studies or not."""

    top: int
    least: float | None = None
    seen: bool = False


def search(
    tree: Tree,
    segments: Sequence[Segment],
    known: Sequence[Segment],
    bounds: Bounds,
    likeness_N: NDArray[np.float64] | None = None,
) -> Found:
    """Return the studies that fulfil the tree best.

    Args:
        tree: what is asked.
        segments: where to look.
        known: the segments whose unseen studies with known grades tell what the query is worth.
        bounds: how many answers, and which.
        likeness_N: the cosine of each study with free words: it orders studies whose scores lie in one band.

    Raises:
        ValueError: no study has an image of the sites that are asked for.
    """
    tree, notes = _of_imaged_sites(tree, segments)
    studies = _Studies(segments)
    score_N = np.concatenate([tree_probability(tree, segment.graded_SX3) for segment in segments])
    allowed_N = ~studies.seen_N | bounds.seen
    truth = _known_truth(tree, known)
    is_known_N = studies.rows_of(truth)
    best = _best(score_N, studies, allowed_N, bounds.top, likeness_N)
    told = forecast(*assessable(truth.score_M, truth.match_M))
    probability_K = None if told.shown is None else told.shown.probability(score_N[best])
    if probability_K is not None:
        least = LEAST_SHOWN if bounds.least is None else bounds.least
        best = [row for row, probability in zip(best, probability_K.tolist(), strict=True) if probability >= least]
    elif bounds.least is not None:
        notes.append("too few studies with known grades match or do not: P cannot be told, so its limit was ignored")
    shown_K = (np.cumsum(allowed_N) - 1)[best]
    worth = worth_of(score_N[allowed_N], truth.score_M, truth.match_M, is_known_N[allowed_N], shown_K, told)
    places = [studies.place(row) for row in best]
    graded_KX3 = np.array([segment.graded_SX3[at] for segment, at in places]).reshape(-1, len(SITES), len(Severity))
    sites_K = speaking_sites(tree, graded_KX3)
    certain_N, may_N = told_by_sets(tree, segments)
    answers = []
    for rank, (row, (segment, at), sites) in enumerate(zip(best, places, sites_K, strict=True), start=1):
        probability = None if probability_K is None else float(probability_K[rank - 1])
        likeness = None if likeness_N is None else float(likeness_N[row])
        match = _match(tree, segment, at)
        answers.append(
            answer_of(
                segment,
                at,
                sites,
                rank,
                float(score_N[row]),
                probability,
                likeness=likeness,
                matches=match,
                by_sets=bucket_of(bool(certain_N[row]), bool(may_N[row])),
            )
        )
    missing = tuple(studies.lacking(tree, np.flatnonzero(np.isnan(score_N) & allowed_N)))
    return Found(
        tree,
        bounds.top,
        int(allowed_N.sum()),
        int((~allowed_N).sum()),
        tuple(answers),
        missing,
        worth,
        count_buckets(certain_N[allowed_N], may_N[allowed_N]),
        tuple(notes),
    )


def truth_and_probability(
    tree: Tree, segment: Segment, row: int, known: Sequence[Segment]
) -> tuple[float, float | None, bool | None] | None:
    """Return a study's composed score, its recalibrated probability, and whether its known grades fulfil the tree.

    The probability is None if too few known grades allow one, the truth if its grades leave it open; None in all if no
    image shows a site that the tree turns on.
    """
    score = _score(tree, segment, row)
    if score is None:
        return None
    truth = _known_truth(tree, known)
    recalibration = fit_recalibration(truth.score_M, truth.match_M)
    probability = None if recalibration is None else float(recalibration.probability(np.array([score]))[0])
    return score, probability, _match(tree, segment, row)


def known_match(tree: Tree, segment: Segment, row: int) -> bool | None:
    """Return whether a study's known grades fulfil the tree; None if they leave it open, or if it is not assessable."""
    return None if _score(tree, segment, row) is None else _match(tree, segment, row)


def _score(tree: Tree, segment: Segment, row: int) -> float | None:
    """Return a study's composed score; None if no image shows a site that the tree turns on."""
    score = float(tree_probability(tree, segment.graded_SX3[row : row + 1])[0])
    return None if np.isnan(score) else score


def _match(tree: Tree, segment: Segment, row: int) -> bool | None:
    """Return whether a study's known grades fulfil the tree; None if they leave it open."""
    [certain], [may] = tree_truth(tree, possible_severities(segment.label_SX[row : row + 1]))
    return bool(certain) if certain == may else None


def speaking(tree: Tree, segment: Segment, row: int) -> tuple[SpeakingSite, ...]:
    """Return the sites of a study that speak for it, with what shows them."""
    [sites] = speaking_sites(tree, segment.graded_SX3[row : row + 1])
    return tuple(_speaking_site(segment, row, site) for site in sites)


def answer_of(
    segment: Segment,
    row: int,
    sites: Sequence[Site],
    rank: int,
    score: float | None = None,
    probability: float | None = None,
    likeness: float | None = None,
    matches: bool | None = None,
    by_sets: bool | None = None,
) -> Answer:
    """Return a study of a segment as an answer, with what shows these sites of it."""
    return Answer(
        rank=rank,
        segment=segment.name,
        study_id=int(segment.study_S[row]),
        seen=bool(segment.seen_S[row]),
        score=score,
        probability=probability,
        sites=tuple(_speaking_site(segment, row, site) for site in sites),
        likeness=likeness,
        matches=matches,
        by_sets=by_sets,
        study_answers=segment.study_answers(row),
        typicality=segment.typicality(row),
    )


def _speaking_site(segment: Segment, row: int, site: Site) -> SpeakingSite:
    index = SITE_INDEX[site]
    normal_mild, moderate, severe = (float(p) for p in segment.graded_SX3[row, index])
    label = int(segment.label_SX[row, index])
    severity = None if label < 0 else Severity(label)
    return SpeakingSite(site, (normal_mild, moderate, severe), severity, segment.evidence(row, index))


class _Studies:
    """The N studies of some segments, one segment after the other."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = segments
        self._starts = np.cumsum([0, *(len(segment) for segment in segments)])
        self.study_N = np.concatenate([segment.study_S for segment in segments])
        self.seen_N = np.concatenate([segment.seen_S for segment in segments])

    def place(self, row: int) -> tuple[Segment, int]:
        """Return the segment of a row, and the row within it."""
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._segments[number], row - int(self._starts[number])

    def rows_of(self, truth: "_Truth") -> NDArray[np.int64]:
        """Return the row among the known studies of each study, or `UNKNOWN`."""
        row_N = np.full(len(self.study_N), UNKNOWN, dtype=np.int64)
        for segment, start in zip(self._segments, self._starts, strict=False):
            for name, rows_S, first in truth.of_segments:
                if name == segment.name:
                    row_N[start + rows_S] = first + np.arange(len(rows_S))
        return row_N

    def lacking(self, tree: Tree, rows: NDArray[np.int64]) -> list[NotAssessable]:
        """Return which of the tree's sites no image shows, for these studies."""
        if not len(rows):
            return []
        named = tree_sites(tree)
        needed = [index for index, site in enumerate(SITES) if site in named]
        found = []
        for row in rows.tolist():
            segment, at = self.place(row)
            missing = tuple(SITES[index] for index in needed if np.isnan(segment.graded_SX3[at, index, 0]))
            found.append(NotAssessable(segment.name, int(segment.study_S[at]), missing))
        return found


@dataclass(frozen=True)
class _Truth:
    """The M unseen studies with known grades at all sites of the tree. of_segments: (name, rows, first of M)."""

    score_M: NDArray[np.float64]
    match_M: NDArray[np.bool_]
    of_segments: tuple[tuple[str, NDArray[np.int64], int], ...]


def _known_truth(tree: Tree, known: Sequence[Segment]) -> _Truth:
    """Return the studies that tell what the tree is worth.

    A study of which only some sites are graded may be decided by them ("any severe" by one that is), but only if it
    matches: such studies would make matches look more frequent than they are. So whether a study is known must not
    depend on its grades.
    """
    sites = sorted(support(formula_of(tree)))
    scores, matches, places = [np.empty(0)], [np.empty(0, dtype=bool)], []
    first = 0
    for segment in known:
        row_K = np.flatnonzero(~segment.seen_S & (segment.label_SX[:, sites] >= 0).all(axis=1))
        certain_K, _ = tree_truth(tree, possible_severities(segment.label_SX[row_K]))
        scores.append(tree_probability(tree, segment.graded_SX3[row_K]))
        matches.append(certain_K)
        places.append((segment.name, row_K, first))
        first += len(row_K)
    return _Truth(np.concatenate(scores), np.concatenate(matches), tuple(places))


def _of_imaged_sites(tree: Tree, segments: Sequence[Segment]) -> tuple[Tree, list[str]]:
    """Return the tree over the sites that any study has an image of, and a note if these are not all that it names.

    Raises ValueError if no site is left that the tree needs.
    """
    imaged = [site for index, site in enumerate(SITES) if any(_has_image(segment, index) for segment in segments)]
    named = tree_sites(tree)
    if not named - set(imaged):
        return tree, []
    narrowed = within(tree, imaged)
    if narrowed is None:
        missing = next(site for site in SITES if site in named and site not in imaged)
        raise ValueError(f"no study has an image of {missing.words}, which is asked for")
    return narrowed, [
        f"no study has images of all sites that are asked for: asked instead is {canonical_line(narrowed)}"
    ]


def _has_image(segment: Segment, index: int) -> bool:
    starts = range(0, len(segment), _BLOCK)  # most often, the first block tells
    return any(not np.isnan(segment.graded_SX3[start : start + _BLOCK, index, 0]).all() for start in starts)


def _best(
    score_N: NDArray[np.float64],
    studies: _Studies,
    allowed_N: NDArray[np.bool_],
    top: int,
    likeness_N: NDArray[np.float64] | None,
) -> list[int]:
    """Return the rows of the `top` best studies; equal scores are in the order of study ids."""
    key_N = score_N if likeness_N is None else np.floor(score_N / BAND)
    key_N = np.where(allowed_N & ~np.isnan(score_N), key_N, -np.inf)
    ranked = min(top, int((key_N > -np.inf).sum()))
    if not ranked:
        return []
    least = np.partition(key_N, len(key_N) - ranked)[len(key_N) - ranked]
    row_C = np.flatnonzero(key_N >= least)
    keys = [studies.study_N[row_C], -key_N[row_C]]
    if likeness_N is not None:
        keys.insert(1, -likeness_N[row_C])
    return [int(row) for row in row_C[np.lexsort(keys)][:ranked]]
