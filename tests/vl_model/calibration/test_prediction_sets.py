"""Prediction sets: against a slow version, their coverage, and what happens with few sites of a grade."""

import numpy as np
import pytest

from data_prep.sites import Severity
from tests.vl_model.calibration.drawn_studies import drawn_studies
from vl_model.calibration.cross_fit import study_groups
from vl_model.calibration.prediction_sets import (
    SET_LEVELS,
    PredictionSets,
    contains,
    cross_fitted_sets,
    set_sizes,
    set_words,
)
from vl_model.data.site_table import CONDITIONS, UNLABELLED, SiteTable, full_table, site_table


def slow_set(prob_M3: np.ndarray, severity_M: np.ndarray, row_3: np.ndarray, level: int) -> int:
    """The set of one row, by counting the graded rows of each grade that are at most as typical as the row."""
    alpha, found = 1 - level / 100, [False] * 3
    for grade in (0, 2, 1):
        if grade == 1 and found[0] and found[2]:
            found[1] = True
            continue
        below = others = 0
        for prob_3 in prob_M3[severity_M == grade]:
            others += 1
            if grade == 1:
                between = all(
                    slow_set(prob_M3[severity_M != 1], severity_M[severity_M != 1], prob_3, level) & bit
                    for bit in (1, 4)
                )
                below += not between and prob_3[1] <= row_3[1]
            else:
                below += prob_3[grade] <= row_3[grade]
        found[grade] = below >= int((others + 1) * alpha + 1e-9)
    return sum(1 << grade for grade in range(3) if found[grade])


def test_the_sets_are_those_of_a_slow_version() -> None:
    drawn = drawn_studies(25, seed=1)
    prob_N3 = np.exp(drawn.log_true_N3)
    fitted, table = PredictionSets().fit(prob_N3, drawn.table), drawn.table
    fresh = drawn_studies(4, seed=2)
    fresh_N3 = np.exp(fresh.log_true_N3)
    for level in SET_LEVELS:
        set_N = fitted.sets(fresh_N3, fresh.table, level)
        for row in range(0, len(fresh.table), 3):
            of_condition = table.condition_N == fresh.table.condition_N[row]
            expected = slow_set(prob_N3[of_condition], table.severity_N[of_condition], fresh_N3[row], level)
            assert set_N[row] == expected
    again = PredictionSets.from_dict(fitted.as_dict())
    assert np.array_equal(again.sets(fresh_N3, fresh.table, 90), fitted.sets(fresh_N3, fresh.table, 90))
    with pytest.raises(ValueError, match="shape"):
        PredictionSets.from_dict({**fitted.as_dict(), "sites": [[1, 2, 3]]})


@pytest.mark.parametrize("slope", [3.0, 0.5])
def test_every_grade_is_covered_as_stated_also_by_bad_probabilities(slope: float) -> None:
    drawn = drawn_studies(1000, seed=3, slope=slope, bias=(1.5, 0.0, -1.0))
    prob_N3, table = np.exp(drawn.log_head_N3), drawn.table
    found = cross_fitted_sets(prob_N3, table, study_groups(table))
    for level in SET_LEVELS:
        is_in_N = contains(found[level], table.severity_N)
        for condition in range(len(CONDITIONS)):
            for grade in Severity:
                rows = (table.condition_N == condition) & (table.severity_N == grade)
                assert is_in_N[rows].mean() == pytest.approx(level / 100, abs=0.02)
        assert not np.isin(found[level], 0b101).any()  # no set has a gap
    assert (set_sizes(found[95]) >= set_sizes(found[90])).all()


def test_a_study_does_not_decide_on_its_own_sets() -> None:
    drawn = drawn_studies(40, seed=4)
    prob_N3, table = np.exp(drawn.log_true_N3), drawn.table
    groups = study_groups(table)
    before = cross_fitted_sets(prob_N3, table, groups)[90]
    other = SiteTable(table.study_N, table.site_N, table.severity_N.copy())
    own = table.study_N == 7
    other.severity_N[own] = (table.severity_N[own] + 1) % 3
    after = cross_fitted_sets(prob_N3, other, groups)[90]
    same_group = np.array([groups[study] == groups[7] for study in table.study_N.tolist()])
    assert np.array_equal(before[same_group], after[same_group]) and not np.array_equal(before, after)


def test_a_grade_with_too_few_sites_is_in_every_set() -> None:
    drawn = drawn_studies(60, seed=5)
    table = drawn.table
    canal_severe = np.flatnonzero((table.condition_N == 0) & (table.severity_N == Severity.SEVERE))
    table.severity_N[canal_severe[18:]] = UNLABELLED
    table.severity_N[table.condition_N == 1] = UNLABELLED  # a condition that nobody graded
    table.severity_N[(table.condition_N == 2) & (table.severity_N == Severity.MODERATE)] = Severity.SEVERE
    fitted = PredictionSets().fit(np.exp(drawn.log_true_N3), table)
    assert fitted.always_in(90) == {"spinal_canal_stenosis": [], "subarticular_stenosis": ["moderate"]}
    assert fitted.always_in(95)["spinal_canal_stenosis"] == ["severe"]
    certain = full_table([1], site_table([]))
    set_X = fitted.sets(np.tile([1.0, 0.0, 0.0], (25, 1)), certain, 95)
    words_of = {index: {set_words(bits) for bits in set_X[certain.condition_N == index]} for index in range(3)}
    every = {"normal_mild|moderate|severe"}
    assert words_of == {0: every, 1: every, 2: {"normal_mild|moderate"}}
