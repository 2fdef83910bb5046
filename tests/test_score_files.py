"""``eval_vl.py --score``: anyone's files against the competition's code written out again, and its bad input."""

import json
import math
import resource
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eval_vl
from data_prep.sites import SITES, Condition
from tests.evaluated_root import run_here
from vl_model.data.site_table import UNLABELLED, SiteTable
from vl_model.scoring.metrics import competition_metric
from vl_model.scoring.prediction_table import read_prediction_table

REPOSITORY = Path(__file__).parents[1]
LABELS = ("Normal/Mild", "Moderate", "Severe")
EPSILON = 2.0**-52
Rows = dict[str, tuple[float, float, float]]
Grades = dict[str, int]


def competition(grades: Grades, predictions: Rows) -> dict[str, float]:
    """Compute the metric as the competition's code does with scikit-learn 1.2, one row after another.

    Values are clipped to [eps, 1 - eps], then rows are divided by their sums; any severe reads the values as given.
    """
    losses, weights = defaultdict(list), defaultdict(list)
    severe: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for row_id, grade in grades.items():
        clipped = [min(max(value, EPSILON), 1 - EPSILON) for value in predictions[row_id]]
        [part] = [part for part in ("spinal", "foraminal", "subarticular") if part in row_id]
        losses[part].append(-math.log(clipped[grade] / sum(clipped)) * 2**grade)
        weights[part].append(2**grade)
        if part == "spinal":
            severe[row_id.split("_")[0]].append((grade, predictions[row_id][2]))
    for rows in severe.values():
        worst, largest = max(grade for grade, _ in rows), max(value for _, value in rows)
        largest = min(max(largest, EPSILON), 1 - EPSILON)
        losses["any_severe"].append(-math.log(largest if worst == 2 else 1 - largest) * 2**worst)
        weights["any_severe"].append(2**worst)
    return {part: sum(values) / sum(weights[part]) for part, values in losses.items()}


def random_tables(rng: np.random.Generator, studies: int, any_sum: bool = False) -> tuple[Grades, Rows]:
    """Return grades and predictions with what makes a metric go wrong: gaps, ties, zeros and ones, and other sums."""
    grades, predictions = {}, {}
    gaps = rng.choice([0.0, 0.2, 0.9])
    absent = rng.integers(0, 6)  # 0 to 2: a condition that nobody graded; 3: a study without a spinal grade
    sharp = rng.choice([0.05, 1.0])
    for study in rng.choice(10**9, size=studies, replace=False).tolist():
        for site in SITES:
            prob = rng.dirichlet((3 * sharp, sharp, sharp))
            prob /= prob.sum()
            if rng.random() < 0.2:
                prob = np.array([[1, 0, 0], [0, 0, 1], [0.5, 0.25, 0.25], [0, 0.5, 0.5]][rng.integers(4)])
            if any_sum and rng.random() < 0.5:  # the metric divides each row by its sum, but not for any severe
                prob = prob * rng.uniform(0.5, 1.5)
            predictions[f"{study}_{site.key}"] = tuple(prob.tolist())
            number = list(Condition).index(site.condition)
            first = len(predictions) <= len(SITES)
            if rng.random() >= gaps and number != absent and not (absent == 3 and first and number == 0):
                grades[f"{study}_{site.key}"] = int(rng.choice(3, p=(0.7, 0.2, 0.1)))
    return grades, predictions


def as_arrays(grades: Grades, predictions: Rows) -> tuple[SiteTable, np.ndarray]:
    keys = [site.key for site in SITES]
    studies = [int(row_id.partition("_")[0]) for row_id in predictions]
    sites = [keys.index(row_id.partition("_")[2]) for row_id in predictions]
    table = SiteTable(
        np.array(studies), np.array(sites), np.array([grades.get(row_id, UNLABELLED) for row_id in predictions])
    )
    return table, np.array(list(predictions.values()))


def write_predictions(path: Path, predictions: Rows) -> Path:
    lines = [f"{row_id},{','.join(map(repr, values))}" for row_id, values in predictions.items()]
    path.write_text("\n".join(["row_id,normal_mild,moderate,severe", *lines, ""]))
    return path


def write_truth(path: Path, grades: Grades, studies: list[int]) -> Path:
    """Write train.csv's format."""
    lines = [",".join(["study_id", *(site.key for site in SITES)])]
    for study in studies:
        cells = [grades.get(f"{study}_{site.key}") for site in SITES]
        lines.append(",".join([str(study), *("" if cell is None else LABELS[cell] for cell in cells)]))
    path.write_text("\n".join([*lines, ""]))
    return path


def studies_of(predictions: Rows) -> list[int]:
    return list(dict.fromkeys(int(row_id.partition("_")[0]) for row_id in predictions))


def score(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    return run_here(eval_vl, ["--score", *map(str, arguments)], monkeypatch)


def test_a_thousand_random_tables_score_as_the_competitions_code_scores_them() -> None:
    rng = np.random.default_rng(0)
    parts_seen = 0
    for number in range(1000):
        grades, predictions = random_tables(rng, int(rng.integers(1, 4)), any_sum=number % 4 == 0)
        if grades:
            expected = competition(grades, predictions)
            found = competition_metric(*as_arrays(grades, predictions)).as_dict()
            for part in ("spinal", "foraminal", "subarticular", "any_severe"):
                assert math.isnan(found[part]) == (part not in expected)
                if part in expected:
                    assert found[part] == pytest.approx(expected[part], rel=1e-12, abs=1e-12)
                    parts_seen += 1
            if len(expected) == 4:
                assert found["score"] == pytest.approx(np.mean(list(expected.values())), rel=1e-12)
            else:
                assert math.isnan(found["score"])
    assert parts_seen > 2000


@pytest.mark.parametrize("normalise", [False, True])
def test_files_score_as_the_competitions_code_scores_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, normalise: bool
) -> None:
    rng = np.random.default_rng(1)
    grades, predictions = random_tables(rng, 6)
    while len({row_id.rsplit("_", 2)[0].partition("_")[2] for row_id in grades}) < 5:
        grades, predictions = random_tables(rng, 6)
    if normalise:  # of any sum
        predictions = {
            row_id: tuple(value * float(rng.choice([0.5, 1.0, 3.0])) for value in values)
            for row_id, values in predictions.items()
        }  # type: ignore[misc]
    shuffled = [list(predictions)[index] for index in rng.permutation(len(predictions))]
    path = write_predictions(tmp_path / "p.csv", {row_id: predictions[row_id] for row_id in shuffled})
    truth = write_truth(tmp_path / "train.csv", grades, studies_of(predictions)[::-1])
    flags = ["--normalise"] if normalise else []
    assert score(monkeypatch, path, "--truth", truth, "--json", tmp_path / "out.json", *flags) == 0
    metric = read_json(tmp_path / "out.json")["files"][0]["metric"]
    for part, loss in competition(grades, predictions).items():
        assert metric[part]["value"] == pytest.approx(loss, rel=1e-12)


def read_json(path: Path) -> dict[str, Any]:
    """Read strict JSON: NaN and infinity are no part of it."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    content: dict[str, Any] = json.loads(path.read_text(), parse_constant=refuse)
    return content


@pytest.fixture(scope="module")
def cohort() -> tuple[Grades, Rows, Rows]:
    """Grades of 40 studies with two predictions of them, of which the first knows more."""
    rng = np.random.default_rng(5)
    grades, good, poor = {}, {}, {}
    for study in range(100, 140):
        for site in SITES:
            row_id, grade = f"{study}_{site.key}", int(rng.choice(3, p=(0.7, 0.2, 0.1)))
            for rows, certainty in ((good, 2.0), (poor, 0.7)):
                logits = rng.normal(size=3) + certainty * np.eye(3)[grade]
                rows[row_id] = tuple((np.exp(logits) / np.exp(logits).sum()).tolist())
            if rng.random() < 0.9:
                grades[row_id] = grade
    return grades, good, poor


def test_two_files_are_scored_and_compared(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cohort: tuple[Grades, Rows, Rows],
) -> None:
    grades, good, poor = cohort
    one, two = write_predictions(tmp_path / "one.csv", good), write_predictions(tmp_path / "two.csv", poor)
    truth = write_truth(tmp_path / "train.csv", grades, list(range(100, 140)))
    assert score(monkeypatch, one, two, "--truth", truth, "--json", tmp_path / "out.json") == 0
    sheet, printed = read_json(tmp_path / "out.json"), capsys.readouterr().out
    ours, theirs = sheet["files"]
    assert ours["studies"] == 40 and ours["rows"] == len(grades) and ours["filled_rows"] == 0
    scores = [block["metric"]["score"]["value"] for block in (ours, theirs, sheet["constant"])]
    assert scores == sorted(scores)
    for block in (ours, *ours["conditions"].values(), ours["conditions"]["subarticular_stenosis"]["levels"]["l4_l5"]):
        for figure in (block["brier"], block["log_loss"], block["quadratic_kappa"], *block["auc"].values()):
            assert figure["interval"][0] < figure["value"] < figure["interval"][1]
        assert 0 < block["calibration"]["ece_floor"]["mean"] < block["calibration"]["ece_floor"]["high"]
        assert block["calibration"]["ece"] > 0
    assert ours["auc"]["severe"]["value"] == pytest.approx(
        np.mean([condition["auc"]["severe"]["value"] for condition in ours["conditions"].values()])
    )
    removable, remaining = (ours["calibration"][f"log_loss_{name}"]["value"] for name in ("removable", "remaining"))
    assert removable + remaining == pytest.approx(ours["log_loss"]["value"]) and removable > 0
    cut = ours["conditions"]["neural_foraminal_narrowing"]["calibration"]["cuts"]["severe"]
    assert cut["slope"]["interval"][0] < cut["slope"]["value"] < cut["slope"]["interval"][1]
    words = [f"{cut[name]['value']:.2f}" for name in ("slope", "intercept")]
    line, _ = (line for line in printed.splitlines() if line.startswith("neural foraminal narrowing, severe"))
    assert f"slope {words[0]} (" in line and f"intercept {words[1]} (" in line
    floor = ours["calibration"]["ece_floor"]
    assert f"{ours['calibration']['ece']:.3f} (floor {floor['mean']:.3f}, 95 % of perfect ones up to " in printed
    assert "what another training or another seed would change is not in it" in printed
    # A part pools the sites of its condition; the levels divide them.
    for name, part in (("spinal_canal_stenosis", "spinal"), ("neural_foraminal_narrowing", "foraminal")):
        condition = ours["conditions"][name]
        assert condition["weighted_log_loss"]["value"] == pytest.approx(ours["metric"][part]["value"])
        assert sum(level["rows"] for level in condition["levels"].values()) == condition["rows"]
    [difference] = sheet["differences"]
    assert difference["file"] == str(two) and difference["minus"] == str(one) and difference["studies"] == 40
    for name, value in difference["difference"].items():
        expected = theirs["metric"][name]["value"] - ours["metric"][name]["value"]
        assert value["value"] == pytest.approx(expected) and value["interval"][0] > 0
    assert f"two.csv minus one.csv, on the 40 studies, {len(grades):,} graded rows that both have: score +" in printed
    assert f"score                       {ours['metric']['score']['value']:.4f} (" in printed
    assert "L4-L5" in printed and "note:" not in printed


def test_files_of_other_sites_are_compared_on_what_they_share(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cohort: tuple[Grades, Rows, Rows],
) -> None:
    grades, good, poor = cohort
    canal = {row_id: values for row_id, values in good.items() if "spinal" in row_id}
    fewer = {row_id: values for row_id, values in poor.items() if not row_id.startswith("10")}
    one, two = write_predictions(tmp_path / "one.csv", canal), write_predictions(tmp_path / "two.csv", fewer)
    three = write_predictions(tmp_path / "three.csv", {k: v for k, v in good.items() if "foraminal" in k})
    truth = write_truth(tmp_path / "train.csv", grades, list(range(100, 140)))
    arguments = (one, two, three, "--truth", truth, "--json", tmp_path / "out.json")
    assert score(monkeypatch, *arguments) == 2
    assert "of 10 of 40 studies (100_" in capsys.readouterr().err and not (tmp_path / "out.json").exists()

    assert score(monkeypatch, *arguments, "--missing", "leave_out") == 0
    printed, sheet = capsys.readouterr().out, read_json(tmp_path / "out.json")
    words = "the file predicts no site of neural foraminal narrowing, subarticular stenosis"
    assert f"note: no score of the whole metric, because {words}" in printed
    assert "note: 10 studies (100, 101, 102, 103, 104, ...) are left out, because the file lacks graded rows" in printed
    rows = sum(row_id in grades for row_id in fewer if "spinal" in row_id)
    assert f"two.csv minus one.csv, on the 30 studies, {rows} graded rows that both have: spinal +" in printed
    assert "three.csv minus one.csv: nothing to compare, because the two files share no scored row" in printed
    assert sheet["files"][0]["metric"]["score"]["value"] is None and sheet["differences"][1]["difference"] is None

    assert score(monkeypatch, *arguments, "--missing", "constant") == 0
    printed, sheet = capsys.readouterr().out, read_json(tmp_path / "out.json")
    filled = sum(row_id.startswith("10") for row_id in grades)
    assert f"note: {filled} of {len(grades)} graded rows are missing and count in the metric with the best" in printed
    assert all(block["metric"]["score"]["value"] for block in sheet["files"])
    assert sheet["files"][0]["conditions"].keys() == {"spinal_canal_stenosis"}


def test_truths_of_any_make_give_the_same_scores(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cohort: tuple[Grades, Rows, Rows],
) -> None:
    grades, good, _ = cohort
    path = write_predictions(tmp_path / "p.csv", good)
    truth = write_truth(tmp_path / "train.csv", grades, list(range(100, 140)))
    assert score(monkeypatch, path, "--truth", truth, "--json", tmp_path / "out.json") == 0
    plain = (tmp_path / "out.json").read_text()
    heading, *lines = truth.read_text().splitlines()
    odd = [line.replace(",", ".0,", 1).replace(",,", ",nan,").replace(",,", ", NA ,") for line in lines]
    truth.write_bytes("\r\n".join(["\ufeff" + heading, *odd[::-1], *odd[:3]]).encode())
    assert score(monkeypatch, path, "--truth", truth, "--json", tmp_path / "out.json") == 0
    assert (tmp_path / "out.json").read_text() == plain

    capsys.readouterr()
    contradictory = lines[0].replace("Normal/Mild", "Severe", 1)
    truth.write_text("\n".join([heading, *lines, contradictory]))
    assert score(monkeypatch, path, "--truth", truth) == 2
    message = capsys.readouterr().err
    assert "train.csv: line 42: study 100: appears twice, with Normal/Mild and Severe for L" in message


def test_one_condition_and_two_studies_are_enough(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cohort: tuple[Grades, Rows, Rows],
) -> None:
    grades, good, _ = cohort
    few = {row_id: grade for row_id, grade in grades.items() if row_id[:3] in ("100", "101") and "foraminal" in row_id}
    path, truth = write_predictions(tmp_path / "p.csv", good), write_truth(tmp_path / "train.csv", few, [100, 101])
    heading, *lines = (line.split(",") for line in truth.read_text().splitlines())
    kept = [index for index, name in enumerate(heading) if name == "study_id" or "foraminal" in name]
    truth.write_text("\n".join(",".join(line[index] for index in kept) for line in (heading, *lines)))
    assert score(monkeypatch, path, "--truth", truth, "--json", tmp_path / "out.json") == 0
    printed = capsys.readouterr().out
    assert "38 studies (102, 103, 104, 105, 106, ...) are not in the truth, and not scored" in printed
    assert "because the truth has no graded site for spinal, subarticular, any severe" in printed
    metric = read_json(tmp_path / "out.json")["files"][0]["metric"]
    assert metric["foraminal"]["value"] > 0 and metric["spinal"] == {"value": None, "interval": [None, None]}
    assert score(monkeypatch, path, "--truth", write_truth(truth, few, [100]), "--json", tmp_path / "out.json") == 0
    metric = read_json(tmp_path / "out.json")["files"][0]["metric"]
    assert metric["foraminal"]["value"] > 0 and metric["foraminal"]["interval"] == [None, None]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--truth", "train.csv"], "scoring requires both --score, files of predictions, and --truth"),
        (["--score", "p.csv"], "scoring requires both --score"),
        (["--json", "out.json"], "scoring requires both --score"),
        (["--score", "none.csv", "--truth", "train.csv"], "none.csv: no such file"),
        (["--score", ".", "--truth", "train.csv"], "cannot be read (Is a directory)"),
        (["--score", "p.csv", "--truth", "none.csv"], "none.csv: cannot be read (No such file or directory)"),
        (["--score", "p.csv", "--truth", "p.csv"], "or train.csv's columns"),
        (["--score", "p.csv", "p.csv", "--truth", "train.csv"], "--score 'p.csv': is given twice"),
        (["--score", "p.csv", "--truth", "train.csv", "--missing", "mean"], "--missing"),
        (["--score", "p.csv", "--truth", "train.csv", "--jsno", "x"], "did you mean --json"),
        (["--score", "p.csv", "--truth", "train.csv", "--json", "p.csv"], "--json 'p.csv': would replace a file that"),
        (["--score", "p.csv", "--truth", "train.csv", "--json", "./train.csv"], "would replace a file that is read"),
        (["--score", "p.csv", "--truth", "train.csv", "--json", "."], "--json '.': is a folder; it should be a file"),
        (["--score", "p.csv", "--truth", "train.csv", "--json", "p.csv/x"], "p.csv is a file, not a folder"),
        (["--score", "p.csv", "--calibrate", "p.csv", "--truth", "train.csv"], "--score and --calibrate: are two comm"),
        (["--score", "p.csv", "--truth", "train.csv", "--folds", "all"], "--folds 'all': has no meaning with --score"),
        (["--score", "p.csv", "--truth", "train.csv", "--compare", "x"], "--compare 'x': has no meaning with --score"),
    ],
)
def test_wrong_settings_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cohort: tuple[Grades, Rows, Rows],
    arguments: list[str],
    said: str,
) -> None:
    grades, good, _ = cohort
    monkeypatch.chdir(tmp_path)
    write_predictions(tmp_path / "p.csv", good)
    write_truth(tmp_path / "train.csv", grades, list(range(100, 140)))
    assert run_here(eval_vl, arguments, monkeypatch) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1, message
    assert read_prediction_table(Path("p.csv")).study_N.size == 1000 and len(Path("train.csv").read_text()) > 1000


def test_a_full_disk_is_one_line_and_leaves_no_file(tmp_path: Path, cohort: tuple[Grades, Rows, Rows]) -> None:
    """Files may have a few bytes only, as on a disk that is full; the earlier file stays as it was."""
    grades, good, _ = cohort
    path, truth = write_predictions(tmp_path / "p.csv", good), write_truth(tmp_path / "t.csv", grades, studies_of(good))
    (tmp_path / "out.csv").write_text("earlier\n")
    for arguments in (["--score", str(path), "--json"], ["--calibrate", str(path), "--output"]):
        command = [sys.executable, "eval_vl.py", *arguments, str(tmp_path / "out.csv"), "--truth", str(truth)]
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=120,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900)),
        )
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "File too large" in done.stderr, done.stderr
        assert {one.name for one in tmp_path.iterdir()} == {"p.csv", "t.csv", "out.csv"}
        assert (tmp_path / "out.csv").read_text() == "earlier\n"


def test_ctrl_c_ends_a_calibration_without_a_traceback(tmp_path: Path, cohort: tuple[Grades, Rows, Rows]) -> None:
    grades, good, _ = cohort
    path, truth = write_predictions(tmp_path / "p.csv", good), write_truth(tmp_path / "t.csv", grades, studies_of(good))
    command = [sys.executable, "eval_vl.py", "--calibrate", str(path), "--truth", str(truth)]
    with subprocess.Popen(
        [*command, "--output", str(tmp_path / "out.csv")], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    ) as running:
        time.sleep(1.0)
        running.send_signal(signal.SIGINT)
        _, message = running.communicate(timeout=60)
    assert running.returncode in (130, -signal.SIGINT) and "Traceback" not in message, message
    assert not (tmp_path / "out.csv").exists()


def test_optimised_python_refuses_the_same_and_a_large_cohort_is_quick(tmp_path: Path) -> None:
    """1,974 studies from the command line, with ``-O`` and without torch, pandas or scikit-learn."""
    rng = np.random.default_rng(2)
    prob_N3 = rng.dirichlet((3, 1, 1), size=1974 * 25)
    row_ids = [f"{study}_{site.key}" for study in range(1, 1975) for site in SITES]
    path = write_predictions(tmp_path / "p.csv", dict(zip(row_ids, map(tuple, prob_N3.tolist()), strict=True)))
    grades = dict(zip(row_ids, rng.choice(3, size=len(row_ids), p=(0.7, 0.2, 0.1)).tolist(), strict=True))
    truth = write_truth(tmp_path / "train.csv", grades, list(range(1, 1975)))
    lines = path.read_text().splitlines()
    (tmp_path / "ones.csv").write_text("\n".join([*lines[:7], f"{row_ids[6]},1,1,1"]))
    (tmp_path / "twice.csv").write_text("\n".join([*lines[:7], lines[6]]))
    code = (
        "import sys, eval_vl\n"
        "for path in sys.argv[2:]:\n"
        "    sys.argv = ['x', '--score', path, '--truth', sys.argv[1]]\n"
        "    try:\n        eval_vl.main()\n"
        "    except ValueError as error:\n        print(error)\n"
        "print([name for name in ('torch', 'sklearn', 'pandas') if name in sys.modules])\n"
    ).replace("sys.argv[1]", repr(str(truth)))
    paths = [str(tmp_path / name) for name in ("p.csv", "ones.csv", "twice.csv")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    command = [sys.executable, "-O", "-c", code, str(truth), *paths]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 10  # 2 on a core of its own
    *_, ones, twice, imported = done.stdout.splitlines()
    assert imported == "[]" and "1, 1, 1 sum to 3" in ones and "appears twice" in twice, done.stdout + done.stderr
    assert "1,974 studies, 49,350 graded rows" in done.stdout
