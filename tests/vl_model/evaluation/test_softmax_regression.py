"""The regression against finite differences, scikit-learn, and itself from other starts; the search for its penalty."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from vl_model.evaluation.penalty_search import LEVEL_PENALTY, PenaltySearch
from vl_model.evaluation.softmax_regression import Rows, curvature, fit_weights, prior_weights


def drawn_rows(rows: int = 400, inputs: int = 6, classes: int = 3) -> Rows:
    """Return rows of which two parts are learned from; the rows between them have other classes."""
    rng = np.random.default_rng(0)
    input_NG = np.column_stack([rng.normal(size=(rows, inputs - 1)) * np.logspace(0, -2, inputs - 1), np.ones(rows)])
    logit_NC = input_NG @ rng.normal(size=(inputs, classes)) * 2
    class_N = (logit_NC + rng.gumbel(size=logit_NC.shape)).argmax(axis=1)
    first, last = slice(0, rows // 2), slice(rows // 2 + 60, rows)
    class_N[first.stop : last.start] = 0
    return Rows(input_NG, class_N, classes, [first, last])


def taken(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.concatenate([values[part] for part in rows.parts]) for values in (rows.input_NG, rows.class_N))


def loss(rows: Rows, weight_CG: np.ndarray) -> float:
    """Return the summed log loss, row by row."""
    total = 0.0
    for input_G, truth in zip(*taken(rows), strict=True):
        logits = weight_CG @ input_G
        total += np.log(np.exp(logits).sum()) - logits[truth]
    return float(total)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("penalty", [30.0, 0.01])
def test_the_weights_are_scikit_learns(classes: int, penalty: float) -> None:
    rows = drawn_rows(classes=classes)
    penalty_G = np.full(rows.input_NG.shape[1], penalty)
    penalty_G[-1] = 0.0
    start_CG = prior_weights(rows)
    weight_CG = fit_weights(rows, penalty_G, start_CG, curvature(rows, start_CG))
    input_NG, class_N = taken(rows)
    # With two classes it has one vector of weights: the difference of the two, on which half the penalty lies.
    strength = 1 / penalty if classes > 2 else 2 / penalty
    peer = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(input_NG[:, :-1], class_N)
    logit_NC = input_NG @ weight_CG.T
    prob_NC = np.exp(logit_NC) / np.exp(logit_NC).sum(axis=1, keepdims=True)
    assert prob_NC == pytest.approx(peer.predict_proba(input_NG[:, :-1]), abs=1e-4)
    assert weight_CG[:, :-1].sum(axis=0) == pytest.approx(np.zeros(weight_CG.shape[1] - 1), abs=1e-9)
    again_CG = fit_weights(rows, penalty_G, weight_CG, curvature(rows, weight_CG))
    assert again_CG == pytest.approx(weight_CG, abs=1e-3 * abs(weight_CG).max())


def test_the_curvature_is_that_of_the_loss() -> None:
    rows = drawn_rows(rows=160, inputs=3)
    weight_CG = np.random.default_rng(1).normal(size=(3, 3))
    weight_CG -= weight_CG.mean(axis=0)
    curvature_PP = curvature(rows, weight_CG)
    basis_CV = np.linalg.qr(np.column_stack([np.ones(3), np.eye(3)[:, 1:]]))[0][:, 1:]
    step, rng = 1e-3, np.random.default_rng(2)
    for _ in range(5):
        move_VG = rng.normal(size=(2, 3))
        # The basis is known up to signs; those of numpy and scipy, which share LAPACK, are the same.
        move_CG = basis_CV @ move_VG
        sides = loss(rows, weight_CG + step * move_CG) + loss(rows, weight_CG - step * move_CG)
        slope = (sides - 2 * loss(rows, weight_CG)) / step**2
        assert move_VG.ravel() @ curvature_PP @ move_VG.ravel() == pytest.approx(slope, rel=1e-4)


def test_the_search_leaves_whole_studies_out() -> None:
    """Its loss is that of plain fits on the other folds of studies, and its weights those of a fit on all rows."""
    rows = drawn_rows(rows=240, inputs=9)
    feature_NF = np.column_stack([rows.input_NG[:, :3], np.eye(5)[np.arange(240) % 5]])
    study_N = np.random.default_rng(3).permutation(np.arange(240) // 6)
    search = PenaltySearch(feature_NF, rows.class_N, study_N, folds=4)
    strength, found, weight_CG = search.choose([0.1, 1.0])

    penalty_G = np.r_[np.full(3, 1 / strength), np.full(5, LEVEL_PENALTY), 0.0]
    design_NG = np.column_stack([feature_NF, np.ones(240)])

    def plain(fitted_N: np.ndarray) -> np.ndarray:
        # A penalty becomes one by the scale of the input.
        scale_G = 1 / np.sqrt(penalty_G[:-1])
        peer = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000)
        peer.fit(feature_NF[fitted_N] * scale_G, rows.class_N[fitted_N])
        return peer.predict_log_proba(feature_NF * scale_G)

    expected = 0.0
    for _, left_out in GroupKFold(4).split(feature_NF, groups=study_N):
        fitted_N = ~np.isin(np.arange(240), left_out)
        expected -= plain(fitted_N)[left_out, rows.class_N[left_out]].sum()
    assert found == pytest.approx(expected / 240, rel=1e-3)
    logit_NC = design_NG @ weight_CG.T
    log_prob_NC = logit_NC - np.logaddexp.reduce(logit_NC, axis=1, keepdims=True)
    assert np.exp(log_prob_NC) == pytest.approx(np.exp(plain(np.ones(240, dtype=bool))), abs=1e-4)


def test_a_class_that_a_fold_lacks() -> None:
    """The one study with severe sites is in one fold: the fit without it has two classes."""
    rng = np.random.default_rng(4)
    study_N = np.repeat(np.arange(12), 10)
    class_N = rng.integers(0, 2, 120)
    class_N[study_N == 5] = 2
    feature_NF = np.column_stack([rng.normal(size=(120, 2)), np.eye(5)[np.arange(120) % 5]])
    _, loss_per_row, weight_CG = PenaltySearch(feature_NF, class_N, study_N, folds=4).choose([0.1, 1.0])
    # Ten rows of a class that was not seen cost ln 1000 each.
    assert loss_per_row > 10 * np.log(1000) / 120 and np.isfinite(weight_CG).all() and len(weight_CG) == 3
