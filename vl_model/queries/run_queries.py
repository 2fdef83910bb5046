"""Questions to a run: its segments are opened once, and asked as often as one likes. Nothing here imports torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from data_prep.sites import Site, parse_row_id_site
from prompts.canonical import MAX_TOP, canonical_line, parse_canonical
from prompts.formula import is_contradiction
from prompts.reading.parse import EXAMPLE
from prompts.tree import Query, Tree, tree_sites
from vl_model.queries.likeness import (
    EmbedTexts,
    best_sites,
    highest_cosines,
    needed_cosine,
    null_of,
)
from vl_model.queries.nearest import Similar
from vl_model.queries.reply import Likeness, Reply
from vl_model.queries.run_index import available_segments, check_evaluated, open_segment, processed_of, segment_files
from vl_model.queries.search import Answer, Bounds, Found, answer_of, search
from vl_model.queries.segment import Segment
from vl_model.queries.similar import similar_sites
from workspace.layout import SPLITS, DataRoot
from workspace.setting_error import SettingError

#: Both splits of the data root, as far as the run has embeddings of them.
BOTH = "both"
DEFAULT_TOP = 5


@dataclass(frozen=True)
class Asked:
    """How a question is asked; what is None is taken from the text, or else is the default.

    split: a split, a kept set's name, or `BOTH`. top: how many answers. least: their least probability. seen: whether
    studies that the model was trained on are answers too. likeness: whether words that are not graded are compared with
    the images.
    """

    split: str | None = None
    top: int | None = None
    least: float | None = None
    seen: bool | None = None
    likeness: bool = False


@dataclass(frozen=True)
class RunQueries:
    """The query index of a run.

    embed: makes embeddings of texts; it is called for free words only. say: is told what takes long, and why.
    """

    root: DataRoot
    run: str
    embed: EmbedTexts
    say: Callable[[str], None]
    _opened: dict[str, Segment] = field(default_factory=dict, repr=False)
    _opening: Lock = field(default_factory=Lock, repr=False, compare=False)

    def ask(self, query: Query, asked: Asked = Asked()) -> Reply:
        """Return the studies that answer a query best, with what the query is worth.

        Raises ValueError if nothing graded was asked and `likeness` is not set, the run has not been evaluated, a
        split or kept set does not exist, or no study has an image of what is asked for.
        """
        if query.tree is None and not asked.likeness:
            raise ValueError(
                f'"{query.text}": nothing that is graded was asked; {EXAMPLE}, or use --likeness for the likeness of '
                "images to these words"
            )
        if query.tree is not None and is_contradiction(query.tree):
            raise ValueError(f'"{canonical_line(query.tree)}": contradicts itself')
        return replace(self._answered(with_limits(query, asked), asked.likeness), said=query.limits)

    def _answered(self, query: Query, by_likeness: bool) -> Reply:
        limits = query.limits
        segments = self.segments(limits.split or BOTH)
        bounds = Bounds(limits.top or DEFAULT_TOP, limits.least, bool(limits.seen))
        likeness = self._likeness(query.rest, segments) if by_likeness and query.rest else None
        if query.tree is None:
            answers = self._by_words(query.rest, segments, bounds) if likeness and likeness.is_told else ()
            return self._reply(query, segments, None, answers, likeness)
        likeness_N = None
        if likeness is not None and likeness.is_told:
            likeness_N = self._likeness_of_studies(query.rest, query.tree, segments)
        found = search(query.tree, segments, self.known_segments(), bounds, likeness_N)
        return self._reply(query, segments, found, found.answers, likeness)

    def similar(self, study_id: int, site: Site, asked: Asked = Asked(), any_level: bool = False) -> Reply:
        """Return the studies whose site of the same condition looks most like a study's site.

        Raises ValueError as `ask` does, and if no image shows the site.
        """
        segments = self.segments(asked.split or BOTH)
        top, seen = asked.top or DEFAULT_TOP, bool(asked.seen)
        similar = similar_sites(segments, study_id, site, top, any_level, seen)
        levels = ", at any level" if any_level else ""
        query = Query(f"like study {study_id}, {site.words}{levels}", None)
        return self._reply(query, segments, None, _by_likeness(segments, similar), None)

    def segments(self, split: str) -> list[Segment]:
        """Return the segments of a split, of a kept set, or of `BOTH` splits. Raises ValueError if there is none."""
        check_evaluated(self.root, self.run)
        available = available_segments(self.root, self.run)
        names = [name for name in SPLITS if name in available] if split == BOTH else [split]
        if not names:
            raise SettingError("split", f"{split!r}: the run has embeddings of {' and '.join(available)} only")
        return [self._open(name) for name in names]

    @cached_property
    def processed(self) -> Mapping[str, Path]:
        """Split or kept set -> its ``processed_data`` folder, which the paths of answers' images are relative to."""
        names = {*SPLITS, *available_segments(self.root, self.run)}
        return {name: processed_of(self.root, self.run, name) for name in sorted(names)}

    def _open(self, name: str) -> Segment:
        with self._opening:  # questions that come together make an index once
            if name not in self._opened:
                self._opened[name] = open_segment(self.root, self.run, name, self.say)
            return self._opened[name]

    def known_segments(self) -> list[Segment]:
        """Return the segments with known grades of studies that no training saw."""
        return [self._open("train")] if "train" in available_segments(self.root, self.run) else []

    def _reply(
        self,
        query: Query,
        segments: Sequence[Segment],
        found: Found | None,
        answers: tuple[Answer, ...],
        likeness: Likeness | None,
    ) -> Reply:
        return Reply(
            query=query,
            run=self.run,
            segments=tuple(segment.name for segment in segments),
            fingerprints={segment.name: segment.fingerprint for segment in segments},
            found=found,
            answers=answers,
            likeness=likeness,
        )

    def _likeness(self, words: str, segments: Sequence[Segment]) -> Likeness:
        """Return the highest cosine of the words with any site, beside that of neutral texts."""
        text_1D = self.embed([words])
        nulls = [
            null_of(segment, segment_files(self.root, self.run, segment.name).index, self.embed) for segment in segments
        ]
        return Likeness(words, float(highest_cosines(segments, text_1D)[0]), needed_cosine(nulls))

    def _by_words(self, words: str, segments: Sequence[Segment], bounds: Bounds) -> tuple[Answer, ...]:
        """Return the studies with the sites that are most like the words."""
        [text_D] = self.embed([words])
        return _by_likeness(segments, best_sites(segments, text_D, None, bounds.top, bounds.seen))

    def _likeness_of_studies(self, words: str, tree: Tree, segments: Sequence[Segment]) -> NDArray[np.float64]:
        """Return the cosine of each study's best site, among those of the tree, with the words; -1 if it has none."""
        [text_D] = self.embed([words])
        of_segments = []
        for segment in segments:
            cosine_S = np.full(len(segment), -1.0)
            for one in best_sites([segment], text_D, tree_sites(tree), len(segment)):
                cosine_S[segment.row_of(one.study_id)] = one.cosine
            of_segments.append(cosine_S)
        return np.concatenate(of_segments)


def _by_likeness(segments: Sequence[Segment], similar: Sequence[Similar]) -> tuple[Answer, ...]:
    """Return studies with the site that is most like something, in their order, as answers."""
    by_name = {segment.name: segment for segment in segments}
    answers = []
    for rank, one in enumerate(similar, start=1):
        segment = by_name[one.segment]
        row = segment.row_of(one.study_id)
        assert row is not None
        answers.append(answer_of(segment, row, [one.site], rank, likeness=one.cosine))
    return tuple(answers)


def parse_site(text: str) -> tuple[int, Site]:
    """Return study and site of ``STUDY:SITE``: ``123:spinal_canal_stenosis_l4_l5`` or ``123:left foramen, L4-L5``.

    Raises ValueError that quotes the text.
    """
    study, _, place = text.partition(":")
    if not study.strip().isdecimal() or not place.strip():
        raise ValueError(f"{text!r}: expected STUDY:SITE, such as 123:left_neural_foraminal_narrowing_l4_l5")
    try:
        return int(study), parse_row_id_site(place.strip())
    except ValueError:
        pass
    try:
        tree = parse_canonical(f"any({place}) = severe").tree
    except ValueError:
        tree = None
    sites = frozenset[Site]() if tree is None else tree_sites(tree)
    if len(sites) != 1:
        raise ValueError(f"{text!r}: {place.strip()!r} is not one site; write, for example, left foramen, L4-L5")
    return int(study), next(iter(sites))


def check_top(top: int) -> int:
    """Return the number of answers. Raises SettingError if it is more than `MAX_TOP`."""
    if top > MAX_TOP:
        raise SettingError("top", f"{top}: at most {MAX_TOP} answers are returned")
    return top


def with_limits(query: Query, asked: Asked) -> Query:
    """Return the query with the limits that were asked for beside the text, so that its line tells them."""
    limits = query.limits
    return replace(
        query,
        limits=replace(
            limits,
            top=asked.top or limits.top,
            least=limits.least if asked.least is None else asked.least,
            split=asked.split or limits.split,
            seen=limits.seen if asked.seen is None else asked.seen,
        ),
    )
