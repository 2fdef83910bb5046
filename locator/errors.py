"""How far located sites lie from where they are: tables of errors with intervals, a row a condition.

A site that was not located at all is infinitely far away: saying nothing is no way to score. Studies, not sites, are
drawn for the intervals: the sites of one study err together.

Dimensions: S studies, N = 25 sites.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_prep.geometry import Array
from data_prep.sites import SITES, Condition, Side

#: A site nearer to its place than this was found.
FOUND_MM = 10.0
RESAMPLES = 500

_CONDITION_N = np.array([site.condition for site in SITES])


@dataclass(frozen=True)
class Figure:
    """A value with the middle 95 % of its bootstrap."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True)
class ErrorTable:
    """Figures of one condition, in mm; found: the share of sites within `FOUND_MM`; n: sites."""

    condition: Condition
    n: int
    median: Figure
    percentile_95: Figure
    found: Figure


@dataclass(frozen=True)
class Measured:
    """Located places against true ones; NaN where either is unknown.

    place_SN3, true_SN3: mm; error_SN: predicted, mm.
    """

    place_SN3: Array
    true_SN3: Array
    error_SN: Array

    @property
    def distance_SN(self) -> Array:
        """mm; NaN where the true place is unknown, infinite where only the located one is."""
        distance: Array = np.linalg.norm(self.place_SN3 - self.true_SN3, axis=2)
        return np.where(self._is_known_SN & np.isnan(distance), np.inf, distance)

    @property
    def not_located(self) -> int:
        """Sites that have a place and got none."""
        return int(np.isinf(self.distance_SN).sum())

    @property
    def _is_known_SN(self) -> npt.NDArray[np.bool_]:
        return np.asarray(np.isfinite(self.true_SN3).all(axis=2))

    def tables(self, seed: int = 0) -> list[ErrorTable]:
        return [_table(condition, self.distance_SN[:, condition == _CONDITION_N], seed) for condition in Condition]

    @property
    def right_level_share(self) -> float:
        """Of studies whose every located site lies nearest to its own level, of those of its condition and side."""
        return float(np.mean([_levels_right(*study) for study in zip(self.place_SN3, self.true_SN3, strict=True)]))

    @property
    def sides_exchanged(self) -> int:
        """Left-right pairs of one level that lie nearer to each other's true places than to their own."""
        return sum(_exchanged(*study) for study in zip(self.place_SN3, self.true_SN3, strict=True))

    def reliability(self, bins: int = 5) -> list[tuple[float, float, int]]:
        """(expected, found, sites) by quantiles of the predicted error; roots of mean squares, mm."""
        known = np.isfinite(self.distance_SN) & np.isfinite(self.error_SN)
        expected, found = self.error_SN[known], self.distance_SN[known]
        order = np.argsort(expected)
        return [
            (float(np.sqrt(np.mean(expected[part] ** 2))), float(np.sqrt(np.mean(found[part] ** 2))), len(part))
            for part in np.array_split(order, bins)
            if len(part)
        ]


def _table(condition: Condition, distance_SN: Array, seed: int) -> ErrorTable:
    draws = np.random.default_rng(seed).integers(0, len(distance_SN), (RESAMPLES, len(distance_SN)))

    def figure(measure: Callable[[Array], float]) -> Figure:
        drawn = [measure(distance_SN[draw]) for draw in draws]
        low, high = np.nanpercentile(drawn, [2.5, 97.5], method="nearest")
        return Figure(measure(distance_SN), float(low), float(high))

    n = int((~np.isnan(distance_SN)).sum())
    if not n:
        nothing = Figure(np.nan, np.nan, np.nan)
        return ErrorTable(condition, 0, nothing, nothing, nothing)
    return ErrorTable(condition, n, figure(_median), figure(_percentile_95), figure(_found))


def _median(distance: Array) -> float:
    return _percentile(distance, 50)


def _percentile_95(distance: Array) -> float:
    return _percentile(distance, 95)


def _percentile(distance: Array, part: float) -> float:
    """The next larger of the known distances: between a number and infinity nothing can be interpolated."""
    known = distance[~np.isnan(distance)]
    return float(np.percentile(known, part, method="higher")) if len(known) else np.nan


def _found(distance: Array) -> float:
    known = distance[~np.isnan(distance)]
    return float(np.mean(known <= FOUND_MM)) if len(known) else np.nan


def _levels_right(place_N3: Array, true_N3: Array) -> bool:
    for index, site in enumerate(SITES):
        if not np.isfinite(true_N3[index]).all():
            continue
        if not np.isfinite(place_N3[index]).all():
            return False
        fellows = [
            number
            for number, other in enumerate(SITES)
            if (other.condition, other.side) == (site.condition, site.side) and np.isfinite(true_N3[number]).all()
        ]
        apart = np.linalg.norm(true_N3[fellows] - place_N3[index], axis=1)
        if fellows[int(np.argmin(apart))] != index:
            return False
    return True


def _exchanged(place_N3: Array, true_N3: Array) -> int:
    count = 0
    for index, site in enumerate(SITES):
        if site.side is not Side.LEFT:
            continue
        pair = [index, SITES.index(site.mirrored)]
        if not np.isfinite(place_N3[pair] + true_N3[pair]).all():
            continue
        own = np.linalg.norm(place_N3[pair] - true_N3[pair], axis=1).sum()
        crossed = np.linalg.norm(place_N3[pair] - true_N3[pair[::-1]], axis=1).sum()
        count += bool(crossed < own)
    return count


def lines(measured: Measured) -> list[str]:
    """What a person reads."""
    said = [f"{'':28s} {'sites':>6s} {'median mm':>20s} {'95 % mm':>20s} {'within 10 mm':>20s}"]
    for table in measured.tables():
        figures = f"{table.median!s:>20s} {table.percentile_95!s:>20s} {table.found!s:>20s}"
        said.append(f"{table.condition.words:28s} {table.n:6d} {figures}")
    said.append(f"right level in {measured.right_level_share:.1%} of {len(measured.place_SN3)} studies")
    if measured.not_located:
        said.append(f"{measured.not_located} sites were not located")
    said.append(f"left and right exchanged in {measured.sides_exchanged} pairs")
    bins = ", ".join(f"{expected:.1f} -> {found:.1f}" for expected, found, _ in measured.reliability())
    if bins:
        said.append(f"expected -> found error, mm, by fifths of the expected one: {bins}")
    return said
