"""The metrics in ``report.json``, from held-out probabilities.

All numbers are about the labelled rows of held-out studies, with cross-fitted probabilities. Intervals are 95 %
intervals over studies; differences and ratios are paired by study. A metric without any row is null.

The AUC of raw probabilities measures the ranking. That of calibrated ones is too low if held-out studies are few: a
calibrator that was fitted without a severe study predicts fewer severe sites, and that study belongs to its group.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from data_prep.sites import Severity
from vl_model.data.site_table import CONDITIONS, LEVELS, Bools, Floats, SiteTable
from vl_model.evaluation.cross_fitting import HeldOut
from vl_model.evaluation.grader import HEADS, KINDS, HeadName, Kind
from vl_model.evaluation.predictions import Predictions, matched
from vl_model.scoring.calibration_content import calibration_block, cut_aucs
from vl_model.scoring.calibration_error import bin_intervals, cut_events
from vl_model.scoring.intervals import Interval, metric_intervals, paired_differences, paired_ratios
from vl_model.scoring.metrics import (
    PARTS,
    SEVERITY_WEIGHTS,
    bins_of_equal_width,
    brier,
    classwise_ece,
    competition_metric,
    confusion,
    ece,
    log_loss,
    reliability,
    row_losses,
    severity_aucs,
    study_sums,
    weighted_log_loss,
)
from vl_model.scoring.operating_points import average_precision, precision_recall_curve, roc_curve
from vl_model.scoring.score_intervals import loss_interval, share_interval
from vl_model.scoring.study_influence import weighted_mean

#: Bins of a reliability diagram; with fewer rows than MANY_ROWS, half as many.
DIAGRAM_BINS, MANY_ROWS = 10, 1000
#: The kinds of probabilities whose calibration is a question; metric-optimal ones are none by design.
FOR_PEOPLE: tuple[Kind, ...] = ("raw", "calibrated")
Json = dict[str, Any]


def metric_block(held_out: HeldOut, prob_N3: Floats) -> Json:
    """Return the competition's metric with its parts and intervals, compared with the constant baseline."""
    sums, baseline = study_sums(held_out.table, prob_N3), study_sums(held_out.table, held_out.baseline_N3)
    intervals = metric_intervals(sums)
    return {
        **{name: interval.value for name, interval in intervals.items()},
        "interval": _bounds(intervals),
        "minus_constant": _difference(paired_differences(sums, baseline)),
        "ratio_to_constant": _difference(paired_ratios(sums, baseline)),
    }


def metric_values(table: SiteTable, prob_N3: Floats) -> dict[str, float]:
    """Return the score, its parts and the mean of those that are graded."""
    metric = competition_metric(table, prob_N3)
    return {**metric.as_dict(), "graded_parts": metric.graded_parts}


def constant_block(held_out: HeldOut) -> Json:
    """Return the metric of the training studies' best constants on the held-out studies."""
    intervals = metric_intervals(study_sums(held_out.table, held_out.baseline_N3))
    return {**{name: interval.value for name, interval in intervals.items()}, "interval": _bounds(intervals)}


def held_out_metrics(held_out: HeldOut, seed: int = 0) -> Json:
    """Return the metrics of a report.

    The keys are `n`, `constant_baseline`, `metric`, `ece`, `brier`, `log_loss`, `auc` and `conditions` (with levels),
    and of raw and calibrated probabilities `calibration`. seed: of the floor of the calibration error.
    """
    report: Json = {"n": _counts(held_out), "constant_baseline": constant_block(held_out)}
    report["metric"] = {
        head: {kind: metric_block(held_out, held_out.prob_N3[head, kind]) for kind in KINDS} for head in HEADS
    }
    graded = held_out.table.labelled_N
    table = held_out.table.take(graded)
    blocks = {
        (head, kind): _condition_blocks(table, prob_N3[graded], held_out.baseline_N3[graded])
        for (head, kind), prob_N3 in held_out.prob_N3.items()
    }
    for name, function in (("ece", _ece_block), ("brier", brier), ("log_loss", log_loss)):
        report[name] = {
            head: {kind: function(table.severity_N, held_out.prob_N3[head, kind][graded]) for kind in KINDS}
            for head in HEADS
        }
    report["calibration"] = {
        head: {kind: calibration_block(table, held_out.prob_N3[head, kind][graded], seed) for kind in FOR_PEOPLE}
        for head in HEADS
    }
    report["auc"] = {head: {kind: _mean_aucs(blocks[head, kind]) for kind in KINDS} for head in HEADS}
    report["conditions"] = {head: {kind: blocks[head, kind] for kind in KINDS} for head in HEADS}
    return report


def curves_block(held_out: HeldOut, head: HeadName) -> Json:
    """Return, by graded condition and cut that has both outcomes, the ROC and the precision-recall curve of raw
    probabilities, with the average precision and the share of events, which a guess has.
    """
    graded = held_out.table.labelled_N
    table, prob_N3 = held_out.table.take(graded), held_out.prob_N3[head, "raw"][graded]
    blocks: Json = {}
    for index in np.unique(table.condition_N):
        rows = table.condition_N == index
        for cut, (event_N, score_N) in cut_events(table.severity_N[rows], prob_N3[rows]).items():
            if 0 < event_N.sum() < len(event_N):
                false_P, true_P = roc_curve(event_N, score_N)
                recall_P, precision_P = precision_recall_curve(event_N, score_N)
                blocks.setdefault(CONDITIONS[index].value, {})[cut] = {
                    "roc": {"false_positive_rate": false_P, "sensitivity": true_P},
                    "precision_recall": {"recall": recall_P, "precision": precision_P},
                    "average_precision": average_precision(event_N, score_N),
                    "events": float(event_N.mean()),
                }
    return blocks


def compare_runs(held_out: HeldOut, run: str, predictions: Predictions) -> Json:
    """Compare this run with another on the sites that both held out, per head, paired by study."""
    heads: Json = {}
    studies = rows = 0
    for head in HEADS:
        table, prob_M3 = predictions[head, "metric_optimal"]
        ours, theirs = matched(held_out, table)
        shared = held_out.table.take(np.array(ours))
        studies, rows = len(shared.study_ids), len(shared)
        our_sums = study_sums(shared, held_out.prob_N3[head, "metric_optimal"][ours])
        their_sums = study_sums(shared, prob_M3[theirs])
        heads[head] = {
            "ours": metric_values(shared, held_out.prob_N3[head, "metric_optimal"][ours]),
            "theirs": metric_values(shared, prob_M3[theirs]),
            "difference": _difference(paired_differences(our_sums, their_sums)),
        }
    return {"run": run, "kind": "metric_optimal", "studies": studies, "rows": rows, "heads": heads}


def places_block(marked: HeldOut, in_use: HeldOut, sources: Mapping[str, int], reason: str) -> Json:
    """Compare the grades at readers' marks with those at places as in use, where new studies are graded.

    Args:
        marked: cross-fitted predictions at the places of the data set.
        in_use: the same at places as in use.
        sources: how many sites were placed by what; empty if places as in use are not known.
        reason: why they are not known, in words.
    """
    if not sources:
        return {"reason": reason, "sources": None, "marked": None, "located": None, "ratio": None}
    block: Json = {"reason": None, "sources": dict(sources), "marked": {}, "located": {}, "ratio": {}}
    for head in HEADS:
        for name, held_out in (("marked", marked), ("located", in_use)):
            block[name][head] = {kind: metric_block(held_out, held_out.prob_N3[head, kind]) for kind in KINDS}
        ours, theirs = (study_sums(each.table, each.prob_N3[head, "metric_optimal"]) for each in (in_use, marked))
        block["ratio"][head] = _difference(paired_ratios(ours, theirs))
    return block


def baseline_block(held_out: HeldOut, prob_N3: Mapping[Kind, Floats], seed: int = 0) -> Json:
    """Return the metrics of the plain baseline, with those of each head minus its own, paired by study.

    prob_N3: its cross-fitted probabilities (N, 3) of the held-out sites. The differences are of metric-optimal ones.
    """
    graded = held_out.table.labelled_N
    severity_N = held_out.table.severity_N[graded]
    report: Json = {"metric": {kind: metric_block(held_out, prob_N3[kind]) for kind in KINDS}}
    for name, function in (("ece", _ece_block), ("brier", brier), ("log_loss", log_loss)):
        report[name] = {kind: function(severity_N, prob_N3[kind][graded]) for kind in KINDS}
    table, baseline_N3 = held_out.table.take(graded), held_out.baseline_N3[graded]
    report["auc"] = {kind: _mean_aucs(_condition_blocks(table, prob_N3[kind][graded], baseline_N3)) for kind in KINDS}
    report["calibration"] = {kind: calibration_block(table, prob_N3[kind][graded], seed) for kind in FOR_PEOPLE}
    sums = study_sums(held_out.table, prob_N3["metric_optimal"])
    report["heads_minus_baseline"] = {
        head: _difference(
            paired_differences(study_sums(held_out.table, held_out.prob_N3[head, "metric_optimal"]), sums)
        )
        for head in HEADS
    }
    return report


def _counts(held_out: HeldOut) -> Json:
    table = held_out.table.take(held_out.table.labelled_N)
    return {
        "studies": len(table.study_ids),
        "rows": len(table),
        "rows_without_image": int((~held_out.imaged_N & held_out.table.labelled_N).sum()),
        "rows_without_label": int((~held_out.table.labelled_N).sum()),
        "severities": _severity_counts(table),
        "graded_conditions": [CONDITIONS[index].value for index in np.unique(table.condition_N)],
        "by_part": dict(
            zip(PARTS, [*np.bincount(table.condition_N, minlength=3), _spinal_studies(table)], strict=True)
        ),
    }


def _spinal_studies(table: SiteTable) -> int:
    return len(np.unique(table.study_N[table.condition_N == 0]))


def _severity_counts(table: SiteTable) -> Json:
    return {grade.key: int((table.severity_N == grade).sum()) for grade in Severity}


def _condition_blocks(table: SiteTable, prob_N3: Floats, baseline_N3: Floats) -> Json:
    """Return condition -> its metrics, and those of each of its levels, over labelled rows."""
    blocks = {}
    for index, condition in enumerate(CONDITIONS):
        rows = table.condition_N == index
        severity_N, prob_M3 = table.severity_N[rows], prob_N3[rows]
        blocks[condition.value] = {
            **_group_block(table, rows, prob_N3, baseline_N3),
            "ece": _ece_block(severity_N, prob_M3),
            "brier": brier(severity_N, prob_M3),
            "log_loss": log_loss(severity_N, prob_M3),
            "confusion": confusion(severity_N, prob_M3),
            "reliability": _diagrams(table.take(rows), prob_M3),
            "levels": {
                level.value: _group_block(table, rows & (table.level_N == number), prob_N3, baseline_N3)
                for number, level in enumerate(LEVELS)
            },
        }
    return blocks


def _group_block(table: SiteTable, rows: Bools, prob_N3: Floats, baseline_N3: Floats) -> Json:
    """Return counts, losses (also of the constant) and AUCs of a group of labelled rows."""
    group = table.take(rows)
    return {
        "n": len(group),
        "severities": _severity_counts(group),
        "weighted_log_loss": weighted_log_loss(group, prob_N3[rows]),
        "constant_weighted_log_loss": weighted_log_loss(group, baseline_N3[rows]),
        "auc": severity_aucs(group.severity_N, prob_N3[rows]),
        "interval": _group_intervals(group, prob_N3[rows]),
    }


def _group_intervals(group: SiteTable, prob_N3: Floats) -> Json:
    """Return the intervals of the loss and of the AUC of both cuts, over the studies that have a row in the group."""
    weight_N = np.asarray(SEVERITY_WEIGHTS)[group.severity_N]
    loss = loss_interval(weighted_mean(row_losses(group.severity_N, prob_N3), weight_N, group.study_N))
    figures = cut_aucs(group.severity_N, prob_N3, group.study_N)
    areas = {cut: share_interval(figure) for cut, figure in figures.items()}
    return {
        "weighted_log_loss": [loss.low, loss.high],
        "auc": {cut: [area.low, area.high] for cut, area in areas.items()},
    }


def _ece_block(severity_N: Any, prob_N3: Floats) -> Json:
    return {
        "top_label": ece(severity_N, prob_N3),
        "top_label_equal_width": ece(severity_N, prob_N3, binning="width"),
        **classwise_ece(severity_N, prob_N3),
    }


def _diagrams(table: SiteTable, prob_N3: Floats) -> Json:
    """Return reliability diagrams of the two ordinal cuts, in bins of equal width, with the interval of each bin."""
    bins = DIAGRAM_BINS if len(table) >= MANY_ROWS else DIAGRAM_BINS // 2
    diagrams = {}
    for cut, (event_N, prob_N) in cut_events(table.severity_N, prob_N3).items():
        found = reliability(prob_N, event_N, bins=bins, binning="width")
        diagrams[cut] = {
            "confidence": found.confidence,
            "frequency": found.frequency,
            "interval": bin_intervals(event_N, bins_of_equal_width(prob_N, bins), table.study_N),
            "count": found.count,
            "error": found.error,
        }
    return diagrams


def _mean_aucs(blocks: Json) -> Json:
    """Return the AUC of each cut, averaged over the graded conditions that have one.

    With pooled rows, the AUC would measure differences between the conditions.
    """
    means = {}
    for cut in next(iter(blocks.values()))["auc"]:
        areas = [block["auc"][cut] for block in blocks.values() if np.isfinite(block["auc"][cut])]
        means[cut] = float(np.mean(areas)) if areas else float("nan")
    return means


def _bounds(intervals: dict[str, Interval]) -> Json:
    return {name: [interval.low, interval.high] for name, interval in intervals.items()}


def _difference(intervals: dict[str, Interval]) -> Json:
    return {
        name: {"value": interval.value, "interval": [interval.low, interval.high]}
        for name, interval in intervals.items()
    }
