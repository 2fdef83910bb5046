"""The buckets of studies by their prediction sets, against all grades that the sets allow."""

from itertools import product

import numpy as np
import pytest

from data_prep.sites import SITES, Severity
from prompts.tree import tree_sites
from tests.query_trees import holds
from tests.vl_model.queries.random_segments import random_segment
from tests.vl_model.queries.segments import make_parts
from tests.vl_model.queries.test_search import tree_of
from vl_model.queries.index import build_segment
from vl_model.queries.search import Bounds, search

LINES = (
    "any(canal) = severe",
    "all(canal, L3-L4) >= moderate",
    "any(canal, L4-L5) = severe and all(canal, L3-L4) = normal/mild",
)


@pytest.mark.parametrize("line", LINES)
def test_a_study_is_told_if_all_grades_of_its_sets_agree(line: str) -> None:
    tree = tree_of(line)
    segments = [random_segment("train", 25, 0, seen=0.3), random_segment("test", 15, 1, missing=0.1, first_id=90)]
    found = search(tree, segments, [], Bounds(40, 0.0))
    indices = [index for index, site in enumerate(SITES) if site in tree_sites(tree)]
    expected: dict[int, bool | None] = {}
    for segment in segments:
        for row in np.flatnonzero(~segment.seen_S):
            possible = [[s for s in Severity if segment.sets_SX[row, index] >> s & 1] for index in indices]
            outcomes = {
                holds(tree, dict(zip((SITES[index] for index in indices), grades, strict=True)))
                for grades in product(*possible)
            }
            expected[int(segment.study_S[row])] = outcomes.pop() if len(outcomes) == 1 else None
    told = list(expected.values())
    counted = found.buckets.matches, found.buckets.cannot_tell, found.buckets.does_not
    assert counted == (told.count(True), told.count(None), told.count(False))
    assert found.buckets.studies == found.studies and min(counted) >= 0 and told.count(None)
    for answer in found.answers:
        assert answer.by_sets == expected[answer.study_id]


def test_an_empty_set_and_a_site_without_an_image_tell_nothing() -> None:
    parts = make_parts()
    set_N = np.full(len(parts.keys), 0b001, dtype=np.uint8)
    set_N[4] = 0
    segment = build_segment(
        "test", parts.study_ids, parts.keys, parts.image_ND, parts.prob_N3, parts.pairs, [], {}, set_N=set_N
    )
    study, site = parts.keys[4]
    row = segment.row_of(study)
    assert row is not None and segment.sets_SX[row, SITES.index(site)] == 0b111
    assert (segment.sets_SX[~segment.imaged_SX] == 0b111).all()
    assert (segment.sets_SX == 0b001).sum() == len(parts.keys) - 1
