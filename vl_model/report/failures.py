"""Which grades are taken for which, by condition: the kinds of failures and how sure the probabilities were."""

from typing import Any

import numpy as np

from data_prep.sites import Severity
from vl_model.data.site_table import CONDITIONS
from vl_model.evaluation.cross_fitting import HeldOut
from vl_model.evaluation.grader import HeadName

Json = dict[str, Any]
#: True and most probable grade of each kind, from the gravest.
KINDS_OF_FAILURE = (
    (Severity.SEVERE, Severity.NORMAL_MILD),
    (Severity.SEVERE, Severity.MODERATE),
    (Severity.MODERATE, Severity.NORMAL_MILD),
    (Severity.NORMAL_MILD, Severity.SEVERE),
    (Severity.MODERATE, Severity.SEVERE),
    (Severity.NORMAL_MILD, Severity.MODERATE),
)


def failures_block(held_out: HeldOut, head: HeadName) -> list[Json]:
    """Return each kind of failure: how many sites of its true grade, and how many of them fail so, by condition.

    `certain` counts those whose most probable grade has 0.8 or more.
    """
    graded = held_out.table.labelled_N
    table, prob_N3 = held_out.table.take(graded), held_out.prob_N3[head, "calibrated"][graded]
    predicted_N, certain_N = prob_N3.argmax(axis=1), prob_N3.max(axis=1) >= 0.8
    blocks = []
    for true, predicted in KINDS_OF_FAILURE:
        of_grade_N = table.severity_N == true
        failed_N = of_grade_N & (predicted_N == predicted)
        blocks.append(
            {
                "true": true.key,
                "predicted": predicted.key,
                "sites": int(of_grade_N.sum()),
                "failures": int(failed_N.sum()),
                "certain": int((failed_N & certain_N).sum()),
                "conditions": {
                    condition.value: int((failed_N & (table.condition_N == index)).sum())
                    for index, condition in enumerate(CONDITIONS)
                    if index in np.unique(table.condition_N)
                },
            }
        )
    return blocks
