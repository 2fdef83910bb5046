"""The metric's optimum: against numerical minimisation, and against the metric itself on drawn studies."""

from itertools import product

import numpy as np
import pytest

from data_prep.sites import SITES, Severity
from tests.vl_model.calibration.drawn_studies import drawn_studies
from vl_model.data.site_table import Floats, full_table, site_table
from vl_model.scoring.constant_baseline import constant_baseline
from vl_model.scoring.metric_optimum import (
    USUAL_RULE,
    MetricRule,
    Worst,
    by_bayes_rule,
    fit_metric_rule,
    metric_optimal,
    optimal_spinal,
    worst_of,
)
from vl_model.scoring.metrics import SEVERITY_WEIGHTS, competition_metric
from vl_model.scoring.priors import ColumnPrior

WEIGHT_C = np.array(SEVERITY_WEIGHTS)


def expected_loss(prob_R3: Floats, answer_R3: Floats, worst: Worst, spinal: float, any_severe: float) -> float:
    """The formula at the head of the module, of one study."""
    top = answer_R3[:, 2].max()
    rows = -(prob_R3 * WEIGHT_C / spinal * np.log(answer_R3)).sum()
    severe, other = 4 * worst.severe_S[0], worst.normal_S[0] + 2 * worst.moderate_S[0]
    return float(rows - (severe * np.log(top) + other * np.log(1 - top)) / any_severe)


def minimised(prob_R3: Floats, worst: Worst, spinal: float, any_severe: float) -> list[tuple[float, Floats]]:
    """Return the answers by each row as the one with the largest severe probability, with their losses, best first.

    Each is found by bisection of the derivative by that probability.
    """
    mass_R = (prob_R3 * WEIGHT_C / spinal).sum(axis=1)
    severe_R = prob_R3[:, 2] * WEIGHT_C[2] / spinal
    severe, other = 4 * worst.severe_S[0] / any_severe, (worst.normal_S[0] + 2 * worst.moderate_S[0]) / any_severe
    found = []
    for top in range(len(prob_R3)):
        low, high = 0.0, 1.0
        for _ in range(100):
            level = (low + high) / 2
            bound = (severe_R / mass_R > level) | (np.arange(len(prob_R3)) == top)
            slope = (severe_R[bound].sum() + severe) / level
            slope -= ((mass_R - severe_R)[bound].sum() + other) / (1 - level)
            low, high = (level, high) if slope > 0 else (low, level)
        value_R = np.minimum(severe_R / mass_R, low)
        value_R[top] = low
        below_R2 = (prob_R3 * WEIGHT_C)[:, :2]
        below_R2 = below_R2 / below_R2.sum(axis=1, keepdims=True) * (1 - value_R[:, None])
        answer_R3 = np.column_stack([below_R2, value_R])
        found.append((expected_loss(prob_R3, answer_R3, worst, spinal, any_severe), answer_R3))
    return sorted(found, key=lambda pair: pair[0])


def test_the_closed_form_equals_numerical_minimisation() -> None:
    """The answers are compared as well: near its minimum the loss itself hardly tells a wrong formula."""
    rng = np.random.default_rng(0)
    pooled = compared = 0
    for case in range(120):
        prob_R3 = rng.dirichlet(np.exp(rng.normal(size=3)) * rng.choice([0.3, 1, 3]), size=5) + 1e-6
        prob_R3 /= prob_R3.sum(axis=1, keepdims=True)
        spinal, any_severe = rng.uniform(5, 9), rng.uniform(1, 3)
        all_SR = np.ones((1, 5), dtype=bool)
        worst = worst_of(prob_R3[None], all_SR, dependence=rng.random())
        if case % 2:  # any other belief in a severe level, also one that lowers the top below another row
            worst = Worst(worst.severe_S * rng.random(), worst.moderate_S, worst.normal_S)
        answer_R3 = optimal_spinal(prob_R3[None], all_SR, worst, spinal, any_severe)[0]
        pooled += int((answer_R3[:, 2] == answer_R3[:, 2].max()).sum() > 1)
        assert answer_R3.sum(axis=1) == pytest.approx(np.ones(5))
        (best, best_R3), *others = minimised(prob_R3, worst, spinal, any_severe)
        assert expected_loss(prob_R3, answer_R3, worst, spinal, any_severe) == pytest.approx(best, abs=1e-9)
        if all(loss > best + 1e-9 or np.allclose(other_R3, best_R3) for loss, other_R3 in others):
            assert answer_R3 == pytest.approx(best_R3, abs=1e-9)
            compared += 1
    assert pooled > 2 and compared > 110


def test_the_formula_is_the_expected_metric_over_all_gradings() -> None:
    """All 243 gradings of five independent levels, with their probabilities and losses as the metric counts them."""
    rng = np.random.default_rng(1)
    prob_R3, answer_R3 = rng.dirichlet((3, 1, 1), size=(2, 5))
    spinal, any_severe, expected = 6.0, 1.7, 0.0
    for severity_R in product(range(3), repeat=5):
        rows = np.arange(5), list(severity_R)
        weight_R, top = WEIGHT_C[rows[1]], answer_R3[:, 2].max()
        any_loss = -np.log(top if max(severity_R) == 2 else 1 - top)
        loss = (weight_R * -np.log(answer_R3[rows])).sum() / spinal + weight_R.max() * any_loss / any_severe
        expected += prob_R3[rows].prod() * loss
    worst = worst_of(prob_R3[None], np.ones((1, 5), dtype=bool), dependence=0.0)
    assert expected_loss(prob_R3, answer_R3, worst, spinal, any_severe) == pytest.approx(expected, rel=1e-12)


def test_the_row_of_the_largest_severe_probability_has_the_written_value() -> None:
    table = full_table([4], site_table([]))
    prob_N3 = np.tile([0.9, 0.08, 0.02], (25, 1))
    prob_N3[2] = [0.2, 0.3, 0.5]
    rule = MetricRule(spinal_weight=6.0, any_severe_weight=1.7, dependence=0.0)
    answer_N3 = metric_optimal(table, prob_N3, rule)
    mass_C = WEIGHT_C * prob_N3[2] / 6.0
    none = 0.5 * 0.98**4
    severe, other = 4 * (1 - none) / 1.7, (0.2 * 0.9**4 + 2 * (none - 0.2 * 0.9**4)) / 1.7
    assert answer_N3[2, 2] == pytest.approx((mass_C[2] + severe) / (mass_C.sum() + severe + other))
    assert answer_N3[2, 0] / answer_N3[2, 1] == pytest.approx(0.2 / 0.6)
    others = [site for site in range(25) if site != 2]
    assert answer_N3[others] == pytest.approx(by_bayes_rule(prob_N3)[others])


def test_on_drawn_studies_no_other_answer_scores_better() -> None:
    drawn = drawn_studies(3000, seed=1)
    prob_N3 = np.exp(drawn.log_true_N3)
    rule = fit_metric_rule(prob_N3, drawn.table)
    best = competition_metric(drawn.table, metric_optimal(drawn.table, prob_N3, rule)).score
    assert rule.dependence < 0.1
    assert best < competition_metric(drawn.table, by_bayes_rule(prob_N3)).score - 0.001
    for change in ({"dependence": 1.0}, {"spinal_weight": 3.0}, {"any_severe_weight": 4.0}):
        other = MetricRule(**{**vars(rule), **change})
        assert best < competition_metric(drawn.table, metric_optimal(drawn.table, prob_N3, other)).score


def test_the_dependence_of_levels_is_learned() -> None:
    drawn = drawn_studies(800, seed=2)
    prob_N3 = np.exp(drawn.log_true_N3)
    # The level with the largest severe probability decides; no other is severe without it.
    row_SR = np.flatnonzero(drawn.table.condition_N == 0).reshape(-1, 5)
    top_S = row_SR[np.arange(800), prob_N3[row_SR, 2].argmax(axis=1)]
    drawn.table.severity_N[row_SR] = 0
    drawn.table.severity_N[top_S] = np.where(np.random.default_rng(0).random(800) < prob_N3[top_S, 2], 2, 0)
    rule = fit_metric_rule(prob_N3, drawn.table)
    assert rule.dependence > 0.85
    assert rule.spinal_weight == pytest.approx(WEIGHT_C[drawn.table.severity_N[row_SR]].sum() / 800)
    assert rule.any_severe_weight == pytest.approx(WEIGHT_C[drawn.table.severity_N[row_SR].max(axis=1)].mean())


def test_the_dependence_minimises_its_written_loss() -> None:
    drawn = drawn_studies(30, seed=6)
    prob_N3 = np.exp(drawn.log_true_N3)
    row_SR = np.flatnonzero(drawn.table.condition_N == 0).reshape(-1, 5)
    drawn.table.severity_N[row_SR[:2]] = 0  # fewer studies with a severe level than independent levels would give
    is_severe_S = (drawn.table.severity_N[row_SR] == 2).any(axis=1)

    def loss(dependence: float) -> float:
        severe_S = worst_of(prob_N3[row_SR], np.ones((30, 5), dtype=bool), dependence).severe_S
        return float(dependence**2 / 2 - np.log(np.where(is_severe_S, severe_S, 1 - severe_S)).sum())

    grid = np.linspace(0, 1, 1001)
    best = grid[np.argmin([loss(value) for value in grid])]
    assert fit_metric_rule(prob_N3, drawn.table).dependence == pytest.approx(best, abs=2e-3) and 0.05 < best < 0.95


def test_a_cohort_without_spinal_grades_has_the_usual_rule() -> None:
    table = site_table([(1, SITES[7], Severity.SEVERE)])
    assert fit_metric_rule(np.full((1, 3), 1 / 3), table) == USUAL_RULE
    assert metric_optimal(table, np.full((1, 3), 1 / 3), USUAL_RULE) == pytest.approx(WEIGHT_C[None] / 7)


def test_missing_levels_count_neither_as_normal_nor_as_severe() -> None:
    drawn = drawn_studies(1, seed=3)
    prob_N3 = np.exp(drawn.log_true_N3)
    kept = [1, 3]
    two = metric_optimal(drawn.table.take(np.array(kept)), prob_N3[kept], USUAL_RULE)
    worst = worst_of(prob_N3[kept][None], np.ones((1, 2), dtype=bool), USUAL_RULE.dependence)
    weights = (USUAL_RULE.spinal_weight, USUAL_RULE.any_severe_weight)
    assert two == pytest.approx(optimal_spinal(prob_N3[kept][None], np.ones((1, 2), dtype=bool), worst, *weights)[0])


def test_no_other_constant_beats_the_constant_baseline_in_the_score() -> None:
    table = drawn_studies(1000, seed=4).table
    baseline_N3 = constant_baseline(table, table)
    best = competition_metric(table, baseline_N3).score
    by_column = ColumnPrior(SEVERITY_WEIGHTS).fit(table).predict_proba(table)
    assert best < competition_metric(table, by_column).score - 0.0005
    rng = np.random.default_rng(0)
    for _ in range(40):
        other_N3 = baseline_N3 * np.exp(rng.normal(scale=0.02, size=(25, 3)))[table.site_N]
        other_N3 /= other_N3.sum(axis=1, keepdims=True)
        assert best < competition_metric(table, other_N3).score + 2e-5
