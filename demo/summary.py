"""The demo's result in one table: constants, the bare base, and LoRA from it, on studies that no part of them saw.

python -m demo.summary --first data/demo/first --second data/demo/second --steps data/demo/.done

Reads what the commands wrote (``report.json``, ``submission.csv``) and computes only the test split's score, for
which a phantom has the truth.
"""

import csv
import json
from pathlib import Path
from typing import Any

from data_prep.sites import SUBMISSION_SITES
from workspace.cli import SettingsParser, run_command
from workspace.layout import DataRoot, data_root

PROG = "-m demo.summary"
HEADS = ("zero_shot", "linear_probe")


def main() -> None:
    parser = SettingsParser(PROG, __doc__)
    parser.add_argument("--first", type=str, required=True, help="the data root of the base's cohort")
    parser.add_argument("--second", type=str, required=True, help="the data root of the second cohort")
    parser.add_argument("--steps", type=str, required=True, help="the folder with each step's seconds")
    settings = parser.parse_args()
    root = data_root(settings.second)
    print_seconds(Path(settings.steps))
    print_table({run: read_report(root, run) for run in ("base", "lora")})
    print_submission(root)
    print(f"\nreport      {root.logs('lora') / 'report.html'}")
    print(f"submission  {root.logs('lora') / 'submission.csv'}")
    for picture in sorted(root.path.parent.glob("answers/*/answers.png")):
        print(f"answers     {picture}")


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
    """Markdown, because the README shows it."""
    lora = reports["lora"]
    n, constant = lora["n"], lora["constant_baseline"]
    print(f"\nThe competition's metric on {n['studies']} held-out studies ({n['rows']} graded sites) of the second")
    print("cohort; lower is better; in brackets the 95 % interval over studies.\n")
    print("| | metric | of the constant | spinal | foraminal | subarticular | any severe | ECE |")
    print("|---|---|---|---|---|---|---|---|")
    print(f"| best constant per column | {with_interval(constant)} | 1 | {parts(constant)} | |")
    for head in HEADS:
        for run, report in reports.items():
            block = report["metric"][head]["metric_optimal"]
            ratio = block["ratio_to_constant"]["score"]
            ece = report["ece"][head]["calibrated"]["top_label"]
            name = "bare base" if run == "base" else "after LoRA"
            print(
                f"| {head.replace('_', ' ')}, {name} | {with_interval(block)} | {ratio['value']:.2f} "
                f"({ratio['interval'][0]:.2f} to {ratio['interval'][1]:.2f}) | {parts(block)} | {ece:.3f} |"
            )
    print("\nLoRA minus base, paired by study: " + "; ".join(difference(lora, head) for head in HEADS))


def with_interval(block: dict[str, Any]) -> str:
    low, high = block["interval"]["score"]
    return f"{block['score']:.3f} ({low:.3f} to {high:.3f})"


def parts(block: dict[str, Any]) -> str:
    return " | ".join(f"{block[name]:.3f}" for name in ("spinal", "foraminal", "subarticular", "any_severe"))


def difference(report: dict[str, Any], head: str) -> str:
    score = report["comparison"]["heads"][head]["difference"]["score"]
    low, high = score["interval"]
    return f"{head.replace('_', ' ')} {score['value']:+.3f} ({low:+.3f} to {high:+.3f})"


def print_submission(root: DataRoot) -> None:
    """Rows and order of submission.csv, and its metric against the phantom's truth."""
    from vl_model.evaluation.submission import score_submission

    path = root.logs("lora") / "submission.csv"
    with path.open(newline="", encoding="utf-8") as file:
        row_ids = [row["row_id"] for row in csv.DictReader(file)]
    with root.table("sample_submission.csv").open(newline="", encoding="utf-8") as file:
        sample_ids = [row["row_id"] for row in csv.DictReader(file)]
    order = "in the order of sample_submission.csv" if row_ids == sample_ids else "NOT in the promised order"
    metric = score_submission(path, root.path / "phantom_truth" / "truth.csv")
    studies = len(row_ids) // len(SUBMISSION_SITES)
    print(
        f"\nsubmission.csv: {len(row_ids)} rows for {studies} test studies, {order}; metric against the truth "
        f"{metric.score:.3f} (sites placed by the atlas: nobody marked them)"
    )


if __name__ == "__main__":
    run_command(PROG, main)
