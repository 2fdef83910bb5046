"""predict_vl.py on new DICOM studies, complete and damaged ones."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest

import eval_vl
import predict_vl
from benchmarks import located_grades
from data_prep.conversion.pairs import read_dataset
from tests.data_prep.conversion.test_odd_studies import save_untrained_locator
from tests.evaluated_root import run_here, write_run
from tests.training_runs import ENVIRONMENT, REPOSITORY
from vl_model.calibration.prediction_sets import set_words
from vl_model.data.site_table import full_table, site_table
from vl_model.evaluation.grader import read_grader, write_grader
from vl_model.evaluation.typicality import Typicality

Command = Callable[..., int]
OUTPUTS = {"probabilities.csv", "studies.csv", "submission.csv", "fallbacks.csv", "faults.csv"}


@pytest.fixture(scope="module")
def root(evaluated_root: Path) -> Path:
    return evaluated_root


@pytest.fixture
def predict(root: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    common = ["--root", str(root), "--workers", "1"]
    return lambda *arguments: run_here(predict_vl, [*common, *map(str, arguments)], monkeypatch)


def test_new_studies_are_graded_as_the_test_split_was(root: Path, predict: Command, tmp_path: Path) -> None:
    """The same files give the same predictions as the test split and as new studies."""
    images = root / "dataset" / "test_images"
    descriptions = root / "dataset" / "test_series_descriptions.csv"
    out = tmp_path / "out"
    assert predict("--run", "first", "--images", images, "--out", out, "--series_descriptions", descriptions) == 0
    assert {path.name for path in out.iterdir()} == OUTPUTS
    ours = pd.read_csv(out / "submission.csv").set_index("row_id").sort_index()
    theirs = pd.read_csv(root / "train" / "logs" / "first" / "submission.csv").set_index("row_id").sort_index()
    pd.testing.assert_frame_equal(ours, theirs, atol=1e-6)

    rows = pd.read_csv(out / "probabilities.csv")
    assert len(rows) == 50 and rows[["normal_mild", "moderate", "severe"]].sum(axis=1).to_numpy() == pytest.approx(1)
    shown = rows[rows["source"].notna()]
    assert len(shown) > 40 and set(shown["source"]) <= {"located", "atlas"}
    for row in shown.itertuples():
        assert (images / str(row.study_id) / str(int(row.series_id)) / f"{int(row.instance_number)}.dcm").is_file()
        assert row.x1 > row.x0 and row.y1 > row.y0


def test_new_studies_get_prediction_sets_and_answers_about_the_whole_study(
    root: Path, predict: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("--run", "first", "--images", root / "dataset" / "test_images", "--out", tmp_path) == 0
    assert "In every 95 % set, for want of graded sites: " in capsys.readouterr().out
    rows = pd.read_csv(tmp_path / "probabilities.csv", keep_default_na=False, na_values={"source": [""]})
    grader = read_grader(root / "train" / "checkpoints" / "first" / "heads")
    table = full_table(rows["study_id"].unique(), site_table([]))
    prob_N3 = rows[["normal_mild", "moderate", "severe"]].to_numpy(np.float64)
    for level in (90, 95):
        thresholds = grader.sets.threshold_KC_[level][table.condition_N]
        clear = (np.abs(prob_N3 - thresholds) > 1e-8).all(axis=1)  # the table is rounded
        for row in np.flatnonzero(clear):
            expected = set_words(int(grader.sets.sets(prob_N3[[row]], table.take([row]), level)[0]))
            no_image = pd.isna(rows["source"][row])
            assert rows[f"set_{level}"][row] == ("normal_mild|moderate|severe" if no_image else expected)
    studies = pd.read_csv(tmp_path / "studies.csv", keep_default_na=False)
    assert studies["study_id"].tolist() == rows["study_id"].unique().tolist()
    for row in studies.itertuples():
        of_study = rows[rows["study_id"] == row.study_id]
        assert row.imaged_sites == of_study["source"].notna().sum()
        assert len([name for name in row.missing_sites.split("|") if name]) == 25 - row.imaged_sites
        canal = of_study.loc[of_study["condition"] == "spinal_canal_stenosis", "severe"].to_numpy()
        score = np.array([1 - np.prod(1 - canal)])
        fitted = grader.answers.recalibration_["any_severe_canal"]
        assert fitted is not None and row.p_any_severe_canal == pytest.approx(fitted.probability(score)[0], abs=1e-6)
        assert 0 < row.p_any_severe < 1


def test_studies_with_images_of_another_kind_are_told(
    root: Path, predict: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Embeddings have the norm 1, which is their distance here; all twenty held-out studies lay nearer."""
    heads, kept = root / "train" / "checkpoints" / "first" / "heads", tmp_path / "heads"
    shutil.copytree(heads, kept)
    grader = read_grader(heads)
    images = ("--run", "first", "--images", root / "dataset" / "test_images", "--out")
    assert predict(*images, tmp_path / "few") == 0  # of so few held-out studies none could be atypical
    assert "typical" not in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "few" / "studies.csv")["typicality"].isna().all()
    dimensions = grader.models["first"]["zero_shot"].arrays()["text_SCD"].shape[-1]
    near = Typicality(np.zeros((3, dimensions)), np.eye(dimensions), np.full(20, 0.5))
    try:
        write_grader(heads, replace(grader, typicality={"first": near}))
        assert predict(*images, tmp_path / "out") == 0
    finally:
        shutil.rmtree(heads)
        kept.rename(heads)
    said = capsys.readouterr().out
    assert "2 of 2 studies have less typical images than 95 % of the held-out studies (at most 5 % are" in said
    assert "what was measured on the held-out studies may not hold" in said
    assert pd.read_csv(tmp_path / "out" / "studies.csv")["typicality"].tolist() == pytest.approx([1 / 21] * 2)


def test_the_runs_of_all_folds_grade_new_studies_together(
    root: Path,
    predict: Command,
    tiny_base: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folds = sorted(set(read_dataset(root / "train" / "processed_data").fold_of.values()))
    for fold in folds:
        write_run(root, f"joined-{fold}", tiny_base, [fold], seed=fold + 1)
    assert run_here(eval_vl, ["--root", str(root), "--run", "joined", "--folds", "all"], monkeypatch) == 0
    images, out = root / "dataset" / "test_images", tmp_path / "out"
    descriptions = root / "dataset" / "test_series_descriptions.csv"
    assert predict("--run", "joined", "--images", images, "--out", out, "--series_descriptions", descriptions) == 0
    ours = pd.read_csv(out / "submission.csv").set_index("row_id").sort_index()
    theirs = pd.read_csv(root / "train" / "logs" / "joined" / "submission.csv").set_index("row_id").sort_index()
    pd.testing.assert_frame_equal(ours, theirs, atol=1e-6)
    capsys.readouterr()
    assert predict("--run", "joined", "--images", images, "--out", tmp_path / "none", "--keep", "ward") == 2
    said = capsys.readouterr().err
    assert (
        said.startswith("predict_vl.py: error: --keep 'ward': 'joined' stands for several models")
        and "joined-0" in said
    )
    for name in [f"joined-{fold}" for fold in folds] + ["joined"]:
        shutil.rmtree(root / "train" / "checkpoints" / name)


@pytest.mark.parametrize(("family", "tune"), [("CLIP", "lora"), ("SigLIP", "full")])
def test_a_run_of_transformers_is_evaluated_and_predicts(
    family: str,
    tune: Literal["lora", "full"],
    root: Path,
    predict: Command,
    family_base: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_run(root, family, family_base(family), [0, 1], tune=tune)
    assert run_here(eval_vl, ["--root", str(root), "--run", family], monkeypatch) == 0
    out = tmp_path / "out"
    descriptions = root / "dataset" / "test_series_descriptions.csv"
    images = root / "dataset" / "test_images"
    assert predict("--run", family, "--images", images, "--out", out, "--series_descriptions", descriptions) == 0
    ours = pd.read_csv(out / "submission.csv").set_index("row_id").sort_index()
    theirs = pd.read_csv(root / "train" / "logs" / family / "submission.csv").set_index("row_id").sort_index()
    pd.testing.assert_frame_equal(ours, theirs, atol=1e-6)


def test_broken_and_empty_studies_get_their_25_rows(root: Path, predict: Command, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(root / "dataset" / "test_images", images)
    broken, whole = sorted(images.iterdir())
    for path in broken.rglob("*.dcm"):
        path.write_bytes(b"not an image")
    (images / "31").mkdir()
    assert predict("--run", "first", "--images", images, "--out", tmp_path / "out") == 0
    rows = pd.read_csv(tmp_path / "out" / "probabilities.csv")
    assert rows.groupby("study_id").size().to_dict() == {int(broken.name): 25, int(whole.name): 25, 31: 25}
    lost = rows[rows["study_id"] == int(broken.name)]
    assert lost["source"].isna().all()
    with np.load(root / "train" / "checkpoints" / "first" / "heads" / "heads.npz") as arrays:
        assert lost["severe"].to_numpy() == pytest.approx(arrays["prior"][:, 2], abs=1e-8)
    submission = pd.read_csv(tmp_path / "out" / "submission.csv")
    assert len(submission) == 75 and submission[["normal_mild", "moderate", "severe"]].min().min() >= 1e-4
    assert "not_dicom" in set(pd.read_csv(tmp_path / "out" / "faults.csv")["kind"])


def test_a_disc_export_is_graded_as_the_same_studies_laid_out_cleanly(
    root: Path, predict: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean, disc = root / "dataset" / "test_images", tmp_path / "disc"
    one, other = sorted(clean.iterdir())
    for study, place in ((one, "PA0/ST0"), (other, "PA1/ST0")):
        for series, folder in enumerate(sorted(study.iterdir())):
            for number, path in enumerate(sorted(folder.iterdir(), key=lambda path: path.name)):
                copy = disc / "DICOM" / place / f"SE{series}" / f"IM{number:04d}"
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
    stray = sorted((disc / "DICOM/PA0/ST0").iterdir())[-1]
    stray.rename(disc / "DICOM/PA1/ST0/SE9")  # a series of the first patient among those of the second one
    for name in ("DICOMDIR", "VIEWER/run.exe", "REPORTS/1.pdf", "@eaDir/1.jpg"):
        (disc / name).parent.mkdir(exist_ok=True)
        (disc / name).write_bytes(b"%PDF")
    assert predict("--run", "first", "--images", disc, "--out", tmp_path / "of_disc") == 0
    assert capsys.readouterr().out.startswith("2 studies, by StudyInstanceUID\n")
    assert predict("--run", "first", "--images", clean, "--out", tmp_path / "of_clean") == 0
    ours, theirs = (pd.read_csv(tmp_path / name / "probabilities.csv") for name in ("of_disc", "of_clean"))
    assert set(ours["folder"]) == {"DICOM/PA0/ST0; DICOM/PA1/ST0/SE9", "DICOM/PA1/ST0"}
    grades = ["normal_mild", "moderate", "severe"]
    for folder in (one, other):
        expected = theirs[theirs["study_id"] == int(folder.name)]
        patient = "DICOM/PA0" if folder == one else "DICOM/PA1"
        found = ours[ours["folder"].str.startswith(patient)]
        np.testing.assert_allclose(found[grades], expected[grades], atol=1e-6)
        assert found["source"].tolist() == expected["source"].tolist()
    faults = pd.read_csv(tmp_path / "of_disc" / "faults.csv")
    assert {"foreign_image", "not_dicom", "id_assigned", "view_guessed"} == set(faults["kind"])


def test_wrong_input_is_one_line_and_leaves_nothing(
    root: Path, predict: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = root / "dataset" / "test_images", tmp_path / "out"

    def refused(*arguments: object) -> str:
        assert predict(*arguments) == 2
        message = capsys.readouterr().err
        assert message.splitlines()[-1].startswith("predict_vl.py: error: ")
        assert not out.exists()
        return message.splitlines()[-1]

    assert "run eval_vl.py first" in refused("--run", "unevaluated", "--images", images, "--out", out)
    message = refused("--run", "frist", "--images", images, "--out", out)
    assert "the runs there are" in message and message.endswith("first, unevaluated")
    assert "no such folder" in refused("--run", "first", "--images", tmp_path / "none", "--out", out)
    final = root / "train" / "checkpoints" / "a-locator" / "final"
    save_untrained_locator(final)
    try:
        message = refused("--run", "a-locator", "--images", images, "--out", out)
        assert "is a locator of train_locator.py, no model; the runs there are " in message
        assert message.endswith("first, unevaluated")
    finally:
        shutil.rmtree(final.parent)
    assert "outside" in refused("--run", "first", "--images", images, "--out", images / "out")
    table = tmp_path / "none.csv"
    message = refused("--run", "first", "--images", images, "--out", out, "--series_descriptions", table)
    assert "no such file" in message
    (tmp_path / "empty").mkdir()
    assert "holds no study" in refused("--run", "first", "--images", tmp_path / "empty", "--out", out)
    assert "required: --images" in refused("--run", "first", "--out", out)


def test_located_grades_prints_the_cost_of_placing_beside_true_positions(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(located_grades, "usable_cores", lambda: 1)
    save_untrained_locator(tmp_path / "final")
    cohort = ["--root", str(root), "--run", "first", "--cohort", str(root), "--locator", str(tmp_path / "final")]
    kept = tmp_path / "kept"
    for _ in range(2):  # the second time without converting
        assert run_here(located_grades, [*cohort, "--kept", str(kept)], monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "2 studies, 50 graded sites" in printed
    assert printed.count("ratio to true") == 4 and printed.count("true positions") == 2
    assert len(list(kept.iterdir())) == 3


def test_names_that_cannot_be_printed_are_escaped(root: Path, tmp_path: Path) -> None:
    """In a terminal of ASCII alone, and where the names of folders are not UTF-8."""
    study = next(path for path in sorted((root / "dataset" / "test_images").iterdir()) if path.is_dir())
    names = [b"st\xff", "étude".encode(), "étude".encode("latin-1"), "研究".encode("shift_jis")]
    images, out = tmp_path / os.fsdecode(b"images \xff"), tmp_path / os.fsdecode(b"out \xe9")
    for name in names:
        shutil.copytree(study, images / os.fsdecode(name))
    words = ["--root", str(root), "--run", "first", "--images", images, "--out", out, "--workers", "1"]
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "predict_vl.py", *words]
    done = subprocess.run(command, cwd=REPOSITORY, env=ENVIRONMENT | ascii_only, capture_output=True, timeout=300)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    assert len(pd.read_csv(out / "probabilities.csv")) % 25 == 0 and (out / "faults.csv").is_file()
    assert (done.stdout + done.stderr).isascii() and rb"out \udce9" in done.stdout


def test_a_base_that_is_gone_is_missed_before_any_file_is_read(
    root: Path, predict: Command, tmp_path: Path, tiny_base: str, capsys: pytest.CaptureFixture
) -> None:
    base, away = tmp_path / "models" / "clip", tmp_path / "away"
    shutil.copytree(tiny_base.removeprefix("local-dir:"), base)
    write_run(root, "moved", f"local-dir:{base}", [0, 1])
    assert run_here_eval(root, "moved") == 0
    base.rename(away)
    words = ["--run", "moved", "--images", root / "dataset" / "test_images", "--out", tmp_path / "out"]
    assert predict(*words) == 2 and not (tmp_path / "out").exists()
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("predict_vl.py: error: --base is needed: ") and str(base) in said
    assert predict(*words, "--base", away) == 0
    shutil.rmtree(root / "train" / "checkpoints" / "moved")


def run_here_eval(root: Path, run: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        return run_here(eval_vl, ["--root", str(root), "--run", run], patch)
