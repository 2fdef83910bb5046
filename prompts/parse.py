"""A person's text -> what it asks for: levels, sides, conditions, severities, and the rest.

>>> query = parse_query("severe left foraminal narrowing at L4-L5")
>>> query.words
'severe, left, neural foraminal narrowing, L4-L5'
>>> [site.key for site in query.sites]
['left_neural_foraminal_narrowing_l4_l5']
>>> parse_query("at least moderate L5/S1 canal stenosis with disc herniation").rest
'with disc herniation'

Nothing is dropped silently: words that are not understood are kept as `rest`, and every reading that a
person might not have meant is said in `notes`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from data_prep.sites import SITES, Condition, Level, Severity, Side, Site, parse_severity
from prompts.render import SEVERITY_WORDS
from prompts.scan import Token, clean, scan

#: Longer texts are refused: a text tower reads some 77 word pieces.
MAX_CHARACTERS = 1000

_CANAL = Condition.SPINAL_CANAL_STENOSIS
#: What may stand between "no" and what it denies ("no left L4-L5 stenosis", "non-severe").
_SKIPPED = {"connective", "ignored", "side", "both", "level", "or", "and", "range"}
_JOINTS = {"range", "or", "and"}
_LEADING = {"connective", "break", "and", "or", "range"}
_PLACES = {"condition", "side", "level"}
_NAMING = {"condition", "severity", "side", "both", "finding"}


@dataclass(frozen=True)
class Query:
    """What a text asks for. An empty set means that the text does not say: any will do.

    both_sides: the same finding on both sides of a level, not on either.
    rest: the words that were not understood, in their order.
    notes: readings that a person should know of.
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
        """The sites that the text speaks of. The canal, which has no side, is among them only where it is named."""
        return tuple(site for site in SITES if self._speaks_of(site))

    @property
    def words(self) -> str:
        """The understood part, for people; empty where nothing was understood."""
        severities = " or ".join(SEVERITY_WORDS[s].replace(" or ", "/") for s in sorted(self.severities, reverse=True))
        sides = "both sides" if self.both_sides else " or ".join(sorted(self.sides))
        conditions = " or ".join(c.words for c in Condition if c in self.conditions)
        levels = " or ".join(x.words for x in Level if x in self.levels)
        return ", ".join(part for part in (severities, sides, conditions, levels) if part)

    def _speaks_of(self, site: Site) -> bool:
        if self.levels and site.level not in self.levels:
            return False
        if self.conditions and site.condition not in self.conditions:
            return False
        if site.side is None:
            return not self.sides or _CANAL in self.conditions
        return not self.sides or site.side in self.sides


@dataclass(frozen=True)
class _Statement:
    """A severity as the text states it, over tokens [start, end)."""

    severities: frozenset[Severity]
    start: int
    end: int
    negated: bool


def parse_query(text: str) -> Query:
    """Understand a text. Raises ValueError where it is empty or longer than MAX_CHARACTERS."""
    line = clean(text)
    if not line:
        raise ValueError(f'the text {text!r} is empty; ask for example "severe left foraminal narrowing at L4-L5"')
    if len(line) > MAX_CHARACTERS:
        raise ValueError(f"the text {line[:40]!r}... has {len(line)} characters; at most {MAX_CHARACTERS} are read")
    tokens = scan(line)
    statements = _statements(tokens)
    aside = _asides(tokens, statements)
    inside = [token for number, token in enumerate(tokens) if number not in aside]
    notes: list[str] = []
    if aside:
        notes.append("a denied finding beside another one is not a filter: it is part of the rest")
    severities = _combine([s for s in statements if s.start not in aside], notes)
    levels = _levels(inside, notes)
    conditions = frozenset(Condition(token.key) for token in inside if token.kind == "condition")
    sides, both_sides = _sides(inside)
    if sides and conditions == {_CANAL}:
        notes.append("the spinal canal has no side: the side was ignored")
        sides, both_sides = frozenset(), False
    notes += [*_undenied(line, tokens), *_combined_freely(inside)]
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
    """'no stenosis': normal or mild; 'not severe': the others. None where what is denied is not a grade of ours."""
    if tokens[at].kind != "negation":
        return None
    denied = _skip(tokens, at + 1, _SKIPPED)
    if severity := _severity(tokens, denied):
        return _Statement(frozenset(Severity) - severity.severities, at, severity.end, negated=True)
    # "no herniation or stenosis" denies the stenosis too.
    denied = _skip(tokens, denied, _SKIPPED | {"word"})
    if denied < len(tokens) and tokens[denied].kind in ("condition", "finding"):
        return _Statement(frozenset({Severity.NORMAL_MILD}), at, denied, negated=True)
    return None


def _severity(tokens: Sequence[Token], at: int) -> _Statement | None:
    """'severe', 'moderate to severe', 'at least moderate', 'moderate or worse'; None where no severity stands here."""
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
    """The severities joined from token `at` on ('moderate or severe', 'mild to severe'), and where the chain ends."""
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
    # "worse than severe" and "less than normal" leave nothing: the named end of the scale is the nearest reading.
    return frozenset(filter(accepts, Severity)) or severities


def _skip(tokens: Sequence[Token], at: int, kinds: set[str]) -> int:
    while at < len(tokens) and tokens[at].kind in kinds:
        at += 1
    return at


def _asides(tokens: Sequence[Token], statements: Iterable[_Statement]) -> set[int]:
    """Tokens of denials about a condition of their own beside another: 'severe canal stenosis without foraminal ...'.

    One query holds one set of severities, so such a denial cannot be a filter.
    """
    starts = {statement.start for statement in statements}
    clauses = [_clause(tokens, s, starts) for s in statements if s.negated]
    denied = {number for clause in clauses for number in clause}
    conditions = {number for number, token in enumerate(tokens) if token.kind == "condition"}
    if not conditions - denied:
        return set()
    return {number for clause in clauses if conditions & set(clause) for number in clause}


def _clause(tokens: Sequence[Token], statement: _Statement, starts: set[int]) -> range:
    """The tokens from a denial to the next break, or to the next severity stated."""
    end = statement.end
    while end < len(tokens) and tokens[end].kind != "break" and end not in starts:
        end += 1
    while end > statement.end and tokens[end - 1].kind in ("and", "or", "connective"):
        end -= 1
    return range(statement.start, end)


def _combine(statements: Sequence[_Statement], notes: list[str]) -> frozenset[Severity]:
    """Positive statements are alternatives; denials narrow them where they can ('moderate but not severe')."""
    positive = [s.severities for s in statements if not s.negated]
    negative = [s.severities for s in statements if s.negated]
    if len(set(positive)) > 1:
        notes.append("several severities are named: any of them, at any of the sites, is an answer")
    combined = frozenset[Severity]().union(*positive)
    denied = frozenset(Severity).intersection(*negative)
    if not negative:
        return combined
    if positive and not combined & denied:
        notes.append("the severities contradict each other: those that are not denied were kept")
    return (combined & denied) or combined or denied


def _levels(tokens: Sequence[Token], notes: list[str]) -> frozenset[Level]:
    levels: set[Level] = set()
    for number, token in enumerate(tokens):
        if token.kind != "level":
            continue
        if not token.levels:
            notes.append(f"{token.key!r} is not a graded level ({', '.join(x.words for x in Level)})")
        elif token.lone:
            named = " and ".join(x.words for x in Level if x in token.levels)
            notes.append(f"{token.key!r} names one vertebra: read as {named}")
        if _ends_range(tokens, number):
            order = list(Level)
            ends = [order.index(level) for level in tokens[number - 2].levels | token.levels]
            levels.update(order[min(ends) : max(ends) + 1])
        levels.update(token.levels)
    return frozenset(levels)


def _ends_range(tokens: Sequence[Token], number: int) -> bool:
    """Whether this level closes 'L2-L3 to L4-L5'."""
    if number < 2 or tokens[number - 1].kind != "range" or tokens[number - 2].kind != "level":
        return False
    return bool(tokens[number].levels and tokens[number - 2].levels)


def _undenied(line: str, tokens: Sequence[Token]) -> Iterator[str]:
    """Notes on denied places: a query names where to look, and cannot exclude ('severe stenosis not at L4-L5')."""
    for number, token in enumerate(tokens):
        place = _skip(tokens, number + 1, {"connective"})
        if token.kind != "negation" or place == len(tokens) or tokens[place].kind not in _PLACES - {"condition"}:
            continue
        # "no left L4-L5 stenosis" denies the stenosis.
        denied = _skip(tokens, place, _SKIPPED)
        if denied == len(tokens) or tokens[denied].kind not in ("severity", "condition", "finding"):
            words = line[token.start : tokens[place].end]
            yield f"{words!r}: a place cannot be excluded, and was read as one that is asked for"


def _combined_freely(tokens: Sequence[Token]) -> Iterator[str]:
    """A note where places are named in turns ('left foramen and right recess'): a query holds no pairs of them."""
    named = dict.fromkeys((token.kind, token.levels or token.key) for token in tokens if token.kind in _PLACES)
    turns = [kind for kind, _ in groupby(kind for kind, _ in named)]
    if len(turns) > len(set(turns)):
        yield "sides, conditions and levels are combined freely: each that is named with each of the others"


def _sides(tokens: Sequence[Token]) -> tuple[frozenset[Side], bool]:
    """The sides named, and whether the text wants both at once: 'bilateral', 'left and right'."""
    both = any(token.kind == "both" for token in tokens)
    for one, joint, other in zip(tokens, tokens[1:], tokens[2:], strict=False):
        both |= (one.kind, joint.kind, other.kind) == ("side", "and", "side") and one.key != other.key
    sides = frozenset(Side) if both else frozenset(Side(token.key) for token in tokens if token.kind == "side")
    return sides, both


def _rest(line: str, tokens: Sequence[Token], statements: Iterable[_Statement], aside: set[int]) -> str:
    """The words that nothing was made of, with the small words that lead up to them."""
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
