"""Evaluate a run on its held-out studies, and predict the test split.

    python eval_vl.py --root DATA --run first
    python eval_vl.py --root DATA --run lora --compare base
    python eval_vl.py --score PREDICTIONS.csv OTHER.csv --truth train.csv --json scores.json
    python eval_vl.py --root DATA --run lora --folds all
    python eval_vl.py --root DATA --run all --calibrators lora
    python eval_vl.py --calibrate PREDICTIONS.csv OTHER.csv --truth train.csv --output calibrated.csv

Embeds both splits once, fits both heads on the training studies and calibrators on the held-out ones (cross-fitted by
study), and compares them with a plain baseline that uses no network. Writes ``report.html``, ``report.json``,
``predictions.csv``, ``suspect_labels.csv`` and, if there is a test split, ``submission.csv`` into
``<root>/train/logs/<run>/``; embeddings and heads go to ``<root>/train/checkpoints/<run>/``.
With `--folds all` the runs lora-0, lora-1, ... of all folds are evaluated as one: every study is predicted by the model
that held it out, and the test split by the mean of all models. A run that held nothing out has no figures of its own;
with `--calibrators` it is graded by the calibrators of such joined runs.
With `--score` nothing is evaluated, and neither a data root nor a run is needed: anyone's predictions are scored
against a table of true grades. `--calibrate` likewise calibrates them. Research use only.
"""

if __name__ == "__main__":
    from workspace.interrupts import end_at_ctrl_c

    end_at_ctrl_c()  # until run_command handles it: the imports take time

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from vl_model import LoadedRun, load_folds, load_run
from vl_model.fold_runs import load_fold_runs
from workspace.cli import run_command, usable_cores
from workspace.file_modes import check_may_write
from workspace.layout import DataRoot, data_root, home_expanded
from workspace.output_files import check_output
from workspace.root_settings import FinishedRunSettings
from workspace.setting_error import SettingError
from workspace.setting_types import NonNegativeInteger, PositiveInteger
from workspace.settings_parser import plain_settings, read_settings

if TYPE_CHECKING:
    from data_prep.conversion.pairs import Dataset
    from vl_model.evaluation.embeddings import Embeddings
    from vl_model.evaluation.grader import Grader

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
    folds: Literal["all"] | None = None
    """all: evaluate the runs RUN-0, RUN-1, ... of all folds (train_vl.py --fold) as one, out of fold."""
    calibrators: str | None = None
    """For a run that held nothing out: the name of joined runs of folds that were trained with the same settings. Their
    calibrators make its submission and its grades of new studies."""
    compare: str | None = None
    """The name of another evaluated run, to compare this run with on the studies that both held out."""
    located: bool = True
    """Grade the held-out studies at located places too, where new studies are graded, and calibrate for new studies
    there."""
    workers: PositiveInteger = field(default_factory=usable_cores)
    """The number of processes that locate the held-out studies. By default one per core."""
    batch_size: PositiveInteger = 64
    """The number of sites per forward pass."""
    seed: NonNegativeInteger = 0
    """The seed of the cross-fitting groups, and of the labels that are drawn for the floor of the ECE."""
    scoring: ScoringSettings = field(default_factory=ScoringSettings)
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    if settings.calibration != CalibrationSettings() or settings.scoring != ScoringSettings():
        check_settings_of_files(settings)
        if settings.calibration != CalibrationSettings():
            print_calibration(settings)
        else:
            print_scores(settings.scoring)
        return
    root = data_root(settings.root)
    is_joined = settings.folds is not None
    if is_joined and settings.calibrators:
        raise SettingError(
            "calibrators", f"{settings.calibrators!r}: joined runs of folds have calibrators of their own"
        )
    open_runs = load_fold_runs if is_joined else load_one_run
    runs = open_runs(root, settings.run, settings.base)
    embedded = [run.folder / "embeddings" for run in runs]
    for written in (root.run(settings.run) / "heads", root.logs(settings.run), *embedded):
        check_may_write(written)  # now, and not when everything is computed
    train = runs[0].training_dataset()
    test = runs[0].dataset("test") if runs[0].has_split("test") else None
    if settings.calibrators:
        grade_by_siblings(settings, root, runs[0], train, test)
        return

    # These imports take seconds, so that they come after everything that can be checked without them.
    from vl_model.evaluation.predictions import read_predictions
    from vl_model.joint_evaluation import evaluate_runs, report_of, write_evaluation

    other = None
    if settings.compare:
        other = settings.compare, read_predictions(runs[0].comparable_predictions(settings.compare))
    evaluation = evaluate_runs(
        root,
        settings.run,
        runs,
        train,
        head=settings.head,
        joined=is_joined,
        has_test=test is not None,
        batch_size=settings.batch_size,
        workers=settings.workers if settings.located else 0,
        seed=settings.seed,
    )
    unsaved = {"root", "base", "workers", *plain_settings(settings.scoring), *plain_settings(settings.calibration)}
    recorded = {name: value for name, value in plain_settings(settings).items() if name not in unsaved}
    report = report_of(evaluation, recorded, other)
    print(*write_evaluation(evaluation, report), sep="\n")
    submit(root, settings.run, test, evaluation.grader, evaluation.new)


def load_one_run(root: DataRoot, run: str, base: str | None) -> tuple[LoadedRun, ...]:
    return (load_run(root, run, base),)


def grade_by_siblings(
    settings: Settings, root: DataRoot, run: LoadedRun, train: "Dataset", test: "Dataset | None"
) -> None:
    """Write the heads of a run that held nothing out, with its siblings' calibrators, and its submission."""
    from vl_model.evaluated_runs import fit_on_all
    from vl_model.evaluation.grader import write_grader
    from vl_model.evaluation.known_labels import known_labels

    siblings = load_folds(root, str(settings.calibrators), settings.base)
    grader, new = fit_on_all(run, siblings, known_labels(root, train), settings.batch_size, test is not None)
    write_grader(run.folder / "heads", grader)
    print(
        f"{run.name} held nothing out: it has no figures of its own; {siblings.logs / 'report.html'} has its siblings'"
    )
    submit(root, settings.run, test, grader, [] if new is None else [new])


def submit(
    root: DataRoot, run: str, test: "Dataset | None", grader: "Grader", embeddings: "Sequence[Embeddings]"
) -> None:
    """Write the submission if there is a test split, and print its path."""
    from vl_model.report.report_text import HEAD_WORDS
    from vl_model.scoring.submission import write_submission

    if test is None:
        print("submission  none: there is no test split (prepare_data.py --split test makes it)")
        return
    path = root.logs(run) / "submission.csv"
    prob_SX3 = grader.grade_studies(test.study_ids, embeddings, "metric_optimal")
    why = write_submission(path, test.study_ids, prob_SX3, root.table("sample_submission.csv"))
    print(f"submission  {path} ({len(test.study_ids)} studies, {HEAD_WORDS[grader.best]})")
    if why:
        print(f"submission  {why}")


def check_settings_of_files(settings: Settings) -> None:
    """Raise SettingError for a setting that would be ignored when files are scored or calibrated."""
    calibrates = bool(settings.calibration.calibrate)
    if settings.scoring.score and calibrates:
        raise SettingError("score", "and --calibrate: are two commands; calibrate first, then score what was written")
    if not (calibrates or settings.scoring.score):
        return  # what is missing is the more useful message
    of_runs = ("head", "folds", "calibrators", "compare", "located")
    unused = [(name, getattr(settings, name), getattr(Settings, name)) for name in of_runs]
    if calibrates:
        unused += [
            (name, getattr(settings.scoring, name), getattr(ScoringSettings, name)) for name in ("json", "missing")
        ]
    for name, value, default in unused:
        if value != default:
            command = "--calibrate" if calibrates else "--score"
            raise SettingError(name, f"{value!r}: has no meaning with {command}; leave it out")


def print_scores(scoring: ScoringSettings) -> None:
    """Score files of predictions. Raises ValueError if a file cannot be read or a setting is missing."""
    if not scoring.score or scoring.truth is None:
        wrong = "scoring requires both --score, files of predictions, and --truth, a table of true grades"
        for name, value in plain_settings(scoring).items():
            if not scoring.score and value and value != getattr(ScoringSettings, name):
                raise SettingError(name, f"{value!r}: {wrong}")
        raise ValueError(wrong)
    from vl_model.report.score_text import score_text
    from vl_model.scoring.score_sheet import score_files, write_score_sheet
    from workspace.json_files import plain

    files, truth = [home_expanded(name, "score") for name in scoring.score], home_expanded(scoring.truth, "truth")
    output = None if scoring.json is None else home_expanded(scoring.json, "json")
    if output is not None:
        check_output("json", output, [*files, truth])
    sheet = plain(score_files(files, truth, scoring.missing, scoring.normalise))
    if output is not None:
        write_score_sheet(output, sheet)
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
    from vl_model.calibration.calibrated_files import apply_to_files, calibrate_files, calibrated_path, calibrator_path

    files = [home_expanded(name, "calibrate") for name in calibration.calibrate]
    output = home_expanded(calibration.output, "output")
    named = home_expanded(calibration.apply, "apply") if calibration.apply else home_expanded(str(truth), "truth")
    for path in (output, calibrated_path(output), calibrator_path(output)):
        check_output("output", path, [*files, named])
    if output.suffix != ".csv":  # two outputs that differ in it would share the names of the other files
        raise SettingError("output", f"{calibration.output!r}: expected a file that ends in .csv")
    if calibration.apply is not None:
        lines = apply_to_files(named, files, output, normalise)
    else:
        lines = calibrate_files(files, named, output, calibration.context, normalise, settings.seed)
    print("\n".join(lines))


if __name__ == "__main__":
    run_command(PROG, main)
