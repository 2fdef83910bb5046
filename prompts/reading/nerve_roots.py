"""Nerve roots as places: "left L5 root" is the recess of the level above, an exiting root its own foramen."""

from data_prep.sites import Condition, Level
from prompts.reading.piece import DROPPED, Piece, TokenRow
from prompts.reading.sides import side_pieces

_FORAMEN, _RECESS = Condition.NEURAL_FORAMINAL_NARROWING, Condition.SUBARTICULAR_STENOSIS


def root_pieces(row: TokenRow, at: int) -> list[Piece]:
    """Return condition and level of the nerve root at token `at` ("L5 root", "exiting left L4 nerve root"), or [].

    Raises ValueError if the root passes no graded place.
    """
    where = row.kind(at) if row.kind(at) in ("exiting", "traversing") else ""
    first = row.skip(at + 1, DROPPED) if where else at
    side = first if row.kind(first) in ("side", "both_sides") and where else None
    vertebra = first + 1 if side is not None else first
    if not (row.kind(vertebra) == "level" and row.tokens[vertebra].vertebra):
        return []
    root = row.skip(vertebra + 1, frozenset({"traversing", "exiting"}))
    if root > vertebra + 1:
        where = row.kind(vertebra + 1)
    if row.kind(root) != "root":
        return []
    last, between = root, list[Piece]()
    where_after = row.skip(root + 1, DROPPED | {"finding"})
    if not where and row.kind(where_after) in ("exiting", "traversing"):
        where, last = row.kind(where_after), where_after
        between = [row.piece(row.kind(number), number, number) for number in range(root + 1, last)]
    where = where or _where_root_lies(row, root + 1)
    level = _root_level(row, at, root, row.tokens[vertebra].vertebra, where)
    is_exiting = where == "exiting"
    condition = _FORAMEN if is_exiting else _RECESS
    place = "the foramen of its own level" if is_exiting else "the recess of the level above"
    note = f'"{row.words(at, last)}" is read as {place}, {level.words}'
    pieces = [
        row.piece("condition", at, last, condition=condition, notes=(note,)),
        row.piece("levels", at, last, levels=frozenset({level})),
    ]
    sides = [] if side is None else side_pieces(row, side)
    return [*sides, *between, *pieces]


def _where_root_lies(row: TokenRow, at: int) -> str:
    """Return where a root is affected if its region follows: "compression of the L3 root in the left foramen"."""
    region = row.skip(at, DROPPED | {"finding", "side", "word"})
    if row.kind(region) != "condition":
        return ""
    return {_FORAMEN: "exiting", _RECESS: "traversing"}.get(Condition(row.tokens[region].key), "")


def _root_level(row: TokenRow, at: int, last: int, vertebra: str, where: str) -> Level:
    parts = [level.words.split("-") for level in Level]
    position = 0 if where == "exiting" else 1
    found = [level for level, part in zip(Level, parts, strict=True) if part[position] == vertebra]
    if not found:
        kind = "leaves through a foramen" if where == "exiting" else "passes a recess"
        raise ValueError(f'"{row.words(at, last)}": this root {kind} that is not graded')
    return found[0]
