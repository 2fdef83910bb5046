"""Parsing of queries: a text into levels, sides, conditions, severities, and words that are not recognised.

>>> query = parse_query("severe left foraminal narrowing at L4-L5")
>>> query.words
'severe, left, neural foraminal narrowing, L4-L5'
>>> [site.key for site in query.sites]
['left_neural_foraminal_narrowing_l4_l5']
>>> parse_query("at least moderate L5/S1 canal stenosis with disc herniation").rest
'with disc herniation'

Nothing is dropped silently: words that are not understood are kept as `rest`, and `notes` explain every
interpretation that a user may not have meant.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from data_prep.sites import SITES, Condition, Level, Severity, Side, Site, parse_severity
from prompts.render import SEVERITY_WORDS
from prompts.scan import Token, clean, scan

#: Longer texts are refused: a text tower reads about 77 word pieces.
MAX_CHARACTERS = 1000

_CANAL = Condition.SPINAL_CANAL_STENOSIS
#: Kinds of tokens between "no" and the finding that it negates ("no left L4-L5 stenosis", "non-severe").
_SKIPPED = {"connective", "ignored", "side", "both", "level", "or", "and", "range"}
_JOINTS = {"range", "or", "and"}
_LEADING = {"connective", "break", "and", "or", "range"}
_SITE_KINDS = {"condition", "side", "level"}
_NAMING = {"condition", "severity", "side", "both", "finding"}


@dataclass(frozen=True)
class Query:
    """A parsed text. An empty set stands for all levels, sides, conditions or severities.

    Attributes:
        both_sides: the text asks for a finding on both sides of a level at once, not on either.
        rest: the words that were not understood, in their order.
        notes: explanations of how the text was interpreted, for the user.
    """

    text: str
    levels: frozenset[Level] = frozenset()
    sides: frozenset[Side] = frozenset()
    conditions: frozenset[Condition] = frozenset()
    severities: frozenset[Severity] = frozenset()
    rest: str = ""
    both_sides: bool = False
    notes: tuple[str, ...] = ()

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that match the text. If a side is named, the canal, which has none, must be named too."""
        return tuple(site for site in SITES if self._matches(site))

    @property
    def words(self) -> str:
        """The understood part in words; empty if nothing was understood."""
        severities = " or ".join(SEVERITY_WORDS[s].replace(" or ", "/") for s in sorted(self.severities, reverse=True))
        sides = "both sides" if self.both_sides else " or ".join(sorted(self.sides))
        conditions = " or ".join(c.words for c in Condition if c in self.conditions)
        levels = " or ".join(x.words for x in Level if x in self.levels)
        return ", ".join(part for part in (severities, sides, conditions, levels) if part)

    def _matches(self, site: Site) -> bool:
        if self.levels and site.level not in self.levels:
            return False
        if self.conditions and site.condition not in self.conditions:
            return False
        if site.side is None:
            return not self.sides or _CANAL in self.conditions
        return not self.sides or site.side in self.sides


@dataclass(frozen=True)
class _Statement:
    """A statement of severities in the text, which spans the tokens [start, end)."""

    severities: frozenset[Severity]
    start: int
    end: int
    negated: bool


def parse_query(text: str) -> Query:
    """Parse a text. Raises ValueError if it is empty or longer than MAX_CHARACTERS."""
    line = clean(text)
    if not line:
        raise ValueError(f'text {text!r}: is empty; ask, for example, "severe left foraminal narrowing at L4-L5"')
    if len(line) > MAX_CHARACTERS:
        raise ValueError(f"text {line[:40]!r}...: has {len(line)} characters; shorten it to at most {MAX_CHARACTERS}")
    tokens = scan(line)
    statements = _statements(tokens)
    aside = _asides(tokens, statements)
    inside = [token for number, token in enumerate(tokens) if number not in aside]
    notes: list[str] = []
    if aside:
        notes.append("a negated finding beside another finding cannot exclude studies: its words are not parsed")
    severities = _combine([s for s in statements if s.start not in aside], notes)
    levels = _levels(inside, notes)
    conditions = frozenset(Condition(token.key) for token in inside if token.kind == "condition")
    sides, both_sides = _sides(inside)
    if sides and conditions == {_CANAL}:
        notes.append("the spinal canal has no side, so the side was ignored")
        sides, both_sides = frozenset(), False
    notes += [*_negated_sites(line, tokens), *_combined_freely(inside)]
    understood = bool(levels) or any(token.kind in _NAMING for token in inside)
    return Query(
        text=line,
        levels=levels,
        sides=sides,
        conditions=conditions,
        severities=severities,
        rest=_rest(line, tokens, statements, aside) if understood else line,
        both_sides=both_sides,
        notes=tuple(notes),
    )


def _statements(tokens: Sequence[Token]) -> list[_Statement]:
    statements: list[_Statement] = []
    at = 0
    while at < len(tokens):
        statement = _negation(tokens, at) or _severity(tokens, at)
        if statement is not None:
            statements.append(statement)
        at = statement.end if statement is not None else at + 1
    return statements


def _negation(tokens: Sequence[Token], at: int) -> _Statement | None:
    """Return the negation at token `at`: 'no stenosis' is normal or mild, 'not severe' one of the other two severities.

    None if there is no negation, or one of something that is not graded.
    """
    if tokens[at].kind != "negation":
        return None
    negated = _skip(tokens, at + 1, _SKIPPED)
    if severity := _severity(tokens, negated):
        return _Statement(frozenset(Severity) - severity.severities, at, severity.end, negated=True)
    # "no herniation or stenosis" negates the stenosis too.
    negated = _skip(tokens, negated, _SKIPPED | {"word"})
    if negated < len(tokens) and tokens[negated].kind in ("condition", "finding"):
        return _Statement(frozenset({Severity.NORMAL_MILD}), at, negated, negated=True)
    return None


def _severity(tokens: Sequence[Token], at: int) -> _Statement | None:
    """Return the severities at token `at` ('severe', 'at least moderate', 'moderate or worse'), or None."""
    first = _skip(tokens, at, {"comparison"})
    first = _skip(tokens, first, {"connective"}) if first > at else at
    if first == len(tokens) or tokens[first].kind != "severity":
        return None
    severities, end = _chain(tokens, first)
    if first > at:
        return _Statement(_compared(tokens[at].key, severities), at, end, negated=False)
    if end < len(tokens) and tokens[end].key in ("or_more", "or_less"):
        return _Statement(_compared(tokens[end].key, severities), at, end + 1, negated=False)
    return _Statement(severities, at, end, negated=False)


def _chain(tokens: Sequence[Token], at: int) -> tuple[frozenset[Severity], int]:
    """Return the severities joined from token `at` on ('moderate or severe', 'mild to severe'), and the chain's end."""
    found = [_severity_of(tokens[at])]
    at += 1
    while (following := _skip(tokens, at, _JOINTS)) > at:
        if following == len(tokens) or tokens[following].kind != "severity":
            break
        severity = _severity_of(tokens[following])
        if any(token.kind == "range" for token in tokens[at:following]):
            low, high = sorted((found[-1], severity))
            found.extend(s for s in Severity if low <= s <= high)
        found.append(severity)
        at = following + 1
    return frozenset(found), at


def _severity_of(token: Token) -> Severity:
    return parse_severity(token.key)


def _compared(comparison: str, severities: frozenset[Severity]) -> frozenset[Severity]:
    low, high = min(severities), max(severities)
    accepts = {
        "at_least": lambda s: s >= low,
        "or_more": lambda s: s >= low,
        "at_most": lambda s: s <= high,
        "or_less": lambda s: s <= high,
        "above": lambda s: s > high,
        "below": lambda s: s < low,
    }[comparison]
    # "worse than severe" and "less than normal" leave nothing; the named severity is the nearest interpretation.
    return frozenset(filter(accepts, Severity)) or severities


def _skip(tokens: Sequence[Token], at: int, kinds: set[str]) -> int:
    """Return the index of the first token, from `at` on, that is of none of these kinds."""
    while at < len(tokens) and tokens[at].kind in kinds:
        at += 1
    return at


def _asides(tokens: Sequence[Token], statements: Iterable[_Statement]) -> set[int]:
    """Return the numbers of the tokens in a negated clause that has a condition of its own beside another condition.

    An example is 'severe canal stenosis without foraminal narrowing'. A query has one set of severities for all of its
    conditions, so such a clause cannot be a filter.
    """
    starts = {statement.start for statement in statements}
    clauses = [_clause(tokens, s, starts) for s in statements if s.negated]
    negated = {number for clause in clauses for number in clause}
    conditions = {number for number, token in enumerate(tokens) if token.kind == "condition"}
    if not conditions - negated:
        return set()
    return {number for clause in clauses if conditions & set(clause) for number in clause}


def _clause(tokens: Sequence[Token], statement: _Statement, starts: set[int]) -> range:
    """Return the range of tokens from a negation to the next break, or to the next statement of a severity."""
    end = statement.end
    while end < len(tokens) and tokens[end].kind != "break" and end not in starts:
        end += 1
    while end > statement.end and tokens[end - 1].kind in ("and", "or", "connective"):
        end -= 1
    return range(statement.start, end)


def _combine(statements: Sequence[_Statement], notes: list[str]) -> frozenset[Severity]:
    """Combine statements: positive ones are alternatives, negated ones narrow them ('moderate but not severe')."""
    positive = [s.severities for s in statements if not s.negated]
    negative = [s.severities for s in statements if s.negated]
    if len(set(positive)) > 1:
        notes.append("several severities are named: an answer may have any of them, at any of the sites")
    combined = frozenset[Severity]().union(*positive)
    allowed = frozenset(Severity).intersection(*negative)
    if not negative:
        return combined
    if positive and not combined & allowed:
        notes.append("the severities contradict each other: the negation was ignored")
    return (combined & allowed) or combined or allowed


def _levels(tokens: Sequence[Token], notes: list[str]) -> frozenset[Level]:
    levels: set[Level] = set()
    for number, token in enumerate(tokens):
        if token.kind != "level":
            continue
        if not token.levels:
            notes.append(f"{token.key!r} is not a graded level ({', '.join(x.words for x in Level)})")
        elif token.lone:
            named = " and ".join(x.words for x in Level if x in token.levels)
            notes.append(f"{token.key!r} names one vertebra: it was interpreted as {named}")
        if _ends_range(tokens, number):
            order = list(Level)
            ends = [order.index(level) for level in tokens[number - 2].levels | token.levels]
            levels.update(order[min(ends) : max(ends) + 1])
        levels.update(token.levels)
    return frozenset(levels)


def _ends_range(tokens: Sequence[Token], number: int) -> bool:
    """Whether this level is the end of a range such as 'L2-L3 to L4-L5'."""
    if number < 2 or tokens[number - 1].kind != "range" or tokens[number - 2].kind != "level":
        return False
    return bool(tokens[number].levels and tokens[number - 2].levels)


def _negated_sites(line: str, tokens: Sequence[Token]) -> Iterator[str]:
    """Yield notes on negated levels and sides ('severe stenosis not at L4-L5'), which a query cannot exclude."""
    for number, token in enumerate(tokens):
        site = _skip(tokens, number + 1, {"connective"})
        if token.kind != "negation" or site == len(tokens) or tokens[site].kind not in _SITE_KINDS - {"condition"}:
            continue
        # "no left L4-L5 stenosis" negates the stenosis.
        negated = _skip(tokens, site, _SKIPPED)
        if negated == len(tokens) or tokens[negated].kind not in ("severity", "condition", "finding"):
            words = line[token.start : tokens[site].end]
            yield f"{words!r}: a level or side cannot be excluded, so it was interpreted as included"


def _combined_freely(tokens: Sequence[Token]) -> Iterator[str]:
    """Yield a note if sides, conditions and levels alternate ('left foramen and right recess').

    A query has independent sets of them, so it cannot represent such pairs.
    """
    named = dict.fromkeys((token.kind, token.levels or token.key) for token in tokens if token.kind in _SITE_KINDS)
    turns = [kind for kind, _ in groupby(kind for kind, _ in named)]
    if len(turns) > len(set(turns)):
        yield "sides, conditions and levels are combined freely: each named one with all named others"


def _sides(tokens: Sequence[Token]) -> tuple[frozenset[Side], bool]:
    """Return the named sides, and whether both are required at once: 'bilateral', 'left and right'."""
    both = any(token.kind == "both" for token in tokens)
    for one, joint, other in zip(tokens, tokens[1:], tokens[2:], strict=False):
        both |= (one.kind, joint.kind, other.kind) == ("side", "and", "side") and one.key != other.key
    sides = frozenset(Side) if both else frozenset(Side(token.key) for token in tokens if token.kind == "side")
    return sides, both


def _rest(line: str, tokens: Sequence[Token], statements: Iterable[_Statement], aside: set[int]) -> str:
    """Return the words that were not understood, together with the connectives in front of them."""
    used = {number for s in statements for number in range(s.start, s.end)} - aside
    kept: list[str] = []
    leading: list[str] = []
    for number, token in enumerate(tokens):
        word = line[token.start : token.end]
        if number in aside or _is_unread(token, number in used):
            kept += [*leading, word]
            leading = []
        elif token.kind == "negation" or (token.kind in _LEADING and number not in used):
            leading = [word] if token.kind == "break" else [*leading, word]
        else:
            leading = []
    return _joined(kept)


def _is_unread(token: Token, used: bool) -> bool:
    if token.kind == "level":
        return not token.levels
    return token.kind == "word" or (token.kind == "comparison" and not used)


def _joined(words: Sequence[str]) -> str:
    text = " ".join(words).strip(" ,;.")
    for sign in (",", ";", "."):
        text = text.replace(f" {sign}", sign)
    return text
