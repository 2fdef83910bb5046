"""The phrases of ``tests/query_phrases.csv`` with their meanings, and long texts of several kinds; used by query.py."""

import csv
from dataclasses import dataclass

from benchmarks.comparison import REPOSITORY
from prompts.reading.parse import MAX_CHARACTERS

TABLE = REPOSITORY / "tests" / "query_phrases.csv"


@dataclass(frozen=True)
class Phrase:
    """A text and its meaning as a canonical line; empty if it is refused or nothing graded is asked."""

    text: str
    meaning: str


def read_phrases() -> list[Phrase]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return [Phrase(line["text"], line["meaning"]) for line in csv.DictReader(file)]


def long_texts() -> dict[str, str]:
    """Return texts of the greatest length that is read: name -> text."""
    parts = {
        "findings": "severe left foraminal narrowing at L4-L5 and moderate canal stenosis at L3-L4, ",
        "levels": "L3-L4, L4/5, ",
        "negations": "no ",
        "negated findings": "no canal stenosis, without recess stenosis but not severe foramen at L1-L2 or ",
        "typing errors": "sevree stenossi foramne naroowing recesss ",
        "words that are not known": "qwertz flubber xylophon ",
        "one letter each": "a b c d e f g h ",
        "one long word": "stenosisnarrowing",
        "brackets and signs": "(((->>==;;,,//",
        "counts": "at least two levels of severe stenosis except L5-S1 ",
        "initials": "l s n m c f r ",
        "hyphens": "l4-",
    }
    return {name: (part * MAX_CHARACTERS)[:MAX_CHARACTERS] for name, part in parts.items()}
