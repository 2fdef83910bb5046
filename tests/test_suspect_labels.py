"""Suspect labels from the evaluation of one run to the training of another, by the real entry points."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import eval_vl
from data_prep.sites import SITES
from tests.evaluated_root import run_here, write_run
from tests.tiny_dataset import graded_rows, write_tiny_dataset
from tests.training_runs import Train
from vl_model import load_run
from vl_model.evaluation.grader import read_grader
from vl_model.evaluation.heads import LinearProbe
from vl_model.fold_runs import load_fold_runs
from workspace.layout import DataRoot
from workspace.setting_error import SettingError

GRADES = ["normal_mild", "moderate", "severe"]
SHORT = ["--max_train_steps", "4", "--per_device_train_batch_size", "10", "--checkpointing_steps", "2"]


@pytest.fixture(scope="module")
def tiny_root(tmp_path_factory: pytest.TempPathFactory, tiny_base: str) -> Path:
    """A root of twelve studies; the run `judge` held out folds 0 and 1 of five, and was evaluated."""
    root = tmp_path_factory.mktemp("suspects")
    write_tiny_dataset(root / "train" / "processed_data", studies=12, sites=SITES[:15])
    write_run(root, "judge", tiny_base, [0, 1])
    with pytest.MonkeyPatch.context() as patch:
        assert run_here(eval_vl, ["--root", str(root), "--run", "judge", "--located", "false"], patch) == 0
    return root


def table_of(root: Path, run: str = "judge") -> Path:
    return root / "train" / "logs" / run / "suspect_labels.csv"


def test_the_list_is_of_held_out_studies_alone_and_follows_from_the_predictions(tiny_root: Path) -> None:
    listed = pd.read_csv(table_of(tiny_root), keep_default_na=False)
    record = json.loads((tiny_root / "train" / "checkpoints" / "judge" / "run.json").read_text())
    assert record["held_out_folds"] == [0, 1]
    assert len(listed) > 10 and set(listed["study_id"]) <= {1, 5, 6, 10, 11}  # fold = study % 5
    head = json.loads((tiny_root / "train" / "logs" / "judge" / "report.json").read_text())["head"]
    predictions = pd.read_csv(tiny_root / "train" / "logs" / "judge" / "predictions.csv", keep_default_na=False)
    is_used = (predictions["kind"] == "calibrated") & (predictions["head"] == head) & (predictions["severity"] != "")
    predictions = predictions[is_used]
    shown = {(row.study_id, row.site.key) for row in graded_rows(tiny_root)}
    expected = {}
    for row in predictions.to_dict("records"):
        prob = {grade: float(row[grade]) for grade in GRADES}
        key = row["study_id"], row["condition"], row["side"], row["level"]
        if max(prob.values()) > prob[row["severity"]]:
            expected[key] = np.log(max(prob.values()) / prob[row["severity"]])
    keys = [tuple(row) for row in listed[["study_id", "condition", "side", "level"]].itertuples(index=False)]
    assert set(keys) == set(expected) and len(shown) > len(keys)
    assert listed["margin"].to_numpy() == pytest.approx([expected[key] for key in keys], abs=1e-4)
    assert list(listed["rank"]) == list(range(1, len(listed) + 1)) and listed["margin"].is_monotonic_decreasing
    assert (tiny_root / "train" / "logs" / "judge" / "suspect_labels.png").stat().st_size > 10_000


def test_a_run_leaves_the_listed_sites_out_and_says_so(
    train: Train, tiny_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--fold", "2", *SHORT, "--drop_suspects", str(table_of(tiny_root)), "--drop_first", "12"]
    assert train("clean", *flags) == 0
    printed = capsys.readouterr().out
    assert "note: 12 sites of" in printed and "with suspect labels are left out of training" in printed
    training = sum(row.fold != 2 for row in graded_rows(tiny_root))
    assert f"{training - 12} sites to train on" in printed
    run = tiny_root / "train" / "checkpoints" / "clean-2"
    first = pd.read_csv(table_of(tiny_root), keep_default_na=False).head(12)
    dropped = load_run(tiny_root, "clean-2").dropped_sites
    assert {(study, *("" if cell is None else cell for cell in site.columns.values())) for study, site in dropped} == {
        tuple(row) for row in first[["study_id", "condition", "side", "level"]].itertuples(index=False)
    }
    record = json.loads((run / "run.json").read_text())
    assert record["dropped_sites"]["count"] == 12 and record["settings"]["drop_first"] == 12
    assert "left out of training: 12" in (run / "final" / "README.md").read_text()

    # The linear probe does not learn from them; what the report is compared with, and is about, does not change.
    assert run_here(eval_vl, ["--root", str(tiny_root), "--run", "clean-2", "--located", "false"], monkeypatch) == 0
    embeddings = load_run(tiny_root, "clean-2").embed("train")
    rows = [row for row in graded_rows(tiny_root) if row.fold != 2]
    number = {(row.study_id, row.site): place for place, row in enumerate(embeddings.rows)}
    kept = [number[row.study_id, row.site] for row in rows if (row.study_id, row.site) not in dropped]
    expected = LinearProbe().fit(embeddings.table.take(np.array(kept)), embeddings.image_ND[kept])
    probe = read_grader(run / "heads").models["clean-2"]["linear_probe"]
    assert isinstance(probe, LinearProbe) and probe.mean_D_ == pytest.approx(expected.mean_D_, abs=1e-9)
    assert probe.weight_KCF_ == pytest.approx(expected.weight_KCF_, abs=1e-6)
    report = json.loads((tiny_root / "train" / "logs" / "clean-2" / "report.json").read_text())
    held_out = sum(row.fold == 2 for row in graded_rows(tiny_root))
    assert report["n"]["rows"] == held_out and report["training_studies"] == 9


def test_a_resumed_run_must_leave_the_same_sites_out(
    train: Train, tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = [*SHORT, "--held_out_folds", "2"]
    table = ["--drop_suspects", str(table_of(tiny_root))]
    assert train("kept", *short, *table, "--drop_first", "9") == 0
    again = ["--resume_from_checkpoint", "checkpoint-2"]
    for other in ([*table, "--drop_first", "8"], []):
        assert train("kept", *short, *other, *again) == 2
        assert "was written with dropped_sites = " in capsys.readouterr().err
    copy = shutil.copy(table_of(tiny_root), tmp_path / "elsewhere.csv")
    assert train("kept", *short, "--drop_suspects", str(copy), "--drop_first", "9", *again) == 0
    # A run that left nothing out does not start to do so.
    assert train("whole", *short) == 0 and train("whole", *short, *table, *again) == 2
    assert "dropped_sites = None" in capsys.readouterr().err


def test_settings_that_contradict_each_other_and_lists_without_effect_are_one_line(
    train: Train, tiny_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = ["--drop_suspects", str(table_of(tiny_root))]
    for arguments, words in (
        (["--drop_share", "0.02"], "--drop_share 0.02: of which table?"),
        ([*table, "--drop_share", "0.02", "--drop_first", "3"], "--drop_first 3: and --drop_share"),
        ([*table, "--held_out_folds", "0", "1"], "studies that are held out (folds [0, 1])"),
        ([*table, "--drop_share", "0"], "nothing would be left out"),
        (["--drop_suspects", "missing.csv"], "No such file"),
    ):
        assert train("refused", *SHORT, *arguments) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert words in error and not (tiny_root / "train" / "checkpoints" / "refused" / "final").exists()


def test_runs_that_left_other_sites_out_are_not_joined(train: Train, tiny_root: Path) -> None:
    short = ["--max_train_steps", "0", "--per_device_train_batch_size", "10"]
    table = ["--drop_suspects", str(table_of(tiny_root)), "--drop_first"]
    for fold in range(5):
        assert train("five", "--fold", str(fold), *short, *table, "12" if fold else "11") == 0
    with pytest.raises(SettingError, match="was trained with the suspect labels' sha256 = "):
        load_fold_runs(DataRoot(tiny_root), "five")
    assert train("five", "--fold", "0", *short, *table, "12", "--overwrite", "true") == 0
    runs = load_fold_runs(DataRoot(tiny_root), "five")
    # Each run leaves out the sites of its own training studies.
    assert {len(run.dropped_sites) for run in runs} != {12}
    for fold, run in enumerate(runs):
        assert not {study for study, _ in run.dropped_sites if study % 5 == fold}
