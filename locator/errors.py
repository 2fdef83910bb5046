"""Errors of located positions: one row of statistics per condition, with bootstrap intervals.

A site that was not located counts as infinitely far away, so that leaving sites out does not improve the statistics.
The bootstrap draws studies, not sites, because the errors of one study's sites are correlated.

Dimensions: S studies, N = 25 sites.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_prep.geometry import Array
from data_prep.sites import SITES, Condition, Side

#: A site nearer than this to its true position counts as found.
FOUND_MM = 10.0
RESAMPLES = 500

_CONDITION_N = np.array([site.condition for site in SITES])


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True)
class ConditionErrors:
    """Error statistics of one condition.

    Attributes:
        condition: The condition.
        n: Number of sites.
        median: Median error, mm.
        percentile_95: 95th percentile of the error, mm.
        found: Share of sites within `FOUND_MM`.
    """

    condition: Condition
    n: int
    median: Estimate
    percentile_95: Estimate
    found: Estimate


@dataclass(frozen=True)
class PositionErrors:
    """Located and true positions of the sites of several studies.

    Attributes:
        located_SN3: Located positions in mm, NaN where a site was not located.
        true_SN3: True positions in mm, NaN where unknown.
        expected_error_SN: Expected errors in mm, NaN where unknown.
    """

    located_SN3: Array
    true_SN3: Array
    expected_error_SN: Array

    @property
    def distance_SN(self) -> Array:
        """Errors in mm; NaN where the true position is unknown, infinite where the site was not located."""
        distance: Array = np.linalg.norm(self.located_SN3 - self.true_SN3, axis=2)
        return np.where(self._is_known_SN & np.isnan(distance), np.inf, distance)

    @property
    def not_located(self) -> int:
        """Number of sites whose true position is known and that were not located."""
        return int(np.isinf(self.distance_SN).sum())

    @property
    def _is_known_SN(self) -> npt.NDArray[np.bool_]:
        return np.asarray(np.isfinite(self.true_SN3).all(axis=2))

    def by_condition(self, seed: int = 0) -> list[ConditionErrors]:
        return [
            _condition_errors(condition, self.distance_SN[:, condition == _CONDITION_N], seed)
            for condition in Condition
        ]

    @property
    def right_level_share(self) -> float:
        """Share of studies in which every site lies nearer to its own level's true position than to another level's."""
        return float(np.mean([_levels_right(*study) for study in zip(self.located_SN3, self.true_SN3, strict=True)]))

    @property
    def sides_exchanged(self) -> int:
        """Number of left-right pairs of sites that lie nearer to each other's true positions than to their own."""
        return sum(_sides_exchanged(*study) for study in zip(self.located_SN3, self.true_SN3, strict=True))

    def reliability(self, bins: int = 5) -> list[tuple[float, float, int]]:
        """Compare expected with observed errors, in bins of equally many sites, sorted by expected error.

        Returns:
            Per bin the root mean squares of the expected and the observed errors, in mm, and the number of sites.
        """
        known = np.isfinite(self.distance_SN) & np.isfinite(self.expected_error_SN)
        expected, observed = self.expected_error_SN[known], self.distance_SN[known]
        order = np.argsort(expected)
        return [
            (float(np.sqrt(np.mean(expected[part] ** 2))), float(np.sqrt(np.mean(observed[part] ** 2))), len(part))
            for part in np.array_split(order, bins)
            if len(part)
        ]


def _condition_errors(condition: Condition, distance_SN: Array, seed: int) -> ConditionErrors:
    draws = np.random.default_rng(seed).integers(0, len(distance_SN), (RESAMPLES, len(distance_SN)))

    def estimate(statistic: Callable[[Array], float]) -> Estimate:
        resampled = [statistic(distance_SN[draw]) for draw in draws]
        low, high = np.nanpercentile(resampled, [2.5, 97.5], method="nearest")
        return Estimate(statistic(distance_SN), float(low), float(high))

    n = int((~np.isnan(distance_SN)).sum())
    if not n:
        unknown = Estimate(np.nan, np.nan, np.nan)
        return ConditionErrors(condition, 0, unknown, unknown, unknown)
    return ConditionErrors(condition, n, estimate(_median), estimate(_percentile_95), estimate(_found))


def _median(distance: Array) -> float:
    return _percentile(distance, 50)


def _percentile_95(distance: Array) -> float:
    return _percentile(distance, 95)


def _percentile(distance: Array, percent: float) -> float:
    """Return the next larger of the known distances: one cannot interpolate between a number and infinity."""
    known = distance[~np.isnan(distance)]
    return float(np.percentile(known, percent, method="higher")) if len(known) else np.nan


def _found(distance: Array) -> float:
    known = distance[~np.isnan(distance)]
    return float(np.mean(known <= FOUND_MM)) if len(known) else np.nan


def _levels_right(located_N3: Array, true_N3: Array) -> bool:
    for index, site in enumerate(SITES):
        if not np.isfinite(true_N3[index]).all():
            continue
        if not np.isfinite(located_N3[index]).all():
            return False
        other_levels = [
            number
            for number, other in enumerate(SITES)
            if (other.condition, other.side) == (site.condition, site.side) and np.isfinite(true_N3[number]).all()
        ]
        distance = np.linalg.norm(true_N3[other_levels] - located_N3[index], axis=1)
        if other_levels[int(np.argmin(distance))] != index:
            return False
    return True


def _sides_exchanged(located_N3: Array, true_N3: Array) -> int:
    count = 0
    for index, site in enumerate(SITES):
        if site.side is not Side.LEFT:
            continue
        pair = [index, SITES.index(site.mirrored)]
        if not np.isfinite(located_N3[pair] + true_N3[pair]).all():
            continue
        own = np.linalg.norm(located_N3[pair] - true_N3[pair], axis=1).sum()
        exchanged = np.linalg.norm(located_N3[pair] - true_N3[pair[::-1]], axis=1).sum()
        count += bool(exchanged < own)
    return count


def report_lines(errors: PositionErrors) -> list[str]:
    """Return the error statistics as lines of text."""
    lines = [f"{'':28s} {'sites':>6s} {'median mm':>20s} {'95 % mm':>20s} {'within 10 mm':>20s}"]
    for row in errors.by_condition():
        if not row.n:
            lines.append(f"{row.condition.words:28s} {'no marks to compare with':>27s}")
            continue
        figures = f"{row.median!s:>20s} {row.percentile_95!s:>20s} {row.found!s:>20s}"
        lines.append(f"{row.condition.words:28s} {row.n:6d} {figures}")
    lines.append(f"All levels are right in {errors.right_level_share:.1%} of {len(errors.located_SN3)} studies.")
    if errors.not_located:
        lines.append(f"{errors.not_located} sites were not located.")
    lines.append(f"Left and right are exchanged in {errors.sides_exchanged} pairs of sites.")
    bins = ", ".join(f"{expected:.1f} -> {observed:.1f}" for expected, observed, _ in errors.reliability())
    if bins:
        lines.append(f"Expected -> observed error in mm, in fifths of the sites by expected error: {bins}")
    return lines
