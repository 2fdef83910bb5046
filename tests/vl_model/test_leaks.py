"""Leaks are refused where they would count: by the door through which every evaluation reads a run and its data."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import eval_vl
import predict_vl
from data_prep.conversion.pairs import read_dataset, write_dataset
from tests.evaluated_root import run_here, write_run
from tests.tiny_dataset import write_tiny_dataset
from tests.training_runs import Train
from vl_model import load_run

Refused = Callable[..., str]
#: The twelve studies are in the folds 0 to 4 by their number.
HELD_OUT = [0, 1]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, tiny_base: str) -> Path:
    """A root with two evaluated runs on twelve studies, whose cards name the studies that they were trained on."""
    root = tmp_path_factory.mktemp("leaks")
    write_tiny_dataset(root / "train" / "processed_data", studies=12)
    with pytest.MonkeyPatch.context() as patch:
        for seed, run in enumerate(("first", "second"), start=1):
            write_run(root, run, tiny_base, HELD_OUT, seed=seed)
            sign(root, run, HELD_OUT)
            assert run_here(eval_vl, ["--root", str(root), "--run", run], patch) == 0
    return root


def sign(root: Path, run: str, held_out: list[int]) -> None:
    """Write what train_vl.py writes of a run's studies: into the card of the model, and its digest into the record."""
    from runs.run_record import final_sha256

    dataset = read_dataset(root / "train" / "processed_data")
    series: dict[str, list[int]] = {}
    for pair in dataset.pairs:
        if pair.fold not in held_out and pair.series_id not in series.setdefault(str(pair.study_id), []):
            series[str(pair.study_id)].append(pair.series_id)
    folder = root / "train" / "checkpoints" / run
    change(folder / "final" / "site_model.json", trained_series=series, held_out_folds=held_out, steps=1)
    change(folder / "run.json", final_sha256=final_sha256(folder / "final"))


def change(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.fixture
def root(evaluated: Path, tmp_path: Path) -> Path:
    shutil.copytree(evaluated, tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture
def refused(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Evaluate a run and return the one line that refuses it."""

    def evaluate(*arguments: str) -> str:
        capsys.readouterr()
        assert run_here(eval_vl, ["--root", str(root), *arguments], monkeypatch) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1, message
        return message

    return evaluate


def test_training_writes_what_the_check_reads(train: Train, tiny_root: Path) -> None:
    arguments = ["--max_train_steps", "1", "--per_device_train_batch_size", "10", "--held_out_folds", "0"]
    assert train("signed", *arguments) == 0
    run = load_run(tiny_root, "signed")
    card = json.loads((run.folder / "final" / "site_model.json").read_text())
    assert run.record.final_sha256 == run.checkpoint and card["held_out_folds"] == [0]
    assert card["trained_series"].keys() == {"1", "2", "3", "4", "6"}
    run.training_dataset()


def test_an_edited_record_is_refused(root: Path, refused: Refused) -> None:
    record = root / "train" / "checkpoints" / "first" / "run.json"
    change(record, held_out_folds=[2, 3])
    words = (
        "--run 'first': its final/ was trained on 5 of the 5 studies of the folds [2, 3] that run.json says were held"
    )
    assert words in refused("--run", "first")
    change(record, held_out_folds=[0, 1, 2])
    assert "was trained on 3 of the 8 studies of the folds [0, 1, 2]" in refused("--run", "first")
    change(record, held_out_folds=[0])
    assert "was trained with the folds [0, 1] held out, but run.json says [0]" in refused("--run", "first")
    with pytest.raises(ValueError, match=r"run\.json was edited, or final/ is another run's"):
        load_run(root, "first").training_dataset()
    change(record, held_out_folds=HELD_OUT, dataset_fingerprint="0" * 64)
    assert "was trained on another data set" in refused("--run", "first")


def test_the_studies_of_the_base_count_too(root: Path, refused: Refused) -> None:
    """The series of a base are in the card of the run that started from it; ids alone are not enough to be the same."""
    card = root / "train" / "checkpoints" / "first" / "final" / "site_model.json"
    series = json.loads(card.read_text())["trained_series"]
    change(card, trained_series=series | {"5": [51], "6": [999]})
    assert "was trained on 1 of the 5 studies of the folds [0, 1]" in refused("--run", "first")
    change(card, trained_series=[5])
    assert "site_model.json: trained_series is damaged" in refused("--run", "first")


def test_the_result_of_another_run_is_refused(root: Path, refused: Refused) -> None:
    runs = root / "train" / "checkpoints"
    shutil.rmtree(runs / "first" / "final")
    shutil.copytree(runs / "second" / "final", runs / "first" / "final")
    assert "--run 'first': its final/ (" in refused("--run", "first")
    assert "files of another run were copied in, or a file was changed" in refused("--run", "first")
    with pytest.raises(ValueError, match="is not the one that its training wrote"):
        load_run(root, "first").grader()
    change(runs / "first" / "run.json", final_sha256=None)  # as an earlier version left it: the heads still tell
    with pytest.raises(ValueError, match="heads: the heads belong to an earlier model of this run"):
        load_run(root, "first").grader()


def test_heads_of_another_model_data_set_or_prompts_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run(root, "first")
    heads, others = run.folder / "heads", root / "train" / "checkpoints" / "second" / "heads"
    run.grader()
    fingerprint = json.loads((heads / "heads.json").read_text())["fingerprint"]
    assert fingerprint == run.fingerprint and fingerprint.keys() == {"checkpoint", "dataset", "prompts"}
    for name, words in (
        ("checkpoint", "an earlier model of this run"),
        ("dataset", "another data set"),
        ("prompts", "other prompts"),
    ):
        change(heads / "heads.json", fingerprint=fingerprint | {name: "0" * 64})
        with pytest.raises(ValueError, match=f"the heads belong to {words}; run eval_vl.py again"):
            run.grader()
    change(heads / "heads.json", fingerprint=fingerprint)
    monkeypatch.setattr("prompts.render.zero_shot_ensembles", lambda: [[["another sentence"]]])
    with pytest.raises(ValueError, match="the heads belong to other prompts"):
        load_run(root, "first").grader()
    # The arrays of another run's heads beside this run's calibrators.
    shutil.copy(others / "heads.npz", heads / "heads.npz")
    with pytest.raises(ValueError, match=r"heads\.npz is not the file that heads\.json was written for"):
        run.grader()


def test_heads_of_another_run_grade_no_new_study(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = root / "train" / "checkpoints"
    shutil.rmtree(runs / "first" / "heads")
    shutil.copytree(runs / "second" / "heads", runs / "first" / "heads")
    (tmp_path / "images").mkdir()
    words = ["--root", str(root), "--run", "first", "--images", str(tmp_path / "images"), "--out", str(tmp_path / "o")]
    capsys.readouterr()
    assert run_here(predict_vl, words, monkeypatch) == 2
    message = capsys.readouterr().err
    assert "the heads belong to an earlier model of this run; run eval_vl.py again" in message, message
    assert message.count("\n") == 1 and not (tmp_path / "o").exists()


def test_a_comparison_asks_whose_predictions_these_are(root: Path, refused: Refused) -> None:
    logs, compare = root / "train" / "logs", ("--run", "first", "--compare", "second")
    run = load_run(root, "first")
    assert run.comparable_predictions("second") == logs / "second" / "predictions.csv"
    card = logs / "second" / "predictions.json"
    kept = json.loads(card.read_text())
    assert kept["held_out_folds"] == HELD_OUT
    for name, words in (
        ("dataset", "another data set"),
        ("prompts", "other prompts"),
        ("checkpoint", "an earlier mod"),
    ):
        change(card, fingerprint=kept["fingerprint"] | {name: "0" * 64})
        with pytest.raises(ValueError, match=rf"predictions\.csv: the predictions belong to {words}"):
            run.comparable_predictions("second")
    change(card, fingerprint=kept["fingerprint"])
    # Better probabilities, written by hand.
    table = pd.read_csv(logs / "second" / "predictions.csv")
    table.loc[0, "severe"] += 1e-6
    table.to_csv(logs / "second" / "predictions.csv", index=False)
    message = refused(*compare)
    assert "is not the table that predictions.json was written for; run python eval_vl.py --run second ag" in message
    card.unlink()
    assert "predictions.json: no such file; eval_vl.py writes it" in refused(*compare)


def test_the_leak_of_a_compared_run_counts(root: Path) -> None:
    change(root / "train" / "checkpoints" / "second" / "run.json", held_out_folds=[3, 4])
    with pytest.raises(ValueError, match="'second': its final/ was trained on"):
        load_run(root, "first").comparable_predictions("second")


def test_a_twin_on_the_other_side_is_refused(
    root: Path, refused: Refused, train: Train, tiny_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Study 5 is held out (fold 0), 7 is in fold 2, 6 and 1 in fold 1."""
    processed = root / "train" / "processed_data"
    dataset = read_dataset(processed)
    crops = json.loads((processed / "crops.json").read_text())["fingerprint"]
    write_dataset(processed, {**dataset.metadata, "twins": [[5, 7], [5, 6]]}, dataset.pairs, crops)
    message = refused("--run", "first")
    assert "--run 'first': 1 held-out study has the pixels of a study to train on (study 5 those of 7;" in message

    capsys.readouterr()
    arguments = ["--root", str(root), "--max_train_steps", "1", "--held_out_folds"]
    assert train("twin", *arguments, "2") == 2
    assert "--held_out_folds [2]: 1 held-out study has the pixels of a study to train on (study 7 those of 5;" in (
        capsys.readouterr().err
    )
    assert not (tiny_root / "train" / "checkpoints" / "twin").exists()
