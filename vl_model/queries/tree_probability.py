"""The probability of a tree in each study, from the probabilities of its sites' grades, taken as independent.

This orders studies well. It is not the probability that a study matches: the sites of one spine are alike, so that
products of their probabilities are too small (or too large). `vl_model.calibration.recalibration` corrects the number.

Legend: S studies, X 25 sites in the order of `SITES`, 3 severities, B studies of a block.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prompts.formula import Formula, Literal, Negation, Threshold, first_to_fix, fixed, formula_of, support
from prompts.tree import Tree

Floats = NDArray[np.float64]

#: The probabilities of so many studies fit into a core's cache.
_BLOCK = 2048
_SEVERITIES = range(3)


def tree_probability(tree: Tree, graded_SX3: NDArray[np.floating]) -> Floats:
    """Return the probability (S,) that each study's grades make the tree true, if its sites were independent.

    It is exact for any tree, also if parts of it share sites. NaN: no image shows one of the sites that the tree turns
    on (their probabilities are NaN).
    """
    plan = _Plan(formula_of(tree))
    probability_S = np.empty(len(graded_SX3))
    for start in range(0, len(graded_SX3), _BLOCK):
        block = slice(start, start + _BLOCK)
        probability_S[block] = plan.run(graded_SX3[block])
    # Probabilities of float32 sum to 1 within rounding only.
    return np.clip(probability_S, 0.0, 1.0)


def tree_truth(tree: Tree, possible_SX: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return for each study whether the tree certainly holds, and whether it may hold (S,), (S,).

    possible_SX: the severities that each site may have, as bits; a known grade is one bit, 7 is an unknown one. The
    answer errs on the side of caution if parts of the tree share sites: what may hold is never called certain.
    """
    certain_S, may_S = _truth(formula_of(tree), possible_SX)
    return np.broadcast_to(certain_S, len(possible_SX)), np.broadcast_to(may_S, len(possible_SX))


def possible_severities(label_SX: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return known grades, -1 for unknown ones, as the bits that `tree_truth` reads."""
    return np.where(label_SX < 0, 7, 1 << np.maximum(label_SX, 0)).astype(np.uint8)


class _Grades(NamedTuple):
    """A step of a plan: the probability that a site has one of one or two severities."""

    site: int
    severities: tuple[int, ...]


class _Complement(NamedTuple):
    """A step: one minus the result of step `of`."""

    of: int


class _AtLeast(NamedTuple):
    """A step: at least `needed` of the independent results of the steps `of` hold."""

    needed: int
    of: tuple[int, ...]


class _ByGrade(NamedTuple):
    """A step: a sum over grades of one site; for each group of them, the step that the rest of the formula is."""

    groups: tuple[tuple[_Grades, int], ...]


class _Constant(NamedTuple):
    """A step: a probability that is the same in all studies."""

    value: float


class _Plan:
    """The steps that compute a formula: each is computed once per block, from the results of earlier ones."""

    def __init__(self, formula: Formula) -> None:
        self._steps: list[_Grades | _Complement | _AtLeast | _ByGrade | _Constant] = []
        self._step_of: dict[Formula, int] = {}
        self._sites = sorted(support(formula))
        self._last = self._plan(formula)

    def run(self, graded_BX3: NDArray[np.floating]) -> Floats:
        """Return the probability (B,) of the formula in each study of a block."""
        p_3B_of = {site: np.array(graded_BX3[:, site].T, dtype=np.float64, order="C") for site in self._sites}
        results: list[Floats] = []
        for step in self._steps:
            match step:
                case _Grades():
                    results.append(_of_grades(p_3B_of, step))
                case _Complement(of):
                    results.append(1.0 - results[of])
                case _AtLeast(needed, of):
                    results.append(_at_least(needed, [results[number] for number in of]))
                case _ByGrade(groups):
                    results.append(_sum([_of_grades(p_3B_of, grades) * results[rest] for grades, rest in groups]))
                case _Constant(value):
                    results.append(np.full(len(graded_BX3), value))
        return results[self._last]

    def _plan(self, formula: Formula) -> int:
        """Return the number of the step that computes a formula; the steps before it are planned first."""
        if formula not in self._step_of:
            step = self._step(formula)
            if isinstance(step, int):
                return step
            self._steps.append(step)
            self._step_of[formula] = len(self._steps) - 1
        return self._step_of[formula]

    def _step(self, formula: Formula) -> _Grades | _Complement | _AtLeast | _ByGrade | _Constant | int:
        match formula:
            case Literal(site, mask):
                return _Grades(site, tuple(s for s in _SEVERITIES if mask >> s & 1))
            case Negation(part):
                return _Complement(self._plan(part))
            case Threshold(needed, parts):
                return self._threshold(needed, parts)
            case _:
                return _Constant(float(formula))

    def _threshold(self, needed: int, parts: tuple[Formula, ...]) -> _AtLeast | _ByGrade | int:
        named = Counter(site for part in parts for site in support(part))
        if max(named.values()) == 1:
            return _AtLeast(needed, tuple(self._plan(part) for part in parts))
        apart = [part for part in parts if all(named[s] == 1 for s in support(part))]
        if not apart or needed not in (1, len(parts)):
            return self._by_grade(Threshold(needed, parts), [site for site in named if named[site] > 1])
        # "or" and "and" may be taken in groups: those that share sites, and each of the others.
        shared = tuple(part for part in parts if part not in apart)
        together = Threshold(1 if needed == 1 else len(shared), shared)
        groups = (self._plan(together), *(self._plan(part) for part in apart))
        return _AtLeast(1 if needed == 1 else len(groups), groups)

    def _by_grade(self, formula: Formula, shared: Sequence[int]) -> _ByGrade | int:
        """Split by the grades of the first shared site; grades that leave the same formula are taken together."""
        site = first_to_fix(shared)
        severities_of: dict[Formula, list[int]] = {}
        for severity in _SEVERITIES:
            severities_of.setdefault(fixed(formula, site, severity), []).append(severity)
        if len(severities_of) == 1:  # the formula does not turn on this site
            return self._plan(next(iter(severities_of)))
        groups = ((_Grades(site, tuple(s)), self._plan(rest)) for rest, s in severities_of.items())
        return _ByGrade(tuple(groups))


def _of_grades(p_3B_of: Mapping[int, Floats], grades: _Grades) -> Floats:
    first, *second = grades.severities
    p_3B = p_3B_of[grades.site]
    return p_3B[first] + p_3B[second[0]] if second else p_3B[first]


def _sum(terms: Sequence[Floats]) -> Floats:
    return np.asarray(sum(terms[1:], terms[0]))


def _at_least(count: int, parts: Sequence[Floats]) -> Floats:
    """Return the probability that at least `count` of independent parts hold (Poisson-binomial distribution)."""
    if count == len(parts):
        return _product(parts)
    if count == 1:
        return 1.0 - _product([1.0 - part for part in parts])
    # exactly[j]: j of the parts so far hold; the last one: `count` or more.
    exactly = [np.ones_like(parts[0]), *(np.zeros_like(parts[0]) for _ in range(count))]
    for part in parts:
        exactly[count] = exactly[count] + exactly[count - 1] * part
        for j in range(count - 1, 0, -1):
            exactly[j] = exactly[j] * (1.0 - part) + exactly[j - 1] * part
        exactly[0] = exactly[0] * (1.0 - part)
    return exactly[count]


def _product(parts: Sequence[Floats]) -> Floats:
    product = parts[0].copy()
    for part in parts[1:]:
        product *= part
    return product


def _truth(formula: Formula, possible_SX: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    match formula:
        case Literal(site, mask):
            possible_S = possible_SX[:, site]
            return (possible_S & ~np.uint8(mask)) == 0, (possible_S & np.uint8(mask)) != 0
        case Negation(part):
            certain, may = _truth(part, possible_SX)
            return ~may, ~certain
        case Threshold(needed, parts):
            truths = [_truth(part, possible_SX) for part in parts]
            certain_S = np.sum([certain for certain, _ in truths], axis=0) >= needed
            return certain_S, np.sum([may for _, may in truths], axis=0) >= needed
        case _:
            return np.array(formula), np.array(formula)
