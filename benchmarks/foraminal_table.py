"""The table of benchmarks/real_foraminal.py: the foraminal part of the metric, of several predictions of the same rows.

The part is the log loss over all foraminal rows, weighted 1, 2, 4 by true severity. Intervals are bootstraps over
studies, and differences are paired by study.

Legend: N rows, C = 3 severities.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.sites import Condition
from vl_model.data.site_table import CONDITIONS, Floats, SiteTable, row_keys
from vl_model.evaluation.cross_fitting import split_studies
from vl_model.evaluation.grader import HEADS
from vl_model.evaluation.predictions import Predictions
from vl_model.scoring.constant_baseline import constant_baseline
from vl_model.scoring.intervals import Interval, metric_intervals, paired_differences
from vl_model.scoring.metrics import severity_aucs, study_sums

Submitted = Mapping[tuple[int, int], Sequence[float]]
CONSTANT, OTHERS_MEAN = "best constant per column", "mean of others"
CUTS = {"at_least_moderate": "not normal", "moderate": "moderate", "severe": "severe"}
#: Probabilities below this count as this before their logarithms are averaged.
_SMALLEST = 1e-6


@dataclass(frozen=True)
class Rows:
    """The graded foraminal rows of the held-out studies that all predictions have.

    prob_N3: by name, in the order of the table; of a head of the run, its metric-optimal probabilities. ranking_N3:
    the raw probabilities of a head, by which its AUC is computed. graded: the number of graded rows, with those that
    a file of others lacks. training_studies: the number of studies that the constants were learned from.
    """

    table: SiteTable
    prob_N3: Mapping[str, Floats]
    ranking_N3: Mapping[str, Floats]
    graded: int
    training_studies: int


def foraminal_rows(
    known: SiteTable, fold_of: Mapping[int, int], fold: int, predictions: Predictions, others: Mapping[str, Submitted]
) -> Rows:
    """Match all predictions of the held-out studies' graded foraminal rows.

    Args:
        known: all sites of the cohort, with their severities.
        fold_of: the fold of each study.
        fold: the held-out one.
        predictions: those of the evaluated run.
        others: by name, those of others.

    Raises ValueError if the run lacks one of the rows, or if no row is in all files of others.
    """
    split = split_studies(known, fold_of, [fold])
    is_foraminal = split.held_out.condition_N == CONDITIONS.index(Condition.NEURAL_FORAMINAL_NARROWING)
    table = split.held_out.take(is_foraminal & split.held_out.labelled_N)
    graded = len(table)
    if not graded:
        raise ValueError(f"fold {fold} has no graded foraminal site")
    table = table.take(np.array([all(key in other for other in others.values()) for key in row_keys(table)]))
    if not len(table):
        raise ValueError(f"none of the {graded} graded foraminal sites of fold {fold} is in all files of --others")
    keys = row_keys(table)
    prob_N3 = {CONSTANT: constant_baseline(split.train, table)}
    ranking_N3 = {}
    for head in HEADS:
        name = head.replace("_", " ")
        prob_N3[name] = _matched(keys, *predictions[head, "metric_optimal"])
        ranking_N3[name] = _matched(keys, *predictions[head, "raw"])
    given = {name: _normalised(np.array([other[key] for key in keys])) for name, other in others.items()}
    prob_N3 |= given
    if given:
        mean_N3 = log_mean(list(given.values()))
        if len(given) > 1:
            prob_N3[OTHERS_MEAN] = mean_N3
        prob_N3 |= {f"mean of others and {name}": log_mean([mean_N3, prob_N3[name]]) for name in ranking_N3}
    return Rows(table, prob_N3, ranking_N3, graded, len(split.train.take(split.train.labelled_N).study_ids))


def log_mean(probabilities: Sequence[Floats]) -> Floats:
    """Return the probabilities (N, 3) whose logarithms are the mean of those given, up to a constant per row."""
    return _normalised(np.exp(np.mean([np.log(np.maximum(prob_N3, _SMALLEST)) for prob_N3 in probabilities], axis=0)))


def table_lines(rows: Rows) -> list[str]:
    """Return the table: each prediction's loss and AUCs, then the paired differences."""
    studies = len(rows.table.study_ids)
    lines = [
        f"{studies} held-out studies, {len(rows.table)} graded foraminal sites; {rows.training_studies} studies to "
        "learn from",
    ]
    if rows.graded > len(rows.table):
        lines.append(f"{rows.graded - len(rows.table)} graded sites more are left out: a file of others lacks them")
    width = max(map(len, rows.prob_N3)) + 2
    aucs = "".join(f"{'AUC ' + words:>16}" for words in CUTS.values())
    lines += [
        "foraminal part of the metric; lower is better; AUC of heads: of their raw probabilities",
        f"{'':{width}}{'loss (95 % interval)':>24}{aucs}",
    ]
    sums = {name: study_sums(rows.table, prob_N3) for name, prob_N3 in rows.prob_N3.items()}
    for name, prob_N3 in rows.prob_N3.items():
        areas = severity_aucs(rows.table.severity_N, rows.ranking_N3.get(name, prob_N3))
        loss = metric_intervals(sums[name])["foraminal"]
        lines.append(f"{name:{width}}{_interval(loss):>24}" + "".join(_area(areas[cut]) for cut in CUTS))
    lines += ["", "differences, paired by study; below zero, the first is better"]
    for one, other in _pairs(rows):
        difference = paired_differences(sums[one], sums[other])["foraminal"]
        lines.append(f"{one} minus {other}: {_interval(difference, sign='+')}")
    return lines


def _pairs(rows: Rows) -> list[tuple[str, str]]:
    """Return the predictions to compare: heads with all others, and each mean of others and ours with its parts."""
    heads = list(rows.ranking_N3)
    blended = [name for name in rows.prob_N3 if name.startswith("mean of others and")]
    theirs = [name for name in rows.prob_N3 if name not in (*heads, *blended)]
    best_known = theirs[-1]
    pairs = [(head, other) for head in heads for other in theirs]
    pairs.append((heads[1], heads[0]))
    return pairs + [(name, best_known) for name in blended]


def _matched(keys: Sequence[tuple[int, int]], table: SiteTable, prob_M3: Floats) -> Floats:
    """Return the rows of a run's predictions in the order of `keys`."""
    row_of = {key: row for row, key in enumerate(row_keys(table))}
    missing = sum(key not in row_of for key in keys)
    if missing:
        raise ValueError(f"the run's predictions lack {missing} of {len(keys)} graded sites; run eval_vl.py again")
    return prob_M3[[row_of[key] for key in keys]]


def _normalised(prob_N3: Floats) -> Floats:
    normalised: Floats = prob_N3 / prob_N3.sum(axis=1, keepdims=True)
    return normalised


def _area(area: float) -> str:
    """Return an AUC in a column; a dash if the rows are of one kind only."""
    return f"{area:>16.3f}" if np.isfinite(area) else f"{'-':>16}"


def _interval(interval: Interval, sign: str = "") -> str:
    return f"{interval.value:{sign}.3f} ({interval.low:{sign}.3f} to {interval.high:{sign}.3f})"
