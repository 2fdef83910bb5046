"""Cross-fitting: groups of studies, and no study predicted by a calibrator that was fitted on it."""

import numpy as np
import pytest

from tests.vl_model.calibration.drawn_studies import drawn_studies
from vl_model.calibration.cross_fit import cross_fit, divisions_of, study_groups
from vl_model.data.site_table import SiteTable


def test_groups_cover_the_studies_and_divide_severe_ones_evenly() -> None:
    table = drawn_studies(23, seed=10).table
    groups = study_groups(table, 5)
    assert sorted(groups) == table.study_ids and set(groups.values()) == set(range(5))
    severe = [
        sum((table.severity_N[table.study_N == s] == 2).sum() for s in groups if groups[s] == g) for g in range(5)
    ]
    assert max(severe) < 2 * min(severe)
    assert groups == study_groups(table, 5)
    assert set(study_groups(table.take(table.of_studies([1, 2])), 5).values()) == {0, 1}
    with pytest.raises(ValueError, match="requires at least two"):
        study_groups(table.take(table.of_studies([1])))


def test_few_studies_are_divided_more_often_than_many() -> None:
    few, many = (divisions_of(drawn_studies(studies, seed=1).table) for studies in (20, 1500))
    assert len(few) == 6 and len(many) == 2
    assert len({tuple(sorted(division.items())) for division in few}) == 6


def test_a_study_is_not_predicted_by_a_calibrator_fitted_on_it() -> None:
    """Other labels of one study change the predictions of all groups but its own."""
    drawn = drawn_studies(30, seed=11)
    divisions = divisions_of(drawn.table)[:1]
    before = cross_fit(drawn.log_head_N3, drawn.table, divisions)
    changed = SiteTable(drawn.table.study_N, drawn.table.site_N, drawn.table.severity_N.copy())
    changed.severity_N[drawn.table.study_N == 3] = 2
    after = cross_fit(drawn.log_head_N3, changed, divisions)
    its_group = [study for study, group in divisions[0].items() if group == divisions[0][3]]
    same = drawn.table.of_studies(its_group)
    assert np.array_equal(before.prob_N3[same], after.prob_N3[same])
    assert (np.abs(before.prob_N3[~same] - after.prob_N3[~same]).max(axis=1) > 0).all()
    assert all((before.rule_of[study] == after.rule_of[study]) == (study in its_group) for study in before.rule_of)


def test_unlabelled_studies_are_predicted_too() -> None:
    drawn = drawn_studies(6, seed=12)
    drawn.table.severity_N[drawn.table.study_N == 5] = -1
    fitted = cross_fit(drawn.log_head_N3, drawn.table, divisions_of(drawn.table)[:1])
    assert fitted.prob_N3.sum(axis=1) == pytest.approx(np.ones(len(drawn.table)))
    optimal_N3 = fitted.metric_optimal(fitted.prob_N3, drawn.table)
    assert optimal_N3.sum(axis=1) == pytest.approx(np.ones(len(drawn.table)))


def test_a_study_that_no_image_shows_follows_the_rule_of_the_others() -> None:
    """Its sites were not fitted, and have the frequencies of the training studies."""
    drawn = drawn_studies(8, seed=13)
    shown = ~drawn.table.of_studies([4])
    table = drawn.table.take(shown)
    fitted = cross_fit(drawn.log_head_N3[shown], table, divisions_of(table))
    prob_N3 = np.full((len(drawn.table), 3), (0.8, 0.15, 0.05))
    prob_N3[shown] = fitted.prob_N3
    optimal_N3 = fitted.metric_optimal(prob_N3, drawn.table)
    assert optimal_N3.sum(axis=1) == pytest.approx(np.ones(len(drawn.table)))
    assert np.array_equal(optimal_N3[shown], fitted.metric_optimal(fitted.prob_N3, table))


def test_averaging_over_divisions_makes_the_seed_matter_less() -> None:
    drawn = drawn_studies(20, seed=15, slope=1.5)
    divisions = [study_groups(drawn.table, groups=2, seed=seed) for seed in range(6)]
    log_N3 = [np.log(cross_fit(drawn.log_head_N3, drawn.table, [one]).prob_N3) for one in divisions]
    averaged, others = np.mean(log_N3[:3], axis=0), np.mean(log_N3[3:], axis=0)
    assert np.abs(averaged - others).mean() < np.abs(log_N3[0] - log_N3[3]).mean()
    together = cross_fit(drawn.log_head_N3, drawn.table, divisions[:3]).prob_N3
    assert together == pytest.approx(np.exp(averaged) / np.exp(averaged).sum(axis=1, keepdims=True))


def test_every_fit_reports_what_it_chose() -> None:
    drawn = drawn_studies(30, seed=16)
    fitted = cross_fit(drawn.log_head_N3, drawn.table, divisions_of(drawn.table)[:1])
    assert sum(fitted.strengths.values()) == 5 and "nothing" not in fitted.strengths
