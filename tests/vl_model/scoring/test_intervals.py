"""Intervals over studies: against scoring tables without each study, known formulas, and their coverage."""

import time

import numpy as np
import pytest
from scipy.stats import t as student_t

from tests.vl_model.scoring.test_metrics import random_table
from vl_model.data.site_table import Floats, SiteTable
from vl_model.scoring.intervals import (
    LINEAR,
    LOG,
    interval_without_each,
    mean_interval,
    mean_intervals,
    metric_intervals,
    paired_differences,
    paired_mean_differences,
    paired_ratios,
)
from vl_model.scoring.metrics import StudySums, competition_metric, study_sums


def better(table: SiteTable, prob_N3: Floats) -> Floats:
    better_N3 = prob_N3 + 0.03 * np.eye(3)[np.maximum(table.severity_N, 0)]
    return better_N3 / better_N3.sum(axis=1, keepdims=True)


def test_the_interval_of_the_score_follows_from_the_scores_without_each_study() -> None:
    table, prob_N3 = random_table(studies=9, seed=8)
    interval = metric_intervals(study_sums(table, prob_N3))["score"]
    without = [
        competition_metric(table.take(table.study_N != s), prob_N3[table.study_N != s]).score for s in table.study_ids
    ]
    error = np.sqrt(8 / 9 * ((np.log(without) - np.log(without).mean()) ** 2).sum())
    score = competition_metric(table, prob_N3).score
    reach = student_t.ppf(0.975, 8) * error
    assert interval.value == score
    assert (interval.low, interval.high) == pytest.approx((score * np.exp(-reach), score * np.exp(reach)))


def test_the_interval_of_a_mean_is_students() -> None:
    value_S = np.random.default_rng(0).normal(3, 1, size=20)
    found = mean_interval(value_S, np.arange(20), scale=LINEAR)
    reach = student_t.ppf(0.975, 19) * value_S.std(ddof=1) / np.sqrt(20)
    assert (found.low, found.high) == pytest.approx((value_S.mean() - reach, value_S.mean() + reach))


def test_the_log_scale_keeps_a_loss_above_zero() -> None:
    without_S = np.array([0.97, 0.99, 0.999, 0.985])
    assert interval_without_each(0.01, 1 - without_S, LOG).low > 0


@pytest.mark.parametrize("without", [[], [0.5], [0.5, np.nan, 0.6], [0.0, 0.5]])
def test_there_is_no_interval_if_a_study_cannot_be_left_out(without: list[float]) -> None:
    found = interval_without_each(0.5, np.array(without), LOG)
    assert found.value == 0.5 and np.isnan(found.low) and np.isnan(found.high)


def test_a_part_of_one_study_has_no_interval_and_the_graded_mean_neither() -> None:
    table, prob_N3 = random_table(studies=6, seed=1, unlabelled=0.0)
    table.severity_N[(table.condition_N == 1) & (table.study_N != 102)] = -1
    found = metric_intervals(study_sums(table, prob_N3))
    assert np.isfinite(found["foraminal"].value) and np.isnan(found["foraminal"].low)
    assert np.isnan(found["score"].low) and np.isnan(found["graded_parts"].low) and np.isfinite(found["spinal"].low)
    table.severity_N[table.condition_N == 1] = -1
    found = metric_intervals(study_sums(table, prob_N3))
    assert np.isnan(found["score"].value) and found["graded_parts"].low < found["graded_parts"].value


def test_a_paired_comparison_is_quick_and_narrower_than_two_unpaired() -> None:
    table, prob_N3 = random_table(studies=700, seed=9)
    ours, theirs = study_sums(table, better(table, prob_N3)), study_sums(table, prob_N3)
    started = time.process_time()
    difference = paired_differences(ours, theirs)["score"]
    assert time.process_time() - started < 1.0
    alone = metric_intervals(theirs)["score"]
    assert difference.low < difference.value < difference.high < 0
    assert difference.high - difference.low < (alone.high - alone.low) / 3
    assert paired_ratios(ours, theirs)["score"].high < 1


def test_runs_are_averaged_study_by_study() -> None:
    table, prob_N3 = random_table(studies=40, seed=3)
    one, other = study_sums(table, prob_N3), study_sums(table, prob_N3[::-1])
    single = [metric_intervals(run)["score"].value for run in (one, other)]
    both = mean_intervals([one, other])["score"]
    assert both.value == pytest.approx(np.mean(single)) and both.low < both.value < both.high
    assert mean_intervals([one, one]) == metric_intervals(one)
    assert paired_mean_differences([one], [other]) == paired_differences(one, other)
    # Each run against itself in the other's place: the differences cancel for every study.
    nothing = paired_mean_differences([one, other], [other, one])["score"]
    assert (nothing.value, nothing.low, nothing.high) == pytest.approx((0, 0, 0), abs=1e-12)


def test_intervals_cover_the_score_of_the_cohort() -> None:
    table, prob_N3 = random_table(studies=3000, seed=12)
    ours, theirs = study_sums(table, better(table, prob_N3)), study_sums(table, prob_N3)
    true = {part: interval.value for part, interval in metric_intervals(ours).items()}
    difference = paired_differences(ours, theirs)["score"].value
    rng = np.random.default_rng(0)
    covered = np.zeros(3)
    for _ in range(200):
        drawn = rng.integers(0, 3000, size=66)
        one, other = (StudySums(np.arange(66), sums.loss_SG[drawn], sums.weight_SG[drawn]) for sums in (ours, theirs))
        found = metric_intervals(one)
        paired = paired_differences(one, other)["score"]
        covered += [
            *(found[part].low < true[part] < found[part].high for part in ("score", "any_severe")),
            paired.low < difference < paired.high,
        ]
    assert (covered / 200 > 0.9).all() and covered[0] / 200 < 0.985


def test_studies_without_a_row_of_a_part_do_not_narrow_its_interval() -> None:
    """Of forty studies five have spinal grades: their part has four degrees of freedom, and so has the score."""
    table, prob_N3 = random_table(studies=40, seed=3, unlabelled=0.0)
    kept = (table.condition_N != 0) | (table.study_N < 105)
    table, prob_N3 = table.take(kept), prob_N3[kept]
    few = table.study_N < 105
    all_studies = metric_intervals(study_sums(table, prob_N3))
    alone = metric_intervals(study_sums(table.take(few), prob_N3[few]))
    for part in ("spinal", "any_severe"):
        assert all_studies[part] == alone[part]
        ours, theirs = study_sums(table, prob_N3), study_sums(table, better(table, prob_N3))
        few_ours, few_theirs = (study_sums(table.take(few), one[few]) for one in (prob_N3, better(table, prob_N3)))
        assert paired_differences(ours, theirs)[part] == paired_differences(few_ours, few_theirs)[part]
    without = [
        competition_metric(table.take(table.study_N != s), prob_N3[table.study_N != s]).score for s in table.study_ids
    ]
    reach = student_t.ppf(0.975, 4) * np.sqrt(39 / 40 * ((np.log(without) - np.log(without).mean()) ** 2).sum())
    assert all_studies["score"].high == pytest.approx(all_studies["score"].value * np.exp(reach))
