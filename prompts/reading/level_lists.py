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
    clauses = _with_judged_lists(_with_leading_lists(clauses))
    done: list[Clause] = []
    for number, clause in enumerate(clauses):
        is_listed = bool(done) and _are_listed(done[-1], clause, _is_level)
        if is_listed and (_is_level(clause) or clause.count) and _is_one_finding(done[-1], clauses, number):
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


def _with_leading_lists(clauses: Sequence[Clause]) -> list[Clause]:
    """Say of all levels in front of a finding what it says: "L3-L4 and L4-L5: severe canal stenosis"."""
    done = list(clauses)
    for number in range(len(done) - 2, -1, -1):
        one, last = done[number : number + 2]
        if not (_leads(one, last) and not _ends_another(clauses, number)):
            continue
        is_one_place = one.sides in (frozenset(), last.sides)
        if is_one_place and (last.negated or _is_one_finding(one, done, number + 1)):
            joined = replace(last, levels=one.levels | last.levels, joint=one.joint, rest=(*one.rest, *last.rest))
            done[number : number + 2] = [replace(joined, start=one.start)]
        else:
            copied = replace(last, levels=one.levels, sides=one.sides or last.sides, joint=one.joint, is_listed=True)
            done[number] = replace(copied, rest=one.rest, notes=one.notes, start=one.start, end=one.end)
    return done


def _leads(one: Clause, last: Clause) -> bool:
    is_finding = last.begins_with_level and not _is_place(last) and not last.is_ungraded
    return is_finding and not (last.count or last.only) and _is_place(one) and _are_listed(one, last, _is_place)


def _ends_another(clauses: Sequence[Clause], number: int) -> bool:
    """Whether a level belongs to the finding before it: "severe canal stenosis at L3-L4 and L4-L5, L5-S1 normal"."""
    before = clauses[number - 1] if number else None
    return before is not None and clauses[number].joint in _LISTED and before.has_trailing_level


def _with_judged_lists(clauses: Sequence[Clause]) -> list[Clause]:
    """Say of all levels of a region what follows the last of them: "the canal at L3-L4 and L4-L5 is normal"."""
    done = list(clauses)
    for number, last in enumerate(done):
        first = number
        while first > 0 and done[first].joint in _LISTED and _is_level(done[first - 1]):
            first -= 1
        first -= 1
        is_judged = last.begins_with_level and not last.conditions and (last.grade is not None or last.negated)
        if not is_judged or first < 0 or not _is_region(done[first]) or done[first + 1].joint not in _LISTED:
            continue
        for at in range(first, number):
            done[at] = replace(done[at], grade=last.grade, negated=last.negated, is_judged_after=True, is_listed=True)
    return done


def _is_region(clause: Clause) -> bool:
    is_place = clause.is_place and bool(clause.conditions) and clause.has_trailing_level
    return is_place and not clause.negated and not clause.exception


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
    if one.exception or other.exception or (one.negated and not other.negated):
        return False
    return is_member(one) or is_member(other) or one.is_listed


def _is_level(clause: Clause) -> bool:
    return clause.said == {"levels"} and not clause.is_ungraded


def _is_place(clause: Clause) -> bool:
    return clause.said <= {"levels", "sides"} and not clause.is_ungraded
