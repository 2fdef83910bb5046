"""Neighbours of sites: against a loop over names, and what a calibrator makes of them."""

import numpy as np
import pytest

from data_prep.sites import SITES
from tests.vl_model.calibration.drawn_studies import drawn_studies
from vl_model.calibration.calibrator import Calibrator, log_odds
from vl_model.calibration.neighbours import NEIGHBOURS, Neighbours
from vl_model.data.site_table import SITE_INDEX
from vl_model.scoring.metrics import log_loss

INDEX = {site.key: index for site, index in SITE_INDEX.items()}


def test_the_features_are_the_logits_of_the_named_sites() -> None:
    drawn = drawn_studies(3, seed=0)
    odds_N2 = log_odds(drawn.log_head_N3)[:, 0]
    mean_X2 = odds_N2.reshape(3, 25, 2).mean(axis=0)
    feature_NJ2 = Neighbours().fit(odds_N2, drawn.table).features(odds_N2, drawn.table)
    deviation = {key: odds_N2[25 + INDEX[key]] - mean_X2[INDEX[key]] for key in INDEX}
    place = {name: number for number, name in enumerate(NEIGHBOURS)}

    left = feature_NJ2[25 + INDEX["left_subarticular_stenosis_l4_l5"]]
    assert left[place["other side"]] == pytest.approx(deviation["right_subarticular_stenosis_l4_l5"])
    assert left[place["level above"]] == pytest.approx(deviation["left_subarticular_stenosis_l3_l4"])
    assert left[place["level below"]] == pytest.approx(deviation["left_subarticular_stenosis_l5_s1"])
    assert left[3] == pytest.approx(deviation["spinal_canal_stenosis_l4_l5"])
    assert left[4] == pytest.approx(deviation["left_neural_foraminal_narrowing_l4_l5"])
    assert left[5].tolist() == [0, 0]
    assert left[place["study mean"]] == pytest.approx(np.mean(list(deviation.values()), axis=0))

    top = feature_NJ2[25 + INDEX["spinal_canal_stenosis_l1_l2"]]
    both = [deviation[f"{side}_neural_foraminal_narrowing_l1_l2"] for side in ("left", "right")]
    assert top[0].tolist() == top[1].tolist() == top[3].tolist() == [0, 0]
    assert top[4] == pytest.approx(np.mean(both, axis=0))


def test_a_site_that_nobody_predicted_says_nothing() -> None:
    drawn = drawn_studies(20, seed=1)
    odds_N2 = log_odds(drawn.log_head_N3)[:, 0]
    kept = drawn.table.condition_N == 1
    features = Neighbours().fit(odds_N2[kept], drawn.table.take(kept)).features(odds_N2[kept], drawn.table.take(kept))
    assert not features[:, 3].any() and not features[:, 5].any() and features[:, 0].any()
    deviation_N2 = odds_N2[kept] - np.tile(odds_N2[kept].reshape(20, 10, 2).mean(axis=0), (20, 1))
    assert features[:10, 6] == pytest.approx(np.tile(deviation_N2[:10].mean(axis=0), (10, 1)))


def test_context_is_learned_where_it_helps_and_left_out_where_it_does_not() -> None:
    drawn, new = drawn_studies(120, seed=2, slope=1.0), drawn_studies(120, seed=3, slope=1.0)
    # The head sees the left foramen only through noise, and the right one is its copy.
    left, right = (
        np.array([INDEX[site.key] for site in SITES if site.key.startswith(f"{side}_neural")])
        for side in ("left", "right")
    )
    for studies in (drawn, new):
        log_S = studies.log_head_N3.reshape(-1, 25, 3)
        severity_SX = studies.table.severity_N.reshape(-1, 25)
        severity_SX[:, left] = severity_SX[:, right]
        log_S[:, left] = np.log(1 / 3)
    context = Calibrator(context=True).fit(drawn.log_head_N3, drawn.table)
    plain = Calibrator().fit(drawn.log_head_N3, drawn.table)
    rows = np.isin(new.table.site_N, left)
    losses = [
        log_loss(new.table.severity_N[rows], one.predict_proba(new.log_head_N3, new.table)[rows])
        for one in (context, plain)
    ]
    assert np.isfinite(context.ridge_K_[1]) and losses[0] < losses[1] - 0.1
    assert np.abs(context.context_K2J2_[1, :, 0]).max() > 0.2
    again = Calibrator.from_dict(context.as_dict())
    prob_N3 = context.predict_proba(new.log_head_N3, new.table)
    assert np.array_equal(prob_N3, again.predict_proba(new.log_head_N3, new.table))
    assert np.array_equal(again.ridge_K_, context.ridge_K_)
