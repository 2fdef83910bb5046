"""Calibrators: what they recover from much and from little data, and how strongly they may change anything."""

import numpy as np
import pytest

from tests.vl_model.calibration.drawn_studies import drawn_studies
from vl_model.calibration.calibrator import Calibrator, Strength, simplest
from vl_model.data.site_table import SiteTable, full_table, site_table
from vl_model.scoring.metric_optimum import metric_optimal
from vl_model.scoring.metrics import competition_metric, ece, log_loss


def test_calibration_recovers_the_true_probabilities() -> None:
    drawn, new = drawn_studies(400, seed=2), drawn_studies(200, seed=3)
    calibrator = Calibrator().fit(drawn.log_head_N3, drawn.table)
    assert calibrator.slope_KF_ == pytest.approx(np.full((3, 1), 1 / 3), abs=0.03)
    prob_N3 = calibrator.predict_proba(new.log_head_N3, new.table)
    assert prob_N3.sum(axis=1) == pytest.approx(np.ones(len(new.table)))
    assert np.abs(prob_N3 - np.exp(new.log_true_N3)).mean() < 0.02
    assert ece(new.table.severity_N, prob_N3) < 0.02 < ece(new.table.severity_N, np.exp(new.log_head_N3))


def test_each_kind_is_best_by_its_own_loss() -> None:
    drawn, new = drawn_studies(300, seed=5), drawn_studies(300, seed=6)
    calibrator = Calibrator().fit(drawn.log_head_N3, drawn.table)
    calibrated_N3 = calibrator.predict_proba(new.log_head_N3, new.table)
    optimal_N3 = calibrator.metric_optimal(calibrated_N3, new.table)
    assert competition_metric(new.table, optimal_N3).score < competition_metric(new.table, calibrated_N3).score - 0.01
    assert log_loss(new.table.severity_N, calibrated_N3) < log_loss(new.table.severity_N, optimal_N3) - 0.01
    assert np.array_equal(optimal_N3, metric_optimal(new.table, calibrated_N3, calibrator.rule_))


def test_true_probabilities_of_few_studies_are_mostly_left_alone() -> None:
    chosen, harm = [], []
    for seed in range(10):
        drawn, new = (drawn_studies(66, seed=20 + seed + offset, slope=1.0, bias=(0.0,) * 3) for offset in (0, 100))
        calibrator = Calibrator().fit(drawn.log_head_N3, drawn.table)
        chosen.append(str(calibrator.strength_))
        true_N3, prob_N3 = np.exp(new.log_true_N3), calibrator.predict_proba(new.log_head_N3, new.table)
        harm.append((true_N3 * (new.log_true_N3 - np.log(prob_N3))).sum(axis=1).mean())
    assert chosen.count("nothing") >= 7, chosen
    assert 0 <= np.mean(harm) < 0.001


def test_one_temperature_is_chosen_if_that_is_all_that_is_wrong() -> None:
    for seed in range(3):
        drawn = drawn_studies(66, seed=30 + seed, slope=1.6, bias=(0.0, 0.0, 0.0))
        calibrator = Calibrator().fit(drawn.log_head_N3, drawn.table)
        assert str(calibrator.strength_) in ("one temperature", "temperatures and biases, pull 100")
        assert calibrator.slope_KF_ == pytest.approx(np.full((3, 1), 1 / 1.6), abs=0.15)
        assert np.abs(calibrator.bias_KC_).max() < 0.2


def test_the_simplest_strength_within_half_a_standard_error_is_chosen() -> None:
    rng = np.random.default_rng(0)
    best_S = rng.random(100)
    noise_S = rng.normal(size=100)
    noise_S = (noise_S - noise_S.mean()) / noise_S.std(ddof=1)  # a standard error of the sum of ten
    assert simplest(np.array([best_S + noise_S + 0.049, best_S])) == 0
    assert simplest(np.array([best_S + noise_S + 0.051, best_S])) == 1
    assert simplest(np.array([best_S, best_S + noise_S + 0.001])) == 0
    assert simplest(np.zeros((3, 1))) == 0


def test_strengths_are_judged_by_fits_without_the_study() -> None:
    """The common slope, too, is fitted without it: else a temperature would seem to help wherever it is fitted."""
    drawn = drawn_studies(14, seed=17, slope=1.3)
    strengths = [Strength(slope=False, pull=None), Strength(slope=True, pull=None), Strength(slope=True, pull=10.0)]
    quick_PS = Calibrator(strengths).fit(drawn.log_head_N3, drawn.table).left_out_loss_PS_
    for number, strength in enumerate(strengths):
        slow_S, inside_S = np.zeros(14), np.zeros(14)
        whole = Calibrator([strength]).fit(drawn.log_head_N3, drawn.table)
        for study in range(14):
            own = drawn.table.study_N == study
            others = Calibrator([strength]).fit(drawn.log_head_N3[~own], drawn.table.take(~own))
            severity_N, of_study = drawn.table.severity_N[own], (drawn.log_head_N3[own], drawn.table.take(own))
            slow_S[study] = 25 * log_loss(severity_N, others.predict_proba(*of_study))
            inside_S[study] = 25 * log_loss(severity_N, whole.predict_proba(*of_study))
        # What the study itself adds to the fit is seen almost entirely.
        optimism = slow_S.sum() - inside_S.sum()
        assert quick_PS[number].sum() == pytest.approx(slow_S.sum(), abs=0.1 * optimism + 1e-9)


def test_level_biases_are_learned_from_much_data_and_hardly_from_little() -> None:
    drawn = drawn_studies(400, seed=7, slope=1.0)
    drawn.table.severity_N[drawn.table.level_N == 0] = 0
    much = Calibrator().fit(drawn.log_head_N3, drawn.table).level_bias_KLC_
    few = drawn.table.of_studies([0, 1])
    little = Calibrator().fit(drawn.log_head_N3[few], drawn.table.take(few)).level_bias_KLC_
    assert (much[:, 0, 2] < -0.5).all() and (much[:, 4, 2] > much[:, 0, 2] + 0.5).all()
    assert np.abs(little).max() < 0.5


def test_a_severity_with_fewer_than_ten_examples_keeps_its_biases_at_zero() -> None:
    drawn = drawn_studies(30, seed=8, slope=1.0)
    severe = np.flatnonzero((drawn.table.condition_N == 1) & (drawn.table.severity_N == 2))
    drawn.table.severity_N[severe[9:]] = 0
    calibrator = Calibrator([Strength(slope=True, pull=1.0)]).fit(drawn.log_head_N3, drawn.table)
    assert calibrator.examples_KC_[1, 2] == 9
    assert calibrator.left_alone_KC.tolist() == [[False] * 3, [False, False, True], [False] * 3]
    assert not calibrator.bias_KC_[1, 2] and not calibrator.level_bias_KLC_[1, :, 2].any()
    assert calibrator.bias_KC_[1, 1] and calibrator.bias_KC_[0, 2]


def test_without_labels_nothing_is_changed() -> None:
    drawn = drawn_studies(3, seed=4)
    unlabelled = full_table(range(3), site_table([]))
    calibrator = Calibrator().fit(drawn.log_head_N3, unlabelled)
    assert calibrator.predict_proba(drawn.log_head_N3, unlabelled) == pytest.approx(np.exp(drawn.log_head_N3))
    assert str(calibrator.strength_) == "nothing" and calibrator.left_alone_KC.all()
    one = drawn.table.condition_N == 0
    partly = Calibrator().fit(drawn.log_head_N3[one], drawn.table.take(one))
    assert not partly.bias_KC_[1:].any() and partly.left_alone_KC[1:].all()


def test_a_calibrator_that_was_saved_and_read_is_the_same() -> None:
    drawn = drawn_studies(40, seed=9)
    calibrator = Calibrator().fit(drawn.log_head_N3, drawn.table)
    again = Calibrator.from_dict(calibrator.as_dict())
    prob_N3 = calibrator.predict_proba(drawn.log_head_N3, drawn.table)
    assert np.array_equal(prob_N3, again.predict_proba(drawn.log_head_N3, drawn.table))
    assert again.rule_ == calibrator.rule_ and again.strength_ == calibrator.strength_


def test_a_useless_file_has_the_smaller_share_of_a_blend() -> None:
    drawn = drawn_studies(200, seed=13, slope=1.0, bias=(0.0, 0.0, 0.0))
    noise_N3 = np.random.default_rng(0).permutation(drawn.log_head_N3)
    both_NF3 = np.stack([noise_N3, drawn.log_head_N3], axis=1)
    blend = Calibrator().fit(both_NF3, drawn.table)
    assert (blend.slope_KF_[:, 0] < 0.1).all() and (blend.slope_KF_[:, 1] > 0.8).all()
    assert blend.predict_proba(both_NF3, drawn.table) == pytest.approx(np.exp(drawn.log_true_N3), abs=0.2)
    same = Calibrator().fit(np.stack([drawn.log_head_N3] * 2, axis=1), drawn.table)
    assert same.slope_KF_[:, 0] == pytest.approx(same.slope_KF_[:, 1])


def test_rows_without_a_label_do_not_count() -> None:
    drawn = drawn_studies(40, seed=14)
    table = SiteTable(drawn.table.study_N, drawn.table.site_N, drawn.table.severity_N.copy())
    table.severity_N[::7] = -1
    kept = table.labelled_N
    all_rows = Calibrator().fit(drawn.log_head_N3, table)
    labelled_only = Calibrator().fit(drawn.log_head_N3[kept], table.take(kept))
    assert all_rows.as_dict() == labelled_only.as_dict()
