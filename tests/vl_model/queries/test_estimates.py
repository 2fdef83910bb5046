"""Intervals of shares and counts, against scipy's."""

import pytest
from scipy.stats import binomtest, norm

from vl_model.queries.estimates import Estimate, Z, count_estimate, share_estimate


def test_the_quantile_is_that_of_the_normal_distribution() -> None:
    assert pytest.approx(norm.ppf(0.975), abs=1e-14) == Z


@pytest.mark.parametrize(("count", "of"), [(0, 1), (1, 1), (0, 9), (3, 7), (7, 7), (40, 394), (1999, 2000)])
def test_a_share_has_wilsons_interval(count: int, of: int) -> None:
    found, interval = share_estimate(count, of), binomtest(count, of).proportion_ci(method="wilson")
    assert found is not None and found.value == count / of
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert found.low <= found.value <= found.high  # rounding puts neither end on the wrong side


def test_of_no_studies_there_is_no_share() -> None:
    assert share_estimate(0, 0) is None


def test_a_count_has_whole_numbers_around_it() -> None:
    found = count_estimate(0.013, 80, effective=400.0, certain=3)
    assert found.value == pytest.approx(4.04)
    assert found.low == 3 + round(80 * 0.0058) == 3 and found.high == 3 + round(80 * 0.0298) == 5
    assert count_estimate(0.003, 100, effective=1e6) == Estimate(0.3, 0.0, 1.0)  # never between whole numbers
    assert count_estimate(0.0, 5, effective=1e-9) == Estimate(0.0, 0.0, 5.0)
    assert count_estimate(1.0, 5, effective=1e9, certain=2) == Estimate(7.0, 7.0, 7.0)
    assert count_estimate(0.5, 0, effective=0.0, certain=2) == Estimate(2.0, 2.0, 2.0)
