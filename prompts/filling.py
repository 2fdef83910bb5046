"""Gaps of clauses: what a clause does not say, it takes from the clause before, else from the one after.

A complete clause (with a condition or a finding word) takes condition, side and grade from the clause before alone; a
fragment ("left", "severe at L4-L5") takes them from either. Levels are taken from either by both.
"""

from collections.abc import Sequence
from dataclasses import replace

from data_prep.sites import Condition, Level
from prompts.clauses import Clause


def filled(clauses: Sequence[Clause]) -> list[Clause]:
    """Return the clauses with their gaps filled, and with the places of all exceptions taken from each of them."""
    done: list[Clause] = []
    for number, clause in enumerate(clauses):
        is_asked = not (clause.is_empty or clause.exception)
        done.append(_filled(clause, done, clauses[number + 1 :]) if is_asked else clause)
    return _without_exceptions(done)


def _filled(clause: Clause, done: Sequence[Clause], following: Sequence[Clause]) -> Clause:
    before = next((c for c in reversed(done) if not c.is_empty and not c.exception), None)
    after = [c for c in following if not c.is_empty and not c.exception]
    values = _conditions(clause, before, after)
    values |= _levels(clause, [c for c in done if not c.exception], [c for c in following if not c.exception])
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


def _levels(clause: Clause, done: Sequence[Clause], following: Sequence[Clause]) -> dict[str, object]:
    before = next((c.levels for c in reversed(done) if c.levels), frozenset[Level]())
    if clause.elsewhere:
        return {"levels": frozenset(Level) - before}
    if clause.levels:
        return {}
    if before:
        return {"levels": before} if clause.count is None or len(before) >= clause.count[1] else {}
    after = next((c for c in following if c.levels or c.elsewhere), None)
    if after is not None and clause.count is None and not clause.every and not after.elsewhere:
        return {"levels": after.levels}
    return {}


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
        is_denied_too = clause.is_denied_too and before is not None
        return {"grade": before.grade} if is_denied_too and before is not None else {}
    if before is not None:
        is_own_denial = before.negated or (before.grade is not None and before.grade.is_all and clause.finding)
        return {} if is_own_denial else {"grade": before.grade}
    donor = next((c for c in after if c.grade is not None and not c.negated), None) if clause.is_fragment else None
    return {} if donor is None else {"grade": donor.grade}


def _without_exceptions(clauses: Sequence[Clause]) -> list[Clause]:
    """Give each clause the places of all exceptions; an exception with a grade of its own is a finding as well."""
    exceptions = tuple(clause for clause in clauses if clause.exception and not clause.is_empty)
    if not exceptions:
        return list(clauses)
    done = []
    for clause in clauses:
        if not clause.exception:
            done.append(replace(clause, without=exceptions))
        elif clause.grade is not None:
            done.append(replace(clause, exception=False))
        else:
            done.append(clause)
    return done
