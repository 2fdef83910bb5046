"""The benchmarks on simulated studies: the simulation against independent computations, and what is printed."""

import sys

import numpy as np
import pytest

from benchmarks import coverage, drawn_truth, known_truth
from benchmarks.drawn_truth import (
    Distortion,
    best_probabilities,
    blurred,
    draw_distortion,
    draw_table,
    draw_views,
    excess_log_loss,
    expected_metric,
    probabilities_given,
)
from data_prep.phantom.grades import class_probabilities
from data_prep.sites import SITES
from vl_model.data.site_table import SiteTable
from vl_model.scoring.intervals import Interval
from vl_model.scoring.metrics import competition_metric, log_loss, study_sums


def test_the_true_probabilities_are_those_of_the_severities() -> None:
    """Prevalences by column are the real ones, and sites of a study are correlated."""
    rng = np.random.default_rng(0)
    true_SX3 = probabilities_given(draw_views(rng, 100_000))  # the chance of labels is then far below the tolerances
    assert true_SX3.mean(axis=0) == pytest.approx(np.array([class_probabilities(site) for site in SITES]), abs=0.01)
    assert true_SX3.mean(axis=(0, 1)) == pytest.approx([0.78, 0.16, 0.06], abs=0.015)
    severity_SX = draw_table(rng, true_SX3).severity_N.reshape(-1, len(SITES))
    sure_SX = (true_SX3[..., 2] > 0.6) & (true_SX3[..., 2] < 0.7)
    assert (severity_SX[sure_SX] == 2).mean() == pytest.approx(true_SX3[sure_SX, 2].mean(), abs=0.01)
    severe_S5 = severity_SX[:, :5] == 2
    assert severe_S5.any(axis=1).mean() == pytest.approx(0.185, abs=0.01)  # as of the real studies
    assert np.corrcoef(severity_SX[:, 2], severity_SX[:, 3])[0, 1] == pytest.approx(0.4, abs=0.05)


def test_a_blurred_view_is_calibrated_and_less_able() -> None:
    rng = np.random.default_rng(1)
    view_SX = draw_views(rng, 5000)
    true_SX3 = probabilities_given(view_SX)
    seen_SX3 = probabilities_given(blurred(rng, view_SX, 0.9), 0.9)
    near = (seen_SX3[..., 1] > 0.4) & (seen_SX3[..., 1] < 0.5)
    assert true_SX3[near, 1].mean() == pytest.approx(seen_SX3[near, 1].mean(), abs=0.01)
    assert excess_log_loss(true_SX3, seen_SX3) > 0.05


def test_the_expected_metric_is_the_metric_of_many_drawn_labels() -> None:
    rng = np.random.default_rng(2)
    true_SX3 = probabilities_given(draw_views(rng, 40))
    given_SX3 = np.exp(draw_distortion(rng, 1.5, 0.5, 0.3).log_prob(true_SX3))
    tables = [draw_table(rng, true_SX3) for _ in range(600)]
    sums = [study_sums(table, given_SX3.reshape(-1, 3)) for table in tables]
    loss_TG = np.array([one.loss_SG.sum(axis=0) for one in sums])
    weight_TG = np.array([one.weight_SG.sum(axis=0) for one in sums])
    score, *part_G = expected_metric(true_SX3, given_SX3)
    error_G = (loss_TG - part_G * weight_TG).std(axis=0) / weight_TG.mean(axis=0) / np.sqrt(len(tables))
    deviation_G = loss_TG.sum(axis=0) / weight_TG.sum(axis=0) - part_G
    assert (np.abs(deviation_G) < 4 * error_G).all() and (error_G < 0.03 * np.array(part_G)).all()
    assert score == pytest.approx(np.mean(part_G))
    losses = [
        log_loss(table.severity_N, given_SX3.reshape(-1, 3)) - log_loss(table.severity_N, true_SX3.reshape(-1, 3))
        for table in tables
    ]
    assert excess_log_loss(true_SX3, given_SX3) == pytest.approx(np.mean(losses), abs=0.002)


def test_nothing_near_the_best_probabilities_has_a_lower_expected_metric() -> None:
    rng = np.random.default_rng(3)
    true_SX3 = probabilities_given(draw_views(rng, 300))
    best_SX3 = best_probabilities(true_SX3, draw_table(rng, true_SX3))
    best = expected_metric(true_SX3, best_SX3)[0]
    for other_SX3 in (
        true_SX3,
        *(np.exp(draw_distortion(rng, slope, 0.03, 0.0).log_prob(best_SX3)) for slope in (0.97, 1.0, 1.03)),
    ):
        assert expected_metric(true_SX3, other_SX3)[0] > best


def test_what_calibration_loses_is_printed_beside_the_aim(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["known_truth", "--quick"])
    known_truth.main()
    printed = capsys.readouterr().out
    assert "overconfident, slope 1.3: 30 studies, 750 rows; 6 draws" in printed
    assert "aim: at most 0.006, met" in printed and "fitted    one temperature" in printed


def test_the_views_do_not_depend_on_the_signs_of_eigenvectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another processor's linear algebra may return the opposite vectors; the draws of a seed are the same."""
    drawn_SX = draw_views(np.random.default_rng(7), 50)
    decomposed = np.linalg.eigh

    def opposite(matrix_XX: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value_X, vector_XX = decomposed(matrix_XX)
        return value_X, vector_XX * np.where(np.arange(len(value_X)) % 2, 1.0, -1.0)

    monkeypatch.setattr(drawn_truth.np.linalg, "eigh", opposite)
    drawn_truth._mixing.cache_clear()
    try:
        np.testing.assert_allclose(draw_views(np.random.default_rng(7), 50), drawn_SX, atol=1e-9)
    finally:
        drawn_truth._mixing.cache_clear()


def test_a_perfect_prediction_has_no_error_against_the_truth() -> None:
    true_N3 = probabilities_given(draw_views(np.random.default_rng(4), 40)).reshape(-1, 3)
    assert known_truth.true_ece(true_N3, true_N3) == 0
    rows = np.arange(len(true_N3))
    surer_N3 = true_N3.copy()
    top_N = true_N3.argmax(axis=1)
    surer_N3[rows, top_N] += 0.05
    assert known_truth.true_ece(true_N3, surer_N3) == pytest.approx(0.05)


def test_the_coverage_is_printed_beside_the_aim(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["coverage", "--quick"])
    coverage.main()
    lines = capsys.readouterr().out.splitlines()
    rows = {line[:37].strip(): line[37:].split() for line in lines if "cohort" not in line}
    inside, above, below, width = map(float, rows["score"][:4])
    assert inside + above + below == pytest.approx(100, abs=0.2) and inside >= 80 and 0.05 < width < 0.3
    assert "93 to 97: " in " ".join(rows["score"])
    assert float(rows["AUC foraminal, severe"][0]) >= 75


def test_intervals_are_counted_by_their_side() -> None:
    tally = coverage.Tally()
    for low, high in ((0.1, 0.3), (0.25, 0.3), (0.0, 0.1), (0.15, 0.2), (float("nan"), float("nan"))):
        tally.add(Interval(0.2, low, high), truth=0.2)
    assert (tally.percent, tally.none) == ((50.0, 25.0, 25.0), 1)


def test_a_study_that_a_sample_has_twice_counts_twice() -> None:
    cohort = coverage.draw_cohort(np.random.default_rng(5), 30)
    row_S = np.array([3, 3, 7, 11])
    found = coverage.figures(cohort, row_S)
    table = SiteTable(np.repeat(np.arange(4), 25), np.tile(np.arange(25), 4), cohort.severity_SX[row_S].ravel())
    expected = competition_metric(table, cohort.prob_SX3["able"][row_S].reshape(-1, 3))
    assert found["score"].value == pytest.approx(expected.score)
    assert found["score"].low < expected.score < found["score"].high


def test_a_distortion_moves_the_logits_of_its_condition_and_level() -> None:
    true_SX3 = probabilities_given(draw_views(np.random.default_rng(6), 5))
    bias_KC, level_bias_KLC = np.zeros((3, 3)), np.zeros((3, 5, 3))
    bias_KC[1, 2], level_bias_KLC[2, 4, 1] = 0.7, -0.4
    log_SX3 = Distortion(1.3, bias_KC, level_bias_KLC).log_prob(true_SX3)
    odds_SX2, true_SX2 = (log[..., 1:] - log[..., :1] for log in (log_SX3, 1.3 * np.log(true_SX3)))
    moved_X2 = (odds_SX2 - true_SX2).mean(axis=0)
    assert moved_X2[5:15] == pytest.approx(np.tile([0.0, 0.7], (10, 1)))
    assert moved_X2[[19, 24]] == pytest.approx(np.tile([-0.4, 0.0], (2, 1)))
    assert moved_X2[[*range(5), *range(15, 19)]] == pytest.approx(np.zeros((9, 2)))
