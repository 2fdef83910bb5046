"""The ranking of known grades by how much held-out predictions contradict them: suspect labels.

The predictions are the calibrated ones of the report: neither the adapters nor the head nor the calibrator learned from
the study. A label is suspect if another grade is more probable. Labels are ranked by their margin,

    margin = ln max_c p_c - ln p_known,

the logarithm of how many times as probable the most probable grade is. It is the surprise (-ln p_known) minus the least
surprise that any grade could have caused there: where the picture leaves everything open no label is suspect.

Dimensions: N sites, 3 grades.
"""

import numpy as np

from data_prep.sites import SITES, Severity
from vl_model.data.site_table import Floats, Ints
from vl_model.data.suspect_labels import SuspectLabel
from vl_model.evaluation.cross_fitting import HeldOut
from vl_model.evaluation.grader import HeadName

#: Probabilities below this one count as it: a calibrator's own zero is a matter of rounding.
LEAST = 1e-9


def label_margins(prob_N3: Floats, severity_N: Ints) -> tuple[Floats, Floats]:
    """Return the surprise and the margin of each known grade; both are at least 0."""
    log_prob_N3 = np.log(np.maximum(prob_N3, LEAST))
    known_N = log_prob_N3[np.arange(len(severity_N)), severity_N]
    return -known_N, log_prob_N3.max(axis=1) - known_N


def rank_suspect_labels(held_out: HeldOut, head: HeadName) -> tuple[list[SuspectLabel], int]:
    """Return the suspect labels of the held-out studies, the most suspect one first, and how many sites were ranked.

    Sites without an image are left out, because nothing speaks against their grades. Of equal margins the order is that
    of the rows, so that the same predictions give the same table.
    """
    rows = np.flatnonzero(held_out.imaged_N & held_out.table.labelled_N)
    table, prob_N3 = held_out.table.take(rows), held_out.prob_N3[head, "calibrated"][rows]
    surprise_N, margin_N = label_margins(prob_N3, table.severity_N)
    order = np.argsort(-margin_N, kind="stable")
    labels = []
    for rank, row in enumerate(order[margin_N[order] > 0].tolist(), start=1):
        normal, moderate, severe = prob_N3[row].tolist()
        label = SuspectLabel(
            rank=rank,
            study_id=int(table.study_N[row]),
            site=SITES[table.site_N[row]],
            severity=Severity(int(table.severity_N[row])),
            probabilities=(normal, moderate, severe),
            surprise=float(surprise_N[row]),
            margin=float(margin_N[row]),
        )
        labels.append(label)
    return labels, len(rows)
