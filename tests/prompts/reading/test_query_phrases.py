"""Queries in the words of radiologists and researchers: each is read as it is meant, or says that it may not be.

``tests/query_phrases.csv`` was written without a look at the parser. Its columns: the kind of phrase; the text; its
meaning as a canonical line, empty if the text is to be refused or if nothing graded is in it; and what must be said of
it: a part of its notes, of its words that were left over, or of the error.

``python -m tests.prompts.reading.test_query_phrases`` prints how each kind was read, and the phrases that
were read otherwise.
"""

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from data_prep.sites import SITES
from prompts.canonical import canonical_line, parse_canonical
from prompts.formula import mean_the_same
from prompts.reading.parse import parse_query
from prompts.tree import Finding, Over, leaves

TABLE = Path(__file__).parents[2] / "query_phrases.csv"
#: Kind -> the fewest phrases that say something about it.
LEAST_ROWS = {
    **dict.fromkeys(("levels", "grade", "except", "count", "and", "and not", "sides"), 30),
    **dict.fromkeys(("abbreviation", "none of several", "report sample"), 30),
    **dict.fromkeys(("one finding", "or", "limits", "typing error", "contradiction", "not graded", "left over"), 8),
    **dict.fromkeys(("other language", "nerve root", "nothing asked"), 8),
}
LEAST_READ = 0.95
REFUSED = "refused"
NOTHING = "nothing graded"


@dataclass(frozen=True)
class Phrase:
    kind: str
    text: str
    meaning: str
    said: str

    @property
    def expected(self) -> tuple[str, ...]:
        """The readings that are right."""
        if self.meaning:
            return (self.meaning,)
        return {"left over": (NOTHING,), "nothing asked": (NOTHING, REFUSED)}.get(self.kind, (REFUSED,))


@dataclass(frozen=True)
class Outcome:
    """How a phrase was read: `line` is its canonical line, or why there is none; `told` is all that was said of it."""

    phrase: Phrase
    line: str
    told: str

    @property
    def is_exact(self) -> bool:
        return self.is_meant and self.phrase.said.casefold() in self.told.casefold()

    @property
    def is_meant(self) -> bool:
        """Whether it was read as it was meant: the same line, or another one that the same grades fulfil."""
        if self.line in self.phrase.expected:
            return True
        if not self.phrase.meaning or self.line in (REFUSED, NOTHING):
            return False
        meant, read = parse_canonical(self.phrase.meaning), parse_canonical(self.line)
        assert meant.tree is not None and read.tree is not None
        return meant.limits == read.limits and mean_the_same(meant.tree, read.tree)

    @property
    def is_silently_wrong(self) -> bool:
        return not self.is_exact and not self.told and self.line != REFUSED


def phrases() -> list[Phrase]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return [Phrase(**row) for row in csv.DictReader(file, strict=True)]


def outcome(phrase: Phrase) -> Outcome:
    try:
        query = parse_query(phrase.text)
    except ValueError as error:
        return Outcome(phrase, REFUSED, str(error))
    line = NOTHING if query.tree is None else canonical_line(query.tree, query.limits)
    return Outcome(phrase, line, "\n".join(filter(None, (*query.notes, query.rest))))


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return [outcome(phrase) for phrase in phrases()]


def test_the_table_has_enough_distinct_phrases_of_every_kind() -> None:
    table = phrases()
    assert len(table) == len({phrase.text.casefold() for phrase in table}) >= 250
    count_of = Counter(phrase.kind for phrase in table)
    assert set(count_of) == set(LEAST_ROWS)
    assert all(count_of[kind] >= least for kind, least in LEAST_ROWS.items())


def test_every_meaning_is_a_canonical_line() -> None:
    for phrase in phrases():
        if phrase.meaning:
            query = parse_canonical(phrase.meaning)
            assert query.tree is not None
            assert canonical_line(query.tree, query.limits) == phrase.meaning
            for leaf in leaves(query.tree):
                is_all = isinstance(leaf, Finding) and leaf.over is Over.ALL
                assert not is_all or len(leaf.sites) > 1, f'"{phrase.meaning}": all of one site is any of it'


def test_the_meanings_name_every_site() -> None:
    trees = [parse_canonical(phrase.meaning).tree for phrase in phrases() if phrase.meaning]
    alone = {leaf.sites for tree in trees if tree for leaf in leaves(tree)}
    assert {site for sites in alone if len(sites) < len(SITES) for site in sites} == set(SITES)


def test_nearly_all_phrases_are_read_exactly(outcomes: list[Outcome]) -> None:
    others = [o for o in outcomes if not o.is_exact]
    assert len(others) <= (1 - LEAST_READ) * len(outcomes), "\n".join(map(described, others))


def test_no_phrase_is_read_wrongly_in_silence(outcomes: list[Outcome]) -> None:
    wrong = [o for o in outcomes if o.is_silently_wrong]
    assert not wrong, "\n".join(map(described, wrong))


def described(outcome: Outcome) -> str:
    expected = " or ".join(outcome.phrase.expected)
    told = outcome.told.replace("\n", " | ")
    return f'"{outcome.phrase.text}"\n  meant: {expected}\n  read: {outcome.line}\n  said: {told}'


def print_kinds(outcomes: list[Outcome]) -> None:
    print(f"{'kind':16} {'rows':>5} {'read exactly':>13} {'said':>5} {'wrong in silence':>17}")
    for kind in [*LEAST_ROWS, "all"]:
        of_kind = [o for o in outcomes if kind in (o.phrase.kind, "all")]
        exact, wrong = sum(o.is_exact for o in of_kind), sum(o.is_silently_wrong for o in of_kind)
        print(f"{kind:16} {len(of_kind):5} {exact:13} {len(of_kind) - exact - wrong:5} {wrong:17}")


if __name__ == "__main__":
    read = [outcome(phrase) for phrase in phrases()]
    print_kinds(read)
    for other in read:
        if not other.is_exact:
            print(described(other))
