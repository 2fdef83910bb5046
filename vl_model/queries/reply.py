"""The reply to a query, and its form as JSON and as CSV.

Schema of the JSON (version 2): ``query`` (text, line, tree, limits, said, rest, notes), ``run``, ``splits``,
``studies``, ``left_out``, ``not_assessable``, ``buckets``, ``worth``, ``likeness``, ``answers``, ``fingerprints``,
``version``. Line and limits are those of the answers; ``said`` holds those of the question alone. Each answer has the
study's own probabilities ``p_any_severe_canal`` and ``p_any_severe``, whatever was asked, and the ``typicality`` of its
images.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from data_prep.sites import SITES, Condition, Level, Severity, Side, Site, parse_row_id_site, parse_severity
from prompts.canonical import MAX_DEPTH, canonical_line
from prompts.tree import NO_LIMITS, And, Finding, Limits, Not, Or, Over, Query, SameLevel, SideAgainstSide, Tree
from vl_model.calibration.study_answers import QUESTIONS
from vl_model.queries.buckets import SET_LEVEL, Buckets
from vl_model.queries.estimates import Estimate
from vl_model.queries.search import Answer, Found, SpeakingSite
from vl_model.queries.segment import Evidence, image_path
from vl_model.queries.worth import Worth

SCHEMA_VERSION = 2
#: (study id, site) -> the known grade.
Truth = Mapping[tuple[int, Site], Severity]

CSV_COLUMNS = (
    *("rank", "study_id", "split", "seen", "score", "probability", "likeness", "matches"),
    *("condition", "side", "level", *(severity.key for severity in Severity), "truth"),
    *("view", "series_id", "instance_number", "x0", "y0", "x1", "y1", "source", "image"),
    *(f"p_{question}" for question in QUESTIONS),
    "typicality",
)
#: A spreadsheet takes a cell that begins so for a formula.
_FORMULA = re.compile(r"^[=+\-@\t\r\n]")
#: The csv module leaves a carriage return unquoted if lines end with "\n", and readers begin a new row there.
_END_OF_ROW = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Likeness:
    """How free words were used.

    words: the words. highest, needed: their highest cosine with any site, and the largest of neutral texts'.
    """

    words: str
    highest: float
    needed: float

    @property
    def is_told(self) -> bool:
        """Whether the model tells the words from nonsense."""
        return self.highest > self.needed


@dataclass(frozen=True)
class Reply:
    """The reply to a query.

    query: as it was read. line: its canonical line; None if nothing graded was asked. segments: those searched.
    found: what the search of graded sites found; None if free words alone were asked. answers: the studies that were
    found. likeness: how free words were used; None if they were not. fingerprints: of the segments. truth: known
    grades that the user gave. files: rank -> the files that were saved for that answer. said: the limits that the
    question itself has; those of `query` may have been set beside it.
    """

    query: Query
    run: str
    segments: tuple[str, ...]
    fingerprints: Mapping[str, Mapping[str, str]]
    found: Found | None
    answers: tuple[Answer, ...]
    likeness: Likeness | None = None
    truth: Truth | None = None
    files: Mapping[int, Sequence[Path]] = field(default_factory=dict)
    said: Limits = NO_LIMITS

    @property
    def line(self) -> str | None:
        return None if self.query.tree is None else canonical_line(self.query.tree, self.query.limits)

    @property
    def said_line(self) -> str | None:
        """The canonical line of the question alone, without the limits that were set beside it."""
        return None if self.query.tree is None else canonical_line(self.query.tree, self.said)

    @property
    def notes(self) -> tuple[str, ...]:
        """How the text was read, and what was searched instead of what was asked."""
        return (*self.query.notes, *(self.found.notes if self.found else ()))

    def known_severity(self, answer: Answer, speaking: SpeakingSite) -> Severity | None:
        """Return the known grade of a site, from the user's table if there is one, else from the data set."""
        if self.truth is not None:
            return self.truth.get((answer.study_id, speaking.site))
        return speaking.severity


def reply_json(reply: Reply) -> dict[str, Any]:
    """Return the reply as plain values."""
    found = reply.found
    return {
        "schema_version": SCHEMA_VERSION,
        "version": metadata.version("lumbar-vl"),
        "query": query_json(reply),
        "run": reply.run,
        "splits": list(reply.segments),
        "studies": None if found is None else found.studies,
        "left_out": None if found is None else found.left_out,
        "not_assessable": []
        if found is None
        else [
            {"study_id": one.study_id, "split": one.segment, "missing": [site.key for site in one.missing]}
            for one in found.not_assessable
        ],
        "buckets": None if found is None else buckets_json(found.buckets),
        "worth": None if found is None else worth_json(found.worth),
        "likeness": None
        if reply.likeness is None
        else {
            "words": reply.likeness.words,
            "highest": reply.likeness.highest,
            "needed": reply.likeness.needed,
            "is_told": reply.likeness.is_told,
        },
        "answers": [answer_json(reply, answer) for answer in reply.answers],
        "fingerprints": {name: dict(fingerprint) for name, fingerprint in reply.fingerprints.items()},
    }


def query_json(reply: Reply) -> dict[str, Any]:
    """Return how the query was read as plain values."""
    query = reply.query
    return {
        "text": query.text,
        "line": reply.line,
        "tree": None if query.tree is None else tree_json(query.tree),
        "limits": asdict(query.limits),
        "said": {"line": reply.said_line, "limits": asdict(reply.said)},
        "rest": query.rest,
        "notes": list(reply.notes),
    }


def tree_json(tree: Tree) -> dict[str, Any]:
    """Return a tree as nested plain values."""
    match tree:
        case Finding(_, severities, over, count):
            return {
                "finding": {
                    "over": over.value,
                    "count": count,
                    "sites": [site.key for site in SITES if site in tree.sites],
                    "severities": [severity.key for severity in sorted(severities)],
                }
            }
        case SideAgainstSide(condition, levels, worse):
            return {
                "worse": {
                    "condition": condition.value,
                    "side": worse.value,
                    "levels": [x.value for x in sorted(levels)],
                }
            }
        case And(parts):
            return {"and": [tree_json(part) for part in parts]}
        case Or(parts):
            return {"or": [tree_json(part) for part in parts]}
        case Not(part):
            return {"not": tree_json(part)}
        case SameLevel(part):
            return {"same_level": tree_json(part)}


def tree_from_json(content: Any, depth: int = 0) -> Tree:
    """Return the tree of `tree_json`. Raises ValueError for anything else, also for a tree that is too deep."""
    if depth > MAX_DEPTH or not isinstance(content, dict) or len(content) != 1:
        raise ValueError("not a tree of findings")
    [(kind, inside)] = content.items()
    try:
        match kind:
            case "finding":
                sites = frozenset(parse_row_id_site(key) for key in inside["sites"])
                severities = frozenset(parse_severity(key) for key in inside["severities"])
                return Finding(sites, severities, Over(inside["over"]), int(inside["count"]))
            case "worse":
                levels = frozenset(Level(level) for level in inside["levels"])
                return SideAgainstSide(Condition(inside["condition"]), levels, Side(inside["side"]))
            case "and" | "or" if len(inside) > 1:
                parts = tuple(tree_from_json(part, depth + 1) for part in inside)
                return And(parts) if kind == "and" else Or(parts)
            case "not" | "same_level":
                part = tree_from_json(inside, depth + 1)
                return Not(part) if kind == "not" else SameLevel(part)
    except (AttributeError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"not a tree of findings: {kind} ({error})") from None
    raise ValueError(f"not a tree of findings: {kind!r}")


def buckets_json(buckets: Buckets) -> dict[str, int]:
    """Return how many of the searched studies match, cannot be told and do not match, by sets of which level."""
    return {"level": SET_LEVEL, **asdict(buckets)}


def worth_json(worth: Worth) -> dict[str, Any]:
    """Return what a query is worth as plain values; intervals are [value, low, high]."""
    recalibration = worth.recalibration
    return {
        "searched": worth.searched,
        "known": worth.known,
        "matches": worth.matches,
        "recalibration": None if recalibration is None else [recalibration.intercept, recalibration.slope],
        "average_precision": _estimate(worth.average_precision),
        "cut": worth.cut,
        "above": worth.above,
        "matches_above": worth.matches_above,
        "precision": _estimate(worth.precision),
        "recall": _estimate(worth.recall),
        "told_precision": _estimate(worth.told_precision),
        "expected_matches": _estimate(worth.expected_matches),
    }


def _estimate(estimate: Estimate | None) -> list[float] | None:
    return None if estimate is None else [estimate.value, estimate.low, estimate.high]


def answer_json(reply: Reply, answer: Answer) -> dict[str, Any]:
    """Return an answer as plain values: that of its first site, and all its sites."""
    sites = [_site_json(reply, answer, speaking) for speaking in answer.sites]
    content = {
        **_study_columns(answer),
        "by_sets": answer.by_sets,
        **(sites[0] if sites else {}),
        "sites": sites,
    }
    files = reply.files.get(answer.rank)
    return content if files is None else {**content, "files": [str(path) for path in files]}


def _study_columns(answer: Answer) -> dict[str, Any]:
    """Return what JSON and CSV tell of the study of an answer."""
    return {
        "rank": answer.rank,
        "study_id": answer.study_id,
        "split": answer.segment,
        "seen": answer.seen,
        "score": answer.score,
        "probability": answer.probability,
        "likeness": answer.likeness,
        "matches": answer.matches,
        **{f"p_{question}": answer.study_answers.get(question) for question in QUESTIONS},
        "typicality": answer.typicality,
    }


def _site_json(reply: Reply, answer: Answer, speaking: SpeakingSite) -> dict[str, Any]:
    views = [
        {**evidence_json(evidence), "image": image_path(answer.study_id, evidence)} for evidence in speaking.evidence
    ]
    return {
        **speaking.site.columns,
        "probabilities": {s.key: p for s, p in zip(Severity, speaking.probabilities, strict=True)},
        "truth": Severity.to_column(reply.known_severity(answer, speaking)),
        **(views[0] if views else {}),
        "views": views,
    }


def evidence_json(evidence: Evidence) -> dict[str, Any]:
    """Return what shows a site in one view as plain values."""
    return {
        "view": evidence.view.value,
        "series_id": evidence.series_id,
        "instance_number": evidence.instance_number,
        "box": list(evidence.box),
        "source": evidence.source.value,
        "weight": evidence.weight,
    }


def answer_rows(reply: Reply) -> list[dict[str, Any]]:
    """Return one row per answer and site, with the columns `CSV_COLUMNS`; the evidence is that of the first view."""
    return [_row(reply, answer, speaking) for answer in reply.answers for speaking in answer.sites]


def _row(reply: Reply, answer: Answer, speaking: SpeakingSite) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(CSV_COLUMNS)
    row |= {
        **_study_columns(answer),
        **speaking.site.columns,
        **{s.key: p for s, p in zip(Severity, speaking.probabilities, strict=True)},
        "truth": Severity.to_column(reply.known_severity(answer, speaking)),
    }
    if speaking.evidence:
        evidence = speaking.evidence[0]
        shown = evidence_json(evidence)
        row |= dict(zip(("x0", "y0", "x1", "y1"), shown.pop("box"), strict=True))
        del shown["weight"]
        row |= {**shown, "image": image_path(answer.study_id, evidence)}
    return row


def reply_csv(reply: Reply) -> str:
    """Return the answers as a CSV table; text that a spreadsheet would take for a formula gets an apostrophe."""
    text = io.StringIO()
    table = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    table.writeheader()
    for row in answer_rows(reply):
        table.writerow({name: csv_cell(value) for name, value in row.items()})
    return text.getvalue()


def csv_cell(value: object) -> object:
    """Return a cell of a CSV table: on one line; what a spreadsheet would take for a formula gets an apostrophe."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if not isinstance(value, str):
        return value
    text = _END_OF_ROW.sub(" ", value)
    return f"'{text}" if _FORMULA.match(value) else text
