"""The benchmark of prediction sets on drawn studies."""

import numpy as np

from benchmarks.prediction_sets import answer_lines, coverage_lines, single_threshold_sets
from tests.vl_model.report.test_report_sections import HEAD, drawn_held_out
from vl_model.calibration.cross_fit import study_groups
from vl_model.calibration.prediction_sets import contains


def test_the_lines_tell_that_every_grade_is_covered_and_what_one_threshold_would_do() -> None:
    held_out = drawn_held_out(150)
    table, prob_N3 = held_out.table, held_out.prob_N3[HEAD, "calibrated"]
    lines = coverage_lines(table, prob_N3)
    assert sum("within 2 points: met" in line for line in lines) == 6
    single = single_threshold_sets(table, prob_N3, study_groups(table), 90)
    covered_N = contains(single, table.severity_N)
    assert abs(covered_N.mean() - 0.9) < 0.02 and covered_N[table.severity_N == 2].mean() < 0.85
    text = "\n".join(answer_lines(held_out, HEAD))
    assert "any_severe_canal: " in text and "sensitivity at 95 % specificity" in text and "nan" not in text
    assert np.isfinite(prob_N3).all()
