"""Evaluate a run on its held-out studies, and predict the test split.

    python eval_vl.py --root DATA --run first
    python eval_vl.py --root DATA --run lora --compare base
    python eval_vl.py --score PREDICTIONS.csv OTHER.csv --truth train.csv --json scores.json
    python eval_vl.py --calibrate PREDICTIONS.csv OTHER.csv --truth train.csv --output calibrated.csv

Embeds both splits once, fits both heads on the training studies and calibrators on the held-out ones (cross-fitted by
study), and compares them with a plain baseline that uses no network. Writes ``report.html``, ``report.json``,
``predictions.csv`` and, if there is a test split, ``submission.csv`` into ``<root>/train/logs/<run>/``; embeddings and
heads go to ``<root>/train/checkpoints/<run>/``.
With `--score` nothing is evaluated, and neither a data root nor a run is needed: anyone's predictions are scored
against a table of true grades. `--calibrate` likewise calibrates them. Research use only.
"""

if __name__ == "__main__":
    from workspace.interrupts import end_at_ctrl_c

    end_at_ctrl_c()  # until run_command handles it: the imports take time

from dataclasses import dataclass, field
from typing import Literal

from vl_model import load_run
from workspace.cli import run_command
from workspace.file_modes import check_may_write
from workspace.layout import data_root, home_expanded
from workspace.root_settings import FinishedRunSettings
from workspace.setting_types import NonNegativeInteger, PositiveInteger
from workspace.settings_parser import plain_settings, read_settings

PROG = "eval_vl.py"


@dataclass(frozen=True)
class ScoringSettings:
    """Scoring of files."""

    score: tuple[str, ...] = ()
    """Evaluate nothing: score these CSV files of predictions, anyone's (row_id, normal_mild, moderate, severe), against
    the table of --truth. Differences are to the first file."""
    truth: str | None = None
    """A CSV file of true grades: train.csv, or the columns study_id, condition, side, level and severity. If it has a
    column split, only the test split counts."""
    json: str | None = None
    """The file to which the scores are written as JSON, besides being printed."""
    missing: Literal["refuse", "constant", "leave_out"] = "refuse"
    """What happens to graded rows that a file lacks. constant: the best constants, learned from other studies, stand
    for them. leave_out: studies that lack a row are not scored."""
    normalise: bool = False
    """Take rows of any sum, as the competition's code does."""


@dataclass(frozen=True)
class CalibrationSettings:
    """Calibration of files."""

    calibrate: tuple[str, ...] = ()
    """Evaluate nothing: calibrate these CSV files of predictions, anyone's, out of fold against the table of --truth,
    and blend them if there are several."""
    output: str | None = None
    """The CSV file of the metric-optimal probabilities. NAME-calibrated.csv, for people, and NAME-calibrator.json, for
    --apply, are written beside it."""
    apply: str | None = None
    """A saved calibrator, which calibrates the files of --calibrate instead of true grades."""
    context: bool = False
    """Add what the other sites of a study say about a site, as far as that helps."""


@dataclass(frozen=True)
class Settings(FinishedRunSettings):
    """Settings of eval_vl.py."""

    head: Literal["auto", "zero_shot", "linear_probe"] = "auto"
    """The head that makes the submission. auto: the one with the better metric on the held-out studies."""
    compare: str | None = None
    """The name of another evaluated run, to compare this run with on the studies that both held out."""
    batch_size: PositiveInteger = 64
    """The number of sites per forward pass."""
    seed: NonNegativeInteger = 0
    """The seed of the cross-fitting groups, and of the labels that are drawn for the floor of the ECE."""
    scoring: ScoringSettings = field(default_factory=ScoringSettings)
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    if settings.calibration != CalibrationSettings():
        print_calibration(settings)
        return
    if settings.scoring != ScoringSettings():
        print_scores(settings.scoring)
        return
    root = data_root(settings.root)
    run = load_run(root, settings.run, settings.base)
    for folder in (run.folder / "embeddings", run.folder / "heads", run.logs):
        check_may_write(folder)  # now, and not when everything is computed
    train = run.training_dataset()
    test = run.dataset("test") if run.has_split("test") else None

    # These imports take seconds, so that they come after everything that can be checked without them.
    from data_prep.conversion.crops import open_crops
    from vl_model.baseline.baseline_files import baseline_log_probabilities
    from vl_model.evaluation.cross_fitting import (
        better_head,
        cross_fit_kinds,
        fit_grader,
        fit_heads,
        predict_held_out,
        split_studies,
    )
    from vl_model.evaluation.grader import write_grader
    from vl_model.evaluation.known_labels import known_labels
    from vl_model.evaluation.predictions import read_predictions, write_predictions
    from vl_model.loaded_run import REPORT_SCHEMA_VERSION
    from vl_model.report.example_sites import choose_example_sites
    from vl_model.report.report import write_report
    from vl_model.report.report_content import baseline_block, compare_runs, held_out_metrics
    from vl_model.report.report_text import report_text
    from vl_model.scoring.submission import write_submission
    from workspace.json_files import plain

    other = read_predictions(root.logs(settings.compare) / "predictions.csv") if settings.compare else None
    split = split_studies(known_labels(root, train), train.fold_of, run.record.held_out_folds)
    embeddings, prompts = run.embed("train", settings.batch_size), run.embed_prompts()
    new = run.embed("test", settings.batch_size) if test else None

    heads = fit_heads(split.train, embeddings, prompts.text_SCD, prompts.logit_scale)
    held_out = predict_held_out(heads, split, embeddings, settings.seed)
    best = better_head(held_out) if settings.head == "auto" else settings.head
    grader = fit_grader(heads, split, embeddings, best)
    crops = open_crops(root.processed("train"))
    log_prob_M3 = baseline_log_probabilities(run.folder / "heads", split, embeddings, crops)
    baseline = cross_fit_kinds(log_prob_M3, split, held_out.imaged_N, settings.seed)
    unsaved = {"root", "base", *plain_settings(settings.scoring), *plain_settings(settings.calibration)}
    report = {
        "schema_version": REPORT_SCHEMA_VERSION,
        "run": settings.run,
        "head": best,
        "fingerprint": embeddings.fingerprint,
        "held_out_folds": run.record.held_out_folds,
        "training_studies": len(split.train.study_ids),
        "settings": {name: value for name, value in plain_settings(settings).items() if name not in unsaved},
        "training_settings": run.record.settings,
        **held_out_metrics(held_out, settings.seed),
        "plain_baseline": baseline_block(held_out, baseline, settings.seed),
        "comparison": compare_runs(held_out, settings.compare, other) if other and settings.compare else None,
    }

    write_grader(run.folder / "heads", grader)
    write_predictions(run.logs / "predictions.csv", held_out)
    examples = choose_example_sites(held_out, best, train.pairs)
    write_report(run.logs, plain(report), examples, crops)
    print(report_text(plain(report)))
    print(f"report      {run.report_page}")
    if test is None or new is None:
        print("submission  none: there is no test split (prepare_data.py --split test makes it)")
        return
    path = run.logs / "submission.csv"
    prob_SX3 = grader.grade_studies(test.study_ids, new, "metric_optimal")
    write_submission(path, test.study_ids, prob_SX3, root.table("sample_submission.csv"))
    print(f"submission  {path} ({len(test.study_ids)} studies, {best.replace('_', ' ')})")


def print_scores(scoring: ScoringSettings) -> None:
    """Score files of predictions. Raises ValueError if a file cannot be read or a setting is missing."""
    if not scoring.score or scoring.truth is None:
        raise ValueError("scoring requires both --score, files of predictions, and --truth, a table of true grades")
    from vl_model.report.score_text import score_text
    from vl_model.scoring.score_sheet import score_files, write_score_sheet
    from workspace.json_files import plain

    files = [home_expanded(name, "score") for name in scoring.score]
    sheet = plain(score_files(files, home_expanded(scoring.truth, "truth"), scoring.missing, scoring.normalise))
    if scoring.json is not None:
        write_score_sheet(home_expanded(scoring.json, "json"), sheet)
    print(score_text(sheet))


def print_calibration(settings: Settings) -> None:
    """Calibrate files of predictions. Raises ValueError if a file cannot be read or a setting is missing."""
    calibration, truth, normalise = settings.calibration, settings.scoring.truth, settings.scoring.normalise
    if not calibration.calibrate or calibration.output is None or (truth is None) == (calibration.apply is None):
        raise ValueError(
            "calibrating requires --calibrate, files of predictions, --output, the file to write, and either --truth, "
            "a table of true grades, or --apply, a saved calibrator"
        )
    if calibration.apply is not None and calibration.context:
        raise ValueError("--context: a saved calibrator has its context or has none; --apply takes it as it is")
    from vl_model.calibration.calibrated_files import apply_to_files, calibrate_files

    files = [home_expanded(name, "calibrate") for name in calibration.calibrate]
    output = home_expanded(calibration.output, "output")
    if calibration.apply is not None:
        lines = apply_to_files(home_expanded(calibration.apply, "apply"), files, output, normalise)
    else:
        lines = calibrate_files(
            files, home_expanded(str(truth), "truth"), output, calibration.context, normalise, settings.seed
        )
    print("\n".join(lines))


if __name__ == "__main__":
    run_command(PROG, main)
