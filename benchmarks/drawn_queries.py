"""Simulated studies for queries: their severities, what a grader says of each site, and some thirty kinds of query.

- The grades of a study's 25 sites are correlated normal numbers, with the correlations of the phantom
  (`data_prep.phantom.grades`), which were chosen such that the labels have those of the RSNA 2024 training set. Their
  severities follow from thresholds at the frequencies of the site's column there.
- The grader sees, of each site by itself,  sqrt(0.8) grade + sqrt(0.2) noise,  and states the probabilities that follow
  for that site from what it sees of it. They are exactly calibrated. What it does not see of the sites is correlated,
  so that to compose the probabilities as independent misses by a factor of two for some queries.
- A query is a function of probabilities (S, X, 3). Of the grader's probabilities it is the composed score; of
  probabilities that are all zero or one it is the match, so that one definition serves for both.

Legend: S studies, X = 25 sites, K sites of a query, L = 5 levels, C = 3 severities.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import ndtr, ndtri

from data_prep.phantom.grades import class_probabilities, latent_correlation
from data_prep.sites import SITES, Condition, Level, Severity, Side
from vl_model.data.site_table import Bools, Floats, Ints

#: The share of the variance of a site's grade that the grader sees.
SEEN = 0.8
CANAL, FORAMEN, RECESS = Condition
LEFT, RIGHT = Side
NORMAL, MODERATE, SEVERE = Severity
DISEASED = (MODERATE, SEVERE)
#: A query, or a part of one: probabilities (S, X, 3) -> the probability of a match (S,), sites being independent.
Composition = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Kind:
    """A query in words, the group of queries that it is reported with, and its composition."""

    group: str
    words: str
    composed: Composition


def draw_studies(rng: np.random.Generator, studies: int) -> tuple[Ints, Floats]:
    """Return severities (S, X) and the grader's probabilities (S, X, 3)."""
    mixing_XX = np.linalg.cholesky(latent_correlation())
    grade_SX = rng.standard_normal((studies, len(SITES))) @ mixing_XX.T
    seen_SX = np.sqrt(SEEN) * grade_SX + np.sqrt(1 - SEEN) * rng.standard_normal(grade_SX.shape)
    cut_X2 = ndtri(np.array([class_probabilities(site) for site in SITES]).cumsum(axis=1)[:, :2])
    above_SX2 = ndtr((np.sqrt(SEEN) * seen_SX[..., None] - cut_X2) / np.sqrt(1 - SEEN))
    moderate_SX, severe_SX = above_SX2[..., 0], above_SX2[..., 1]
    prob_SX3 = np.stack([1 - moderate_SX, moderate_SX - severe_SX, severe_SX], axis=-1)
    return (grade_SX[..., None] > cut_X2).sum(axis=-1), prob_SX3


def matches(kind: Kind, severity_SX: Ints) -> Bools:
    """Return which studies match: the composition of certainties."""
    certain_SX3 = np.eye(len(Severity))[severity_SX]
    return np.asarray(kind.composed(certain_SX3) > 0.5)


def _sites(conditions: Iterable[Condition], sides: Iterable[Side] = Side, levels: Iterable[Level] = Level) -> list[int]:
    return [
        index
        for index, site in enumerate(SITES)
        if site.condition in conditions and (site.side is None or site.side in sides) and site.level in levels
    ]


def _has(site_K: list[int], severities: Iterable[Severity], prob_SX3: Floats) -> Floats:
    """Return the probability (S, K) that each site has one of the severities."""
    return prob_SX3[:, site_K][..., list(severities)].sum(axis=-1)


def any_of(site_K: list[int], *severities: Severity) -> Composition:
    return lambda prob_SX3: 1 - (1 - _has(site_K, severities, prob_SX3)).prod(axis=1)


def all_of(site_K: list[int], *severities: Severity) -> Composition:
    return lambda prob_SX3: _has(site_K, severities, prob_SX3).prod(axis=1)


def both(*parts: Composition) -> Composition:
    return lambda prob_SX3: np.prod([part(prob_SX3) for part in parts], axis=0)


def either(*parts: Composition) -> Composition:
    return lambda prob_SX3: 1 - np.prod([1 - part(prob_SX3) for part in parts], axis=0)


def not_(part: Composition) -> Composition:
    return lambda prob_SX3: 1 - part(prob_SX3)


def count_of(parts: Iterable[Composition], numbers: Iterable[int], prob_SX3: Floats) -> Floats:
    """Return the probability that so many of the parts hold (Poisson-binomial)."""
    part_list = list(parts)
    count_SP = np.zeros((len(prob_SX3), len(part_list) + 1))
    count_SP[:, 0] = 1.0
    for part in part_list:
        p_S1 = part(prob_SX3)[:, None]
        count_SP[:, 1:] = count_SP[:, 1:] * (1 - p_S1) + count_SP[:, :-1] * p_S1
        count_SP[:, :1] *= 1 - p_S1
    return count_SP[:, list(numbers)].sum(axis=1)


def levels_with(numbers: Iterable[int], condition: Condition, *severities: Severity) -> Composition:
    """So many levels have at least one site of a condition with one of the severities."""
    parts = [any_of(_sites([condition], levels=[level]), *severities) for level in Level]
    return partial(count_of, parts, tuple(numbers))


def worse_on(side: Side, condition: Condition, *levels: Level) -> Composition:
    """At one of the levels, the side has a higher severity than the other."""

    def worse_at(level: Level, prob_SX3: Floats) -> Floats:
        ours_SC = prob_SX3[:, _sites([condition], [side], [level])[0]]
        theirs_SC = prob_SX3[:, _sites([condition], [side.other], [level])[0]]
        return ours_SC[:, 1] * theirs_SC[:, 0] + ours_SC[:, 2] * theirs_SC[:, :2].sum(axis=1)

    return either(*(partial(worse_at, level) for level in levels))


def _at(condition: Condition, level: Level, *sides: Side) -> list[int]:
    return _sites([condition], sides or Side, [level])


_ALL = _sites(Condition)
_L34, _L45, _L51 = Level.L3_L4, Level.L4_L5, Level.L5_S1

KINDS: tuple[Kind, ...] = (
    Kind("one site", "severe canal L4-L5", any_of(_at(CANAL, _L45), SEVERE)),
    Kind("one site", "moderate or severe canal L4-L5", any_of(_at(CANAL, _L45), *DISEASED)),
    Kind("one site", "severe left foramen L5-S1", any_of(_at(FORAMEN, _L51, LEFT), SEVERE)),
    Kind("one site", "narrowed right recess L3-L4", any_of(_at(RECESS, _L34, RIGHT), *DISEASED)),
    Kind("one site", "normal canal L4-L5", any_of(_at(CANAL, _L45), NORMAL)),
    Kind("any", "any severe canal", any_of(_sites([CANAL]), SEVERE)),
    Kind("any", "any moderate or severe canal", any_of(_sites([CANAL]), *DISEASED)),
    Kind("any", "any severe foramen", any_of(_sites([FORAMEN]), SEVERE)),
    Kind("any", "either recess severe L4-L5", any_of(_at(RECESS, _L45), SEVERE)),
    Kind("any", "anything severe", any_of(_ALL, SEVERE)),
    Kind("none", "nothing narrowed L5-S1", all_of(_sites(Condition, levels=[_L51]), NORMAL)),
    Kind("none", "all canals normal", all_of(_sites([CANAL]), NORMAL)),
    Kind("none", "all 25 normal", all_of(_ALL, NORMAL)),
    Kind("none", "nothing severe", all_of(_ALL, NORMAL, MODERATE)),
    Kind("none", "all foramina normal", all_of(_sites([FORAMEN]), NORMAL)),
    Kind("both sides", "both recesses severe L4-L5", all_of(_at(RECESS, _L45), SEVERE)),
    Kind("both sides", "both recesses severe L3-L4", all_of(_at(RECESS, _L34), SEVERE)),
    Kind("both sides", "both foramina narrowed L5-S1", all_of(_at(FORAMEN, _L51), *DISEASED)),
    Kind("both sides", "both foramina severe L5-S1", all_of(_at(FORAMEN, _L51), SEVERE)),
    Kind("both sides", "both recesses severe, any level", either(*(all_of(_at(RECESS, x), SEVERE) for x in Level))),
    Kind("count", "at least 2 levels of canal stenosis", levels_with((2, 3, 4, 5), CANAL, *DISEASED)),
    Kind("count", "at least 3 levels of canal stenosis", levels_with((3, 4, 5), CANAL, *DISEASED)),
    Kind("count", "exactly 1 level of canal stenosis", levels_with((1,), CANAL, *DISEASED)),
    Kind("count", "at least 2 levels of severe recess", levels_with((2, 3, 4, 5), RECESS, SEVERE)),
    Kind(
        "count",
        "canal stenosis only at L4-L5",
        both(
            any_of(_at(CANAL, _L45), *DISEASED),
            all_of(_sites([CANAL], levels=[x for x in Level if x is not _L45]), NORMAL),
        ),
    ),
    Kind("and", "severe canal and severe foramen", both(*(any_of(_sites([c]), SEVERE) for c in (CANAL, FORAMEN)))),
    Kind(
        "and",
        "severe canal and both recesses L4-L5",
        both(any_of(_at(CANAL, _L45), SEVERE), all_of(_at(RECESS, _L45), SEVERE)),
    ),
    Kind("and", "L4-L5 and L5-S1 foramina narrowed", both(*(any_of(_at(FORAMEN, x), *DISEASED) for x in (_L45, _L51)))),
    Kind(
        "and not",
        "severe recess, normal foramina L4-L5",
        both(any_of(_at(RECESS, _L45), SEVERE), all_of(_at(FORAMEN, _L45), NORMAL)),
    ),
    Kind(
        "and not",
        "severe canal without severe recess",
        both(any_of(_sites([CANAL]), SEVERE), not_(any_of(_sites([RECESS]), SEVERE))),
    ),
    Kind("rare", "severe foramen L2-L3", any_of(_at(FORAMEN, Level.L2_L3), SEVERE)),
    Kind("rare", "all canals narrowed", all_of(_sites([CANAL]), *DISEASED)),
    Kind("rare", "severe canal L1-L2", any_of(_at(CANAL, Level.L1_L2), SEVERE)),
    Kind("side", "left recess worse than right L4-L5", worse_on(LEFT, RECESS, _L45)),
    Kind("side", "right foramen worse than left", worse_on(RIGHT, FORAMEN, *Level)),
)
