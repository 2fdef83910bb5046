"""The prediction sets in ``report.json``: how often they contain the true grade, and how large they are.

All figures are about graded held-out sites that an image shows, with thresholds that were fitted without their study.
"""

from typing import Any

import numpy as np

from data_prep.sites import Severity
from vl_model.calibration.prediction_sets import (
    SET_LEVELS,
    Bits,
    PredictionSets,
    contains,
    fewest_sites,
    set_sizes,
)
from vl_model.data.site_table import CONDITIONS, LEVELS, Bools, SiteTable
from vl_model.evaluation.cross_fitting import HeldOut, held_out_sets
from vl_model.evaluation.grader import HeadName
from vl_model.scoring.score_intervals import share_interval
from vl_model.scoring.study_influence import weighted_mean

Json = dict[str, Any]


def sets_block(held_out: HeldOut, head: HeadName, sets: PredictionSets, seed: int = 0) -> Json:
    """Return coverage and size of the sets by grade: of all sites, of each condition, and of each level.

    sets: those for new studies, which tell the grades that every set contains.
    """
    known_N = held_out.table.labelled_N & held_out.imaged_N
    table = held_out.table.take(known_N)
    block: Json = {}
    for level, set_N in held_out_sets(held_out, head, seed).items():
        set_M = set_N[known_N]
        conditions = [(each.value, table.condition_N == number) for number, each in enumerate(CONDITIONS)]
        levels = [(each.value, table.level_N == number) for number, each in enumerate(LEVELS)]
        block[str(level)] = {
            "grades": grade_blocks(table, set_M, np.ones(len(table), dtype=bool)),
            "conditions": {name: grade_blocks(table, set_M, rows) for name, rows in conditions if rows.any()},
            "levels": {name: grade_blocks(table, set_M, rows) for name, rows in levels if rows.any()},
            "sizes": [float((set_sizes(set_M) == size).mean()) for size in range(len(Severity) + 1)],
            "always": sets.always_in(level),
            "fewest_sites": fewest_sites(level),
        }
    return {"levels_of_coverage": list(SET_LEVELS), **block}


def grade_blocks(table: SiteTable, set_N: Bits, rows: Bools) -> Json:
    """Return, by grade that has a site among these rows, the sites, their coverage with its interval, and the size."""
    blocks = {}
    for grade in Severity:
        own = rows & (table.severity_N == grade)
        if own.any():
            group, set_M = table.take(own), set_N[own]
            is_in_M = contains(set_M, group.severity_N).astype(np.float64)
            figure = share_interval(weighted_mean(is_in_M, np.ones(len(group)), group.study_N))
            blocks[grade.key] = {
                "n": len(group),
                "coverage": {"value": figure.value, "interval": [figure.low, figure.high]},
                "size": float(set_sizes(set_M).mean()),
            }
    return blocks
