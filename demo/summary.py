"""Print the result of the demo on held-out studies: of the constant, the plain baseline, the base, and after LoRA.

    python -m demo.summary --first data/demo/first --second data/demo/second --steps data/demo/.done

Reads the files of the other commands (``report.json``, ``submission.csv``). Only the score of the test split is
computed here, from the true grades of the synthetic cohort.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.sites import SUBMISSION_SITES
from vl_model.report.report_text import HEAD_WORDS, baseline_loss
from workspace.cli import run_command
from workspace.layout import DataRoot, data_root
from workspace.settings_parser import read_settings

PROG = "-m demo.summary"
HEADS = ("zero_shot", "linear_probe")


@dataclass(frozen=True)
class Settings:
    """Settings of the summary."""

    first: str
    """The data root of the cohort that the base is trained on."""
    second: str
    """The data root of the cohort that LoRA is trained on."""
    steps: str
    """The folder of the files that record how many seconds each step of the demo took."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    root = data_root(settings.second, "second")
    print_seconds(Path(settings.steps))
    print_table({run: read_report(root, run) for run in ("base", "lora")})
    print_submission(root)
    print(f"\nreport      {root.logs('lora') / 'report.html'}")
    print(f"submission  {root.logs('lora') / 'submission.csv'}")
    for sheet in sorted(root.path.parent.glob("answers/*/answers.png")):
        print(f"answers     {sheet}")
    print(f"\nTo ask and to look at slices: .venv/bin/python query_vl.py --root {settings.second} --run lora --serve")


def read_report(root: DataRoot, run: str) -> dict[str, Any]:
    path = root.logs(run) / "report.json"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; eval_vl.py writes it")
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def print_seconds(steps: Path) -> None:
    seconds = {
        path.name: int(path.read_text()) for path in sorted(steps.iterdir(), key=lambda p: int(p.name.split("-")[0]))
    }
    print(f"\n{sum(seconds.values())} seconds: " + ", ".join(f"{name} {value}" for name, value in seconds.items()))


def print_table(reports: dict[str, dict[str, Any]]) -> None:
    """Print the table in Markdown, as the README shows it."""
    lora = reports["lora"]
    n, constant = lora["n"], lora["constant_baseline"]
    print(f"\nThe competition's metric on {n['studies']} held-out studies ({n['rows']} graded sites) of the second")
    print("cohort; lower is better; the 95 % interval over studies in brackets.\n")
    print("| | metric | ratio to the constant | spinal | foraminal | subarticular | any severe | ECE (its floor) |")
    print("|---|---|---|---|---|---|---|---|")
    print(f"| best constant per column | {with_interval(constant)} | 1 | {parts(constant)} | |")
    baseline = lora["plain_baseline"]
    print_row("plain baseline, without a network", baseline["metric"]["metric_optimal"], baseline["calibration"])
    for head in HEADS:
        for run, report in reports.items():
            name = "base" if run == "base" else "after LoRA"
            print_row(
                f"{HEAD_WORDS[head]}, {name}", report["metric"][head]["metric_optimal"], report["calibration"][head]
            )
            if head == "zero_shot":
                print_row(f"{HEAD_WORDS[head]}, {name}, no calibration: label-free", report["by_rule"][head], None)
    compared = {head: lora["comparison"]["heads"][head]["difference"] for head in HEADS}
    print(f"\nLoRA minus base, paired by study: {differences(compared)}")
    print(f"LoRA minus baseline, paired by study: {differences(baseline['heads_minus_baseline'])}")
    if loss := baseline_loss(lora):
        print(loss)


def print_row(name: str, block: dict[str, Any], calibration: dict[str, Any] | None) -> None:
    """Print a row of metric-optimal probabilities; the calibration error is that of calibrated ones, None for none."""
    ratio = block["ratio_to_constant"]["score"]
    ece = ""
    if calibration is not None:
        ece = f"{calibration['calibrated']['ece']:.3f} ({calibration['calibrated']['ece_floor']['mean']:.3f}) "
    print(
        f"| {name} | {with_interval(block)} | {ratio['value']:.2f} ({ratio['interval'][0]:.2f} to "
        f"{ratio['interval'][1]:.2f}) | {parts(block)} | {ece}|"
    )


def with_interval(block: dict[str, Any]) -> str:
    low, high = block["interval"]["score"]
    return f"{block['score']:.3f} ({low:.3f} to {high:.3f})"


def parts(block: dict[str, Any]) -> str:
    return " | ".join(f"{block[name]:.3f}" for name in ("spinal", "foraminal", "subarticular", "any_severe"))


def differences(of_head: dict[str, Any]) -> str:
    """Return the difference of each head's score, with its interval."""
    texts = []
    for head in HEADS:
        score = of_head[head]["score"]
        low, high = score["interval"]
        texts.append(f"{HEAD_WORDS[head]} {score['value']:+.3f} ({low:+.3f} to {high:+.3f})")
    return "; ".join(texts)


def print_submission(root: DataRoot) -> None:
    """Print the number and order of the rows of submission.csv, and its metric against the true grades."""
    from vl_model.scoring.metrics import competition_metric
    from vl_model.scoring.prediction_table import read_prediction_table
    from vl_model.scoring.scored_rows import graded_rows, scored_rows

    path = root.logs("lora") / "submission.csv"
    with path.open(newline="", encoding="utf-8") as file:
        row_ids = [row["row_id"] for row in csv.DictReader(file)]
    with root.table("sample_submission.csv").open(newline="", encoding="utf-8") as file:
        sample_ids = [row["row_id"] for row in csv.DictReader(file)]
    order = (
        "in the order of sample_submission.csv"
        if row_ids == sample_ids
        else "NOT in the order of sample_submission.csv"
    )
    truth = graded_rows(root.path / "phantom_truth" / "truth.csv")
    rows = scored_rows(truth, read_prediction_table(path))
    metric = competition_metric(rows.table, rows.prob_N3)
    studies = len(row_ids) // len(SUBMISSION_SITES)
    print(
        f"\nsubmission.csv: {len(row_ids)} rows for {studies} test studies, {order}; metric against the true "
        f"grades {metric.score:.3f} (unannotated studies, whose sites are placed by the atlas)"
    )


if __name__ == "__main__":
    run_command(PROG, main)
