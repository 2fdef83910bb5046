"""Runs of all folds: training one, joining them, and grading new studies and a run that held nothing out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax

import eval_vl
import predict_vl
from data_prep.conversion.pairs import read_dataset, write_dataset
from data_prep.sites import SITES
from tests.evaluated_root import run_here, write_run
from tests.tiny_dataset import write_tiny_dataset
from tests.training_runs import Train
from vl_model import load_folds, load_run
from vl_model.evaluation.grader import read_grader
from workspace.layout import DataRoot

Evaluate = Callable[..., int]
GRADES = ["normal_mild", "moderate", "severe"]
FOLDS = range(5)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_base: str) -> Path:
    """A root of ten studies in five folds and two test studies, with the runs of all folds, and one of all studies."""
    root = tmp_path_factory.mktemp("folds")
    write_tiny_dataset(root / "train" / "processed_data", studies=10, sites=SITES[:15])
    write_tiny_dataset(root / "test" / "processed_data", studies=2, seed=7, sites=SITES[:15])
    for fold in FOLDS:
        write_run(root, f"lora-{fold}", tiny_base, [fold], seed=fold + 1)
    write_run(root, "whole", tiny_base, [], seed=9)
    return root


@pytest.fixture
def evaluate(root: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    def run(name: str, *arguments: str, at: Path = root) -> int:
        return run_here(eval_vl, ["--root", str(at), "--run", name, *arguments], monkeypatch)

    return run


@pytest.fixture
def joined(root: Path, evaluate: Evaluate) -> Path:
    if not (root / "train" / "logs" / "lora" / "submission.csv").is_file():
        assert evaluate("lora", "--folds", "all") == 0
    return root


def test_every_study_is_predicted_by_the_run_that_held_it_out(joined: Path, evaluate: Evaluate) -> None:
    logs = joined / "train" / "logs" / "lora"
    report = json.loads((logs / "report.json").read_text())
    assert report["n"]["studies"] == 10 and report["held_out_folds"] == [0, 1, 2, 3, 4]
    assert [fold["training_studies"] for fold in report["fold_runs"]] == [8] * 5
    ours = pd.read_csv(logs / "predictions.csv").query("kind == 'raw'")
    assert len(ours) == 10 * 25 * 2
    # A fold by itself predicts the same, and so do its embeddings with heads that know nothing of the join.
    assert evaluate("lora-3") == 0
    alone = pd.read_csv(joined / "train" / "logs" / "lora-3" / "predictions.csv").query("kind == 'raw'")
    merged = alone.merge(ours, on=["study_id", "condition", "side", "level", "head"], how="left")
    assert len(alone) == 2 * 25 * 2 and set(alone["study_id"]) == {3, 8}
    for grade in GRADES:
        assert merged[f"{grade}_x"].to_numpy() == pytest.approx(merged[f"{grade}_y"].to_numpy(), abs=1e-8)
    baseline, theirs = (
        json.loads((joined / "train" / "logs" / run / "report.json").read_text())["plain_baseline"]["metric"]["raw"]
        for run in ("lora", "lora-3")
    )
    assert baseline["graded_parts"] != theirs["graded_parts"]
    page = (logs / "report.html").read_text()
    assert "Runs lora-0 to lora-4: out-of-fold evaluation" in page and "each by the run that held it out" in page


def test_new_studies_are_graded_by_the_mean_of_all_models(joined: Path) -> None:
    """The submission is the calibrated softmax of the mean of the runs' log-probabilities, computed here one by one."""
    data_root = DataRoot(joined)
    folds = load_folds(data_root, "lora")
    grader = folds.grader()
    submission = pd.read_csv(joined / "train" / "logs" / "lora" / "submission.csv").set_index("row_id")
    logs = []
    for fold in FOLDS:
        run = load_run(data_root, f"lora-{fold}")
        embeddings = run.embed("test")
        head = read_grader(joined / "train" / "checkpoints" / "lora" / "heads").models[f"lora-{fold}"][grader.best]
        logs.append(head.predict_log_proba(embeddings.table, embeddings.image_ND))
    table = embeddings.table
    mean_N3 = log_softmax(np.mean(logs, axis=0), axis=1)
    calibrator = grader.calibrators[grader.best]
    expected = calibrator.metric_optimal(calibrator.predict_proba(mean_N3, table), table)
    keys = [f"{study}_{SITES[site].key}" for study, site in zip(table.study_N, table.site_N, strict=True)]
    assert submission.loc[keys, GRADES].to_numpy() == pytest.approx(np.maximum(expected, 1e-4), abs=2e-4)
    assert np.abs(logs[0] - logs[1]).max() > 0.01


def test_a_run_that_held_nothing_out_takes_the_calibrators_of_its_siblings(
    joined: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("whole") == 2
    assert "held out no study" in capsys.readouterr().err
    assert evaluate("whole", "--calibrators", "lora") == 0
    assert "held nothing out" in capsys.readouterr().out
    heads = joined / "train" / "checkpoints"
    ours, theirs = (read_grader(heads / run / "heads") for run in ("whole", "lora"))
    assert list(ours.models) == ["whole"] and ours.best == theirs.best
    for head, calibrator in theirs.calibrators.items():
        assert ours.calibrators[head].as_dict() == calibrator.as_dict()
    assert len(pd.read_csv(joined / "train" / "logs" / "whole" / "submission.csv")) == 50
    assert not (joined / "train" / "logs" / "whole" / "report.json").exists()
    assert evaluate("lora-1", "--calibrators", "lora") == 2
    assert "has held-out studies of its own" in capsys.readouterr().err
    assert evaluate("whole", "--calibrators", "lora-1") == 2
    assert "--calibrators" not in (said := capsys.readouterr().err) or "joined" in said


def test_fold_runs_that_cannot_be_joined_are_refused(
    joined: Path, tiny_base: str, evaluate: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(joined, tmp_path / "root")
    root = tmp_path / "root"
    checkpoints = root / "train" / "checkpoints"

    def refused(run: str = "lora") -> str:
        assert evaluate(run, "--folds", "all", at=root) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1, message
        return message

    def restored(run: str) -> None:
        shutil.rmtree(checkpoints / run)
        shutil.copytree(joined / "train" / "checkpoints" / run, checkpoints / run)

    shutil.rmtree(checkpoints / "lora-3")
    message = refused()
    assert "no run 'lora-3'" in message and "train_vl.py --run lora --fold 3" in message and "'lora-0'" in message
    assert "no run 'other-0' (missing: folds 0, 1, 2, 3, 4 of 5)" in refused("other")
    # A copy of another fold, under this name; and the same with an edited run.json.
    shutil.copytree(checkpoints / "lora-2", checkpoints / "lora-3")
    assert "run 'lora-3' holds out folds 2 (run.json), but should hold out fold 3 alone" in refused()
    record = checkpoints / "lora-3" / "run.json"
    restored("lora-3")
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | {"dataset_fingerprint": "0" * 64}))
    assert "was trained on another data set" in refused()
    record.write_text(json.dumps(content | {"settings": {**content["settings"], "learning_rate": 0.5}}))
    assert "was trained with learning_rate = 0.5, but 'lora-0' with None" in refused()
    record.write_text(json.dumps(content | {"finished": False}))
    assert "its training has not ended" in refused()
    record.write_text(json.dumps(content))
    card = checkpoints / "lora-3" / "final" / "site_model.json"
    text = card.read_text()
    card.write_text(json.dumps(json.loads(text) | {"held_out_folds": [2]}))
    assert "(site_model.json)" in refused()
    card.write_text(json.dumps(json.loads(text) | {"base_sha256": "0" * 64}))
    assert "was trained with the base's sha256" in refused()
    restored("lora-3")
    write_run(root, "lora", tiny_base, [0])
    assert "there is also a run 'lora'" in refused()
    assert evaluate("lora", "--folds", "all", "--calibrators", "x", at=root) == 2


def test_names_of_joined_runs_are_explained(
    joined: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="stands for the runs of all folds"):
        load_run(joined, "lora")
    with pytest.raises(ValueError, match="no joined runs of this name"):
        load_folds(joined, "lora-0")
    (tmp_path / "images").mkdir()
    words = ["--root", str(joined), "--run", "lora", "--images", str(tmp_path / "images"), "--out", str(tmp_path / "o")]
    assert run_here(predict_vl, words, monkeypatch) == 2
    assert "holds no study" in capsys.readouterr().err


def test_fold_names_the_run_and_holds_out_that_fold(
    train: Train, tiny_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("cv", "--fold", "3", "--max_train_steps", "0") == 0
    record = json.loads((tiny_root / "train" / "checkpoints" / "cv-3" / "run.json").read_text())
    assert record["held_out_folds"] == [3] and record["settings"]["run"] == "cv-3" and record["finished"]
    assert train("cv", "--fold", "-1") == 2
    assert "--fold -1: should be at least 0" in capsys.readouterr().err
    assert train("cv", "--fold", "9", "--max_train_steps", "0") == 2
    assert "held_out_folds [9]" in capsys.readouterr().err
    assert train("cv", "--fold", "2", "--held_out_folds", "0", "1", "--max_train_steps", "0") == 2
    assert "--fold 2: holds out this fold alone, but held_out_folds is [0, 1]" in capsys.readouterr().err


def test_two_studies_of_one_condition_and_a_test_study_without_images_are_enough(
    tmp_path: Path, tiny_base: str, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    foraminal = [site for site in SITES if site.side is not None][:10]
    write_tiny_dataset(tmp_path / "train" / "processed_data", studies=2, sites=foraminal)
    test = tmp_path / "test" / "processed_data"
    write_tiny_dataset(test, studies=1, seed=7, sites=foraminal)
    dataset = read_dataset(test)
    crops = json.loads((test / "crops.json").read_text())["fingerprint"]
    write_dataset(test, {**dataset.metadata, "study_ids": [1, 77]}, dataset.pairs, crops)
    for fold in (1, 2):
        write_run(tmp_path, f"lora-{fold}", tiny_base, [fold], seed=fold)
    assert evaluate("lora", "--folds", "all", at=tmp_path) == 0
    printed, logs = capsys.readouterr().out, tmp_path / "train" / "logs" / "lora"
    assert "2 held-out studies" in printed and "no graded site for spinal, subarticular and any severe" in printed
    report = json.loads((logs / "report.json").read_text())
    assert report["metric"]["zero_shot"]["metric_optimal"]["foraminal"] > 0
    submission = pd.read_csv(logs / "submission.csv").set_index("row_id")
    assert len(submission) == 50
    assert submission[GRADES].sum(axis=1).to_numpy() == pytest.approx(np.ones(50), abs=1e-9)
    # One study alone cannot be both fitted on and predicted.
    assert evaluate("lora-1", at=tmp_path) == 2
    assert "labelled held-out studies: 1; cross-fitting a calibrator requires at least two" in capsys.readouterr().err
