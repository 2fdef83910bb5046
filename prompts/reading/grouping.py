"""Grouping of tokens into pieces of meaning: chains of grades, ranges of levels, sides, numbers of levels, nerve roots.

"at least moderate", "moderate to severe" and "moderate or worse" are one piece, a `Grade`; so are "L2-L3 to L4-L5",
"L3-L4 and below" and "from L3 down to L5", a set of levels.
"""

from collections.abc import Iterator, Sequence

from data_prep.sites import Condition, Level, Side
from prompts.reading.grades import grade_pieces
from prompts.reading.level_pieces import count_pieces, level_pieces
from prompts.reading.nerve_roots import root_pieces
from prompts.reading.piece import DROPPED, JOINTS, Piece, TokenRow
from prompts.reading.scan import Token
from prompts.reading.sides import side_pieces
from prompts.tree import Over


def pieces_of(text: str, tokens: Sequence[Token]) -> Iterator[Piece]:
    """Yield the pieces of a text, in its order. Raises ValueError, which quotes the words that cannot be meant."""
    row, at = TokenRow(text, tokens), 0
    while at < len(tokens):
        pieces = (
            count_pieces(row, at)
            or root_pieces(row, at)
            or level_pieces(row, at)
            or grade_pieces(row, at)
            or side_pieces(row, at)
            or [_single(row, at)]
        )
        yield from pieces
        at = pieces[-1].last + 1


def _single(row: TokenRow, at: int) -> Piece:
    token = row.tokens[at]
    match token.kind:
        case "condition":
            return row.piece("condition", at, at, condition=Condition(token.key))
        case "central" if _begins_list(row, at):
            return row.piece("condition", at, at, condition=Condition.SPINAL_CANAL_STENOSIS)
        case "central":
            return row.piece("word", at, at)
        case "mere":
            return row.piece("only", at, at)
        case "worse":
            return row.piece("worse", at, at, sides=frozenset({Side(token.key)}))
        case "asymmetry":
            return row.piece("worse", at, at, sides=frozenset(Side))
        case "adjacent":
            return row.piece("count", at, at, over=Over.ADJACENT, number=2)
        case "level_count":
            return _level_count(row, at)
        case "comparison" if row.words(at, at) == "+":
            return row.piece("and", at, at)
        case "not_graded":
            raise ValueError(
                f'"{row.words(at, at)}": is not graded; the graded levels are {", ".join(x.words for x in Level)}'
            )
        case _:
            return row.piece(token.kind, at, at)


def _begins_list(row: TokenRow, at: int) -> bool:
    """Return whether a joint follows, and another condition: "central and foraminal stenosis"."""
    condition = row.skip(at + 1, JOINTS | DROPPED | {"side", "severity"})
    return row.kind(at + 1) in JOINTS and row.kind(condition) == "condition"


def _level_count(row: TokenRow, at: int) -> Piece:
    match row.tokens[at].key:
        case "several":
            return row.piece("count", at, at, over=Over.AT_LEAST, number=2)
        case "single":
            return row.piece("count", at, at, over=Over.EXACTLY, number=1)
        case _:
            return row.piece("every", at, at)
