"""Severity sampling: rates, repeats and the correction for the loss."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.sites import SITES, Condition, Severity
from tests.tiny_dataset import graded_rows
from vl_model.data.sampling import SeveritySampling
from vl_model.data.site_rows import SiteRow


@pytest.fixture(scope="module")
def rows(tiny_root: Path) -> list[SiteRow]:
    # One condition has two grades and another one grade: the absent grades must not cause a division by zero.
    return [
        replace(row, severity=limit(row.site.condition, row.severity or Severity.NORMAL_MILD))
        for row in graded_rows(tiny_root) * 3
    ]


def limit(condition: Condition, severity: Severity) -> Severity:
    if condition is Condition.SPINAL_CANAL_STENOSIS:
        return Severity.NORMAL_MILD
    return Severity(min(severity, 1)) if condition is Condition.SUBARTICULAR_STENOSIS else severity


def counts(rows: list[SiteRow], drawn: np.ndarray) -> Counter[tuple[Condition, Severity | None]]:
    return Counter((rows[row].site.condition, rows[row].severity) for row in drawn)


def test_power_zero_is_every_row_once(rows: list[SiteRow]) -> None:
    sampling = SeveritySampling(rows, 0.0)
    draws = sampling.epoch(np.random.default_rng(1))
    assert sampling.is_natural and np.array_equal(np.sort(draws.row_R), np.arange(len(rows)))
    assert not draws.repeat_R.any() and not sampling.log_ratio_K.any()


@pytest.mark.parametrize("power", [0.3, 1.0])
def test_grades_are_drawn_by_the_power_of_their_number(rows: list[SiteRow], power: float) -> None:
    sampling = SeveritySampling(rows, power)
    natural = counts(rows, np.arange(len(rows)))
    epochs = [sampling.epoch(np.random.default_rng(seed)) for seed in range(40)]
    drawn = counts(rows, np.concatenate([draws.row_R for draws in epochs]))
    for condition in Condition:
        present = {severity for (other, severity) in natural if other is condition}
        share = {severity: natural[condition, severity] ** (1 - power) for severity in present}
        total = sum(natural[condition, severity] for severity in present)
        for severity in present:
            expected = total * share[severity] / sum(share.values())
            assert drawn[condition, severity] / 40 == pytest.approx(expected, rel=0.02)


def test_a_row_is_drawn_at_its_rate_to_within_one(rows: list[SiteRow]) -> None:
    sampling = SeveritySampling(rows, 0.8)
    for seed in range(5):
        draws = sampling.epoch(np.random.default_rng(seed))
        assert len(draws.row_R) == len(rows)
        found = np.bincount(draws.row_R, minlength=len(rows))
        assert (np.abs(found - sampling.rate_R) < 1).all() and found.max() > 1
        for row in np.flatnonzero(found > 1):
            assert draws.repeat_R[draws.row_R == row].tolist() == list(range(found[row]))


def test_log_ratios_are_those_of_the_rates(rows: list[SiteRow]) -> None:
    sampling = SeveritySampling(rows, 0.5)
    for row, rate in zip(rows, sampling.rate_R, strict=True):
        assert row.caption is not None and np.exp(sampling.log_ratio_K[row.caption]) == pytest.approx(rate)
    canal = [index for index, site in enumerate(SITES) if site.condition is Condition.SPINAL_CANAL_STENOSIS]
    assert not sampling.log_ratio_K.reshape(-1, 3)[canal].any()  # one grade only: nothing to balance
