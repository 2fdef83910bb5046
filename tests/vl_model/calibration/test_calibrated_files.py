"""--calibrate and --apply on files of predictions: out of fold, blended, with gaps, and refused in one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import eval_vl
from data_prep.sites import SITES
from tests.evaluated_root import run_here
from tests.vl_model.calibration.drawn_studies import DrawnStudies, drawn_studies
from vl_model.calibration.calibrated_files import apply_to_files, calibrate_files
from vl_model.data.site_table import Floats
from vl_model.scoring.metrics import competition_metric
from vl_model.scoring.prediction_table import read_prediction_table, row_name
from workspace.output_files import check_output

WORDS = {0: "Normal/Mild", 1: "Moderate", 2: "Severe", -1: ""}


def write_truth(path: Path, drawn: DrawnStudies) -> Path:
    grade_SX = [[WORDS[grade] for grade in row] for row in drawn.table.severity_N.reshape(-1, 25).tolist()]
    truth = pd.DataFrame(grade_SX, columns=[site.key for site in SITES])
    truth.insert(0, "study_id", drawn.table.study_ids)
    truth.to_csv(path, index=False)
    return path


def write_predictions(path: Path, drawn: DrawnStudies, log_prob_N3: Floats, kept: Floats | None = None) -> Path:
    rows = pd.DataFrame(np.exp(log_prob_N3), columns=["normal_mild", "moderate", "severe"])
    keys = zip(drawn.table.study_N.tolist(), drawn.table.site_N.tolist(), strict=True)
    rows.insert(0, "row_id", [row_name(*key) for key in keys])
    rows = rows if kept is None else rows[kept]
    rows.sample(frac=1, random_state=0).to_csv(path, index=False)
    return path


def score_of(path: Path, drawn: DrawnStudies) -> float:
    prob_of = read_prediction_table(path).by_site()
    keys = zip(drawn.table.study_N.tolist(), drawn.table.site_N.tolist(), strict=True)
    return competition_metric(drawn.table, np.array([prob_of[key] for key in keys])).score


def test_a_file_is_calibrated_out_of_fold_and_its_calibrator_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn, new = drawn_studies(50, seed=1), drawn_studies(40, seed=2)
    given = write_predictions(tmp_path / "given.csv", drawn, drawn.log_head_N3)
    truth = write_truth(tmp_path / "train.csv", drawn)
    before = score_of(given, drawn)
    command = ["--calibrate", str(given), "--truth", str(truth), "--output", str(tmp_path / "out.csv")]
    assert run_here(eval_vl, command, monkeypatch) == 0
    printed = capsys.readouterr().out
    after = score_of(tmp_path / "out.csv", drawn)
    assert f"score {before:.4f} as given, {after:.4f} out of fold" in printed and after < before - 0.1
    assert "1 file, 50 studies, 1250 predicted sites; 1250 of them graded, in 50 studies" in printed
    calibrated = read_prediction_table(tmp_path / "out-calibrated.csv")
    assert calibrated.prob_N3.sum(axis=1) == pytest.approx(np.ones(1250))

    test = write_predictions(tmp_path / "test.csv", new, new.log_head_N3)
    command = ["--calibrate", str(test), "--apply", str(tmp_path / "out-calibrator.json")]
    assert run_here(eval_vl, [*command, "--output", str(tmp_path / "applied.csv")], monkeypatch) == 0
    assert score_of(tmp_path / "applied.csv", new) < score_of(test, new) - 0.1
    assert not (tmp_path / "applied-calibrator.json").exists()
    assert "1 file, 40 studies, 1000 predicted sites\n" in capsys.readouterr().out


def test_the_labels_of_a_study_do_not_reach_its_own_rows(tmp_path: Path) -> None:
    drawn = drawn_studies(12, seed=3)
    given = write_predictions(tmp_path / "given.csv", drawn, drawn.log_head_N3, drawn.table.site_N != 0)
    outputs = []
    for name in ("one", "other"):
        # The burden stays, so that the groups do; left and right change places, and so do grades of two levels.
        if name == "other":
            rows = np.flatnonzero(drawn.table.study_N == 4)
            drawn.table.severity_N[rows] = drawn.table.severity_N[rows][::-1]
        truth = write_truth(tmp_path / f"{name}.csv", drawn)
        calibrate_files([given], truth, tmp_path / f"{name}-out.csv")
        outputs.append(pd.read_csv(tmp_path / f"{name}-out.csv").set_index("row_id"))
    changed = (outputs[0] - outputs[1]).abs().max(axis=1) > 1e-12
    of_study = outputs[0].index.str.startswith("4_")
    assert not changed[of_study].any() and changed[~of_study].any()


def test_files_are_blended_and_what_none_covers_is_said(tmp_path: Path) -> None:
    drawn = drawn_studies(40, seed=4, slope=1.0, bias=(0.0, 0.0, 0.0))
    noise_N3 = np.random.default_rng(0).permutation(drawn.log_head_N3)
    other_than_first = (drawn.table.study_N != 0) | (drawn.table.site_N != 7)
    no_subarticular = drawn.table.condition_N != 2
    good = write_predictions(tmp_path / "good.csv", drawn, drawn.log_head_N3, other_than_first & no_subarticular)
    spinal = drawn.table.condition_N == 0
    bad = write_predictions(tmp_path / "bad.csv", drawn, noise_N3, spinal)
    lines = calibrate_files([bad, good], write_truth(tmp_path / "t.csv", drawn), tmp_path / "out.csv")
    assert lines[0].startswith("2 files, 40 studies, 599 predicted sites")
    assert f"1 site of 1 study in no file ({row_name(0, 7)}): with the frequencies of the column" in lines[1]
    assert lines[2] == "no file predicts subarticular stenosis: these conditions are left out"
    [line] = [line for line in lines if line.startswith("  spinal")]
    shares = [float(word) for word in line.split("files ")[1].split(";")[0].split()]
    assert shares[0] < 0.25 < 0.75 < shares[1]
    assert any("foraminal narrowing: slope" in line and "shares of the files - 1.00" in line for line in lines)
    assert len(pd.read_csv(tmp_path / "out.csv")) == 600


def test_wrong_input_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn, other = drawn_studies(12, seed=5), drawn_studies(12, seed=6)
    truth = write_truth(tmp_path / "t.csv", drawn)
    given = write_predictions(tmp_path / "g.csv", drawn, drawn.log_head_N3)
    output = ["--output", str(tmp_path / "o.csv")]

    def refused(*arguments: str) -> str:
        assert run_here(eval_vl, list(arguments), monkeypatch) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1, message
        return message

    assert "either --truth" in refused("--calibrate", str(given), *output)
    assert "--output" in refused("--calibrate", str(given), "--truth", str(truth))
    assert "no such file" in refused("--calibrate", str(tmp_path / "none.csv"), "--truth", str(truth), *output)
    other.table.study_N[:] += 1000
    strange = write_predictions(tmp_path / "s.csv", other, other.log_head_N3)
    assert "grades none of the predicted sites" in refused("--calibrate", str(strange), "--truth", str(truth), *output)
    one = write_predictions(tmp_path / "one.csv", drawn, drawn.log_head_N3, drawn.table.study_N == 1)
    assert "requires at least two" in refused("--calibrate", str(one), "--truth", str(truth), *output)
    assert not (tmp_path / "o.csv").exists()
    command = ["--calibrate", str(given), "--truth", str(truth)]
    for name in ("g.csv", "t.csv"):
        assert "would replace a file that is read" in refused(*command, "--output", str(tmp_path / name))
    shutil.copy(given, tmp_path / "h-calibrated.csv")
    again = ["--calibrate", str(tmp_path / "h-calibrated.csv"), "--truth", str(truth)]
    assert "h-calibrated.csv': would replace" in refused(*again, "--output", str(tmp_path / "h.csv"))
    assert "is a folder" in refused(*command, "--output", str(tmp_path))
    assert "expected a file that ends in .csv" in refused(*command, "--output", str(tmp_path / "o"))
    for flag, value in (
        ("--json", "x.json"),
        ("--missing", "constant"),
        ("--calibrators", "lora"),
        ("--head", "zero_shot"),
    ):
        assert f"{flag} '{value}': has no meaning with --calibrate" in refused(*command, *output, flag, value)
    with pytest.raises(ValueError, match="would replace"):
        check_output("output", given.parent / "." / "g.csv", [given])

    two = write_predictions(tmp_path / "two.csv", drawn, drawn.log_head_N3, drawn.table.study_N < 2)
    calibrate_files([two], truth, tmp_path / "two-out.csv")
    saved = tmp_path / "two-out-calibrator.json"
    message = refused("--calibrate", str(given), str(two), "--apply", str(saved), *output)
    assert "was fitted on 1 file (two.csv), but 2 are given" in message
    both = write_predictions(tmp_path / "both.csv", drawn, drawn.log_head_N3)
    calibrate_files([given, both], truth, tmp_path / "pair.csv")
    saved_pair = ["--apply", str(tmp_path / "pair-calibrator.json"), *output]
    message = refused("--calibrate", str(both), str(given), *saved_pair)
    assert "was fitted on g.csv, both.csv in this order, but the files given are both.csv, g.csv" in message
    # Files of other names are taken in their order, which is printed.
    assert run_here(eval_vl, ["--calibrate", str(two), str(both), *saved_pair], monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "as g.csv        two.csv\n" in printed and "as both.csv" not in printed
    (tmp_path / "o.csv").unlink()
    text, apply = saved.read_text(), ["--calibrate", str(given), "--apply", str(saved), *output]
    content = json.loads(text)
    parts = content["calibrator"]
    for wrong in (
        {"slop": parts["slope"]} | {name: value for name, value in parts.items() if name != "slope"},
        parts | {"slope": [[1.0]]},
        parts | {"slope": [[1.0, 1.0]] * 3},
        parts | {"bias": [[0.0, 0.0, float("nan")]] * 3},
        parts | {"level_bias": [[0.0] * 3] * 3},
        parts | {"rule": parts["rule"] | {"spinal_weight": "heavy"}},
        parts | {"context": {}},
    ):
        saved.write_text(json.dumps(content | {"calibrator": wrong}))
        assert "two-out-calibrator.json: not a calibrator (" in refused(*apply)
    saved.write_text(json.dumps(content | {"column_priors": [1.0]}))
    assert "not a calibrator" in refused(*apply)
    saved.write_text("{}")
    with pytest.raises(ValueError, match=r"schema version None, expected 1; run eval_vl\.py --calibrate again"):
        apply_to_files(saved, [given], tmp_path / "o.csv")


def test_a_condition_alone_is_calibrated(tmp_path: Path) -> None:
    drawn = drawn_studies(30, seed=7)
    foraminal = drawn.table.condition_N == 1
    drawn.table.severity_N[~foraminal] = -1
    given = write_predictions(tmp_path / "g.csv", drawn, drawn.log_head_N3, foraminal)
    lines = calibrate_files([given], write_truth(tmp_path / "t.csv", drawn), tmp_path / "o.csv")
    assert any(line.startswith("mean of graded parts") for line in lines)
    table = pd.read_csv(tmp_path / "o.csv")
    assert len(table) == 300
    # A calibrator that no grade of a condition reached leaves it as it is, and says so.
    whole = write_predictions(tmp_path / "w.csv", drawn, drawn.log_head_N3)
    lines = apply_to_files(tmp_path / "o-calibrator.json", [whole], tmp_path / "applied.csv")
    words = "spinal canal stenosis or subarticular stenosis to fit on: these probabilities are as given"
    assert f"no grade of {words}" in lines
    assert not any("graded" in line for line in lines)
    assert table[["normal_mild", "moderate", "severe"]].sum(axis=1).to_numpy() == pytest.approx(np.ones(300))


def test_grades_of_sites_that_no_file_predicts_do_not_reach_their_own_rows(tmp_path: Path) -> None:
    """A study of which only such sites are graded is in no group of the calibrators, but must still be left out."""
    drawn = drawn_studies(12, seed=8)
    first = drawn.table.site_N == 0
    of_study = drawn.table.study_N == 4
    given = write_predictions(tmp_path / "g.csv", drawn, drawn.log_head_N3, ~(first & of_study))
    found = []
    for grade in (0, 2):
        drawn.table.severity_N[of_study] = -1
        drawn.table.severity_N[of_study & first] = grade
        calibrate_files([given], write_truth(tmp_path / "t.csv", drawn), tmp_path / "o.csv")
        found.append(pd.read_csv(tmp_path / "o-calibrated.csv").set_index("row_id").loc[row_name(4, 0)].tolist())
    assert found[0] == found[1]


def test_rows_of_any_sum_are_scored_as_given(tmp_path: Path) -> None:
    drawn = drawn_studies(12, seed=9)
    given = write_predictions(tmp_path / "g.csv", drawn, drawn.log_head_N3 + np.log(0.5))
    score = competition_metric(drawn.table, np.exp(drawn.log_head_N3 + np.log(0.5))).score
    lines = calibrate_files([given], write_truth(tmp_path / "t.csv", drawn), tmp_path / "o.csv", normalise=True)
    assert any(line.startswith(f"score {score:.4f} as given") for line in lines)
