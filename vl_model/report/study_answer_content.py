"""The answers about whole studies in ``report.json``: whether any canal stenosis, or any finding, is severe.

Each study is one row. Its probability was recalibrated without it (`calibration.study_answers`).
"""

from typing import Any

import numpy as np

from vl_model.calibration.cross_fit import divisions_of
from vl_model.calibration.study_answers import QUESTIONS, cross_fitted_answers, graded_conditions
from vl_model.data.site_table import Bools, Floats, Ints
from vl_model.evaluation.cross_fitting import HeldOut
from vl_model.evaluation.grader import HeadName
from vl_model.scoring.calibration_content import shown
from vl_model.scoring.calibration_error import bin_intervals, cut_calibration, event_ece_floor
from vl_model.scoring.metrics import bins_of_equal_width, reliability
from vl_model.scoring.operating_points import net_benefit, roc_curve, sensitivity_at
from vl_model.scoring.score_intervals import share_interval
from vl_model.scoring.study_influence import auc

Json = dict[str, Any]
#: Specificities at which the sensitivity is told, in percent.
SPECIFICITIES = (90, 95)
#: Thresholds of the decision curve.
_THRESHOLDS = np.linspace(0.02, 0.8, 40)
_BINS = 5


def answers_block(held_out: HeldOut, head: HeadName, seed: int = 0) -> Json:
    """Return, by question, how good its probabilities are; null if none of its sites is graded."""
    prob_N3, table = held_out.prob_N3[head, "calibrated"], held_out.table
    divisions = divisions_of(table, seed)
    blocks: Json = {}
    for question in QUESTIONS:
        conditions = graded_conditions(question, table)
        blocks[question] = None
        if conditions:
            asked, probability_S = cross_fitted_answers(question, prob_N3, table, divisions)
            figures = question_block(asked.event_S, probability_S, asked.study_S, seed)
            blocks[question] = {"conditions": [condition.value for condition in conditions], **figures}
    return blocks


def question_block(event_S: Bools, probability_S: Floats, study_S: Ints, seed: int = 0) -> Json:
    """Return the figures of one question. What cannot be measured, as without an event, is nan or empty."""
    calibration = cut_calibration(event_S, probability_S, study_S)
    floor = event_ece_floor(probability_S, seed=seed)
    false_P, true_P = roc_curve(event_S, probability_S)
    benefit_P, all_P = net_benefit(event_S, probability_S, _THRESHOLDS)
    found = reliability(probability_S, event_S, _BINS, "width")
    return {
        "studies": len(study_S),
        "events": int(event_S.sum()),
        "prevalence": float(event_S.mean()),
        "auc": shown(share_interval(auc(event_S, probability_S, study_S))),
        "sensitivity_at_specificity": {
            str(percent): shown(sensitivity_at(percent / 100, event_S, probability_S, seed))
            for percent in SPECIFICITIES
        },
        "slope": shown(calibration.slope),
        "intercept": shown(calibration.intercept),
        "ece": reliability(probability_S, event_S).error,
        "ece_floor": {"mean": floor.mean, "high": floor.high},
        "roc": {"false_positive_rate": false_P, "sensitivity": true_P},
        "reliability": {
            "confidence": found.confidence,
            "frequency": found.frequency,
            "interval": bin_intervals(event_S, bins_of_equal_width(probability_S, _BINS), study_S),
            "count": found.count,
        },
        "decision_curve": {"threshold": _THRESHOLDS, "net_benefit": benefit_P, "all": all_P},
    }
