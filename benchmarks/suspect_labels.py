"""Measure whether suspect labels are wrong labels, and whether a training without them is better.

    python -m benchmarks.suspect_labels --root PHANTOM --base local-dir:data/demo/first/train/checkpoints/base/final

PHANTOM is a phantom cohort with phantom_truth/, as data_prep.phantom writes it. It is copied twice, with the true
grades of its graded sites: once as they are, and once with 3 % of them moved to a neighbouring grade in train.csv. Both
copies are prepared. Runs of all folds are trained on the copy with wrong labels and joined, and their
suspect_labels.csv is compared with what was moved. Then the folds of --compared are trained twice more: without the
first 1 % of that list, and on the true grades. All three are graded against the true grades of the held-out studies;
differences are paired by study and have 95 % intervals. Calibrators are fitted on the labels of the run's own copy, as
a user's would be.

Orders of the labels, from the same calibrated probabilities:

- margin: ln of how many times as probable the most probable grade is: the one in use.
- surprise: -ln of the probability of the known grade.
- excess: the surprise minus its expectation (the entropy of the probabilities).
- standardised: the excess over the standard deviation of the surprise.
- by grade: the surprise minus the mean surprise of the same condition and known grade.
- difference: the probability of the most probable grade minus that of the known one.

A stage that is done is not repeated. With the default of 120 steps and three folds it takes some ten minutes of a core.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.command_line import run_command_line
from benchmarks.machine import describe_machine
from benchmarks.planted_labels import Grades, copy_cohort, plant, take_folds, true_grades
from data_prep.sites import SITES, Severity, Site
from vl_model.data.site_table import SITE_INDEX, Floats, Ints, SiteTable, row_keys
from vl_model.data.suspect_labels import SUSPECT_LABELS, read_suspect_labels
from vl_model.evaluation.grader import HEADS, HeadName, Kind
from vl_model.evaluation.label_ranking import label_margins
from vl_model.evaluation.predictions import read_predictions
from vl_model.fold_runs import fold_run_name
from vl_model.report.report_text import HEAD_WORDS
from vl_model.scoring.intervals import Interval
from vl_model.scoring.metrics import SEVERITY_WEIGHTS, StudySums, study_sums
from vl_model.scoring.score_intervals import score_differences, score_intervals
from workspace.cli import run_command
from workspace.json_files import read_object
from workspace.layout import DataRoot, data_root
from workspace.root_settings import RootSettings
from workspace.setting_types import FoldCount, PositiveInteger, Share
from workspace.settings_parser import read_settings

PROG = "-m benchmarks.suspect_labels"
NOISY, CLEAN, DROPPED = "noisy", "clean", "dropped"
LIST_SHARES = (0.01, 0.02, 0.03, 0.05)


@dataclass(frozen=True, kw_only=True)
class Settings(RootSettings):
    """Settings of the benchmark of suspect labels."""

    base: str
    """The base of the runs, as train_vl.py's model."""
    folder: str = "data/suspect_labels"
    """The folder for the copies and their runs."""
    moved: Share = 0.03
    """The share of the grades that is moved to a neighbouring grade."""
    dropped: Share = 0.01
    """The share of the graded sites that is left out of training."""
    folds: FoldCount = 3
    """The number of folds."""
    compared: tuple[int, ...] = (0,)
    """The folds for which the three trainings are compared."""
    steps: PositiveInteger = 120
    """The number of training steps."""
    seed: int = 1
    """The seed of the choice of what is moved."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    source = data_root(settings.root)
    truth = true_grades(source)
    moved = plant(truth, settings.moved, settings.seed)
    noisy, clean = (
        prepared(source, DataRoot(Path(settings.folder).absolute() / name), grades, settings.folds)
        for name, grades in ((NOISY, {**truth, **moved}), (CLEAN, truth))
    )
    take_folds(noisy, clean)
    describe_machine("torch")
    print(f"{len(truth)} graded sites of {len({study for study, _ in truth})} studies, {len(moved)} of them moved")
    for fold in range(settings.folds):
        train(noisy, NOISY, fold, settings)
    evaluate(noisy, NOISY, "--folds", "all")
    print_precision(noisy, truth, moved)
    suspects = noisy.logs(NOISY) / SUSPECT_LABELS
    for fold in settings.compared:
        train(noisy, DROPPED, fold, settings, "--drop_suspects", str(suspects), "--drop_share", str(settings.dropped))
        train(clean, CLEAN, fold, settings)
        for root, run in ((noisy, NOISY), (noisy, DROPPED), (clean, CLEAN)):
            evaluate(root, fold_run_name(run, fold))
    print_dropped(noisy, moved, settings)
    print_comparison(noisy, clean, truth, settings)


def prepared(source: DataRoot, copy: DataRoot, grades: Grades, folds: int) -> DataRoot:
    """Return the prepared copy of the cohort with these grades, which is made if it does not exist yet."""
    if not copy.dataset.is_dir():
        copy_cohort(source, copy, grades)
    flags = ("--split", "train", "--locator", "none", "--folds", str(folds), "--workers", "2")
    run_command_line("prepare_data.py", "--root", str(copy.path), *flags)
    return copy


def train(root: DataRoot, run: str, fold: int, settings: Settings, *more: str) -> None:
    """Train the run of a fold, unless it is finished; an interrupted one starts anew."""
    if (root.run(fold_run_name(run, fold)) / "final").is_dir():
        return
    length = ("--max_train_steps", str(settings.steps), "--evaluation_steps", str(settings.steps))
    flags = ("--config", "recipes/demo.yaml", "--held_out_folds", "0", "--per_device_train_batch_size", "64", *length)
    where = ("--root", str(root.path), "--run", run, "--fold", str(fold), "--model", settings.base)
    run_command_line("train_vl.py", *where, *flags, "--report_to", "none", "--overwrite", *more)


def evaluate(root: DataRoot, run: str, *more: str) -> None:
    """Evaluate a run at the marks, unless that is done."""
    if not (root.logs(run) / SUSPECT_LABELS).is_file():
        run_command_line("eval_vl.py", "--root", str(root.path), "--run", run, "--located", "false", *more)


def print_precision(root: DataRoot, truth: Grades, moved: Grades) -> None:
    """Print how many of the first listed labels were moved, by the order of the labels; and of the list itself."""
    head = head_of(root, NOISY)
    table, prob_N3 = read_predictions(root.logs(NOISY) / "predictions.csv")[head, "calibrated"]
    graded = table.labelled_N
    table, prob_N3 = table.take(graded), prob_N3[graded]
    moved_N = np.array([key in {(study, SITE_INDEX[site]) for study, site in moved} for key in row_keys(table)])
    counts = [round(share * len(table)) for share in LIST_SHARES]
    shares = "".join(f"{f'{count} ({share:.0%})':>12}" for count, share in zip(counts, LIST_SHARES, strict=True))
    print(f"\nshare of moved labels among the first; {HEAD_WORDS[head]}, out of fold; chance {moved_N.mean():.3f}")
    print(f"{'order':<14}{shares}   known grades of the first {counts[0]}")
    for name, score_N in orders(table, prob_N3).items():
        order = np.argsort(-score_N, kind="stable")
        found = "".join(f"{moved_N[order[:count]].mean():>12.3f}" for count in counts)
        print(f"{name:<14}{found}   {grades_in_words(table.severity_N[order[: counts[0]]])}")
    listed = read_suspect_labels(root.logs(NOISY) / SUSPECT_LABELS)
    first = [(one.study_id, one.site) in moved for one in listed if one.rank <= counts[0]]
    print(f"{SUSPECT_LABELS}: {len(listed)} rows; of the first {len(first)}, {sum(first)} were moved")
    caught = sum((one.study_id, one.site) in moved for one in listed)
    print(f"{caught} of {len(moved)} moved labels are listed at all; {len(truth)} sites were ranked")


def orders(table: SiteTable, prob_N3: Floats) -> dict[str, Floats]:
    """Return each order's score of the labels, the most suspect with the largest."""
    log_prob_N3 = np.log(np.maximum(prob_N3, 1e-9))
    surprise_N, margin_N = label_margins(prob_N3, table.severity_N)
    entropy_N = -(prob_N3 * log_prob_N3).sum(axis=1)
    deviation_N = np.sqrt(np.maximum((prob_N3 * log_prob_N3**2).sum(axis=1) - entropy_N**2, 0.05**2))
    known_N = prob_N3[np.arange(len(table)), table.severity_N]
    return {
        "margin": margin_N,
        "surprise": surprise_N,
        "excess": surprise_N - entropy_N,
        "standardised": (surprise_N - entropy_N) / deviation_N,
        "by grade": surprise_N - _means(surprise_N, 3 * table.condition_N + table.severity_N),
        "difference": prob_N3.max(axis=1) - known_N,
    }


def _means(value_N: Floats, group_N: Ints) -> Floats:
    """Return for each row the mean value of its group."""
    mean_G = np.bincount(group_N, value_N) / np.maximum(np.bincount(group_N), 1)
    return np.asarray(mean_G[group_N])


def grades_in_words(severity_N: Ints) -> str:
    counts = np.bincount(severity_N, minlength=len(Severity))
    return ", ".join(f"{count} {grade.label}" for grade, count in zip(Severity, counts, strict=True))


def print_dropped(root: DataRoot, moved: Grades, settings: Settings) -> None:
    """Print how many sites each run left out, and how many of them were moved."""
    print()
    for fold in settings.compared:
        run = fold_run_name(DROPPED, fold)
        record = read_object(root.run(run) / "final" / "site_model.json", "train_vl.py")["dropped_sites"]
        keys = {(study, key) for study, key in record["sites"]}
        wrong = len(keys & {(study, site.key) for study, site in moved})
        print(f"fold {fold}: {record['count']} sites left out of training, {wrong} of them moved", end="; ")
        print(f"{record['without_effect']} of held-out studies without effect")


def print_comparison(noisy: DataRoot, clean: DataRoot, truth: Grades, settings: Settings) -> None:
    """Print the metric against the true grades, of the three trainings, and their differences paired by study."""
    runs = {"with all labels": (noisy, NOISY), "without the listed": (noisy, DROPPED), "true labels": (clean, CLEAN)}
    folds = ", ".join(map(str, settings.compared))
    print(f"\nmetric against the true grades of the held-out studies (folds {folds}); lower is better")
    for head in HEADS:
        for kind in ("metric_optimal", "raw"):
            sums = {
                name: joined_sums(
                    [read_rows(root, fold_run_name(run, fold), head, kind) for fold in settings.compared], truth
                )
                for name, (root, run) in runs.items()
            }
            print(f"{HEAD_WORDS[head]}, {'raw by rule' if kind == 'raw' else 'calibrated on the labels of the copy'}")
            print_scores(sums)


def read_rows(root: DataRoot, run: str, head: HeadName, kind: Kind) -> tuple[SiteTable, Floats]:
    """Return a run's held-out predictions, raw ones multiplied by the metric's weights (Bayes' rule)."""
    table, prob_N3 = read_predictions(root.logs(run) / "predictions.csv")[head, kind]
    if kind == "raw":
        prob_N3 = prob_N3 * np.asarray(SEVERITY_WEIGHTS)
        prob_N3 = prob_N3 / prob_N3.sum(axis=1, keepdims=True)
    return table, prob_N3


def joined_sums(parts: list[tuple[SiteTable, Floats]], truth: Mapping[tuple[int, Site], Severity]) -> StudySums:
    """Return the sums of the metric against the true grades, over the held-out studies of several folds."""
    study_N, site_N = (np.concatenate([getattr(table, name) for table, _ in parts]) for name in ("study_N", "site_N"))
    true = [truth.get((int(study), SITES[site])) for study, site in zip(study_N, site_N, strict=True)]
    severity_N = np.array([-1 if grade is None else int(grade) for grade in true], dtype=np.int64)
    return study_sums(SiteTable(study_N, site_N, severity_N), np.concatenate([prob_N3 for _, prob_N3 in parts]))


def print_scores(sums: Mapping[str, StudySums]) -> None:
    first, *others = sums
    print(f"  {first:<22}{with_interval(score_intervals(sums[first])['score'])}")
    for name in others:
        difference = score_differences(sums[name], sums[first])["score"]
        print(f"  {name:<22}{with_interval(score_intervals(sums[name])['score'])}", end="")
        print(f"   minus the first {difference.value:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})")


def with_interval(interval: Interval) -> str:
    return f"{interval.value:.4f} ({interval.low:.4f} to {interval.high:.4f})"


def head_of(root: DataRoot, run: str) -> HeadName:
    """Return the head that ranked the suspect labels."""
    head: HeadName = read_object(root.logs(run) / "report.json", "eval_vl.py")["head"]
    return head


if __name__ == "__main__":
    run_command(PROG, main)
