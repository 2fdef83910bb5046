"""The score sheet of files of predictions: the metric, and what else is to be known of them, as plain values for JSON.

The metric counts all scored rows. The other figures are of the rows that the file itself predicts, without the
constants that stand for missing ones. Every figure is {"value", "interval"}; a figure without a value is null. Only the
calibration error is a plain number: beside it stands its floor, what perfect probabilities would show.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.sites import Severity
from vl_model.data.site_table import CONDITIONS, LEVELS, SiteTable
from vl_model.scoring.calibration_content import calibration_block, cut_aucs, ece_block, shown
from vl_model.scoring.intervals import Interval
from vl_model.scoring.metrics import SEVERITY_WEIGHTS, row_losses
from vl_model.scoring.prediction_table import SUM_TOLERANCE, PredictionTable, read_prediction_table
from vl_model.scoring.score_intervals import (
    correlation_interval,
    loss_interval,
    score_differences,
    score_intervals,
    share_interval,
)
from vl_model.scoring.scored_rows import Missing, ScoredRows, constant_rows, graded_rows, scored_rows, shared_rows
from vl_model.scoring.study_influence import quadratic_kappa, weighted_mean
from workspace.setting_error import SettingError
from workspace.whole_files import replacing

SCHEMA_VERSION = 1
Json = dict[str, Any]


def score_files(files: Sequence[Path], truth: Path, missing: Missing = "refuse", normalise: bool = False) -> Json:
    """Score files of predictions against one table of true grades; differences are to the first file.

    Raises ValueError if a file cannot be read, or lacks graded rows while `missing` is "refuse".
    """
    if twice := [path for path in files if files.count(path) > 1]:
        raise SettingError("score", f"{str(twice[0])!r}: is given twice; each file should be given once")
    tables = [read_prediction_table(path, normalise) for path in files]
    graded = graded_rows(truth)
    scored = [scored_rows(graded, table, missing) for table in tables]
    return {
        "schema_version": SCHEMA_VERSION,
        "truth": {"file": str(truth), **_counts(graded)},
        "missing": missing,
        "normalise": normalise,
        "constant": {"metric": _metric(constant_rows(graded))},
        "files": [_file(table, rows, normalise) for table, rows in zip(tables, scored, strict=True)],
        "differences": [_difference(files, scored, other) for other in range(1, len(files))],
    }


def write_score_sheet(path: Path, sheet: Json) -> None:
    """Write the sheet, of plain values, as strict JSON, by rename."""
    text = json.dumps(sheet, indent=1, allow_nan=False) + "\n"
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _file(predictions: PredictionTable, rows: ScoredRows, normalise: bool) -> Json:
    own = rows.take(~rows.filled_N)
    calibration = calibration_block(own.table, own.prob_N3)
    by_condition = calibration.pop("conditions")
    conditions = {
        name: _condition(own.take(own.table.condition_N == index), by_condition[name])
        for index, name in enumerate(condition.value for condition in CONDITIONS)
        if name in by_condition
    }
    return {
        "file": str(predictions.path),
        **_counts(rows.table),
        "filled_rows": int(rows.filled_N.sum()),
        "normalised": not normalise and predictions.largest_deviation > SUM_TOLERANCE / 1000,
        "largest_deviation_of_a_sum": predictions.largest_deviation,
        "unknown_studies": list(rows.unknown),
        "left_out_studies": list(rows.left_out),
        "unpredicted_conditions": [CONDITIONS[index].value for index in rows.unpredicted],
        "metric": _metric(rows),
        **_figures(own),
        "auc": calibration.pop("auc"),
        "calibration": {name: value for name, value in calibration.items() if name not in ("brier", "log_loss")},
        "conditions": conditions,
    }


def _condition(rows: ScoredRows, calibration: Json) -> Json:
    levels = {level.value: rows.take(rows.table.level_N == index) for index, level in enumerate(LEVELS)}
    return {
        **_group(rows, calibration),
        "levels": {
            name: _group(group, ece_block(group.table, group.prob_N3))
            for name, group in levels.items()
            if len(group.table)
        },
    }


def _group(rows: ScoredRows, calibration: Json) -> Json:
    """Return the figures of a condition or of one of its levels."""
    aucs = cut_aucs(rows.table.severity_N, rows.prob_N3, rows.table.study_N)
    return {
        **_counts(rows.table),
        **_figures(rows),
        "auc": {cut: shown(share_interval(figure)) for cut, figure in aucs.items()},
        "calibration": calibration,
    }


def _figures(rows: ScoredRows) -> Json:
    """Return the losses and kappa of the most probable severity."""
    severity_N, study_N = rows.table.severity_N, rows.table.study_N
    loss_N, even_N = row_losses(severity_N, rows.prob_N3), np.ones(len(severity_N))
    distance_N = ((rows.prob_N3 - np.eye(len(Severity))[severity_N]) ** 2).sum(axis=1)
    losses = {
        "weighted_log_loss": weighted_mean(loss_N, np.asarray(SEVERITY_WEIGHTS)[severity_N], study_N),
        "log_loss": weighted_mean(loss_N, even_N, study_N),
        "brier": weighted_mean(distance_N, even_N, study_N),
    }
    kappa = quadratic_kappa(severity_N, rows.prob_N3.argmax(axis=1), study_N)
    return {
        **{name: shown(loss_interval(figure)) for name, figure in losses.items()},
        "quadratic_kappa": shown(correlation_interval(kappa)),
    }


def _difference(files: Sequence[Path], scored: Sequence[ScoredRows], other: int) -> Json:
    """Return a file's metric minus that of the first, on the rows that both have."""
    ours, theirs = shared_rows(scored[other], scored[0])
    block: Json = {"file": str(files[other]), "minus": str(files[0]), **_counts(ours.table)}
    if not len(ours.table):
        return {**block, "difference": None}
    return {**block, "difference": _plain_all(score_differences(ours.sums(), theirs.sums()))}


def _metric(rows: ScoredRows) -> Json:
    return _plain_all(score_intervals(rows.sums()))


def _counts(table: SiteTable) -> Json:
    return {
        "studies": len(table.study_ids),
        "rows": len(table),
        "severities": {grade.key: int((table.severity_N == grade).sum()) for grade in Severity},
    }


def _plain_all(intervals: Mapping[str, Interval]) -> Json:
    return {name: shown(interval) for name, interval in intervals.items()}
