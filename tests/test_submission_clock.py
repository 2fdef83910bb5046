"""A valid submission.csv lies there from before the first image is read, whatever ends predict_vl.py."""

import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import predict_vl
from data_prep.sites import SITES, SUBMISSION_SITES
from tests.evaluated_root import run_here
from tests.training_runs import ENVIRONMENT, REPOSITORY
from vl_model.evaluation.grader import read_grader

Command = Callable[..., int]
GRADES = ["normal_mild", "moderate", "severe"]


@pytest.fixture
def predict(evaluated_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    common = ["--root", str(evaluated_root), "--run", "first", "--workers", "1", "--out", str(tmp_path / "out")]
    return lambda *arguments: run_here(predict_vl, [*common, *map(str, arguments)], monkeypatch)


def valid(out: Path, studies: int) -> pd.DataFrame:
    """Return the rows of a submission, by row id, after a check against the rules of the competition."""
    table = pd.read_csv(out / "submission.csv").set_index("row_id")
    assert len(table) == 25 * studies and table.index.is_unique and list(table.columns) == GRADES
    assert np.isfinite(table.to_numpy()).all() and table.min().min() >= 1e-4
    assert np.abs(table.sum(axis=1) - 1).max() < 1e-9
    return table


def constants(root: Path, study: int) -> pd.DataFrame:
    """Return the best constants of a study, by row id."""
    grader = read_grader(root / "train" / "checkpoints" / "first" / "heads")
    return pd.DataFrame(grader.constants(), columns=GRADES, index=[f"{study}_{site.key}" for site in SITES])


def test_a_second_is_enough_for_a_valid_file_in_the_samples_order(
    evaluated_root: Path, predict: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = evaluated_root / "dataset" / "test_images"
    one, other = sorted(int(path.name) for path in images.iterdir())
    without_images = max(one, other) + 1
    row_ids = [f"{study}_{site.key}" for study in (other, without_images, one) for site in reversed(SUBMISSION_SITES)]
    sample = tmp_path / "sample.csv"
    pd.DataFrame({"row_id": row_ids}).to_csv(sample, index=False)
    words = ["--images", images, "--sample_submission", sample, "--time_budget"]
    assert predict(*words, 1e-3) == 0
    said = capsys.readouterr().out
    assert f"sample.csv names 1 study ({without_images}) without images" in said
    assert "sample.csv has another order than by study id and site, which is kept" in said
    assert "the time budget of 0.001 s was used up: 2 of 2 studies were not read" in said
    assert "sites graded from all views 0, fewer views 0, neighbouring levels 0, constant 75" in said
    table = valid(tmp_path / "out", 3)
    assert list(table.index) == row_ids
    for study in (one, other, without_images):
        expected = constants(evaluated_root, study)
        np.testing.assert_allclose(table.loc[expected.index], expected, atol=1e-3)
    fallbacks = pd.read_csv(tmp_path / "out" / "fallbacks.csv")
    reasons = fallbacks.groupby("study_id")["reason"].unique().to_dict()
    assert reasons[without_images] == ["no image of the study was found"]
    assert reasons[one] == ["the time budget of 0.001 s was used up"]
    assert set(fallbacks["graded_from"]) == {"constant"} and len(fallbacks) == 75

    new = tmp_path / "new.csv"
    rows = ["spinal_canal_stenosis,normal_mild,0.2", "spinal_canal_stenosis,moderate,0.2"]
    new.write_text("\n".join(["condition,severity,prevalence", *rows, "spinal_canal_stenosis,severe,0.6"]))
    status = predict(*words, 1e-3, "--prevalence", new)
    said = capsys.readouterr()
    if status == 2:  # this small cohort may have no severe canal to learn from
        assert "new.csv" not in said.err and "its probabilities cannot be shifted" in said.err
    else:
        assert "Severe" in said.out and "calibrators learned from" in said.out
        shifted = valid(tmp_path / "out", 3)
        canal = [name for name in row_ids if "spinal" in name]
        others = [name for name in row_ids if "subarticular" in name]
        assert (shifted.loc[canal, "severe"] > table.loc[canal, "severe"]).all()
        np.testing.assert_allclose(shifted.loc[others], table.loc[others], atol=1e-3)


def test_a_process_that_is_killed_at_the_last_study_leaves_the_others_grades(
    evaluated_root: Path, tmp_path: Path
) -> None:
    images, out = evaluated_root / "dataset" / "test_images", tmp_path / "out"
    one, other = sorted(int(path.name) for path in images.iterdir())
    words = ["--root", evaluated_root, "--run", "first", "--images", images, "--out", out, "--workers", "1"]
    command = [sys.executable, "predict_vl.py", *map(str, words), "--studies_per_batch", "1"]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    expected = constants(evaluated_root, one)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "submission.csv").is_file():
            rows = valid(out, 2).loc[expected.index]
            if np.abs(rows - expected).max().max() > 1e-3:
                break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    table = valid(out, 2)
    last = constants(evaluated_root, other)
    np.testing.assert_allclose(table.loc[last.index], last, atol=1e-3)
    assert np.abs(table.loc[expected.index] - expected).max().max() > 1e-3
    fallbacks = pd.read_csv(out / "fallbacks.csv")
    waiting = fallbacks[fallbacks["study_id"] == other]
    assert len(waiting) == 25 and set(waiting["reason"]) == {"the command ended before the study was graded"}


def test_a_full_disk_leaves_a_valid_file(
    evaluated_root: Path, predict: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limit[1]))  # enough for tables, not for images
    try:
        assert predict("--images", evaluated_root / "dataset" / "test_images") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert capsys.readouterr().err.splitlines()[-1].startswith("predict_vl.py: error: ")
    valid(tmp_path / "out", 2)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"submission.csv", "fallbacks.csv"}


def test_a_study_without_any_image_has_the_best_constants(
    evaluated_root: Path, predict: Command, tmp_path: Path
) -> None:
    """Beside a study with one series alone, whose sites are graded from fewer views."""
    images = tmp_path / "images"
    source = sorted((evaluated_root / "dataset" / "test_images").iterdir())[0]
    first = sorted(source.iterdir())[0]
    shutil.copytree(first, images / source.name / first.name)
    (images / "31").mkdir()
    assert predict("--images", images) == 0
    table, rows = valid(tmp_path / "out", 2), pd.read_csv(tmp_path / "out" / "probabilities.csv")
    expected = constants(evaluated_root, 31)
    np.testing.assert_allclose(table.loc[expected.index], expected, atol=1e-3)
    kinds = rows.groupby("study_id")["graded_from"].value_counts()
    assert kinds[31].to_dict() == {"constant": 25}
    assert kinds[int(source.name)].get("fewer_views", 0) > 0 and "all_views" not in kinds[int(source.name)]
    fallbacks = pd.read_csv(tmp_path / "out" / "fallbacks.csv")
    assert len(fallbacks) == 50 and fallbacks["reason"].str.endswith("alone").any()


def test_wrong_settings_are_refused_before_anything_is_written(
    evaluated_root: Path, predict: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = evaluated_root / "dataset" / "test_images", tmp_path / "out"
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("row_id\n7_knee\n")

    def refused(*arguments: object) -> str:
        assert predict("--images", images, *arguments) == 2
        assert not out.exists()
        return capsys.readouterr().err.splitlines()[-1]

    assert "'knee' is not a site" in refused("--sample_submission", wrong)
    assert "no such file" in refused("--sample_submission", tmp_path / "none.csv")
    assert "has no column 'condition'" in refused("--prevalence", wrong)
    assert "--time_budget" in refused("--time_budget", 0)
    assert "expected K/N with K from 1 to N" in refused("--share", "3/2")
    message = refused("--share", "3/3")
    assert "--share 3/3: no folder of " in message and "because there are 2; give at most 2 shares" in message
    assert "leave out --keep" in refused("--time_budget", 10, "--keep", "ward")
    out.mkdir()
    shutil.copy(wrong, out / "submission.csv")
    assert predict("--images", images, "--sample_submission", out / "submission.csv") == 2
    assert "would be replaced" in capsys.readouterr().err
