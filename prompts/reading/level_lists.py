"""Lists of levels: "at L3-L4 and L4-L5" is two clauses, the second of which says nothing but its level.

What lacks a level takes the whole list, and a number of levels, or "only", is of the whole list.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from data_prep.sites import Level
from prompts.reading.clause import Clause

_LISTED = ("and", "or", "comma")


@dataclass(frozen=True)
class LevelList:
    """The levels of each member; is_any: any of them is meant, and not each."""

    members: tuple[frozenset[Level], ...]
    is_any: bool

    @property
    def levels(self) -> frozenset[Level]:
        """All of its levels."""
        return frozenset[Level]().union(*self.members)


def level_list(clauses: Sequence[Clause], number: int) -> LevelList:
    """Return the list of levels that the clause `number`, which names levels, is a member of."""
    first = last = number
    while first > 0 and _are_listed(clauses[first - 1], clauses[first], _is_place):
        first -= 1
    while last + 1 < len(clauses) and _are_listed(clauses[last], clauses[last + 1], _is_place):
        last += 1
    joints = [clause.joint for clause in clauses[first + 1 : last + 1]]
    is_any = "or" in joints or ("and" not in joints and len(joints) > 0)
    return LevelList(tuple(clause.levels for clause in clauses[first : last + 1]), is_any)


def with_lists(clauses: Sequence[Clause]) -> list[Clause]:
    """Give a clause the levels of its whole list, if any of them is meant, if it counts them, or if it says "only"."""
    done: list[Clause] = []
    for number, clause in enumerate(clauses):
        if done and _are_listed(done[-1], clause, _is_level) and _is_one_finding(done[-1], clauses, number):
            before = done.pop()
            told, levels = (clause if _is_level(before) else before), before.levels | clause.levels
            joined = replace(told, joint=before.joint, levels=levels, rest=(*before.rest, *clause.rest))
            done.append(replace(joined, start=before.start, end=clause.end))
        elif clause.only and clause.levels and len((listed := level_list(clauses, number)).members) > 1:
            # "only at L4-L5 and L5-S1": at both of them, and at no other.
            done.append(replace(clause, levels=listed.levels))
            done.append(replace(clause, only=False, joint="and", rest=(), notes=()))
        else:
            done.append(clause)
    return done


def _is_one_finding(before: Clause, clauses: Sequence[Clause], number: int) -> bool:
    """Whether a member of a list and those before it are one finding: a number of levels, or any of them."""
    if before.count or clauses[number].count:
        return True
    # A comma is the next joint of its list, as in `prompts.reading.parse`.
    joints = [clause.joint for clause in clauses[number:] if clause.joint in ("and", "or")]
    if clauses[number].joint == "and" or not joints:
        return clauses[number].joint == "comma" and not any(clause.denies for clause in clauses)
    return joints[0] == "or"


def _are_listed(one: Clause, other: Clause, is_member: Callable[[Clause], bool]) -> bool:
    """Whether the clauses are members of one list of levels: one of them says nothing else."""
    if other.joint not in _LISTED or not (one.levels and other.levels):
        return False
    if one.exception or other.exception or one.negated != other.negated:
        return False
    return is_member(one) or is_member(other)


def _is_level(clause: Clause) -> bool:
    return clause.said == {"levels"} and not clause.is_ungraded


def _is_place(clause: Clause) -> bool:
    return clause.said <= {"levels", "sides"} and not clause.is_ungraded
