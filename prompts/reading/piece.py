"""A piece of meaning, and the row of tokens that pieces are made of."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from data_prep.sites import Condition, Level, Severity, Side
from prompts.reading.scan import Token
from prompts.tree import Over

#: Kinds of tokens between the members of a list, and those that are dropped.
JOINTS = frozenset({"range", "or", "and", "break"})
DROPPED = frozenset({"connective", "ignored"})


@dataclass(frozen=True)
class Grade:
    """Severities as a text names them.

    severities: may be empty or all three, which asks nothing. is_all: a group has this grade if all of its sites have
    it ("normal", "at most moderate"). is_mild: the text says mild, which has no grade of its own. is_mere: and nothing
    worse ("only moderate"). is_of_list: it is said of all places before it ("of any degree except severe").
    """

    severities: frozenset[Severity]
    is_all: bool = False
    is_mild: bool = False
    is_mere: bool = False
    is_of_list: bool = False


@dataclass(frozen=True)
class Piece:
    """A piece of meaning of the tokens [first, last], which are the characters [start, end) of the text.

    kind: 'condition', 'finding', 'grade', 'sides', 'both', 'levels', 'count', ..., or that of its token.
    """

    kind: str
    first: int
    last: int
    start: int
    end: int
    condition: Condition | None = None
    grade: Grade | None = None
    sides: frozenset[Side] = frozenset()
    levels: frozenset[Level] = frozenset()
    over: Over | None = None
    number: int = 0
    notes: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class TokenRow:
    """The tokens of a text, by their number; behind the last one all kinds are ''."""

    text: str
    tokens: Sequence[Token]

    def kind(self, at: int) -> str:
        """Return the kind of token `at`."""
        return self.tokens[at].kind if at < len(self.tokens) else ""

    def skip(self, at: int, kinds: frozenset[str]) -> int:
        """Return the number of the first token from `at` on that is of none of these kinds."""
        while self.kind(at) in kinds:
            at += 1
        return at

    def words(self, first: int, last: int) -> str:
        """Return the characters of the tokens [first, last]."""
        return self.text[self.tokens[first].start : self.tokens[last].end]

    def piece(self, kind: str, first: int, last: int, **values: object) -> Piece:
        """Return a piece of the tokens [first, last]."""
        start, end = self.tokens[first].start, self.tokens[last].end
        return Piece(kind, first, last, start, end, **values)  # type: ignore[arg-type]
