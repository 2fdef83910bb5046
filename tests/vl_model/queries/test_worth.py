"""What a query is worth: known studies count as they are, no order matters, and every edge has an answer."""

import math
import subprocess
import sys
from dataclasses import astuple, fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import average_precision_score

from vl_model.queries.estimates import Estimate
from vl_model.queries.worth import UNKNOWN, Worth, worth_of


def draw(studies: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logit_N = rng.normal(-1.5, 2, studies)
    return expit(logit_N), rng.random(studies) < expit(0.5 + logit_N)


def best(score_N: np.ndarray, answers: int = 10) -> np.ndarray:
    return np.argsort(-score_N, kind="stable")[:answers]


def estimates_of(worth: Worth) -> dict[str, Estimate]:
    return {f.name: value for f in fields(worth) if isinstance(value := getattr(worth, f.name), Estimate)}


def test_everything_at_once() -> None:
    score_N, (known_score_M, known_match_M) = draw(500)[0], draw(200, seed=1)
    known_score_M[0] = np.sort(score_N)[-10]  # a score at the cut is above it
    worth = worth_of(score_N, known_score_M, known_match_M, shown_K=best(score_N))
    cut = float(np.sort(score_N)[-10])
    above_M = known_score_M >= cut
    assert (worth.searched, worth.known, worth.matches) == (500, 200, known_match_M.sum())
    assert (worth.cut, worth.above) == (cut, above_M.sum())
    assert worth.matches_above == (known_match_M & above_M).sum()
    assert worth.average_precision is not None and worth.precision is not None and worth.recall is not None
    assert worth.average_precision.value == pytest.approx(average_precision_score(known_match_M, known_score_M))
    assert worth.precision.value == pytest.approx(known_match_M[above_M].mean())
    assert worth.recall.value == pytest.approx(above_M[known_match_M].mean())
    assert worth.told_precision is not None and 0.7 < worth.told_precision.value < 1
    assert worth.recalibration is not None and worth.expected_matches is not None
    expected = worth.recalibration.probability(score_N).sum()
    assert worth.expected_matches.value == pytest.approx(expected, rel=0.02)


def test_known_studies_that_are_searched_count_as_they_are() -> None:
    known_score_M, known_match_M = draw(100)
    row_N = np.arange(100)
    worth = worth_of(known_score_M, known_score_M, known_match_M, row_N, best(known_score_M))
    matches, real = float(known_match_M.sum()), float(known_match_M[best(known_score_M)].mean())
    assert worth.expected_matches == Estimate(matches, matches, matches)
    assert worth.told_precision == Estimate(real, real, real)
    # Half of them, and others whose grades are not known.
    other_N = draw(60, seed=2)[0]
    half = np.concatenate([known_score_M[:50], other_N])
    is_known_N = np.concatenate([np.arange(50), np.full(60, UNKNOWN)])
    together = worth_of(half, known_score_M, known_match_M, is_known_N).expected_matches
    alone = worth_of(other_N, known_score_M, known_match_M).expected_matches
    assert together is not None and alone is not None
    shifted = [value - known_match_M[:50].sum() for value in astuple(together)]
    assert shifted == pytest.approx(list(astuple(alone)))


def test_answers_whose_grades_are_known_count_as_they_are() -> None:
    known_score_M, known_match_M = draw(100)
    score_N = np.append(known_score_M[:3], 0.9)
    is_known_N = np.array([0, 1, 2, UNKNOWN])
    shown_K = np.array([0, 1, 2, 3])
    worth = worth_of(score_N, known_score_M, known_match_M, is_known_N, shown_K)
    alone = worth_of(score_N, known_score_M, ~known_match_M, is_known_N, shown_K)
    certain = known_match_M[:3].sum()
    assert worth.told_precision is not None and alone.told_precision is not None
    assert certain / 4 <= worth.told_precision.low <= worth.told_precision.high <= (certain + 1) / 4
    assert (3 - certain) / 4 <= alone.told_precision.low <= alone.told_precision.high <= (4 - certain) / 4


def test_studies_that_cannot_be_assessed_are_left_out() -> None:
    score_N, (known_score_M, known_match_M) = draw(80)[0], draw(70, seed=1)
    blank = np.full(5, np.nan)
    whole = worth_of(score_N, known_score_M, known_match_M, shown_K=best(score_N))
    with_blanks = worth_of(
        np.append(score_N, blank),
        np.append(known_score_M, blank),
        np.append(known_match_M, np.ones(5, dtype=bool)),
        np.append(np.full(80, UNKNOWN), 70 + np.arange(5)),
        best(score_N),
    )
    assert with_blanks == whole


@given(seed=st.integers(0, 50), known=st.sampled_from([0, 1, 9, 40, 150]), share=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_the_order_of_studies_changes_nothing(seed: int, known: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    score_N = np.round(rng.random(90), 2)  # ties
    known_score_M, known_match_M = np.round(rng.random(known), 2), rng.random(known) < share
    is_known_N = np.where(rng.random(90) < 0.3, rng.integers(0, known, 90), UNKNOWN) if known else None
    worth = worth_of(score_N, known_score_M, known_match_M, is_known_N, best(score_N))
    assert worth == worth_of(score_N, known_score_M, known_match_M, is_known_N, best(score_N))
    order_N, order_M = rng.permutation(90), rng.permutation(known)
    new_row_M = np.append(np.argsort(order_M), UNKNOWN)
    moved = worth_of(
        score_N[order_N],
        known_score_M[order_M],
        known_match_M[order_M],
        None if is_known_N is None else new_row_M[is_known_N[order_N]],
        np.argsort(order_N)[best(score_N)],
    )
    for name, estimate in estimates_of(worth).items():
        assert astuple(getattr(moved, name)) == pytest.approx(astuple(estimate), rel=1e-12), name
        assert estimate.low <= estimate.value <= estimate.high, name


@pytest.mark.parametrize("studies", [0, 1, 300])
@pytest.mark.parametrize("known", [0, 1, 5, 40])
@pytest.mark.parametrize("what", ["none match", "all match", "some match"])
def test_every_edge_has_an_answer(studies: int, known: int, what: str) -> None:
    score_N, (known_score_M, known_match_M) = draw(studies)[0], draw(known, seed=1)
    known_match_M = {"none match": known_match_M & False, "all match": known_match_M | True}.get(what, known_match_M)
    worth = worth_of(score_N, known_score_M, known_match_M, shown_K=best(score_N))
    assert (worth.searched, worth.known, worth.matches) == (studies, known, known_match_M.sum())
    assert (worth.cut is None) == (studies == 0)
    found = estimates_of(worth)
    for estimate in found.values():
        assert all(math.isfinite(value) for value in astuple(estimate))
        assert 0 <= estimate.low <= estimate.high <= max(studies, 1)
    possible = {
        "average_precision": worth.matches > 0,
        "precision": worth.above > 0,
        "recall": worth.matches > 0 and studies > 0,
        "told_precision": known > 0 and studies > 0,
        "expected_matches": known > 0,
    }
    assert set(found) == {name for name, is_possible in possible.items() if is_possible}
    assert (worth.recalibration is None) == (min(worth.matches, known - worth.matches) < 10)
    if studies == 0 and known:
        assert worth.expected_matches == Estimate(0.0, 0.0, 0.0)


def test_without_known_studies_the_worth_is_unknown() -> None:
    assert worth_of(np.array([0.3, np.nan]), np.zeros(0), np.zeros(0, dtype=bool)) == Worth(1, 0, 0)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"score_N": np.array([0.1, 2.0])}, "a score of 2.0, expected 0 to 1"),
        ({"known_match_M": np.ones(2, dtype=bool)}, "3 scores and 2 matches"),
        ({"is_known_N": np.array([0])}, "expected 2 rows of 3 known studies"),
        ({"is_known_N": np.array([0, 3])}, "expected 2 rows of 3 known studies"),
        ({"is_known_N": np.array([0, -2])}, "expected 2 rows of 3 known studies"),
        ({"shown_K": np.array([2])}, "expected rows of 2 studies"),
        ({"shown_K": np.array([-1])}, "expected rows of 2 studies"),
        ({"score_N": np.array([0.1, np.nan]), "shown_K": np.array([1])}, "an answer without a score"),
    ],
)
def test_wrong_input_is_refused(changed: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {
        "score_N": np.array([0.1, 0.2]),
        "known_score_M": np.array([0.1, 0.2, 0.3]),
        "known_match_M": np.array([True, False, True]),
    }
    worth_of(**given)
    with pytest.raises(ValueError, match=words):
        worth_of(**(given | changed))


def test_numpy_is_all_that_is_loaded() -> None:
    script = "import sys, vl_model.queries.worth; print({'scipy', 'sklearn', 'pandas', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
