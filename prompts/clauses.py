"""Clauses of a query: what each part between "and", "or", commas, "without" and "except" says, before gaps are filled.

A clause is one finding. It is a fragment if it names no condition and no finding ("severe at L4-L5", "left"): fragments
that follow a comma belong to the clause before, as far as that lacks what they say.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from data_prep.sites import Condition, Level, Side
from prompts.grouping import Grade, Piece
from prompts.tree import Over

#: Kinds of pieces that join clauses -> their joint.
_JOINTS = {"and": "and", "or": "or", "nor": "or", "with": "with", "break": "comma", "contrast": "but", "range": "comma"}
#: If several joints follow each other (", and"), the one that says most counts.
_WEIGHT = {"": 0, "comma": 1, "with": 2, "or": 3, "and": 4, "but": 5}


@dataclass(frozen=True)
class Clause:
    """One clause; None and empty sets stand for what it does not say.

    joint: how it is joined to the clause before: '', 'and', 'or', 'with', 'comma' or 'but'. negated: it is denied;
    is_denied_too: by the "no" of a clause before. exception: its places are left out of the other clauses; without: the
    exceptions that are left out of this one. both: both sides of a level at once. count: so many levels.
    worse: the side or sides that are graded higher than the other. elsewhere: all levels but those of the clause
    before. ungraded: a word of it is not graded; is_ungraded: nothing else was asked, but its levels are those of the
    clauses around it. has_trailing_side: its side follows the finding; is_judged_after: its grade, or what denies it,
    follows its condition ("foramina are patent"), and holds for what is joined before it too. negates_all: the denial
    is of "all" or "every" ("not every level"). rest: the words that were not understood. start,
    end: its characters in the text.
    """

    joint: str = ""
    negated: bool = False
    is_denied_too: bool = False
    exception: bool = False
    without: tuple["Clause", ...] = ()
    conditions: frozenset[Condition] = frozenset()
    finding: bool = False
    grade: Grade | None = None
    sides: frozenset[Side] = frozenset()
    levels: frozenset[Level] = frozenset()
    both: bool = False
    all: bool = False
    every: bool = False
    count: tuple[Over, int] | None = None
    fewer: bool = False
    only: bool = False
    unilateral: bool = False
    worse: frozenset[Side] = frozenset()
    elsewhere: bool = False
    ungraded: bool = False
    is_ungraded: bool = False
    has_trailing_side: bool = False
    is_judged_after: bool = False
    negates_all: bool = False
    rest: tuple[tuple[int, int], ...] = ()
    start: int = -1
    end: int = -1
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def is_fragment(self) -> bool:
        """Whether it names no condition and no finding."""
        return not self.conditions and not self.finding

    @property
    def is_empty(self) -> bool:
        """Whether nothing graded is asked by it."""
        return self.is_ungraded or not self.said

    @property
    def said(self) -> frozenset[str]:
        """The names of what it says."""
        return frozenset(name for name in _SLOTS if getattr(self, name))

    @property
    def denies(self) -> bool:
        """Whether it asks that all of its sites are free of something."""
        return self.negated or (self.grade is not None and self.grade.is_all)

    @property
    def is_place(self) -> bool:
        """Whether it names places and nothing else."""
        return bool(self.said) and self.said <= {"levels", "sides", "both", "conditions", "elsewhere"}


_SLOTS = tuple(
    f.name
    for f in fields(Clause)
    if f.name
    in (
        *("conditions", "finding", "grade", "sides", "levels", "both", "all", "every", "count", "only", "unilateral"),
        *("worse", "elsewhere"),
    )
)
#: What follows a complete finding only as the beginning of the next one.
_BEGINS = frozenset({"condition", "grade", "sides", "both"})
#: Kinds of pieces that are not named like what a clause says.
_SLOT_OF = {"condition": "conditions", "fewer": "count"}


def clauses_of(pieces: Sequence[Piece]) -> list[Clause]:
    """Return the clauses of a text: joined fragments, and denials extended to what they deny as well."""
    split = _Splitter(pieces).clauses()
    kept = [_without_ungraded(clause) for clause in split]
    merged = _merged(_said_of_the_others(kept))
    return _denied_exceptions(_extended_exceptions(_extended_denials(merged)))


class _Splitter:
    """Splits pieces into clauses, at joints, at negations, and where a second finding begins."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        self._done: list[Clause] = []
        self._open = Clause()

    def clauses(self) -> list[Clause]:
        for number, piece in enumerate(self._pieces):
            if piece.kind in _JOINTS:
                self._close(_JOINTS[piece.kind], negated=piece.kind == "nor")
            elif piece.kind == "negation":
                self._negation(number)
            elif piece.kind == "exception":
                self._close("and")
                self._set(piece, exception=True)
            elif piece.kind == "excluded":
                self._excluded(piece)
            else:
                self._add(piece, number)
        self._leave_over_denial()
        self._close("")
        return self._done

    def _leave_over_denial(self) -> None:
        """Keep the words of a denial of nothing at the end: "canal or foraminal stenosis but not both"."""
        clause = self._open
        if clause.negated and clause.is_empty and not clause.rest:
            self._open = replace(clause, rest=((clause.start, clause.end),))

    def _close(self, joint: str, negated: bool = False) -> None:
        """End the open clause, and begin the next one with this joint; an empty one only passes its joint on."""
        if self._open.is_empty and not self._open.rest:
            heavier = max(self._open.joint, joint, key=_WEIGHT.__getitem__)
            self._open = replace(self._open, joint=heavier, negated=self._open.negated or negated)
            return
        self._done.append(self._open)
        self._open = Clause(joint=joint, negated=negated)

    def _set(self, piece: Piece, **values: Any) -> None:
        start = piece.start if self._open.start < 0 else self._open.start
        notes = (*self._open.notes, *piece.notes)
        self._open = replace(self._open, start=start, end=piece.end, notes=notes, **values)

    def _negation(self, number: int) -> None:
        piece = self._pieces[number]
        following = _meaningful(self._pieces[number + 1 :])
        negates_all = bool(following) and following[0].kind in ("all", "every")
        if self._denies_grade(following) or self._denies_subject(following):
            is_judged_after = bool(self._open.conditions)
            self._set(piece, negated=not self._open.negated, is_judged_after=is_judged_after, negates_all=negates_all)
            return
        if not self._open.is_empty or self._open.rest:
            self._close("and" if self._open.joint != "or" else "or")
        self._set(piece, negated=not self._open.negated, negates_all=negates_all)

    def _excluded(self, piece: Piece) -> None:
        """Leave out the places before "excluded"; deny a finding before it."""
        if self._open.is_empty:
            self._set(piece, rest=(*self._open.rest, (piece.start, piece.end)))
            return
        if not self._open.is_place:
            self._set(piece, negated=not self._open.negated, is_judged_after=bool(self._open.conditions))
            return
        number, joint = len(self._done), self._open.joint
        while number > 0 and joint in ("and", "or") and self._done[number - 1].is_place:
            number -= 1
            joint = self._done[number].joint
            self._done[number] = replace(self._done[number], joint="and", exception=True)
        self._set(piece, exception=True, joint="and")

    def _denies_grade(self, following: Sequence[Piece]) -> bool:
        """Return whether a negation within a clause denies the grade after it: "canal stenosis that is not severe"."""
        clause = self._open
        if clause.is_fragment or clause.grade is not None or not following or following[0].kind != "grade":
            return False
        return not {"condition", "finding"} & {piece.kind for piece in _until_joint(following[1:])}

    def _denies_subject(self, following: Sequence[Piece]) -> bool:
        """Return whether a negation after places denies what is said of them: "L4-L5 no NFN", "canal not narrowed"."""
        kinds = {_SLOT_OF.get(piece.kind, piece.kind) for piece in _until_joint(following)}
        is_of_finding = bool({"finding", "conditions"} & kinds) and "ungraded" not in kinds
        return self._open.is_place and is_of_finding and not self._open.said & kinds

    def _add(self, piece: Piece, number: int) -> None:
        if self._begins_another(piece, number):
            self._close("comma")
        match piece.kind:
            case "condition":
                assert piece.condition is not None
                self._set(piece, conditions=frozenset({piece.condition}))
            case "grade":
                if self._open.grade is not None:
                    raise ValueError("two grades are named for one finding")
                is_judged_after = self._open.is_judged_after or bool(self._open.conditions)
                self._set(piece, grade=piece.grade, is_judged_after=is_judged_after)
            case "sides":
                is_trailing = not self._open.is_fragment
                self._set(piece, sides=self._open.sides | piece.sides, has_trailing_side=is_trailing)
            case "levels":
                self._set(piece, levels=self._open.levels | piece.levels)
            case "count" | "fewer":
                assert piece.over is not None
                self._set(piece, count=(piece.over, piece.number), fewer=piece.kind == "fewer")
            case "worse":
                self._set(piece, worse=piece.sides)
            case "finding" | "both" | "all" | "every" | "only" | "unilateral" | "elsewhere":
                self._set(piece, **{piece.kind: True})
            case "word" | "ungraded" | "comparison" | "root" | "exiting" | "traversing" | "down" | "between":
                rest = (*self._open.rest, (piece.start, piece.end))
                self._set(piece, rest=rest, ungraded=self._open.ungraded or piece.kind == "ungraded")
            case _:
                pass  # connectives and words that are always dropped

    def _begins_another(self, piece: Piece, number: int) -> bool:
        """Return whether a piece begins another finding, without a joint: "severe canal stenosis moderate NFN"."""
        clause = self._open
        if clause.is_fragment:
            repeated = piece.kind == "grade" and clause.grade is not None
            return repeated and clause.levels != frozenset()
        has = clause.said | ({"sides"} if clause.both else set())
        if piece.kind == "condition" and clause.conditions:
            return piece.condition not in clause.conditions
        if piece.kind in _BEGINS and piece.kind in has:
            return True
        if piece.kind == "levels" and clause.levels:
            return any(p.kind in ("condition", "finding", "grade") for p in _until_joint(self._pieces[number + 1 :]))
        return False


def _meaningful(pieces: Iterable[Piece]) -> list[Piece]:
    return [piece for piece in pieces if piece.kind not in ("connective", "ignored")]


def _until_joint(pieces: Iterable[Piece]) -> list[Piece]:
    found = []
    for piece in pieces:
        if piece.kind in _JOINTS or piece.kind in ("negation", "exception"):
            break
        found.append(piece)
    return found


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


def _merged(clauses: Sequence[Clause]) -> list[Clause]:
    """Join fragments after a comma or "with" to the clause before, if that lacks what they say."""
    done: list[Clause] = []
    for clause in clauses:
        if done and _shares_count(done[-1], clause):
            values = _joined(done[-1], clause)
            done[-1] = replace(values, conditions=done[-1].conditions | clause.conditions)
        elif done and _is_place_of_ungraded(done[-1], clause):
            start, joint, levels = done[-1].start, done[-1].joint, clause.levels or done[-1].levels
            done[-1] = replace(clause, joint=joint, levels=levels, start=start, rest=((start, clause.end),))
        elif done and _belongs_together(done[-1], clause):
            _spread(done, clause)
            done[-1] = _joined(done[-1], clause)
        else:
            done.append(clause)
    return done


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


def _joined(one: Clause, other: Clause) -> Clause:
    values = {name: getattr(other, name) or getattr(one, name) for name in _SLOTS}
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


def _extended_denials(clauses: Sequence[Clause]) -> list[Clause]:
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


def _extended_exceptions(clauses: Sequence[Clause]) -> list[Clause]:
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


def _denied_exceptions(clauses: Sequence[Clause]) -> list[Clause]:
    """Deny what is no place that could be left out: "excluding severe NFN", "stenosis at L4-L5 but not at L5-S1"."""
    asked = [clause for clause in clauses if not clause.exception and not clause.is_empty]
    done: list[Clause] = []
    before = asked[0] if asked else None
    for clause in clauses:
        if not clause.exception:
            before = before if clause.is_empty else clause
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
