"""Sampling of an epoch: every row once, or rare grades more often than they occur.

With power p, a row whose condition has n_c rows of its severity c is drawn  r_c = n_c^-p  times per epoch on average,
scaled so that each condition keeps its number of draws: p = 0 draws every row once, p = 1 as many severe rows as normal
ones. Severities are counted per condition, not per level, and keep the proportions of their levels: if one row in a
thousand is severe at some level, that row is not drawn a thousand times.

Rows that are drawn more often are not more probable: `log_ratio_K` holds log r of each caption, by which the loss
corrects its logits (`vl_model.training.loss`, "Sampling").

Dimensions: R rows, K = 75 captions.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.sites import SITES, Condition, Severity
from vl_model.data.site_rows import SiteRow


@dataclass(frozen=True)
class Draws:
    """The draws of an epoch in order: the row of each, and how often that row was drawn before in this epoch."""

    row_R: NDArray[np.int64]
    repeat_R: NDArray[np.int64]


class SeveritySampling:
    """Sampling with the given power.

    `rate_R` is the number of draws of each row per epoch, with mean one; `log_ratio_K` the log rate of each caption.
    """

    def __init__(self, rows: Sequence[SiteRow], power: float) -> None:
        rates = _rates(rows, power)
        self.is_natural = power == 0
        self.rate_R = np.array([rates[row.site.condition, _severity(row)] for row in rows])
        self.log_ratio_K = np.log([rates[site.condition, severity] for site in SITES for severity in Severity])

    def epoch(self, generator: np.random.Generator) -> Draws:
        """Draw an epoch of as many draws as rows: each row floor(rate) or ceil(rate) times.

        This is systematic sampling (Madow 1949).
        """
        row_R = generator.permutation(len(self.rate_R))
        if self.is_natural:
            return Draws(row_R, np.zeros_like(row_R))
        # R equidistant points over the rows laid end to end, each as long as its rate.
        end_R = np.cumsum(self.rate_R[row_R])
        point_R = (np.arange(len(row_R)) + generator.random()) * (end_R[-1] / len(row_R))
        drawn_R = generator.permutation(row_R[np.searchsorted(end_R, point_R, side="right").clip(max=len(row_R) - 1)])
        return Draws(drawn_R, _repeats(drawn_R))


def _rates(rows: Sequence[SiteRow], power: float) -> dict[tuple[Condition, Severity], float]:
    """Return the rate of every condition and severity; 1.0 if there is no such row."""
    count = Counter((row.site.condition, _severity(row)) for row in rows)
    rates = {}
    for condition in Condition:
        counts = {severity: count[condition, severity] for severity in Severity if count[condition, severity]}
        drawn = sum(number ** (1 - power) for number in counts.values())
        for severity in Severity:
            number = counts.get(severity)
            rates[condition, severity] = number**-power * sum(counts.values()) / drawn if number else 1.0
    return rates


def _severity(row: SiteRow) -> Severity:
    assert row.severity is not None, "training rows are labelled"
    return row.severity


def _repeats(row_R: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return, for each entry, how many equal entries precede it."""
    order = np.argsort(row_R, kind="stable")
    ordered = row_R[order]
    first = np.searchsorted(ordered, ordered, side="left")
    repeat_R = np.empty_like(row_R)
    repeat_R[order] = np.arange(len(row_R)) - first
    return repeat_R
