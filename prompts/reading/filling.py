"""Gaps of clauses: what a clause does not say, it takes from the clause before, else from the one after.

A complete clause (with a condition or a finding word) takes condition, side and grade from the clause before alone; a
fragment ("left", "severe at L4-L5") takes them from either. Levels are taken from either by both.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from data_prep.sites import Condition, Level
from prompts.reading.clause import Clause
from prompts.reading.level_lists import LevelList, level_list


def filled(clauses: Sequence[Clause]) -> list[Clause]:
    """Return the clauses with their gaps filled, and with the places of all exceptions taken from each of them."""
    done: list[Clause] = []
    for number, clause in enumerate(clauses):
        if clause.is_empty or clause.exception:
            done.append(clause)
            continue
        listed = _listed_levels(clauses, number)
        given = _filled(clause, done, clauses[number + 1 :])
        if listed is None:
            done.append(given)
        elif given.denies or given.count or listed.is_any:
            done.append(replace(given, levels=listed.levels))
        else:
            done += _at_each(given, listed)
    return _without_exceptions(done)


def _at_each(clause: Clause, listed: LevelList) -> list[Clause]:
    """Return the clause at each of the levels: "canal and foraminal stenosis at L3-L4 and L4-L5" is four findings."""
    first, *others = listed.members
    return [
        replace(clause, levels=first),
        *(replace(clause, levels=levels, joint="and", rest=(), notes=()) for levels in others),
    ]


def _filled(clause: Clause, done: Sequence[Clause], following: Sequence[Clause]) -> Clause:
    before = next((c for c in reversed(done) if not c.is_empty and not c.exception), None)
    after = [c for c in following if not c.is_empty and not c.exception]
    values = _conditions(clause, before, after)
    values |= _elsewhere(clause, done) | _comparison(clause, before)
    if values.get("conditions", clause.conditions) != {Condition.SPINAL_CANAL_STENOSIS}:
        values |= _sides(clause, before, after)
    values |= _judgement(clause, before, following) or _grade(clause, before, after)
    return replace(clause, **values)  # type: ignore[arg-type]


def _conditions(clause: Clause, before: Clause | None, after: Sequence[Clause]) -> dict[str, object]:
    if clause.conditions:
        return {}
    if before is not None and not _is_parallel(clause, after):
        return {"conditions": before.conditions}
    donor = next((c for c in after if c.conditions), None) if clause.is_fragment else None
    return {} if donor is None else {"conditions": donor.conditions}


def _is_parallel(clause: Clause, after: Sequence[Clause]) -> bool:
    """Whether a side begins a pair that is named at its end: "severe left and mild right foraminal narrowing"."""
    begins = clause.is_fragment and clause.joint == "comma" and bool(clause.sides) and not clause.levels
    return begins and bool(after) and after[0].joint in ("and", "or") and bool(after[0].sides and after[0].conditions)


def _listed_levels(clauses: Sequence[Clause], number: int) -> LevelList | None:
    """Return the levels that a clause without levels takes from the clauses before, else from those after."""
    clause = clauses[number]
    if clause.levels or clause.elsewhere:
        return None
    left_out = _levels_left_out(clauses, number)
    before = next((n for n in range(number - 1, -1, -1) if _names_levels(clauses[n])), None)
    if before is not None:
        listed = level_list(clauses, before)
        # "canal stenosis except L5-S1" is about all other levels, unless it can only mean those named before.
        is_about_others = bool(left_out) and not (left_out & listed.levels and listed.levels - left_out)
        is_enough = clause.count is None or len(listed.levels) >= clause.count[1]
        return listed if is_enough and not is_about_others else None
    if left_out or clause.count is not None or clause.every:
        return None
    after = next((n for n in range(number + 1, len(clauses)) if _names_levels(clauses[n])), None)
    if after is None or clauses[after].elsewhere:
        return None
    return level_list(clauses, after)


def _names_levels(clause: Clause) -> bool:
    return not clause.exception and bool(clause.levels or clause.elsewhere)


def _levels_left_out(clauses: Sequence[Clause], number: int) -> frozenset[Level]:
    """Return the levels of the exceptions that follow a clause directly."""
    levels = frozenset[Level]()
    for clause in clauses[number + 1 :]:
        if not clause.exception:
            break
        levels |= clause.levels
    return levels


def _elsewhere(clause: Clause, done: Sequence[Clause]) -> dict[str, object]:
    """Return all levels but those named before: "severe at L4-L5, normal elsewhere"."""
    if not clause.elsewhere:
        return {}
    before = next((c.levels for c in reversed(done) if c.levels and not c.exception), frozenset[Level]())
    return {"levels": frozenset(Level) - before}


def _comparison(clause: Clause, before: Clause | None) -> dict[str, object]:
    """Return the comparison of sides that a list of levels shares: "worse on the left at L3-L4 and L4-L5"."""
    if before is None or not before.worse or clause.said != {"levels"}:
        return {}
    return {"worse": before.worse}


def _sides(clause: Clause, before: Clause | None, after: Sequence[Clause]) -> dict[str, object]:
    if clause.sides or clause.both or clause.unilateral or clause.worse:
        return {}
    if before is not None and (before.sides or before.both or before.unilateral):
        if _denies_another_condition(clause, before):
            return {}
        shares_noun = clause.is_fragment or not before.finding
        return {
            "sides": before.sides,
            "both": before.both and shares_noun,
            "unilateral": before.unilateral and shares_noun,
        }
    if before is not None or not after:
        return {}
    donor = after[0]
    if clause.is_fragment or (donor.has_trailing_side and not clause.finding):
        return {"sides": donor.sides, "both": donor.both, "unilateral": donor.unilateral}
    return {}


def _denies_another_condition(clause: Clause, before: Clause) -> bool:
    """Whether a clause calls another condition normal: "left recess stenosis with clear foramina", both of them."""
    is_denial = clause.negated or (clause.grade is not None and clause.grade.is_all)
    return is_denial and bool(clause.conditions) and clause.conditions != before.conditions


def _judgement(clause: Clause, before: Clause | None, following: Sequence[Clause]) -> dict[str, object]:
    """Return grade and denial that follow the last of several regions: "canal and foramina are patent"."""
    is_begun_anew = before is None or before.finding or before.is_judged_after
    if not (is_begun_anew and _is_bare_region(clause)):
        return {}
    for other in following:
        if other.joint not in ("and", "or", "comma") or not other.conditions:
            return {}
        if other.is_judged_after:
            return {"grade": other.grade, "negated": other.negated}
        if not _is_bare_region(other):
            return {}
    return {}


def _is_bare_region(clause: Clause) -> bool:
    return clause.is_place and bool(clause.conditions) and not clause.negated


def _grade(clause: Clause, before: Clause | None, after: Sequence[Clause]) -> dict[str, object]:
    if clause.grade is not None or clause.worse:
        return {}
    if clause.negated:
        # "no severe canal or foraminal stenosis": what a "no" denies too has the grade of what it denies.
        is_same = clause.is_denied_too or (clause.is_fragment and clause.negates_all)
        return {"grade": before.grade} if is_same and before is not None else {}
    if before is not None:
        is_own_denial = before.negated or (before.grade is not None and before.grade.is_all and clause.finding)
        return {} if is_own_denial else {"grade": before.grade}
    for other in after if clause.is_fragment else ():
        if other.grade is not None and not other.negated:
            return {"grade": other.grade}
        if not other.is_fragment:
            break
    return {}


def _without_exceptions(clauses: Sequence[Clause]) -> list[Clause]:
    """Give each clause the places of all exceptions; an exception with a grade of its own is a finding as well."""
    done = []
    for number, clause in enumerate(clauses):
        if not clause.exception:
            done.append(replace(clause, without=tuple(_exceptions_of(clauses, number))))
        elif clause.grade is not None:
            done.append(replace(clause, exception=False))
        else:
            done.append(clause)
    return done


def _exceptions_of(clauses: Sequence[Clause], number: int) -> Iterator[Clause]:
    """Yield the exceptions from a clause: "canal stenosis except L5-S1 and recess stenosis at L5-S1" has none there."""
    clause = clauses[number]
    is_asked_before = False
    for at, other in enumerate(clauses):
        if not other.exception:
            is_asked_before = is_asked_before or not other.is_empty
        elif not other.is_empty:
            is_of_others = at < number and is_asked_before and clause.levels and clause.levels <= other.levels
            if not is_of_others:
                yield other
