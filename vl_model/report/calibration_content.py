"""The calibration of held-out probabilities in ``report.json``, with what perfect ones would show, and intervals."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vl_model.data.site_table import CONDITIONS, Floats, SiteTable
from vl_model.scoring.calibration_error import cut_calibration, cut_events, ece_floor, loss_split
from vl_model.scoring.intervals import Interval, mean_interval
from vl_model.scoring.metrics import ece
from vl_model.scoring.score_intervals import share_interval
from vl_model.scoring.study_influence import Figure, auc, mean_figure

Json = dict[str, Any]


def calibration_block(table: SiteTable, prob_N3: Floats, seed: int = 0) -> Json:
    """Return the calibration of labelled rows: of all, and of each graded condition.

    seed: of the labels that are drawn for the floor of the calibration error.
    """
    split = loss_split(table, prob_N3)
    squared_N = ((prob_N3 - np.eye(3)[table.severity_N]) ** 2).sum(axis=1)
    conditions = {}
    for index in np.unique(table.condition_N):
        rows = table.condition_N == index
        group, prob_M3 = table.take(rows), prob_N3[rows]
        cuts = {
            cut: cut_calibration(event_M, prob_M, group.study_N)
            for cut, (event_M, prob_M) in cut_events(group.severity_N, prob_M3).items()
        }
        conditions[CONDITIONS[index].value] = {
            **_ece(group, prob_M3, seed),
            "cuts": {
                cut: {"events": found.events, "slope": shown(found.slope), "intercept": shown(found.intercept)}
                for cut, found in cuts.items()
            },
        }
    return {
        **_ece(table, prob_N3, seed),
        "log_loss": shown(split.whole),
        "log_loss_removable": shown(split.removable),
        "log_loss_remaining": shown(split.remaining),
        "brier": shown(mean_interval(squared_N, table.study_N)),
        "auc": {cut: shown(interval) for cut, interval in mean_auc_intervals(table, prob_N3).items()},
        "conditions": conditions,
    }


def mean_auc_intervals(table: SiteTable, prob_N3: Floats) -> Mapping[str, Interval]:
    """Return the AUC of both cuts, averaged over the graded conditions that have one, with its interval."""
    studies = np.unique(table.study_N)
    found = {}
    for cut, (event_N, score_N) in cut_events(table.severity_N, prob_N3).items():
        areas = []
        for index in np.unique(table.condition_N):
            rows = table.condition_N == index
            area = auc(event_N[rows], score_N[rows], table.study_N[rows])
            influence_S = np.zeros(len(studies))
            if np.isfinite(area.value):
                influence_S[np.searchsorted(studies, np.unique(table.study_N[rows]))] = area.influence_S
            areas.append(Figure(area.value, influence_S))
        found[cut] = share_interval(mean_figure(areas))
    return found


def shown(interval: Interval) -> Json:
    return {"value": interval.value, "interval": [interval.low, interval.high]}


def _ece(table: SiteTable, prob_N3: Floats, seed: int) -> Json:
    floor = ece_floor(prob_N3, seed=seed)
    return {"ece": ece(table.severity_N, prob_N3), "ece_floor": {"mean": floor.mean, "high": floor.high}}
