"""The probability of a tree in each study, from the probabilities of its sites' grades, taken as independent.

This orders studies well. It is not the probability that a study matches: the sites of one spine are alike, so that
products of their probabilities are too small (or too large). `vl_model.calibration.recalibration` corrects the number.

Legend: S studies, X 25 sites in the order of `SITES`, 3 severities, B studies of a block.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
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
    # Probabilities of float32 have a sum of one as far as they are rounded, and so have products of these sums.
    return np.clip(probability_S, 0.0, 1.0, out=probability_S)


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


class _Exactly(NamedTuple):
    """A step: exactly `number` of the independent results of the steps `of` hold."""

    number: int
    of: tuple[int, ...]


class _ByGrade(NamedTuple):
    """A step: a sum over grades of one site; for each group of them, the step that the rest of the formula is."""

    groups: tuple[tuple[_Grades, int], ...]


class _Signed(NamedTuple):
    """A step: a sum and difference of the results of other steps, which is a probability."""

    terms: tuple[tuple[int, int], ...]


class _Constant(NamedTuple):
    """A step: a probability that is the same in all studies."""

    value: float


_Step = _Grades | _Complement | _AtLeast | _Exactly | _ByGrade | _Signed | _Constant


class _Plan:
    """The steps that compute a formula: each is computed once per block, from the results of earlier ones."""

    def __init__(self, formula: Formula) -> None:
        self._steps: list[_Step] = []
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
                case _Exactly(number, of):
                    results.append(_counts(number + 1, [results[step] for step in of])[number])
                case _ByGrade(groups):
                    results.append(_sum([_of_grades(p_3B_of, grades) * results[rest] for grades, rest in groups]))
                case _Signed(terms):
                    results.append(np.clip(_sum([sign * results[step] for sign, step in terms]), 0.0, 1.0))
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

    def _step(self, formula: Formula) -> _Step | int:
        match formula:
            case Literal(site, mask):
                return _Grades(site, tuple(s for s in _SEVERITIES if mask >> s & 1))
            case Negation(part):
                return _Complement(self._plan(part))
            case Threshold(needed, parts):
                return self._threshold(needed, parts)
            case _:
                return _Constant(float(formula))

    def _threshold(self, needed: int, parts: tuple[Formula, ...]) -> _Step | int:
        counted = _exactly_counted(needed, parts)
        if counted is not None:
            return _Exactly(counted.needed, tuple(map(self._plan, counted.parts)))
        if needed in (1, len(parts)):
            return self._joint(needed == 1, _flat(needed == 1, parts))
        if len(_groups(parts)) == len(parts):
            return _AtLeast(needed, tuple(map(self._plan, parts)))
        return self._by_grade(Threshold(needed, parts))

    def _joint(self, is_or: bool, parts: tuple[Formula, ...]) -> _Step | int:
        """Plan "or" or "and" of parts by the groups of them that share no site, which are independent."""
        groups = [_joined(is_or, group) for group in _groups(parts)]
        if len(groups) > 1:
            return _AtLeast(1 if is_or else len(groups), tuple(map(self._plan, groups)))
        if terms := _signed_terms(is_or, parts):
            return _Signed(tuple((sign, self._plan(term)) for sign, term in terms))
        [whole] = groups
        return self._by_grade(whole) if len(parts) > 1 and isinstance(whole, Threshold) else self._plan(whole)

    def _by_grade(self, formula: Threshold) -> _ByGrade | int:
        """Split by the grades of the first shared site; grades that leave the same formula are taken together."""
        named = Counter(site for part in formula.parts for site in support(part))
        site = first_to_fix([site for site in named if named[site] > 1])
        severities_of: dict[Formula, list[int]] = {}
        for severity in _SEVERITIES:
            severities_of.setdefault(fixed(formula, site, severity), []).append(severity)
        if len(severities_of) == 1:  # the formula does not turn on this site
            return self._plan(next(iter(severities_of)))
        groups = ((_Grades(site, tuple(s)), self._plan(rest)) for rest, s in severities_of.items())
        return _ByGrade(tuple(groups))


def _exactly_counted(needed: int, parts: tuple[Formula, ...]) -> Threshold | None:
    """Return "at least k of some independent parts" if the formula is this, and not "at least k + 1 of them"."""
    match parts:
        case (Threshold(least, counted), Negation(Threshold(more, others))):
            is_count = needed == len(parts) and more == least + 1 and others == counted
            return Threshold(least, counted) if is_count and len(_groups(counted)) == len(counted) else None
    return None


def _signed_terms(is_or: bool, parts: tuple[Formula, ...]) -> list[tuple[int, Formula]]:
    """Return the terms of an "and" of "or"s, or an "or" of "and"s, by inclusion and exclusion.

    P(A and B) = P(A) + P(B) - P(A or B): if A and B are "or"s over the same levels, "A or B" falls into as many groups
    that share no site, while "A and B" does not. Empty if this does not hold, or if there are many terms.
    """
    are_dual = all(isinstance(part, Threshold) and part.needed == (len(part.parts) if is_or else 1) for part in parts)
    if not are_dual or not 2 <= len(parts) <= 3 or len(_groups(_flat(not is_or, parts))) <= 2:
        return []
    chosen = [some for size in range(1, len(parts) + 1) for some in combinations(parts, size)]
    return [((-1) ** (len(some) + 1), _joined(not is_or, some)) for some in chosen]


def _flat(is_or: bool, parts: Iterable[Formula]) -> tuple[Formula, ...]:
    """Return the distinct parts of "or" or "and", with those of an "or" in an "or", or an "and" in an "and"."""
    flat: list[Formula] = []
    for part in parts:
        if isinstance(part, Threshold) and part.needed == (1 if is_or else len(part.parts)):
            flat += _flat(is_or, part.parts)
        else:
            flat.append(part)
    return tuple(dict.fromkeys(flat))


def _joined(is_or: bool, parts: tuple[Formula, ...]) -> Formula:
    return parts[0] if len(parts) == 1 else Threshold(1 if is_or else len(parts), parts)


def _groups(parts: Iterable[Formula]) -> list[tuple[Formula, ...]]:
    """Return the parts in groups: two groups have no site in common."""
    groups: list[tuple[frozenset[int], tuple[Formula, ...]]] = []
    for part in parts:
        sites: frozenset[int] = support(part)
        members: tuple[Formula, ...] = (part,)
        apart = []
        for other in groups:
            if other[0] & sites:
                sites, members = other[0] | sites, other[1] + members
            else:
                apart.append(other)
        groups = [*apart, (sites, members)]
    return [members for _, members in groups]


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
    return _counts(count, parts)[count]


def _counts(most: int, parts: Sequence[Floats]) -> list[Floats]:
    """Return the probabilities that 0, 1, ... `most` - 1 of independent parts hold, and that `most` or more do."""
    counts = [np.ones_like(parts[0]), *(np.zeros_like(parts[0]) for _ in range(most))]
    for part in parts:
        counts[most] = counts[most] + counts[most - 1] * part
        for j in range(most - 1, 0, -1):
            counts[j] = counts[j] * (1.0 - part) + counts[j - 1] * part
        counts[0] = counts[0] * (1.0 - part)
    return counts


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
