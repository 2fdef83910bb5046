"""eval_vl.py on a tiny data set: report, heads, submission, and errors."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import eval_vl
from data_prep.conversion.pairs import read_dataset, write_dataset
from data_prep.sites import SITES
from tests.evaluated_root import run_here, write_run
from tests.tiny_dataset import write_tiny_dataset
from vl_model import load_run
from vl_model.report.report_text import HEAD_WORDS, report_text
from vl_model.run_embeddings import prompt_embeddings

REPOSITORY = Path(__file__).parents[1]
Evaluate = Callable[..., int]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_base: str) -> Path:
    """A root with twelve studies, of which five are held out, and a test split with a study without images."""
    root = tmp_path_factory.mktemp("eval")
    write_tiny_dataset(root / "train" / "processed_data", studies=12)
    test = root / "test" / "processed_data"
    write_tiny_dataset(test, studies=2, seed=7)
    dataset = read_dataset(test)
    crops = json.loads((test / "crops.json").read_text())["fingerprint"]
    write_dataset(test, {**dataset.metadata, "study_ids": [2, 77, 1]}, dataset.pairs, crops)
    write_run(root, "first", tiny_base, [0, 1])
    write_run(root, "second", tiny_base, [0, 1], seed=3)
    return root


@pytest.fixture
def evaluate(root: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Run ``eval_vl.py --run RUN ...`` in this process and return its exit status."""

    def run(name: str, *arguments: str, at: Path = root) -> int:
        return run_here(eval_vl, ["--root", str(at), "--run", name, *arguments], monkeypatch)

    return run


def test_the_whole_evaluation(root: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("first", "--batch_size", "50") == 0
    logs, run = root / "train" / "logs" / "first", root / "train" / "checkpoints" / "first"
    written = {"report.html", "report.json", "predictions.csv", "predictions.json", "submission.csv"}
    written |= {"suspect_labels.csv", "suspect_labels.png"}
    assert {path.name for path in logs.iterdir()} == written
    printed = capsys.readouterr().out
    assert "constant" in printed and str(logs / "submission.csv") in printed

    report = json.loads((logs / "report.json").read_text())
    assert report["n"]["studies"] == 5 and report["training_studies"] == 7 and report["held_out_folds"] == [0, 1]
    assert {"score", "spinal", "foraminal", "subarticular", "any_severe"} <= set(report["constant_baseline"])
    assert set(report["by_rule"]) == {"zero_shot", "linear_probe"} and len(report["wordings"]) == 4
    assert [point["studies"] for point in report["learning_curve"]] == [1, 2, 4, 7]
    assert "single wordings by Bayes' rule" in printed and "places as in use: not measured" in printed
    scores = {head: report["metric"][head]["metric_optimal"]["score"] for head in ("zero_shot", "linear_probe")}
    assert report["head"] == min(scores, key=lambda head: scores[head])

    submission = pd.read_csv(logs / "submission.csv")
    assert len(submission) == 75 and list(submission["row_id"].str.split("_").str[0].unique().astype(int)) == [1, 2, 77]
    unseen = submission[submission["row_id"].str.startswith("77_")].set_index("row_id")
    with np.load(run / "heads" / "heads.npz") as arrays:
        weighted = arrays["prior"][13] * [1, 2, 4]
    assert unseen.loc[f"77_{SITES[13].key}", "severe"] == pytest.approx(weighted[2] / weighted.sum(), abs=1e-9)

    predictions = pd.read_csv(logs / "predictions.csv")
    assert len(predictions) == 5 * 25 * 2 * 3 and set(predictions["study_id"]) == {1, 5, 6, 10, 11}

    # Again: the same bytes, from the embeddings on disk.
    before = {path: path.read_bytes() for path in logs.iterdir()}
    stamp = (run / "embeddings" / "train" / "image.npy").stat().st_mtime_ns
    baseline_stamp = (run / "heads" / "baseline.npz").stat().st_mtime_ns
    assert evaluate("first", "--batch_size", "50") == 0
    assert {path: path.read_bytes() for path in logs.iterdir()} == before
    assert (run / "embeddings" / "train" / "image.npy").stat().st_mtime_ns == stamp
    assert (run / "heads" / "baseline.npz").stat().st_mtime_ns == baseline_stamp


def test_a_changed_sentence_or_a_new_test_split_embeds_no_other_image(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(root, tmp_path / "root")
    run = load_run(tmp_path / "root", "first")
    kept = run.folder / "embeddings"

    def stamps() -> list[int]:
        run.embed("train"), run.embed("test"), prompt_embeddings(run)
        return [(kept / name).stat().st_mtime_ns for name in ("train/image.npy", "test/image.npy", "prompts/text.npy")]

    first = stamps()
    assert stamps() == first
    sentences = (REPOSITORY / "prompts" / "zero_shot.yaml").read_text()
    (tmp_path / "other.yaml").write_text(sentences.replace("lumbar spine MRI, {level}", "MRI of {level}"))
    monkeypatch.setattr("prompts.render.ZERO_SHOT", tmp_path / "other.yaml")
    second = stamps()
    assert second[:2] == first[:2] and second[2] != first[2]
    write_tiny_dataset(tmp_path / "root" / "test" / "processed_data", studies=1, seed=8)
    third = stamps()
    assert third[0] == first[0] and third[1] != first[1] and third[2] == second[2]


def test_embeddings_that_are_older_than_the_predictions_are_made_again(
    root: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    """A report never mixes the predictions of one model with the embeddings of another."""
    assert evaluate("first") == 0
    logs, card = root / "train" / "logs" / "first", root / "train/checkpoints/first/embeddings/train/embeddings.json"
    report, right = json.loads((logs / "report.json").read_text()), card.read_text()
    content = json.loads(right)
    card.write_text(json.dumps({**content, "fingerprint": {**content["fingerprint"], "checkpoint": "e" * 64}}))
    capsys.readouterr()
    assert evaluate("first") == 0
    assert json.loads(card.read_text()) == content
    again = json.loads((logs / "report.json").read_text())
    names = ("metric", "prediction_sets", "study_answers", "subgroups", "study_flow")
    assert all(again[name] == report[name] for name in names)
    flow = again["study_flow"]["studies"]
    assert (flow["named"], flow["held_out"], flow["scored"]) == (12, 5, again["n"]["studies"])
    assert "cannot be read" in again["subgroups"]["unknown"]  # this data set has no slices.csv


def test_two_runs_are_compared_on_the_same_studies(root: Path, evaluate: Evaluate) -> None:
    if not (root / "train" / "logs" / "first" / "predictions.csv").is_file():
        assert evaluate("first") == 0
    assert evaluate("second", "--compare", "first", "--head", "zero_shot") == 0
    reports = {
        run: json.loads((root / "train" / "logs" / run / "report.json").read_text()) for run in ("first", "second")
    }
    comparison = reports["second"]["comparison"]
    assert comparison["run"] == "first" and comparison["studies"] == 5 and reports["second"]["head"] == "zero_shot"
    for head, block in comparison["heads"].items():
        ours, theirs = (reports[run]["metric"][head]["metric_optimal"]["score"] for run in ("second", "first"))
        assert block["difference"]["score"]["value"] == pytest.approx(ours - theirs, abs=1e-6)


def test_a_run_that_loses_to_the_plain_baseline_says_so(
    root: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tower of this run has learned nothing, and the crops show their grades to any histogram."""
    assert evaluate("second") == 0
    printed = capsys.readouterr().out.splitlines()
    logs = root / "train" / "logs" / "second"
    report = json.loads((logs / "report.json").read_text())
    baseline = report["plain_baseline"]
    block, ours = baseline["metric"]["metric_optimal"], report["metric"][report["head"]]["metric_optimal"]
    assert set(block) == set(ours) and block["score"] < ours["score"]
    assert set(baseline) == {"metric", "ece", "brier", "log_loss", "auc", "calibration", "heads_minus_baseline"}
    for head, difference in baseline["heads_minus_baseline"].items():
        for part, value in difference.items():
            expected = report["metric"][head]["metric_optimal"][part] - block[part]
            assert value["value"] == pytest.approx(expected) and value["interval"][0] <= value["interval"][1]
    [row] = [line for line in printed if line.startswith("plain baseline ")]
    assert f"{block['score']:.3f}" in row
    words = HEAD_WORDS[report["head"]]
    [sentence] = [line for line in printed if line.startswith(f"The {words} loses to the plain baseline in the whole")]
    page = (logs / "report.html").read_text()
    assert f"<p>{sentence.replace('-', chr(0x2212)).replace('+', '&#43;')}</p>" in page.replace("+", "&#43;")
    assert page.count("<td>plain baseline, metric-optimal</td>") == 2


def test_the_plain_baseline_changes_nothing_else(
    root: Path, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With any other baseline, all other figures and files of the run are the same to the last digit."""
    from vl_model.baseline import plain_baseline

    logs, heads = root / "train" / "logs" / "first", root / "train" / "checkpoints" / "first" / "heads"
    files = [logs / "predictions.csv", logs / "submission.csv", heads / "heads.npz", heads / "heads.json"]
    assert evaluate("first") == 0
    before, report = [path.read_bytes() for path in files], json.loads((logs / "report.json").read_text())
    stamp = (heads / "baseline.npz").stat().st_mtime_ns
    monkeypatch.setattr(plain_baseline, "COMPONENTS", 2)
    monkeypatch.setitem(plain_baseline.SETTINGS, "components", 2)
    assert evaluate("first") == 0
    other = json.loads((logs / "report.json").read_text())
    assert (heads / "baseline.npz").stat().st_mtime_ns != stamp
    assert other.pop("plain_baseline") != report.pop("plain_baseline")
    assert other == report and [path.read_bytes() for path in files] == before


def test_a_missing_comparison_is_a_dash() -> None:
    """If a part of the metric has no row in the shared studies, its score is nan, and null in report.json."""
    line = dict.fromkeys(("score", "spinal", "foraminal", "subarticular", "any_severe", "graded_parts"))
    unknown = {"value": None, "interval": [None, None]}
    heads = {"zero_shot": {"difference": {"score": unknown, "graded_parts": unknown}}}
    report = {"n": {"studies": 2, "rows": 9}, "constant_baseline": line, "metric": {}}
    text = report_text(report | {"comparison": {"run": "base", "heads": heads}})
    assert text.splitlines()[-1] == "prompt head minus base's: - (- to -)"


def test_a_submission_is_scored_against_truths(
    root: Path, evaluate: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submission = root / "train" / "logs" / "first" / "submission.csv"
    if not submission.is_file():
        assert evaluate("first") == 0
    rows = [[2, site.condition, site.side or "", site.level, "severe"] for site in SITES]
    truth = tmp_path / "truth.csv"
    pd.DataFrame(rows, columns=["study_id", "condition", "side", "level", "severity"]).to_csv(truth, index=False)
    capsys.readouterr()
    assert evaluate("first", "--score", str(submission), "--truth", str(truth)) == 0
    assert "2 studies (1, 77) are not in the truth, and not scored" in capsys.readouterr().out


def test_labels_of_sites_without_an_image_count_if_the_table_is_unchanged(root: Path, tmp_path: Path) -> None:
    """A site without a pair that is graded in train.csv is scored with the constant of its column."""
    import hashlib

    from vl_model.data.site_table import full_table, site_table
    from vl_model.evaluation.known_labels import with_unimaged_labels
    from workspace.layout import DataRoot

    dataset = root / "train" / "processed_data"
    table = full_table([1], site_table([]))
    (tmp_path / "dataset").mkdir()
    columns = ",".join(["study_id", *(site.key for site in SITES)])
    (tmp_path / "dataset" / "train.csv").write_text(f"{columns}\n1,Severe{',' * 24}\n")
    (tmp_path / "dataset" / "train_series_descriptions.csv").write_text("study_id,series_id,series_description\n")
    plain = read_dataset(dataset)
    digest = hashlib.sha256((tmp_path / "dataset" / "train.csv").read_bytes()).hexdigest()
    same = type(plain)({**plain.metadata, "hashes": {"train.csv": digest}}, plain.pairs)
    assert with_unimaged_labels(DataRoot(tmp_path), same, table).severity_N.tolist() == [2] + [-1] * 24
    assert with_unimaged_labels(DataRoot(tmp_path), plain, table) is table


def test_a_missing_test_split_is_reported(
    root: Path, tiny_base: str, evaluate: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(root / "train", tmp_path / "train")
    assert evaluate("first", at=tmp_path) == 0
    assert "there is no test split" in capsys.readouterr().out


def test_wrong_input_is_one_line(
    root: Path, tiny_base: str, evaluate: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str, at: Path = root) -> str:
        assert evaluate(*arguments, at=at) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1, message
        return message

    message = refused("frist")
    assert "no such run" in message and "first" in message
    assert "run python eval_vl.py --run third first" in refused("first", "--compare", "third")
    assert "did you mean --compare" in refused("first", "--compar", "x")
    assert "--head" in refused("first", "--head", "both")
    assert "no such folder" in refused("first", at=tmp_path / "nowhere")
    assert "scoring requires both --score" in refused("first", "--score", "a.csv")
    assert "a.csv: no such file" in refused("first", "--score", "a.csv", "--truth", str(tmp_path / "none.csv"))
    write_tiny_dataset(tmp_path / "train" / "processed_data", studies=5, sites=SITES[:5])
    write_run(tmp_path, "none", tiny_base, [9])
    assert "no graded study in them" in refused("none", at=tmp_path)
    record = tmp_path / "train" / "checkpoints" / "none" / "run.json"
    record.write_text(record.read_text().replace('"dataset_fingerprint": "', '"dataset_fingerprint": "0'))
    assert "was trained on another data set" in refused("none", at=tmp_path)
    record.write_text(record.read_text().replace('"finished": true', '"finished": false'))
    assert "its training has not ended" in refused("none", at=tmp_path)
    record.write_text("[]")
    assert "run.json: holds a list" in refused("none", at=tmp_path)
    shutil.rmtree(tmp_path / "train" / "checkpoints" / "none" / "final")
    assert "has no final/ yet" in refused("none", at=tmp_path)
    assert not (tmp_path / "train" / "logs").exists()


def test_errors_and_help_come_without_torch(root: Path) -> None:
    """Errors that need no model are printed before torch is imported."""
    code = (
        "import sys, eval_vl, predict_vl\n"
        "for module, arguments in ((eval_vl, ['--help']), (predict_vl, ['--help']), (eval_vl, ['--run', 'frist'])):\n"
        f"    sys.argv = ['x', '--root', {str(root)!r}, *arguments]\n"
        "    try:\n        module.main()\n"
        "    except (SystemExit, ValueError):\n        pass\n"
        "print([name for name in ('torch', 'sklearn', 'pandas') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
