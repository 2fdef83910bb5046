"""The benchmark of real foraminal sites, on a phantom cohort that marks and grades foraminal sites on T1 only."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import real_foraminal
from benchmarks.foraminal_table import log_mean
from data_prep.conversion.pairs import read_dataset
from data_prep.phantom import write_cohort
from data_prep.sites import Condition, Severity, Source, View
from data_prep.studies.tables import read_train_tables
from vl_model.scoring.metrics import SEVERITY_WEIGHTS
from workspace.cli import run_command

TRAINING = "--model lumbar-tiny --tune full --max_train_steps 1 --per_device_train_batch_size 4 --held_out_sites 4"
FORAMINAL = "neural_foraminal_narrowing"


def write_foraminal_cohort(root: Path) -> None:
    """Write a phantom cohort, and take from it what is not of foraminal sites on sagittal T1 images."""
    write_cohort(root, train=8, test=0, seed=5, size="small", workers=1, progress=False)
    dataset = root / "dataset"
    series = pd.read_csv(dataset / "train_series_descriptions.csv")
    kept = series["series_description"] == "Sagittal T1"
    for study, folder in series.loc[~kept, ["study_id", "series_id"]].itertuples(index=False):
        shutil.rmtree(dataset / "train_images" / str(study) / str(folder))
    series[kept].to_csv(dataset / "train_series_descriptions.csv", index=False)
    marks = pd.read_csv(dataset / "train_label_coordinates.csv")
    marks[marks["condition"].str.contains("Foraminal")].to_csv(dataset / "train_label_coordinates.csv", index=False)
    grades = pd.read_csv(dataset / "train.csv")
    others = [name for name in grades.columns[1:] if FORAMINAL not in name]
    grades.assign(**dict.fromkeys(others, "")).to_csv(dataset / "train.csv", index=False)


def write_others(path: Path, root: Path, certainty: float) -> dict[tuple[int, str], np.ndarray]:
    """Write predictions of all foraminal sites that know the truth with some certainty, and return them."""
    rows = {}
    for study, grades in read_train_tables(root / "dataset").severities.items():
        for site, grade in grades.items():
            prob = np.full(3, (1 - certainty) / 2)
            prob[grade] = certainty
            rows[study, site.key] = prob * (1.0009 if study % 2 else 1)  # sums need not be one
    lines = [f"{study}_{key},{','.join(map(str, prob))}" for (study, key), prob in rows.items()]
    path.write_text("\n".join(["row_id,normal_mild,moderate,severe", *lines]) + "\n")
    return rows


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("foraminal")
    write_foraminal_cohort(root)
    return root


def run(root: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(
        sys, "argv", ["real_foraminal", "--root", str(root), "--run", "r", "--processes", "1", *arguments]
    )
    with pytest.raises(SystemExit) as left:
        run_command(real_foraminal.PROG, real_foraminal.main)
    return int(left.value.code or 0)


def test_the_whole_benchmark_from_files_to_a_table(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    good, poor, out = tmp_path / "good.csv", tmp_path / "poor.csv", tmp_path / "table.txt"
    write_others(good, root, 0.8)
    written = write_others(poor, root, 0.4)
    others = ("--training", TRAINING, "--others", str(good), str(poor), "--out", str(out))
    assert run(root, monkeypatch, *others, "--note", "one step") == 0
    lines = out.read_text().splitlines()
    assert capfd.readouterr().out == out.read_text()
    assert lines[0] == "RSNA 2024, foraminal sites, 250-pixel copies" and "one step" in lines
    assert all(f"{stage} " in lines[5] and "before" not in lines[5] for stage in ("prepare", "train", "evaluate"))

    # The atlas is learned from the marked sites; every site of the training data is foraminal, marked and graded.
    dataset = read_dataset(root / "train" / "processed_data")
    assert (root / "train" / "processed_data" / "atlas.json").is_file()
    assert {(pair.site.condition, pair.view, pair.source) for pair in dataset.pairs if pair.severity is not None} == {
        (Condition.NEURAL_FORAMINAL_NARROWING, View.SAGITTAL_T1, Source.ANNOTATED)
    }

    held_out = {study for study, fold in dataset.fold_of.items() if fold == 0}
    truth = read_train_tables(root / "dataset").severities
    rows = [(study, site, grade) for study in held_out for site, grade in truth[study].items()]
    assert f"{len(held_out)} held-out studies, {len(rows)} graded foraminal sites" in "\n".join(lines)
    loss, total = 0.0, 0.0
    for study, site, grade in rows:
        prob = written[study, site.key]
        loss -= SEVERITY_WEIGHTS[grade] * np.log(prob[grade] / prob.sum())
        total += SEVERITY_WEIGHTS[grade]
    heading = next(row for row, line in enumerate(lines) if "AUC severe" in line)
    table = {line.split("  ")[0]: line for line in lines[heading + 1 : lines.index("", heading)]}
    assert f" {loss / total:.3f} (" in table["poor"]
    names = ["best constant per column", "zero shot", "linear probe", "good", "poor", "mean of others"]
    names += ["mean of others and zero shot", "mean of others and linear probe"]
    assert list(table) == names
    [difference] = [line for line in lines if line.startswith("zero shot minus good: ")]
    assert float(difference.split()[4]) > 0
    report = json.loads((root / "train" / "logs" / "r" / "report.json").read_text())
    assert report["n"]["graded_conditions"] == ["neural_foraminal_narrowing"]
    block = report["metric"]["linear_probe"]["metric_optimal"]
    assert f" {block['foraminal']:.3f} (" in table["linear probe"] and block["graded_parts"] == block["foraminal"]

    # What is up to date is not done again, and the same command prints the same table.
    weights = root / "train" / "checkpoints" / "r" / "final"
    dates = [path.stat().st_mtime_ns for path in (*weights.iterdir(), root / "train" / "logs" / "r" / "report.json")]
    assert run(root, monkeypatch, *others) == 0
    assert dates == [
        path.stat().st_mtime_ns for path in (*weights.iterdir(), root / "train" / "logs" / "r" / "report.json")
    ]
    again = out.read_text().splitlines()
    assert again[again.index("") :] == lines[lines.index("") :] and lines[5] in again

    places = lines[lines.index("", lines.index("") + 1) :]
    ratio = report["places"]["ratio"]["linear_probe"]["foraminal"]["value"]
    assert any(line.startswith("linear probe, located ") and f"{ratio:.3f} of marks'" in line for line in places)

    # Another run of the same fold joins the others with its linear probe; runs of another fold do not.
    second = ("--run", "s", "--other_runs", "r", "--training", f"{TRAINING} --seed 1")
    assert run(root, monkeypatch, *second) == 0
    printed = capfd.readouterr().out.splitlines()
    [row], [kept_row] = (
        [line for line in text if line.startswith(name)] for text, name in ((printed, "r  "), (lines, "linear probe  "))
    )
    assert row.split()[1:5] == kept_row.split()[2:6]
    assert run(root, monkeypatch, *second, "--fold", "1") == 2
    assert "--other_runs 'r': was trained on other data or held out another fold" in capfd.readouterr().err

    # An identifier of a study never gets into the print, wherever it comes from.
    monkeypatch.setattr(real_foraminal, "SMALLEST_IDENTIFIER", 0)
    capfd.readouterr()
    kept = out.read_text()
    assert run(root, monkeypatch, *others, "--note", f"as study_{min(held_out)}") == 2
    printed = capfd.readouterr()
    assert "identifier of a study" in printed.err and not printed.out and out.read_text() == kept


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--training", "--run=other"], "--run=other is set by the benchmark"),
        (["--training", "--model x --held_out_folds 1"], "--held_out_folds is set by the benchmark"),
        (["--training", "lumbar-tiny"], "expected flags of train_vl.py"),
        (["--training", "--model 'x"], "cannot be divided into words"),
        (["--processes", "3"], "1 or 2"),
        (["--others", "nowhere.csv"], "nowhere.csv: no such file"),
        (["--other_runs", "r"], "'r': names two predictions"),
        (["--other_runs", "nowhere"], "'nowhere': has not been trained and evaluated"),
    ],
)
def test_wrong_settings_are_refused_at_once(
    root: Path,
    arguments: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run(root, monkeypatch, *[f"{arguments[0]}={arguments[1]}"]) == 2
    assert words in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("study_id,normal_mild,moderate,severe\n", "no column 'condition'"),
        ("row_id,normal_mild,moderate,severe\nx_left_neural_foraminal_narrowing_l1_l2,1,0,0\n", "not a whole number"),
        ("row_id,normal_mild,moderate,severe\n5_left_neural_foraminal_narrowing_l9_l2,1,0,0\n", "l9_l2"),
        ("row_id,normal_mild,moderate,severe\n5_left_neural_foraminal_narrowing_l1_l2,1,-1,1\n", "is negative"),
        ("row_id,normal_mild,moderate,severe\n5_left_neural_foraminal_narrowing_l1_l2,nan,0,0\n", "is not finite"),
        ("row_id,normal_mild,moderate,severe\n" + "5_left_neural_foraminal_narrowing_l1_l2,1,0,0\n" * 2, "twice"),
    ],
)
def test_other_tables_are_refused(
    root: Path,
    tmp_path: Path,
    text: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a.csv").write_text(text)
    assert run(root, monkeypatch, "--others", str(tmp_path / "a.csv")) == 2
    assert words in capfd.readouterr().err


def test_the_mean_of_logarithms() -> None:
    one, other = np.array([[0.9, 0.05, 0.05]]), np.array([[0.4, 0.4, 0.2]])
    expected = np.sqrt(one * other)
    assert log_mean([one, other]) == pytest.approx(expected / expected.sum())
    assert log_mean([one]) == pytest.approx(one)
    certain = log_mean([np.array([[1.0, 0.0, 0.0]]), np.array([[0.0, 1.0, 0.0]])])
    assert np.isfinite(certain).all() and certain[0, Severity.SEVERE] < 0.01
