"""Splitting of pieces into clauses: at joints, at negations, and where a second finding begins."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from prompts.reading.clause import Clause
from prompts.reading.piece import Piece

#: Kinds of pieces that join clauses -> their joint.
_JOINTS = {"and": "and", "or": "or", "nor": "or", "with": "with", "break": "comma", "contrast": "but", "range": "comma"}
#: If several joints follow each other (", and"), the one that says most counts.
_WEIGHT = {"": 0, "comma": 1, "with": 2, "or": 3, "and": 4, "but": 5}
#: What follows a complete finding only as the beginning of the next one.
_BEGINS = frozenset({"condition", "grade", "sides", "both"})
#: Kinds of pieces that are not named like what a clause says.
_SLOT_OF = {"condition": "conditions", "fewer": "count"}


def split_clauses(pieces: Sequence[Piece]) -> list[Clause]:
    """Return the clauses of a text. Raises ValueError if two grades are named for one finding."""
    return _Splitter(pieces).clauses()


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
        """Keep the words of a denial or exception of nothing at the end: "canal or foraminal stenosis but not both"."""
        clause = self._open
        if (clause.negated or clause.exception) and clause.is_empty and not clause.rest:
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
                is_trailing = self._open.has_trailing_level or not self._open.said <= {"sides"}
                is_first = self._open.begins_with_level or self._open.said <= {"sides"}
                self._set(
                    piece,
                    levels=self._open.levels | piece.levels,
                    has_trailing_level=is_trailing,
                    begins_with_level=is_first and not self._open.negated,
                )
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
            # "severe facet arthropathy causing moderate canal stenosis"
            repeated = piece.kind == "grade" and clause.grade is not None
            return repeated and (clause.levels != frozenset() or clause.ungraded)
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
