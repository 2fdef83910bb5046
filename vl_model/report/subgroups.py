"""Figures of groups of held-out sites: by level, side, source of the place, resolution, slices and axial series.

A group's loss is compared with that of the constant, because groups differ in how often a grade occurs.
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.conversion.pairs import Dataset
from data_prep.sites import SITES, Severity, View
from vl_model.data.site_rows import evidence_of
from vl_model.data.site_table import CONDITIONS, LEVELS, Bools, Floats, SiteTable
from vl_model.evaluation.cross_fitting import HeldOut
from vl_model.evaluation.grader import HeadName
from vl_model.scoring.calibration_content import mean_auc_intervals, shown
from vl_model.scoring.metrics import SEVERITY_WEIGHTS, row_losses, weighted_log_loss
from vl_model.scoring.score_intervals import loss_interval
from vl_model.scoring.study_influence import weighted_mean

Json = dict[str, Any]
_THIRDS = ("first third", "second third", "last third")
_AXIAL = ("none", "one", "several")


@dataclass(frozen=True)
class SiteFacts:
    """What is known of the images of N rows, in the series that readers mark the site in; nan or empty without one.

    source_N: where the position comes from. spacing_N: the in-plane pixel spacing in mm, along columns. slices_N: the
    slices of the series. axial_N: the number of axial series of the study. reason: why these three are not known.
    """

    source_N: NDArray[np.str_]
    spacing_N: Floats
    slices_N: Floats
    axial_N: Floats
    reason: str = ""


def site_facts(dataset: Dataset, table: SiteTable, slices: Path) -> SiteFacts:
    """Return the facts of the rows from the data set and its ``slices.csv``.

    If that file is missing or damaged, the reason stands in for what it tells: nothing else of a report depends on it.
    """
    reason = ""
    try:
        spacing_of, slices_of, axial_of = _series(slices)
    except (OSError, KeyError, ValueError) as error:
        reason = (
            f"{slices.name} cannot be read ({getattr(error, 'strerror', None) or error}); run prepare_data.py again"
        )
        spacing_of, slices_of, axial_of = {}, Counter(), {}
    best = evidence_of(dataset.pairs)
    source, spacing, count = [], [], []
    for study, site in zip(table.study_N.tolist(), table.site_N.tolist(), strict=True):
        pair = best.get((study, SITES[site]))
        key = (study, pair.series_id) if pair else None
        source.append(pair.source.value if pair else "")
        spacing.append(spacing_of.get(key, np.nan) if key else np.nan)
        count.append(slices_of.get(key, np.nan) if key else np.nan)
    axial = [np.nan if reason else len(axial_of.get(study, ())) for study in table.study_N.tolist()]
    spacing_N, slices_N, axial_N = (np.array(values, dtype=np.float64) for values in (spacing, count, axial))
    return SiteFacts(np.array(source, dtype=str), spacing_N, slices_N, axial_N, reason)


def subgroups_block(held_out: HeldOut, head: HeadName, facts: SiteFacts) -> Json:
    """Return, by kind of group, the figures of each group that has a graded site."""
    known_N = held_out.table.labelled_N
    table, baseline_N3 = held_out.table.take(known_N), held_out.baseline_N3[known_N]
    optimal_N3, raw_N3 = (held_out.prob_N3[head, kind][known_N] for kind in ("metric_optimal", "raw"))
    blocks: Json = {}
    for kind, name, rows in _groups(table, facts, known_N):
        if rows.any():
            group = table.take(rows)
            figures = _figures(group, optimal_N3[rows], raw_N3[rows], baseline_N3[rows])
            blocks.setdefault(kind, {})[name] = figures
    # A kind with one group compares nothing.
    return {
        "groups": {kind: groups for kind, groups in blocks.items() if len(groups) > 1},
        "unknown": facts.reason,
        "alike": [kind for kind, groups in blocks.items() if len(groups) == 1],
        "thirds": {
            "in-plane spacing": _edges(table, facts.spacing_N[known_N]),
            "slices": _edges(table, facts.slices_N[known_N]),
        },
    }


def _groups(table: SiteTable, facts: SiteFacts, known_N: Bools) -> Iterator[tuple[str, str, Bools]]:
    """Yield kind, name and rows of each group."""
    for number, level in enumerate(LEVELS):
        yield "level", level.value.upper().replace("_", "-"), table.level_N == number
    side_N = np.array([str(SITES[site].side or "none (canal)") for site in table.site_N])
    for side in sorted(set(side_N.tolist())):
        yield "side", side.lower(), side_N == side
    source_N = facts.source_N[known_N]
    for source in sorted(set(source_N.tolist())):
        yield "source of the place", source or "no image", source_N == source
    for kind, value_N in (("in-plane spacing", facts.spacing_N[known_N]), ("slices", facts.slices_N[known_N])):
        third_N = thirds(table, value_N)
        for number, name in enumerate(_THIRDS):
            yield kind, name, third_N == number
    axial_N = np.minimum(facts.axial_N[known_N], len(_AXIAL) - 1)
    for number, name in enumerate(_AXIAL):
        yield "axial series", name, axial_N == number


def thirds(table: SiteTable, value_N: Floats) -> NDArray[np.int64]:
    """Return the third of each row, 0 to 2 in ascending order of its value; -1 without a value.

    Thirds are of the rows of one condition, because conditions are marked in different views. Equal values are in one
    third.
    """
    third_N = np.full(len(table), -1, dtype=np.int64)
    for condition in range(len(CONDITIONS)):
        rows = np.flatnonzero((table.condition_N == condition) & np.isfinite(value_N))
        below_M = np.searchsorted(np.sort(value_N[rows]), value_N[rows])
        third_N[rows] = below_M * 3 // max(len(rows), 1)
    return third_N


def _edges(table: SiteTable, value_N: Floats) -> Json:
    """Return, by condition, the smallest and largest value of each third."""
    third_N = thirds(table, value_N)
    edges: Json = {}
    for index, condition in enumerate(CONDITIONS):
        own = [value_N[(table.condition_N == index) & (third_N == third)] for third in range(len(_THIRDS))]
        if any(len(values) for values in own):
            edges[condition.value] = {
                name: [float(values.min()), float(values.max())]
                for name, values in zip(_THIRDS, own, strict=True)
                if len(values)
            }
    return edges


def _figures(group: SiteTable, optimal_N3: Floats, raw_N3: Floats, baseline_N3: Floats) -> Json:
    weight_N = np.asarray(SEVERITY_WEIGHTS)[group.severity_N]
    loss = loss_interval(weighted_mean(row_losses(group.severity_N, optimal_N3), weight_N, group.study_N))
    return {
        "n": len(group),
        "studies": len(group.study_ids),
        "severities": {grade.key: int((group.severity_N == grade).sum()) for grade in Severity},
        "weighted_log_loss": shown(loss),
        "constant_weighted_log_loss": weighted_log_loss(group, baseline_N3),
        "auc": {cut: shown(area) for cut, area in mean_auc_intervals(group, raw_N3).items()},
    }


def _series(path: Path) -> tuple[dict[tuple[int, int], float], Counter[tuple[int, int]], dict[int, set[int]]]:
    """Return the pixel spacing and the number of slices of each (study, series), and the axial series of each study.

    Raises OSError, KeyError or ValueError if the file is missing or damaged.
    """
    spacing_of: dict[tuple[int, int], float] = {}
    slices_of: Counter[tuple[int, int]] = Counter()
    axial_of: dict[int, set[int]] = defaultdict(set)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            key = int(row["study_id"]), int(row["series_id"])
            spacing_of.setdefault(key, float(row["spacing_column_mm"] or "nan"))
            slices_of[key] += 1
            if row["view"] == View.AXIAL_T2.value:
                axial_of[key[0]].add(key[1])
    return spacing_of, slices_of, axial_of
