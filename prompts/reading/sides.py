"""Sides as a text names them: "left", "left or right" (either), "left and right", "both foramina"."""

from data_prep.sites import Condition, Side
from prompts.reading.piece import DROPPED, Piece, TokenRow

_BOTH_SIDES = frozenset(Side)


def side_pieces(row: TokenRow, at: int) -> list[Piece]:
    """Return the sides at token `at`: "left", "left or right" (either), "left and right" (both); or []."""
    if row.kind(at) == "sided_condition":
        side, condition = row.tokens[at].key.split("_", 1)
        return [
            row.piece("sides", at, at, sides=frozenset({Side(side)})),
            row.piece("condition", at, at, condition=Condition(condition)),
        ]
    if row.kind(at) == "both_sides":
        return [row.piece("both", at, at, sides=_BOTH_SIDES)]
    if row.kind(at) == "both":
        return [_both(row, at)]
    if row.kind(at) != "side":
        return []
    joint = row.skip(at + 1, frozenset({"ignored"}))
    other = row.skip(joint + 1, DROPPED)
    if row.kind(joint) in ("and", "or") and row.kind(other) == "side":
        if row.tokens[other].key == row.tokens[at].key:
            return [row.piece("sides", at, other, sides=frozenset({Side(row.tokens[at].key)}))]
        return [row.piece("both" if row.kind(joint) == "and" else "sides", at, other, sides=_BOTH_SIDES)]
    return [row.piece("sides", at, at, sides=frozenset({Side(row.tokens[at].key)}))]


def _both(row: TokenRow, at: int) -> Piece:
    """Return "both" as both sides beside one condition, and as nothing before two ("both canal and foramen")."""
    is_before = _names_one_condition(row, at + 1)
    if at and row.kind(at - 1) in ("negation", "exception") and not is_before:
        return row.piece("word", at, at)  # "canal or foraminal stenosis but not both" has no reading here
    return row.piece("both" if is_before or _follows_condition(row, at) else "ignored", at, at, sides=_BOTH_SIDES)


def _names_one_condition(row: TokenRow, at: int) -> bool:
    """Return whether a condition follows, with its level and grade, that "and" joins to no other condition."""
    condition = row.skip(at, DROPPED | {"level", "severity", "finding"})
    after = row.skip(condition + 1, frozenset({"finding"}))
    other = row.skip(after + 1, DROPPED | {"severity", "side"})
    return row.kind(condition) == "condition" and (row.kind(after), row.kind(other)) != ("and", "condition")


def _follows_condition(row: TokenRow, at: int) -> bool:
    """Return whether "both" stands after a condition, before its grade: "foramina both severely narrowed"."""
    before = at - 1
    while before >= 0 and row.kind(before) in DROPPED:
        before -= 1
    following = row.skip(at + 1, DROPPED)
    return before >= 0 and row.kind(before) == "condition" and row.kind(following) in ("severity", "finding")
