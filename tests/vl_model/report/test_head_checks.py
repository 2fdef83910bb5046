"""What the report tells about each head by itself, against the metric of probabilities that are computed here."""

from pathlib import Path

import numpy as np
import pytest

from tests.vl_model.report.test_report import embeddings_of
from vl_model.data.site_table import CONDITIONS
from vl_model.evaluation.cross_fitting import cross_fit_heads, fit_heads, predict_raw, split_studies
from vl_model.evaluation.further_predictions import predict_by_share, predict_by_wording
from vl_model.evaluation.heads import LinearProbe, ZeroShotHead
from vl_model.report.head_checks import head_blocks
from vl_model.scoring.metrics import competition_metric


def test_each_figure_is_that_of_its_own_predictions(tiny_root: Path) -> None:
    embeddings = embeddings_of(tiny_root, 1.0)
    split = split_studies(embeddings.table, {study: study % 5 for study in embeddings.table.study_ids}, [0, 1])
    wording_WSCD = np.random.default_rng(1).normal(size=(3, 25, 3, 16)).astype(np.float32)
    heads = fit_heads(split.train, embeddings, wording_WSCD.mean(axis=0), 5.0)
    (train, train_ND), (shown, image_MD) = embeddings.shown(split.train), embeddings.shown(split.held_out)
    wordings = predict_by_wording(wording_WSCD, 5.0, shown, image_MD)
    raw = predict_raw(heads, split, embeddings, wordings | predict_by_share(train, train_ND, shown, image_MD))
    probe = heads["linear_probe"]
    assert isinstance(probe, LinearProbe) and len(shown) == len(split.held_out)
    blocks = head_blocks(raw, cross_fit_heads(raw, seed=0), [probe], [len(train.study_ids)])

    def score(log_prob_N3: np.ndarray) -> float:
        weighted_N3 = np.exp(log_prob_N3) * np.array([1, 2, 4])
        return competition_metric(shown, weighted_N3 / weighted_N3.sum(axis=1, keepdims=True)).score

    for head in ("zero_shot", "linear_probe"):
        assert blocks["by_rule"][head]["score"] == pytest.approx(score(heads[head].predict_log_proba(shown, image_MD)))
    singles = [ZeroShotHead(5.0).fit(text_SCD).predict_log_proba(shown, image_MD) for text_SCD in wording_WSCD]
    assert [block["score"] for block in blocks["wordings"]] == pytest.approx([score(single) for single in singles])

    studies, curve = len(train.study_ids), blocks["learning_curve"]
    assert [point["studies"] for point in curve] == [1, 1, 2, studies] and studies == 3
    assert curve[-1]["score"] == pytest.approx(blocks["by_rule"]["linear_probe"]["score"])
    half = np.random.default_rng(0).permutation(train.study_ids)[:2]
    rows = train.of_studies(half.tolist())
    again = LinearProbe().fit(train.take(rows), train_ND[rows]).predict_log_proba(shown, image_MD)
    assert curve[2]["score"] == pytest.approx(score(again))
    assert set(blocks["probe_losses"]) == {condition.value for condition in CONDITIONS}
    assert np.isfinite(blocks["probe_losses"]["spinal_canal_stenosis"]["held_out"])
