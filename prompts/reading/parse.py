"""Reading of queries: a text becomes a tree of findings (`prompts.tree`), or is refused with what is wrong in it.

>>> from prompts.canonical import canonical_line
>>> query = parse_query("severe canal stenosis except L5-S1, without foraminal narrowing")
>>> canonical_line(query.tree)
'any(canal, L1-L2, L2-L3, L3-L4, L4-L5) = severe and all(foramen, L1-L2, L2-L3, L3-L4, L4-L5) = normal/mild'

The rules, each of which has a test:

- A clause is one finding. It takes what it lacks (level, side, condition, grade) from the clause before, else from the
  one after; of a list of levels ("at L3-L4 and L4-L5") it takes all, and what is said of the list is said of each. If
  nobody says it: all levels, either side, all conditions, and moderate or severe.
- "and" asks for both in one study; "or", "/" and "," for any of them; the last joint of a list is that of all. Commas
  alone, with a denial between them ("severe canal stenosis, foramina patent"), ask for all of them.
- What follows the last of several regions is said of all: "canal and foramina are patent".
- "left and right", "bilateral" ask for both sides of one level.
- "no", "without" and "normal" deny: all of a group's sites are normal or mild; "not severe": all are below severe.
  "no" denies what follows it up to "but", or up to a clause with a grade of its own.
- "without", "but no", "but normal" hold at the level that the clause before names; with "at the same level", the whole
  holds at one level.
- "except", "sparing", "outside", "not at" take places away; if they could not have been meant ("at L4-L5 but not at
  L5-S1"), the finding is denied there, and "excluding severe NFN" denies a finding. "only", "isolated": at these places
  and no others; "only moderate": and nothing worse.
- "canal stenosis except L5-S1" is about all other levels; "isolated canal stenosis": and no other condition.
- "above", "below", "and below", "down to", "upper", "lower", "lumbosacral" are ranges of levels.
- "two-level", "single-level", "at three levels" are exact counts of affected levels; "multilevel" is at least two.
- "R>L", "worse on the left" compare sides at one level; "unilateral" is one side and not the other.
- "P > 0.8", "top 20", "unseen" limit the answers; "how many" asks for their number first.
- Words that the vocabulary does not know are left over, with a negation before them. A clause about something that is
  not graded ("severe disc herniation") is left over as a whole.
- What contradicts itself, every study fulfils, is not graded or is not English is refused.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from data_prep.sites import Severity
from prompts.canonical import MAX_TOP
from prompts.formula import is_always_true, is_contradiction
from prompts.reading.clause import Clause
from prompts.reading.clause_trees import clause_tree, leaves_out
from prompts.reading.clauses import clauses_of
from prompts.reading.filling import filled
from prompts.reading.grouping import pieces_of
from prompts.reading.scan import Token, clean, scan
from prompts.reading.spelling import corrected
from prompts.tree import And, Finding, Limits, Over, Query, SameLevel, Tree, all_of, any_of, leaves

#: Longer texts are refused before any other work.
MAX_CHARACTERS = 1000
#: A text of so many sentences is a report.
_REPORT_SENTENCES = 5

EXAMPLE = 'ask, for example, "severe left foraminal narrowing at L4-L5"'


def parse_query(text: str) -> Query:
    """Read a text.

    Raises ValueError, which quotes the words in question, if it is empty or too long, contradicts itself, asks for
    levels or regions that are not graded, or is in another language.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(
            f"text {text[:40]!r}...: has {len(text)} characters, and at most {MAX_CHARACTERS} are read; a report is "
            "compared with --report"
        )
    line = clean(text)
    if not any(character.isalnum() for character in line):
        raise ValueError(f"text {text!r}: nothing was asked; {EXAMPLE}")
    tokens = scan(line)
    _check_language(line, tokens)
    _check_is_no_report(line)
    spelled, spelling_notes = corrected(line)
    tokens = tokens if spelled == line else scan(spelled)
    pieces = list(pieces_of(spelled, tokens))
    try:
        clauses = filled(clauses_of(pieces))
    except ValueError as error:
        raise ValueError(f'"{line}": {error}') from None
    same_level = any(piece.kind == "same_level" for piece in pieces)
    notes: list[str] = list(spelling_notes)
    tree = _tree(clauses, same_level, spelled, notes)
    return Query(line, tree, _limits(tokens), _rest(clauses, spelled), tuple(dict.fromkeys(notes)))


def _check_language(line: str, tokens: Sequence[Token]) -> None:
    for token in tokens:
        if token.kind == "other_language":
            word = line[token.start : token.end]
            raise ValueError(f'"{line[:60]}": "{word}" is a word of another language, and only English is read')
    for character in line:
        if character.isalpha() and not unicodedata.name(character, "").startswith(("LATIN", "FULLWIDTH LATIN")):
            raise ValueError(f'"{line[:60]}": is not English, and only English is read; {EXAMPLE}')


def _check_is_no_report(line: str) -> None:
    sentences = [part for part in re.split(r"[.;!?]\s", line) if len(part.split()) > 2]
    if len(sentences) >= _REPORT_SENTENCES:
        raise ValueError(
            f'"{line[:60]}...": has {len(sentences)} sentences, like a report; --report FILE compares a report with '
            "the model, clause by clause"
        )


def _tree(clauses: Sequence[Clause], same_level: bool, text: str, notes: list[str]) -> Tree | None:
    """Return the tree of the clauses; None if nothing graded was said."""
    asked = [clause for clause in clauses if not clause.exception and not clause.is_empty]
    trees = [_clause_tree(clause, text, notes) for clause in asked]
    _check_exceptions(clauses, asked, text)
    if not trees:
        return None
    tree = _combined(asked, trees)
    if same_level:
        tree = _at_same_level(tree)
    if is_contradiction(tree):
        raise ValueError(_contradiction(asked, trees, text))
    if is_always_true(tree):
        raise ValueError(f'"{text}": holds in every study, whatever its grades')
    return tree


def _check_exceptions(clauses: Sequence[Clause], asked: Sequence[Clause], text: str) -> None:
    for clause in clauses:
        if clause.exception and not clause.is_empty and not any(leaves_out(clause, other) for other in asked):
            raise ValueError(f'"{text[clause.start : clause.end]}": leaves out nothing of what is asked')


def _clause_tree(clause: Clause, text: str, notes: list[str]) -> Tree:
    quoted = f'"{text[clause.start : clause.end]}"'
    try:
        tree = clause_tree(clause, notes)
    except ValueError as error:
        raise ValueError(f"{quoted}: {error}") from None
    if is_contradiction(tree):
        raise ValueError(f"{quoted}: contradicts itself")
    return tree


def _combined(clauses: Sequence[Clause], trees: Sequence[Tree]) -> Tree:
    """Join the trees of clauses: "and" binds before "or", and a comma is the next joint of its list."""
    joints = _joints(clauses)
    alternatives: list[list[Tree]] = [[trees[0]]]
    for joint, tree in zip(joints[1:], trees[1:], strict=True):
        if joint == "or":
            alternatives.append([tree])
        else:
            alternatives[-1].append(tree)
    return any_of(_united([all_of(_united(parts, _both_denied)) for parts in alternatives], _either))


def _joints(clauses: Sequence[Clause]) -> list[str]:
    """Return "and" or "or" for each clause; a comma is the next "and" or "or" of its list.

    A list of commas alone asks for any of its findings; if it denies one, or begins with "although", it describes one
    study: for all of them.
    """
    joints: list[str] = []
    is_description = clauses[0].joint == "but" or any(clause.denies for clause in clauses)
    following = "and" if is_description else "or"
    for clause in reversed(clauses):
        if clause.joint in ("and", "but", "with"):
            following = "and" if clause.joint == "and" else following
            joints.append("and")
        elif clause.joint == "or":
            following = "or"
            joints.append("or")
        else:
            joints.append("and" if clause.negated else following)
    return joints[::-1]


def _united(trees: Sequence[Tree], united: Callable[[Finding, Finding], Finding | None]) -> list[Tree]:
    """Return the trees with those findings in one that follow each other and that `united` makes one of."""
    found: list[Tree] = []
    for tree in trees:
        last = found[-1] if found else None
        both = united(last, tree) if isinstance(last, Finding) and isinstance(tree, Finding) else None
        if both is None:
            found.append(tree)
        else:
            found[-1] = both
    return found


def _either(one: Finding, other: Finding) -> Finding | None:
    """Alternatives that differ in their places alone: "canal or foraminal stenosis" is one finding."""
    is_same = one.over is other.over is Over.ANY and one.severities == other.severities
    return replace(one, sites=one.sites | other.sites) if is_same else None


def _both_denied(one: Finding, other: Finding) -> Finding | None:
    """Denials of the same severities: "no canal or foraminal stenosis" is one."""
    is_same = one.severities == other.severities and _is_denial(one) and _is_denial(other)
    return Finding(one.sites | other.sites, one.severities, Over.ALL) if is_same else None


def _is_denial(finding: Finding) -> bool:
    is_of_all = finding.over is Over.ALL or (finding.over is Over.ANY and len(finding.sites) == 1)
    return is_of_all and Severity.NORMAL_MILD in finding.severities


def _at_same_level(tree: Tree) -> Tree:
    levels = frozenset.union(*(leaf.levels for leaf in leaves(tree)))
    return SameLevel(tree) if len(levels) > 1 else tree


def _contradiction(clauses: Sequence[Clause], trees: Sequence[Tree], text: str) -> str:
    quoted = [f'"{text[clause.start : clause.end]}"' for clause in clauses]
    for one, first in enumerate(trees):
        for other in range(one + 1, len(trees)):
            if is_contradiction(And((first, trees[other]))):
                return f"{quoted[one]} and {quoted[other]}: contradict each other"
    return f"{' and '.join(quoted)}: contradict each other"


def _limits(tokens: Sequence[Token]) -> Limits:
    limits = Limits()
    for token in tokens:
        if token.kind == "top":
            if not 1 <= token.number <= MAX_TOP:
                raise ValueError(f"top {token.number:g}: must be a whole number from 1 to {MAX_TOP}")
            limits = replace(limits, top=int(token.number))
        elif token.kind == "probability":
            if token.number > 1:
                raise ValueError(f"P > {token.number * 100:g} %: a probability is at most 100 %")
            limits = replace(limits, least=token.number)
        elif token.kind == "counting":
            limits = replace(limits, count_first=True)
        elif token.kind in ("seen", "unseen"):
            limits = replace(limits, seen=token.kind == "seen")
    return limits


def _rest(clauses: Sequence[Clause], text: str) -> str:
    """Return the words that were not understood, with a negation in front of them."""
    parts: list[str] = []
    for clause in clauses:
        if clause.is_empty and clause.rest:
            parts.append(text[clause.start : clause.end])
        else:
            parts += _runs(clause, text)
    return ", ".join(part.strip(" ,;.") for part in parts)


def _runs(clause: Clause, text: str) -> Iterator[str]:
    """Yield runs of words that were not understood and follow each other in the text."""
    start, end = -1, -1
    for first, last in clause.rest:
        if start >= 0 and text[end:first].strip():
            yield text[start:end]
            start = first
        start, end = (first if start < 0 else start), last
    if start >= 0:
        yield text[start:end]
