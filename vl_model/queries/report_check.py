"""A report's findings against the model, clause by clause, disagreements first.

A clause that the vocabulary does not know is listed as not read. A sentence without a level is about the level that the
sentences before it name, within one line: "L4-L5: severe canal stenosis. Mild foraminal narrowing."
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompts.canonical import canonical_line
from prompts.reading.parse import parse_query
from prompts.reading.scan import clean, scan
from prompts.tree import And, Or, Tree
from vl_model.queries.reply import tree_json
from vl_model.queries.run_queries import BOTH, Asked, RunQueries
from vl_model.queries.search import SpeakingSite, speaking, truth_and_probability
from workspace.setting_error import SettingError

SCHEMA_VERSION = 1
MAX_REPORT_CHARACTERS = 20_000
_KNOWN = {True: " (its known grades agree)", False: " (its known grades disagree)", None: ""}
#: Kinds of tokens within a list or a range of levels.
_WITHIN_LIST = frozenset({"level", "and", "or", "break", "range", "down", "connective"})
_SENTENCE_END = re.compile(r"(?<=[.;!?])\s+")


@dataclass(frozen=True)
class ComparedClause:
    """A finding of a report, and what the model says of it.

    words: the sentence it is from. score: composed; probability: recalibrated, None if too few known grades allow it.
    matches: whether the known grades fulfil it.
    """

    words: str
    tree: Tree
    score: float
    probability: float | None
    matches: bool | None
    sites: tuple[SpeakingSite, ...]
    notes: tuple[str, ...]

    @property
    def chance(self) -> float:
        return self.score if self.probability is None else self.probability


@dataclass(frozen=True)
class ComparedReport:
    """All clauses, the least probable first, and the sentences that could not be compared, with the reason."""

    study_id: int
    segment: str
    seen: bool
    clauses: tuple[ComparedClause, ...]
    not_read: tuple[tuple[str, str], ...]


def read_report_text(path: Path) -> str:
    """Read a report. Raises SettingError if it cannot be read, is empty, or has more than 20,000 characters."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(MAX_REPORT_CHARACTERS + 1)
    except OSError as error:
        raise SettingError("report", f"{str(path)!r}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise SettingError("report", f"{str(path)!r}: is not text in UTF-8") from None
    if not text.strip():
        raise SettingError("report", f"{str(path)!r}: is empty")
    if len(text) > MAX_REPORT_CHARACTERS:
        raise SettingError("report", f"{str(path)!r}: has more than {MAX_REPORT_CHARACTERS} characters")
    return text


def compared_report(queries: RunQueries, text: str, study: str, asked: Asked) -> ComparedReport:
    """Compare a report with the model's grades of a study.

    Raises ValueError if the study is unknown, or if nothing graded was read in the report.
    """
    if not study.isdecimal():
        raise SettingError("study", f"{study!r}: expected the id of a study, a number")
    study_id = int(study)
    segments = queries.segments(asked.split or BOTH)
    found = [(segment, row) for segment in segments if (row := segment.row_of(study_id)) is not None]
    if not found:
        names = " and ".join(segment.name for segment in segments)
        raise SettingError("study", f"{study_id}: not among the {sum(map(len, segments))} studies of {names}")
    segment, row = found[0]
    known_segments = queries.known_segments()
    clauses, not_read = [], []
    for words in sentences(text):
        try:
            query = parse_query(words)
        except ValueError as error:
            not_read.append((words, str(error)))
            continue
        if query.tree is None:
            not_read.append((words, "nothing graded"))
            continue
        for tree in _parts(query.tree):
            known = truth_and_probability(tree, segment, row, known_segments)
            if known is None:
                not_read.append((words, f"no image shows all sites of {canonical_line(tree)}"))
                continue
            rest = (f'not read: "{query.rest}"',) if query.rest else ()
            clauses.append(ComparedClause(words, tree, *known, speaking(tree, segment, row), (*rest, *query.notes)))
    if not clauses:
        raise ValueError(f"the report names nothing that is graded ({len(not_read)} sentences were not read)")
    clauses.sort(key=lambda clause: clause.chance)
    return ComparedReport(study_id, segment.name, bool(segment.seen_S[row]), tuple(clauses), tuple(not_read))


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a report, each with the level that it is about."""
    for line in text.splitlines():
        level = ""
        for sentence in _SENTENCE_END.split(clean(line)):
            named = _last_levels(sentence)
            if any(character.isalnum() for character in sentence):
                yield sentence if named or not level else f"{level}: {sentence}"
            level = named or level


def _last_levels(sentence: str) -> str:
    """Return the words of the last level that a sentence names, or of the list or range that it belongs to."""
    tokens = scan(sentence)
    named = [number for number, token in enumerate(tokens) if token.kind == "level" and token.levels]
    if not named:
        return ""
    first = last = named[-1]
    for number in range(last - 1, -1, -1):
        if tokens[number].kind not in _WITHIN_LIST:
            break
        first = number if number in named else first
    return sentence[tokens[first].start : tokens[last].end]


def _parts(tree: Tree) -> tuple[Tree, ...]:
    """Return the findings that a sentence lists: a report asserts each of them, however they are joined."""
    return tree.parts if isinstance(tree, And | Or) else (tree,)


def report_check_text(compared: ComparedReport) -> str:
    """Return the comparison as lines for a person."""
    seen = "; the model was trained on it, so its probabilities are too sure" if compared.seen else ""
    lines = [f"report of study {compared.study_id} ({compared.segment}){seen}", ""]
    for clause in compared.clauses:
        lines.append(f"P {clause.chance:.2f}  {clause.words.rstrip('.;')}{_KNOWN[clause.matches]}")
        lines.append(f"        read as {canonical_line(clause.tree)}")
        for site in clause.sites:
            chances = zip(("normal/mild", "moderate", "severe"), site.probabilities, strict=True)
            lines.append(f"        {site.site.words}: {', '.join(f'{name} {p:.2f}' for name, p in chances)}")
        lines += [f"        {note}" for note in clause.notes]
    if compared.not_read:
        lines += ["", "not compared:"]
        lines += [f'  "{words}": {reason}' for words, reason in compared.not_read]
    return "\n".join(lines)


def report_check_json(compared: ComparedReport) -> dict[str, Any]:
    """Return the comparison as plain values."""
    return {
        "schema_version": SCHEMA_VERSION,
        "study_id": compared.study_id,
        "split": compared.segment,
        "seen": compared.seen,
        "clauses": [
            {
                "words": clause.words,
                "line": canonical_line(clause.tree),
                "tree": tree_json(clause.tree),
                "score": clause.score,
                "probability": clause.probability,
                "matches": clause.matches,
                "sites": [{**site.site.columns, "probabilities": list(site.probabilities)} for site in clause.sites],
                "notes": list(clause.notes),
            }
            for clause in compared.clauses
        ],
        "not_read": [{"words": words, "reason": reason} for words, reason in compared.not_read],
    }
