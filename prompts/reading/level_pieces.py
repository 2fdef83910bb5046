"""Levels as a text names them: a level, a range, what lies above or below a level, and how many levels."""

from collections.abc import Iterator

from data_prep.sites import Level
from prompts.reading.piece import DROPPED, Piece, TokenRow
from prompts.reading.scan import Token, levels_between
from prompts.tree import Over

_LEVELS_OF_NAME = {
    "upper": (Level.L1_L2, Level.L2_L3),
    "middle": (Level.L3_L4,),
    "lower": (Level.L4_L5, Level.L5_S1),
    "lowest": (Level.L5_S1,),
    "highest": (Level.L1_L2,),
    "lowest_three": (Level.L3_L4, Level.L4_L5, Level.L5_S1),
    "upper_three": (Level.L1_L2, Level.L2_L3, Level.L3_L4),
}
#: Comparisons of where levels lie; all others, as "worse than", are of grades.
_PLACES = frozenset(
    f"{word}{to}"
    for words, to in (
        (("above", "over", "beyond", "below", "beneath", "under", "higher than", "lower than"), ""),
        (("cranial", "proximal", "superior", "caudal", "distal", "inferior"), " to"),
    )
    for word in words
)
_ORDER = list(Level)


def level_pieces(row: TokenRow, at: int) -> list[Piece]:
    """Return a set of levels: a level or its name, a range, or what lies above or below a level."""
    if row.kind(at) == "between":
        return _between(row, at)
    compared = row.tokens[at].key if row.kind(at) in ("comparison", "down") else ""
    is_down = row.kind(at) == "down"
    first = row.skip(at + 1, DROPPED) if compared or is_down else at
    if row.kind(first) not in ("level", "level_name"):
        return []
    token = row.tokens[first]
    levels, last, notes = _named(row, first), first, list(_lone_note(row, first))
    if is_down:
        levels = frozenset(_ORDER[: _ORDER.index(max(levels, key=_ORDER.index)) + 1])
    elif compared in ("above", "below"):
        _check_is_of_places(row, at, first)
        levels, notes = _beyond(token, levels, compared), []
    elif compared in ("at_or_above", "at_or_below"):
        levels, notes = levels | _beyond(token, levels, compared.removeprefix("at_or_")), []
    elif compared:
        return []
    else:
        levels, last = _extended(row, first, levels)
        if last > first:
            notes = []
    if not levels:
        raise ValueError(f'"{row.words(at, last)}": no graded level lies there')
    return [row.piece("levels", at, last, levels=levels, notes=tuple(notes))]


def _check_is_of_places(row: TokenRow, at: int, last: int) -> None:
    """Raise ValueError for "worse than L3-L4": levels lie above each other, but their grades are not compared."""
    if row.words(at, at).casefold() not in _PLACES:
        raise ValueError(f'"{row.words(at, last)}": levels are not compared with each other, only sides are')


def _between(row: TokenRow, at: int) -> list[Piece]:
    """Return the levels of "between L3 and L4" (vertebrae), "between L2-L3 and L4-L5"."""
    first = row.skip(at + 1, DROPPED)
    last = row.skip(first + 2, DROPPED)
    if (row.kind(first), row.kind(first + 1), row.kind(last)) != ("level", "and", "level"):
        return []
    one, other = row.tokens[first], row.tokens[last]
    levels = _span(_named(row, first), _named(row, last))
    if one.vertebra and other.vertebra:
        levels = levels_between(one.vertebra, other.vertebra)
    if not levels:
        raise ValueError(f'"{row.words(at, last)}": no graded level lies there')
    return [row.piece("levels", at, last, levels=levels)]


def _named(row: TokenRow, at: int) -> frozenset[Level]:
    token = row.tokens[at]
    if token.kind == "level_name":
        return frozenset(_LEVELS_OF_NAME[token.key])
    if not token.levels:
        raise ValueError(
            f'"{row.words(at, at)}": is not graded; the graded levels are {", ".join(x.words for x in Level)}'
        )
    return token.levels


def _lone_note(row: TokenRow, at: int) -> Iterator[str]:
    token = row.tokens[at]
    if token.vertebra:
        named = " and ".join(x.words for x in Level if x in token.levels)
        yield f'"{row.words(at, at)}" names one vertebra: it is read as {named}'


def _beyond(token: Token, levels: frozenset[Level], compared: str) -> frozenset[Level]:
    """Return the levels above or below these, without them; a vertebra lies between two levels."""
    numbers = [_ORDER.index(level) for level in levels]
    if token.vertebra and len(levels) == 2:
        return frozenset(_ORDER[: min(numbers) + 1] if compared == "above" else _ORDER[max(numbers) :])
    return frozenset(_ORDER[: min(numbers)] if compared == "above" else _ORDER[max(numbers) + 1 :])


def _extended(row: TokenRow, first: int, levels: frozenset[Level]) -> tuple[frozenset[Level], int]:
    """Extend levels by what follows them: "to L5-S1", "and below"; return them and the last token."""
    after = row.skip(first + 1, frozenset({"connective"}))
    numbers = [_ORDER.index(level) for level in levels]
    if row.kind(first + 1) == "comparison" and row.tokens[first + 1].key in ("or_more", "or_less"):
        is_up = row.tokens[first + 1].key == "or_more"
        if row.kind(first + 2) in ("range", "down") and row.kind(first + 3) == "level":
            return _extended(row, first + 3, _span(levels, _named(row, first + 3)))
        return frozenset(_ORDER[: max(numbers) + 1] if is_up else _ORDER[min(numbers) :]), first + 1
    is_up = row.kind(after) == "comparison" and row.words(after, after).casefold() == "up to"
    if row.kind(after) in ("range", "down") or is_up:
        other = row.skip(after + 1, DROPPED)
        if row.kind(other) in ("level", "level_name"):
            return _extended(row, other, _span(levels, _named(row, other)))
    return levels, first


def _span(levels: frozenset[Level], others: frozenset[Level]) -> frozenset[Level]:
    numbers = [_ORDER.index(level) for level in levels | others]
    return frozenset(_ORDER[min(numbers) : max(numbers) + 1])


def count_pieces(row: TokenRow, at: int) -> list[Piece]:
    compared = row.tokens[at].key if row.kind(at) == "comparison" else ""
    first = row.skip(at + 1, DROPPED) if compared else at
    if row.kind(first) in ("only", "mere") and row.kind(first + 1) == "count":
        first += 1
    if row.kind(first) != "count":
        return []
    token = row.tokens[first]
    number = int(token.number)
    over, negated = Over.EXACTLY, False
    if token.key == "adjacent":
        over = Over.ADJACENT
    elif compared in ("at_least", "or_more") or token.key == "at_least":
        over = Over.AT_LEAST
    elif compared == "above":
        over, number = Over.AT_LEAST, number + 1
    elif compared == "below":
        over, negated = Over.AT_LEAST, True
    elif compared == "at_most" or token.key == "at_most":
        over, number, negated = Over.AT_LEAST, number + 1, True
    if not 1 <= number <= len(Level):
        raise ValueError(f'"{row.words(at, first)}": there are {len(Level)} graded levels')
    return [row.piece("fewer" if negated else "count", at, first, over=over, number=number)]
