"""Predictions of the runs of all folds, joined by study."""

import numpy as np
import pytest

from tests.vl_model.calibration.drawn_studies import drawn_studies
from vl_model.evaluation.raw_predictions import RawHeldOut, join_folds


def held_out(studies: list[int]) -> RawHeldOut:
    drawn = drawn_studies(9, seed=1)
    rows = drawn.table.of_studies(studies)
    log_prob_N3 = drawn.log_head_N3[rows]
    imaged_N = np.random.default_rng(2).random(len(drawn.table))[rows] < 0.9
    return RawHeldOut(drawn.table.take(rows), imaged_N, np.exp(log_prob_N3), log_prob_N3 - 1, {"head": log_prob_N3})


def test_folds_are_joined_by_study_with_every_column_in_one_order() -> None:
    joined, whole = join_folds([held_out([1, 4, 8]), held_out([0, 2, 5]), held_out([3, 6, 7])]), held_out([*range(9)])
    assert joined.table.study_N.tolist() == whole.table.study_N.tolist()
    for ours, theirs in (
        (joined.table.site_N, whole.table.site_N),
        (joined.table.severity_N, whole.table.severity_N),
        (joined.imaged_N, whole.imaged_N),
        (joined.constant_N3, whole.constant_N3),
        (joined.prior_N3, whole.prior_N3),
        (joined.log_prob_N3["head"], whole.log_prob_N3["head"]),
    ):
        assert np.array_equal(ours, theirs)


def test_a_study_that_two_runs_held_out_is_refused() -> None:
    with pytest.raises(ValueError, match=r"study 4: is held out by two of the runs \(2 such studies\)"):
        join_folds([held_out([1, 4, 5]), held_out([4, 5, 8])])
