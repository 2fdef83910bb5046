"""Measure how often prediction sets contain the true grade, how large they are, and how good study answers are.

    python -m benchmarks.prediction_sets --root DATA --run lora

Reads the held-out predictions of an evaluated run, or of joined runs, fits the sets anew on them, cross-fitted over
studies in five divisions, and prints coverage and size by grade beside the aim: within two points of 90 and 95 % in
every grade. For comparison it prints sets with one threshold for all grades of a condition, which are smaller where
grades are frequent, and miss the rare ones. `--note` is printed with the figures, to say what data they are about.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine
from data_prep.conversion.pairs import read_dataset
from data_prep.sites import SITES, Severity
from vl_model.calibration.cross_fit import study_groups
from vl_model.calibration.prediction_sets import SET_LEVELS, Bits, contains, cross_fitted_sets, set_sizes
from vl_model.data.site_table import CONDITIONS, Floats, SiteTable
from vl_model.evaluation.cross_fitting import HeldOut
from vl_model.evaluation.grader import HeadName
from vl_model.evaluation.predictions import Predictions, read_predictions
from vl_model.loaded_run import read_report
from vl_model.report.study_answer_content import answers_block
from vl_model.scoring.score_intervals import share_interval
from vl_model.scoring.study_influence import weighted_mean
from workspace.cli import run_command
from workspace.layout import data_root
from workspace.root_settings import RunNameSettings
from workspace.settings_parser import read_settings

PROG = "-m benchmarks.prediction_sets"
DIVISIONS = 5
#: Points by which the coverage of a grade may differ from the stated one.
AIM = 2.0


@dataclass(frozen=True, kw_only=True)
class Settings(RunNameSettings):
    """Settings of the benchmark of prediction sets."""

    note: str = ""
    """What data the figures are about; printed with them."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    root = data_root(settings.root)
    logs, processed = root.logs(settings.run), root.processed("train")
    head: HeadName = read_report(logs, settings.run)["head"]
    held_out = held_out_of(read_predictions(logs / "predictions.csv"), processed)
    known_N = held_out.table.labelled_N & held_out.imaged_N
    table, prob_N3 = held_out.table.take(known_N), held_out.prob_N3[head, "calibrated"][known_N]
    describe_machine("numpy", "scipy")
    print(f"{len(table.study_ids)} held-out studies, {len(table)} graded sites, {head}. {settings.note}".rstrip())
    print("\n".join(coverage_lines(table, prob_N3)))
    print("\n".join(answer_lines(held_out, head)))


def held_out_of(predictions: Predictions, processed: Path) -> HeldOut:
    """Return read predictions as held-out ones; a pair of the data set says whether an image shows a site."""
    table = next(iter(predictions.values()))[0]
    shown = {(pair.study_id, pair.site) for pair in read_dataset(processed).pairs}
    imaged = [(study, SITES[site]) in shown for study, site in zip(table.study_N.tolist(), table.site_N, strict=True)]
    prob_N3 = {key: prob for key, (_, prob) in predictions.items()}
    return HeldOut(table, np.array(imaged, dtype=bool), np.full((len(table), 3), 1 / 3), prob_N3)


def coverage_lines(table: SiteTable, prob_N3: Floats) -> list[str]:
    """Return coverage and size by level and grade, and by condition, averaged over divisions into five groups."""
    divisions = [study_groups(table, seed=seed) for seed in range(DIVISIONS)]
    found = [cross_fitted_sets(prob_N3, table, division) for division in divisions]
    lines = []
    for level in SET_LEVELS:
        single = [single_threshold_sets(table, prob_N3, division, level) for division in divisions]
        lines.append(f"\n{level} % sets, % of sites whose set has the true grade, by condition and grade")
        lines.append(f"{'':44s}{'sites':>6s}{'covered':>9s}{'interval':>15s}{'size':>6s}{'one threshold, size':>31s}")
        groups = [("all", np.ones(len(table), dtype=bool))]
        groups += [(each.words, table.condition_N == index) for index, each in enumerate(CONDITIONS)]
        for name, rows in groups:
            for grade in Severity:
                own = rows & (table.severity_N == grade)
                if own.any() and (name == "all" or len(np.unique(table.condition_N)) > 1):
                    group, sets = table.take(own), [one[level][own] for one in found]
                    line = _line(f"{name}, {grade.key}", group, sets) + _single(group, [one[own] for one in single])
                    lines.append(line + (_verdict(group, sets, level) if name == "all" else ""))
    return lines


def single_threshold_sets(table: SiteTable, prob_N3: Floats, group_of: dict[int, int], level: int) -> Bits:
    """Return sets (N,) by one threshold for all grades of a condition, cross-fitted: what is not offered."""
    group_N = np.array([group_of[study] for study in table.study_N.tolist()])
    own_N = prob_N3[np.arange(len(table)), table.severity_N]
    set_N = np.zeros(len(table), dtype=np.uint8)
    for group in np.unique(group_N):
        for condition in np.unique(table.condition_N):
            rows, others = ((group_N == group) == same for same in (True, False))
            rows, others = rows & (table.condition_N == condition), others & (table.condition_N == condition)
            rank = (others.sum() + 1) * (100 - level) // 100
            threshold = np.sort(own_N[others])[rank - 1] if rank else 0.0
            set_N[rows] = (prob_N3[rows] >= threshold) @ np.array([1, 2, 4])
    return set_N


def answer_lines(held_out: HeldOut, head: HeadName) -> list[str]:
    """Return the figures of the answers about whole studies."""
    lines = ["\nanswers about whole studies (95 % intervals over studies)"]
    for question, block in answers_block(held_out, head).items():
        if block is None:
            lines.append(f"{question}: no site is graded")
            continue
        floor, conditions = block["ece_floor"], ", ".join(block["conditions"])
        lines.append(f"{question}: {block['events']} of {block['studies']} studies; asked of {conditions}")
        names = {"auc": "AUC", "slope": "slope", "intercept": "intercept"}
        lines.append("  " + ", ".join(f"{words} {_figure(block[name])}" for name, words in names.items()))
        for percent, figure in block["sensitivity_at_specificity"].items():
            lines.append(f"  sensitivity at {percent} % specificity {_figure(figure)}")
        lines.append(f"  ECE {block['ece']:.3f}, floor {floor['mean']:.3f} (95 % to {floor['high']:.3f})")
    return lines


def _line(name: str, group: SiteTable, sets: Sequence[Bits]) -> str:
    is_in_N = np.mean([contains(set_N, group.severity_N) for set_N in sets], axis=0)
    interval = share_interval(weighted_mean(is_in_N, np.ones(len(group)), group.study_N))
    bounds = f"{100 * interval.low:.1f} to {100 * interval.high:.1f}" if np.isfinite(interval.low) else "none"
    size = np.mean([set_sizes(set_N) for set_N in sets])
    return f"{name:44s}{len(group):6d}{100 * interval.value:9.1f}{bounds:>15s}{size:6.2f}"


def _single(group: SiteTable, sets: Sequence[Bits]) -> str:
    covered = np.mean([contains(set_N, group.severity_N) for set_N in sets])
    return f"{100 * covered:25.1f}{np.mean([set_sizes(set_N) for set_N in sets]):6.2f}"


def _verdict(group: SiteTable, sets: Sequence[Bits], level: int) -> str:
    covered = 100 * np.mean([contains(set_N, group.severity_N) for set_N in sets])
    return f"   within {AIM:g} points: {'met' if abs(covered - level) <= AIM else 'missed'}"


def _figure(figure: Mapping[str, Any]) -> str:
    low, high = figure["interval"]
    return f"{figure['value']:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    run_command(PROG, main)
