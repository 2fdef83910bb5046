"""How good rankings of studies are, with 95 % intervals over studies and prompts; used by query_quality.py.

Three measures of a prompt's ranking, all relative to true matches:

- precision at 10 over its ceiling: the matches among the first ten, over min(10, all matches);
- average precision;
- nDCG at 10.

An interval is that of 1,000 draws, with replacement, of as many studies and as many prompts of each kind (percentiles).
The same draws are made for all rankings, so that differences are paired. A study that is drawn twice stands in the
ranking twice, one beside the other. A draw in which a prompt has no match leaves that prompt out.

Legend: P prompts, N studies, B draws.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

TOP = 10
MEASURES = ("precision", "average precision", "nDCG")
_DRAWS = 1000
#: _DISCOUNT[k]: the discounts of the first k places together.
_DISCOUNT = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, TOP + 2)))])


@dataclass(frozen=True)
class Spread:
    """A mean over prompts with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def measures(match_PN: np.ndarray, count_PN: np.ndarray) -> dict[str, np.ndarray]:
    """Return the measures (P,) of rankings; nan for a prompt without a match.

    match_PN: whether the study at each place of the prompt's ranking matches. count_PN: how often it stands there.
    """
    last_PN = count_PN.cumsum(axis=1)
    first_PN = last_PN - count_PN
    hit_PN = match_PN * count_PN
    hits_PN = hit_PN.cumsum(axis=1)
    matches_P = hits_PN[:, -1].astype(np.float64)
    matches_P[matches_P == 0] = np.nan
    shown_PN = np.minimum(last_PN, TOP) - np.minimum(first_PN, TOP)
    ceiling_P = np.minimum(matches_P, TOP)
    with np.errstate(invalid="ignore"):  # studies before the first one that was drawn
        precision_PN = hits_PN / np.maximum(last_PN, 1)
    gain_PN = _DISCOUNT[np.minimum(last_PN, TOP)] - _DISCOUNT[np.minimum(first_PN, TOP)]
    best_P = _DISCOUNT[np.nan_to_num(ceiling_P).astype(np.int64)]
    return {
        "precision": (match_PN * shown_PN).sum(axis=1) / ceiling_P,
        "average precision": (hit_PN * precision_PN).sum(axis=1) / matches_P,
        "nDCG": (match_PN * gain_PN).sum(axis=1) / np.where(np.isnan(matches_P), np.nan, best_P),
    }


@dataclass(frozen=True)
class Compared:
    """The measures of several rankings by prompt, and in each draw of studies.

    value: ranking -> measure -> (P,). drawn: the same (B, P), with nan for a prompt without a match.
    """

    value: Mapping[str, Mapping[str, np.ndarray]]
    drawn: Mapping[str, Mapping[str, np.ndarray]]

    def spread(self, ranking: str, measure: str, prompts: np.ndarray, minus: str | None = None) -> Spread:
        """Return the mean of some prompts (their places), or that of the difference to another ranking."""
        value_P, drawn_BP = self.value[ranking][measure], self.drawn[ranking][measure]
        if minus is not None:
            value_P, drawn_BP = value_P - self.value[minus][measure], drawn_BP - self.drawn[minus][measure]
        rng = np.random.default_rng(len(prompts))
        chosen_BK = rng.choice(prompts, size=(len(drawn_BP), len(prompts)))
        mean_B = np.nanmean(np.take_along_axis(drawn_BP, chosen_BK, axis=1), axis=1)
        low, high = np.nanpercentile(mean_B, [2.5, 97.5])
        return Spread(float(np.nanmean(value_P[prompts])), float(low), float(high))


def compare(match_PN: np.ndarray, order_PN: Mapping[str, np.ndarray], seed: int = 0, draws: int = _DRAWS) -> Compared:
    """Return the measures of rankings, each the studies (P, N) of each prompt in their order, best first.

    match_PN: whether each study matches each prompt.
    """
    rng = np.random.default_rng(seed)
    ranked = {name: np.take_along_axis(match_PN, places_PN, axis=1) for name, places_PN in order_PN.items()}
    once_PN = np.ones(match_PN.shape, dtype=np.int64)
    value = {name: measures(match, once_PN) for name, match in ranked.items()}
    studies = match_PN.shape[1]
    drawn: dict[str, dict[str, list[np.ndarray]]] = {name: {m: [] for m in MEASURES} for name in order_PN}
    for _ in range(draws):
        count_N = np.bincount(rng.integers(studies, size=studies), minlength=studies)
        for name, places_PN in order_PN.items():
            for measure, value_P in measures(ranked[name], count_N[places_PN]).items():
                drawn[name][measure].append(value_P)
    return Compared(value, {name: {m: np.stack(rows) for m, rows in of.items()} for name, of in drawn.items()})
