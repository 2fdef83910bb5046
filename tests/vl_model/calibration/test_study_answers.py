"""Study answers: against the probability of the same tree, and what the recalibration makes of them."""

import numpy as np
import pytest

from data_prep.sites import SITES, Condition, Severity
from prompts.tree import Finding
from tests.vl_model.calibration.drawn_studies import drawn_studies
from vl_model.calibration.cross_fit import divisions_of
from vl_model.calibration.study_answers import QUESTIONS, StudyAnswers, any_severe, asked_studies, cross_fitted_answers
from vl_model.data.site_table import UNLABELLED, full_table, site_table
from vl_model.queries.tree_probability import tree_probability
from vl_model.scoring.metrics import auc, reliability


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_composition_is_that_of_the_tree(question: str) -> None:
    prob_SX3 = np.random.default_rng(0).dirichlet((4.0, 1.0, 0.3), size=(30, 25))
    sites = frozenset(site for site in SITES if site.condition in QUESTIONS[question])
    expected_S = tree_probability(Finding(sites, frozenset({Severity.SEVERE})), prob_SX3)
    table = full_table(range(30), site_table([]))
    asked = np.array([SITES[site].condition in QUESTIONS[question] for site in table.site_N])
    study_S, found_S = any_severe(prob_SX3.reshape(-1, 3)[asked], table.take(asked))
    assert found_S == pytest.approx(expected_S, abs=1e-12) and study_S.tolist() == list(range(30))


def test_answers_are_calibrated_where_the_sites_of_a_study_go_together() -> None:
    drawn = drawn_studies(1500, seed=1, slope=1.5, bias=(0.5, 0.0, 0.0))
    prob_N3, table = np.exp(drawn.log_head_N3), drawn.table  # overconfident and biased sites
    asked, probability_S = cross_fitted_answers("any_severe_canal", prob_N3, table, divisions_of(table))
    composed, after = (reliability(p_S, asked.event_S).error for p_S in (asked.score_S, probability_S))
    assert after < 0.04 < 0.09 < composed  # the floor is 0.033
    assert abs(auc(asked.event_S, probability_S) - auc(asked.event_S, asked.score_S)) < 0.005
    fitted = StudyAnswers().fit(prob_N3, table)
    study_S, whole_S = fitted.predict("any_severe_canal", prob_N3, table)
    assert study_S.tolist() == asked.study_S.tolist() and np.abs(whole_S - probability_S).max() < 0.05
    again = StudyAnswers.from_dict(fitted.as_dict())
    assert np.array_equal(
        again.predict("any_severe", prob_N3, table)[1], fitted.predict("any_severe", prob_N3, table)[1]
    )


def test_a_study_does_not_decide_on_its_own_answer() -> None:
    drawn = drawn_studies(50, seed=2)
    prob_N3, table, divisions = np.exp(drawn.log_true_N3), drawn.table, divisions_of(drawn.table)[:1]
    _, before_S = cross_fitted_answers("any_severe_canal", prob_N3, table, divisions)
    own = (table.study_N == 7) & (table.condition_N == 0)
    table.severity_N[own] = 0 if (table.severity_N[own] == 2).any() else 2
    _, after_S = cross_fitted_answers("any_severe_canal", prob_N3, table, divisions)
    same_group = np.array([divisions[0][study] == divisions[0][7] for study in range(50)])
    assert np.array_equal(before_S[same_group], after_S[same_group]) and not np.array_equal(before_S, after_S)


def test_ungraded_sites_and_conditions_take_no_part() -> None:
    drawn = drawn_studies(30, seed=3)
    prob_N3, table = np.exp(drawn.log_true_N3), drawn.table
    table.severity_N[table.condition_N != 1] = UNLABELLED
    table.severity_N[(table.study_N == 4) & (table.site_N % 2 == 0)] = UNLABELLED
    asked = asked_studies("any_severe", prob_N3, table)
    rows = table.labelled_N & (table.study_N == 4)
    assert asked.score_S[4] == pytest.approx(1 - np.prod(1 - prob_N3[rows, 2]))
    assert asked.event_S[4] == (table.severity_N[rows] == 2).any()
    fitted = StudyAnswers().fit(prob_N3, table)
    assert fitted.asked_["any_severe"] == (Condition.NEURAL_FORAMINAL_NARROWING,)
    assert np.isnan(fitted.predict("any_severe_canal", prob_N3, table)[1]).all()
    other_N3 = prob_N3.copy()
    other_N3[table.condition_N != 1] = [0.0, 0.0, 1.0]
    answers = [fitted.predict("any_severe", p_N3, table)[1] for p_N3 in (prob_N3, other_N3)]
    assert np.isfinite(answers[0]).all() and np.array_equal(*answers)
    saved = fitted.as_dict()
    assert saved["any_severe_canal"] is None and StudyAnswers.from_dict(saved).as_dict() == saved
    with pytest.raises(ValueError, match="slope -1"):
        StudyAnswers.from_dict({**saved, "any_severe": {**saved["any_severe"], "slope": -1.0}})
