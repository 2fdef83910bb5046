"""Denials and exceptions: how far a "no" reaches, and which places "except" and "not at" leave out."""

from collections.abc import Sequence
from dataclasses import replace

from prompts.reading.clause import Clause


def extended_denials(clauses: Sequence[Clause]) -> list[Clause]:
    """Deny what a "no" before it denies too: "no canal or foraminal stenosis", "no herniation or stenosis"."""
    done: list[Clause] = []
    is_denied = False
    for clause in clauses:
        is_denied = clause.negated or (is_denied and _is_denied_too(clause))
        extends = is_denied and not clause.negated
        # No A or B: neither A nor B.
        joint = "and" if is_denied and done and done[-1].negated and clause.joint in ("or", "comma") else clause.joint
        if extends:
            clause = replace(clause, negated=True, is_denied_too=True)
        done.append(replace(clause, joint=joint))
    return done


def _is_denied_too(clause: Clause) -> bool:
    if clause.exception or clause.joint in ("but", "with", ""):
        return False
    if clause.joint == "or":
        return clause.grade is None or not clause.grade.is_all
    return clause.grade is None and not clause.count and not clause.worse


def extended_exceptions(clauses: Sequence[Clause]) -> list[Clause]:
    """Leave out what a list of exceptions names, and what "not" denies of places: "not at L5-S1", "except A and B"."""
    done: list[Clause] = []
    for clause in clauses:
        follows = bool(done) and done[-1].exception and clause.joint in ("and", "or", "comma") and clause.is_place
        is_denied = clause.negated and not clause.is_denied_too
        is_place = clause.is_place and not clause.conditions and not clause.is_ungraded and bool(done)
        # "At any level but L4-L5": what "but" joins is left out if it is a place alone.
        if follows or (is_place and (is_denied or clause.joint == "but")):
            clause = replace(clause, exception=True, negated=False)
        done.append(clause)
    return done


def denied_exceptions(clauses: Sequence[Clause]) -> list[Clause]:
    """Deny what is no place that could be left out: "excluding severe NFN", "stenosis at L4-L5 but not at L5-S1"."""
    asked = [clause for clause in clauses if not clause.exception and not clause.is_empty]
    done: list[Clause] = []
    before = asked[0] if asked else None
    for clause in clauses:
        if not clause.exception:
            before = before if clause.is_empty else clause
        elif before is not None and clause.said == {"every"}:
            # "but not at every level" denies, and leaves nothing out.
            clause = replace(clause, exception=False, negated=True, negates_all=True, joint="and")
        elif before is None or not before.denies:
            clause = _denied_exception(clause, before)
        done.append(clause)
    return done


def _denied_exception(clause: Clause, asked: Clause | None) -> Clause:
    is_elsewhere = asked is not None and _are_elsewhere(clause, asked)
    is_finding = clause.grade is not None or (asked is None and clause.finding)
    if not (is_elsewhere or is_finding):
        return clause
    is_denied_too = not (clause.finding or is_finding)
    return replace(clause, exception=False, negated=True, is_denied_too=is_denied_too, joint="and")


def _are_elsewhere(one: Clause, other: Clause) -> bool:
    """Whether both clauses name places, and none of them is the same."""
    named = (
        (one.levels, other.levels),
        (one.sides if not one.both else frozenset(), other.sides),
        (one.conditions, other.conditions),
    )
    return any(first and second and not first & second for first, second in named)
