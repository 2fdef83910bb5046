"""Curves, sensitivity at a specificity, and net benefit, against slow versions and by how often intervals cover."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from sklearn.metrics import precision_recall_curve as sklearn_pr
from sklearn.metrics import roc_curve as sklearn_roc

from vl_model.scoring.operating_points import (
    average_precision,
    net_benefit,
    precision_recall_curve,
    roc_curve,
    sensitivity_at,
)


def drawn(studies: int, seed: int, apart: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    event_N = rng.random(studies) < 0.3
    return event_N, np.round(1 / (1 + np.exp(-(rng.normal(size=studies) + apart * event_N - 1))), 2)  # with ties


def test_curves_are_those_of_scikit_learn() -> None:
    event_N, score_N = drawn(60, seed=0)
    false_P, true_P = roc_curve(event_N, score_N)
    theirs = sklearn_roc(event_N, score_N, drop_intermediate=False)
    assert np.allclose(false_P, theirs[0]) and np.allclose(true_P, theirs[1])
    recall_P, precision_P = precision_recall_curve(event_N, score_N)
    precision, recall, _ = sklearn_pr(event_N, score_N)
    assert np.allclose(recall_P, recall[:-1][::-1]) and np.allclose(precision_P, precision[:-1][::-1])
    assert average_precision(event_N, score_N) == pytest.approx(average_precision_score(event_N, score_N))
    assert np.isnan(average_precision(np.zeros(60, dtype=bool), score_N))
    many, scores = drawn(5000, seed=1)
    assert len(roc_curve(many, scores + np.random.default_rng(0).random(5000) / 100)[0]) == 80


def test_the_sensitivity_is_the_best_at_the_specificity() -> None:
    event_N, score_N = drawn(80, seed=2)
    for specificity in (0.9, 0.95):
        shares = [
            (score_N[event_N] > threshold).mean()
            for threshold in np.append(score_N, -1.0)
            if (score_N[~event_N] <= threshold).mean() >= specificity
        ]
        found = sensitivity_at(specificity, event_N, score_N)
        assert found.value == max(shares) and found.low < found.value < found.high
    assert np.isnan(sensitivity_at(0.9, np.ones(5, dtype=bool), np.ones(5)).value)
    perfect = sensitivity_at(0.9, event_N, event_N.astype(float))
    assert perfect.value == perfect.high == 1.0 and 0.8 < perfect.low < 1.0


def test_the_interval_covers_the_true_sensitivity() -> None:
    event_N, score_N = np.arange(200_000) < 60_000, np.random.default_rng(3).normal(size=200_000)
    score_N[event_N] += 1.5
    truth, covered = sensitivity_at(0.9, event_N[::20], score_N[::20]).value, 0
    for seed in range(60):
        rows = np.random.default_rng(seed).choice(len(event_N), 150)
        found = sensitivity_at(0.9, event_N[rows], score_N[rows], seed)
        covered += found.low <= truth <= found.high
    assert covered >= 53  # 57 of 60 are expected


def test_net_benefit_is_counted() -> None:
    event_N, prob_N = np.array([1, 1, 0, 0, 0], dtype=bool), np.array([0.9, 0.3, 0.6, 0.2, 0.1])
    benefit_P, all_P = net_benefit(event_N, prob_N, np.array([0.2, 0.5]))
    assert benefit_P == pytest.approx([2 / 5 - 2 / 5 * 0.25, 1 / 5 - 1 / 5])
    assert all_P == pytest.approx([2 / 5 - 3 / 5 * 0.25, 2 / 5 - 3 / 5])
