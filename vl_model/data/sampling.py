"""Which rows an epoch is made of, and how often: every row once, or rare grades more often than they occur.

With power p, a row whose condition has n_c rows of its severity c is drawn  r_c = n_c^-p  times an epoch on average,
scaled so that each condition keeps its number of draws: p = 0 is every row once, p = 1 as many severe draws as normal
ones. A level of which one row in a thousand is severe does not get that row a thousand times: severities are counted
over the condition, and keep their levels' proportions.

What is met more often is not therefore more probable: `log_ratio_K` tells the loss log r of each caption, and the loss
takes it out again (`vl_model.training.loss`, "Sampling").

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
    """An epoch in its order: the row of each draw, and how often that row was drawn before in this epoch."""

    row_R: NDArray[np.int64]
    turn_R: NDArray[np.int64]


class SeveritySampling:
    """`rate_R` draws of each row an epoch, mean one; `log_ratio_K` the logarithm of a caption's rate."""

    def __init__(self, rows: Sequence[SiteRow], power: float) -> None:
        rates = _rates(rows, power)
        self.is_natural = power == 0
        self.rate_R = np.array([rates[row.site.condition, _severity(row)] for row in rows])
        self.log_ratio_K = np.log([rates[site.condition, severity] for site in SITES for severity in Severity])

    def epoch(self, generator: np.random.Generator) -> Draws:
        """As many draws as rows: each row floor(rate) or ceil(rate) times (systematic sampling: Madow 1949)."""
        row_R = generator.permutation(len(self.rate_R))
        if self.is_natural:
            return Draws(row_R, np.zeros_like(row_R))
        # A comb of R teeth over the rows laid end to end, each as long as its rate.
        end_R = np.cumsum(self.rate_R[row_R])
        teeth_R = (np.arange(len(row_R)) + generator.random()) * (end_R[-1] / len(row_R))
        drawn_R = generator.permutation(row_R[np.searchsorted(end_R, teeth_R, side="right").clip(max=len(row_R) - 1)])
        return Draws(drawn_R, _turns(drawn_R))


def _rates(rows: Sequence[SiteRow], power: float) -> dict[tuple[Condition, Severity], float]:
    """Of every condition and severity; one where there is no such row."""
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
    assert row.severity is not None, "only graded rows are trained on"
    return row.severity


def _turns(row_R: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each entry has occurred before it."""
    order = np.argsort(row_R, kind="stable")
    ordered = row_R[order]
    first = np.searchsorted(ordered, ordered, side="left")
    turn_R = np.empty_like(row_R)
    turn_R[order] = np.arange(len(row_R)) - first
    return turn_R
