"""The clauses of a query, in four steps: they are split, merged where they are one finding, denied and left out."""

from collections.abc import Sequence
from dataclasses import replace

from prompts.reading.clause import Clause
from prompts.reading.denials import denied_exceptions, extended_denials, extended_exceptions
from prompts.reading.level_lists import with_lists
from prompts.reading.merging import merged
from prompts.reading.piece import Piece
from prompts.reading.splitting import split_clauses


def clauses_of(pieces: Sequence[Piece]) -> list[Clause]:
    """Return the clauses of a text, before their gaps are filled. Raises ValueError as `split_clauses` does."""
    kept = [_without_ungraded(clause) for clause in split_clauses(pieces)]
    joined = merged(_said_of_the_others(kept))
    return denied_exceptions(extended_exceptions(extended_denials(with_lists(joined))))


def _without_ungraded(clause: Clause) -> Clause:
    """Return a clause about something that is not graded as words alone: "severe disc herniation at L4-L5"."""
    if not clause.ungraded or clause.conditions or (clause.finding and clause.said - {"finding"}):
        return clause
    kept = Clause(joint=clause.joint, negated=clause.negated, start=clause.start, end=clause.end, is_ungraded=True)
    return replace(kept, levels=clause.levels, rest=((clause.start, clause.end),))


def _said_of_the_others(clauses: Sequence[Clause]) -> list[Clause]:
    """Return what follows an exception as said of all others: "every level except L4-L5 is normal"."""
    done: list[Clause] = []
    for clause in clauses:
        is_of_others = bool(done) and bool(done[-1].said) and done[-1].said <= {"every", "all"}
        if is_of_others and clause.levels and (clause.exception or clause.joint == "but"):
            values = {name: getattr(clause, name) for name in ("conditions", "finding", "grade", "sides")}
            done[-1] = replace(done[-1], **values)
            kept = Clause(joint="and", exception=True, levels=clause.levels, start=clause.start, end=clause.end)
            done.append(replace(kept, rest=clause.rest))
        else:
            done.append(clause)
    return done
