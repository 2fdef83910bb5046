"""Merging of clauses that are one finding.

A fragment that follows a comma belongs to the clause before, as far as that lacks what it says.
"""

from collections.abc import Sequence
from dataclasses import replace

from data_prep.sites import Condition
from prompts.reading.clause import SLOTS, Clause


def merged(clauses: Sequence[Clause]) -> list[Clause]:
    """Join fragments after a comma or "with" to the clause before, if that lacks what they say."""
    done: list[Clause] = []
    for clause in clauses:
        if clause.grade is not None and clause.grade.is_of_list:
            _grade_list(done, clause)
        if done and _shares_count(done[-1], clause):
            values = _joined(done[-1], clause)
            done[-1] = replace(values, conditions=done[-1].conditions | clause.conditions)
        elif done and _is_place_of_ungraded(done[-1], clause):
            start, joint, levels = done[-1].start, done[-1].joint, clause.levels or done[-1].levels
            done[-1] = replace(clause, joint=joint, levels=levels, start=start, rest=((start, clause.end),))
        elif done and not _ends_list(done, clause) and _belongs_together(done[-1], clause):
            _spread(done, clause)
            done[-1] = _joined(done[-1], clause)
        else:
            done.append(clause)
    return done


def _ends_list(done: Sequence[Clause], other: Clause) -> bool:
    """Whether the clause before is the last of a list, so that what follows is not said of it alone.

    "severe canal stenosis at L3-L4 and L4-L5, no foraminal narrowing"; "right L4-5 and L5-S1 NFN, left normal".
    """
    if len(done) < 2 or done[-1].joint not in ("and", "or", "comma"):
        return False
    one, last = done[-2:]
    is_of_levels = one.has_trailing_level and last.said == {"levels"} and not other.is_fragment
    is_of_sides = one.is_fragment and bool(one.sides) and not last.sides and bool(other.sides)
    return is_of_levels or (is_of_sides and not last.is_fragment)


def _shares_count(one: Clause, other: Clause) -> bool:
    """Whether levels are counted for two conditions together: "canal or recess stenosis at two or more levels"."""
    has_only_condition = bool(one.conditions) and one.said <= {"conditions", "grade"}
    return has_only_condition and other.joint == "or" and bool(other.conditions and other.count) and not other.grade


def _is_place_of_ungraded(one: Clause, other: Clause) -> bool:
    """Whether a place belongs to something after it that is not graded: "L3-L4: disc bulge"."""
    is_place = one.is_place and not one.conditions and not one.exception
    return is_place and other.is_ungraded and other.joint in ("comma", "with", "")


def _belongs_together(one: Clause, other: Clause) -> bool:
    if other.joint not in ("comma", "with", "") or one.exception or other.exception or (one.negated and other.negated):
        return False
    if one.is_empty or other.is_empty:
        return False
    if _is_grade_of_a_scale(one, other) or _is_finding_of_subject(one, other):
        return True
    if not (one.is_fragment or other.is_fragment) or _said(one) & _said(other):
        return False
    if other.negated:
        return other.said == {"grade"} or (one.is_place and not other.is_fragment)
    if one.negated and (other.grade is not None or (one.is_fragment and one.grade is None)):
        return False
    if one.count and not one.is_fragment and {"grade", "levels"} <= other.said:
        return False
    if one.conditions == {Condition.SPINAL_CANAL_STENOSIS} and other.sides:
        return False
    return not (other.worse and other.grade)


def _is_grade_of_a_scale(one: Clause, other: Clause) -> bool:
    """Whether `other` grades the same condition again, which names its scale: "left foramen, Lee grade 2"."""
    return other.said == {"conditions", "grade"} and other.conditions == one.conditions and one.grade is None


def _is_finding_of_subject(one: Clause, other: Clause) -> bool:
    """Whether `other` says what a region named before it has: "canal: severe stenosis", "foramina with narrowing"."""
    return one.is_place and not one.is_fragment and other.finding and not _said(one) & _said(other)


def _said(clause: Clause) -> frozenset[str]:
    """What a clause says; "bilateral" and "left" both say the side."""
    said = clause.said
    return said | {"sides"} if said & {"both", "unilateral"} else said


def _spread(done: list[Clause], trailing: Clause) -> None:
    """Give a grade at the end of a list to all members that have none: "canal stenosis at L3-L4 and L4-L5, severe"."""
    if trailing.grade is None or not trailing.is_fragment:
        return
    number = len(done) - 1
    while number > 0 and done[number].is_fragment and done[number].joint in ("and", "or", "comma"):
        number -= 1
        if done[number].grade is None and not done[number].negated:
            done[number] = replace(done[number], grade=trailing.grade)


def _grade_list(done: list[Clause], last: Clause) -> None:
    """Give the grade of the last member of a list to all: "at L3-L4 and L4-L5 of any degree except severe"."""
    joint = last.joint
    for number in range(len(done) - 1, -1, -1):
        if joint not in ("and", "or", "comma") or done[number].grade is not None:
            return
        done[number], joint = replace(done[number], grade=last.grade), done[number].joint
        if not done[number].is_fragment:
            return


def _joined(one: Clause, other: Clause) -> Clause:
    values = {name: getattr(other, name) or getattr(one, name) for name in SLOTS}
    return replace(
        one,
        **values,
        negated=one.negated or other.negated,
        fewer=one.fewer or other.fewer,
        negates_all=one.negates_all or other.negates_all,
        is_judged_after=one.is_judged_after or other.is_judged_after or _judges(one, other),
        rest=(*one.rest, *other.rest),
        start=min(one.start, other.start),
        end=max(one.end, other.end),
        notes=(*one.notes, *other.notes),
    )


def _judges(one: Clause, other: Clause) -> bool:
    """Whether the region of one clause is graded, or denied, by the next one."""
    return bool(one.conditions) and one.is_place and (other.grade is not None or other.negated)
