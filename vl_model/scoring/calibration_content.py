"""The calibration of labelled rows, with what perfect probabilities would show and with intervals, as plain values.

``report.json`` and the score sheet of files have the same blocks.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vl_model.data.site_table import CONDITIONS, Floats, Ints, SiteTable
from vl_model.scoring.calibration_error import cut_calibration, cut_events, ece_floor, loss_split
from vl_model.scoring.intervals import Interval, mean_interval
from vl_model.scoring.metrics import ece
from vl_model.scoring.score_intervals import share_interval
from vl_model.scoring.study_influence import Figure, auc, mean_figure

Json = dict[str, Any]
#: The cuts of `calibration_error.cut_events` in what people read.
CUT_WORDS = {"at_least_moderate": "moderate or severe", "severe": "severe"}


def calibration_block(table: SiteTable, prob_N3: Floats, seed: int = 0) -> Json:
    """Return the calibration of labelled rows: of all, and of each graded condition.

    seed: of the labels that are drawn for the floor of the calibration error.
    """
    split = loss_split(table, prob_N3)
    squared_N = ((prob_N3 - np.eye(3)[table.severity_N]) ** 2).sum(axis=1)
    conditions = {}
    for index in np.unique(table.condition_N):
        rows = table.condition_N == index
        conditions[CONDITIONS[index].value] = {
            **ece_block(table.take(rows), prob_N3[rows], seed),
            "cuts": cut_blocks(table.take(rows), prob_N3[rows]),
        }
    return {
        **ece_block(table, prob_N3, seed),
        "log_loss": shown(split.whole),
        "log_loss_removable": shown(split.removable),
        "log_loss_remaining": shown(split.remaining),
        "brier": shown(mean_interval(squared_N, table.study_N)),
        "auc": {cut: shown(interval) for cut, interval in mean_auc_intervals(table, prob_N3).items()},
        "conditions": conditions,
    }


def ece_block(table: SiteTable, prob_N3: Floats, seed: int = 0) -> Json:
    """Return the calibration error beside its floor, which labels drawn from the probabilities themselves give."""
    floor = ece_floor(prob_N3, seed=seed)
    return {"ece": ece(table.severity_N, prob_N3), "ece_floor": {"mean": floor.mean, "high": floor.high}}


def cut_blocks(table: SiteTable, prob_N3: Floats) -> Json:
    """Return the calibration slope and intercept of each cut, for the rows of one condition."""
    blocks = {}
    for cut, (event_N, prob_N) in cut_events(table.severity_N, prob_N3).items():
        found = cut_calibration(event_N, prob_N, table.study_N)
        blocks[cut] = {"events": found.events, "slope": shown(found.slope), "intercept": shown(found.intercept)}
    return blocks


def mean_auc_intervals(table: SiteTable, prob_N3: Floats) -> Mapping[str, Interval]:
    """Return the AUC of both cuts, averaged over the graded conditions that have one, with its interval.

    With pooled rows, the AUC would measure differences between the conditions.
    """
    studies = np.unique(table.study_N)
    areas: dict[str, list[Figure]] = {}
    for index in np.unique(table.condition_N):
        group, prob_M3 = table.take(table.condition_N == index), prob_N3[table.condition_N == index]
        for cut, area in cut_aucs(group.severity_N, prob_M3, group.study_N).items():
            influence_S = np.zeros(len(studies))
            if np.isfinite(area.value):
                influence_S[np.searchsorted(studies, np.unique(group.study_N))] = area.influence_S
            areas.setdefault(cut, []).append(Figure(area.value, influence_S, area.fewest))
    return {cut: share_interval(mean_figure(found)) for cut, found in areas.items()}


def cut_aucs(severity_N: Ints, prob_N3: Floats, study_N: Ints) -> dict[str, Figure]:
    """Return the AUC of both cuts."""
    cuts = cut_events(severity_N, prob_N3)
    return {cut: auc(event_N, score_N, study_N) for cut, (event_N, score_N) in cuts.items()}


def shown(interval: Interval) -> Json:
    """Return a figure with its interval."""
    return {"value": interval.value, "interval": [interval.low, interval.high]}
