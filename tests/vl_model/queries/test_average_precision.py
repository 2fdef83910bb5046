"""Average precision and its jackknife, against scikit-learn on each subset."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from vl_model.queries.average_precision import average_precision, average_precision_without_each
from vl_model.queries.estimates import wilson

ROWS = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=25)


@given(rows=ROWS)
@settings(max_examples=60, deadline=None)
def test_it_is_scikit_learns_also_without_each_study(rows: list[tuple[int, bool]]) -> None:
    score_M, match_M = np.array([score / 6 for score, _ in rows]), np.array([match for _, match in rows])
    found = average_precision(score_M, match_M)
    if not match_M.any():
        assert found is None
        return
    assert found is not None and found.value == pytest.approx(average_precision_score(match_M, score_M))
    assert 0 <= found.low <= found.value <= found.high <= 1
    without_other_G, without_match_G = average_precision_without_each(score_M, match_M)
    score_G = np.unique(score_M)[::-1].tolist()
    for row in range(len(rows)):
        rest = np.arange(len(rows)) != row
        if match_M[rest].any():
            without_G = without_match_G if match_M[row] else without_other_G
            expected = average_precision_score(match_M[rest], score_M[rest])
            assert without_G[score_G.index(score_M[row])] == pytest.approx(expected)


@pytest.mark.parametrize(("studies", "share", "capped"), [(300, 0.15, True), (40, 0.9, False)])
def test_the_interval_is_wilsons_of_the_jackknifes_variance(studies: int, share: float, capped: bool) -> None:
    rng = np.random.default_rng(1)
    score_M = rng.random(studies)
    match_M = rng.random(studies) < (share * 2 * score_M if capped else share)
    value, rest = average_precision_score(match_M, score_M), ~np.eye(studies, dtype=bool)
    without_M = np.array([average_precision_score(match_M[row], score_M[row]) for row in rest])
    variance = (studies - 1) * without_M.var()
    assert (value * (1 - value) / variance > match_M.sum()) == capped
    found = average_precision(score_M, match_M)
    expected = wilson(value, min(value * (1 - value) / variance, match_M.sum()))
    assert found is not None and (found.low, found.high) == pytest.approx(expected)


def test_few_matches_on_top_do_not_prove_a_perfect_ranking() -> None:
    score_M = np.linspace(1, 0, 50)
    few, many = (average_precision(score_M, np.arange(50) < matches) for matches in (2, 25))
    assert few is not None and many is not None and few.value == many.value == few.high == 1
    assert few.low < 0.35 and 0.85 < many.low < 0.9


def test_the_interval_contains_the_average_precision_of_the_population() -> None:
    rng = np.random.default_rng(0)
    logit_S = rng.normal(-1.5, 2, 40000)
    match_S, score_S = rng.random(40000) < 1 / (1 + np.exp(-logit_S)), 1 / (1 + np.exp(-0.5 * logit_S))
    truth = average_precision_score(match_S, score_S)
    covered, width = 0, 0.0
    for _ in range(300):
        row = rng.integers(0, len(score_S), 120)
        found = average_precision(score_S[row], match_S[row])
        assert found is not None
        covered += found.low <= truth <= found.high
        width += (found.high - found.low) / 300
    assert 0.92 <= covered / 300 <= 0.995 and width < 0.35
