"""Answers to a query as text for people and as JSON, with the parsed query and the known grades."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.sites import Condition, Level, Severity, Site
from prompts.parse import Query
from vl_model.queries.index import BAND, Answer, requested_severities

#: (study id, site) -> the known grade.
Truth = Mapping[tuple[int, Site], Severity]


@dataclass(frozen=True)
class Reply:
    """The reply to a query: the parsed query and its answers.

    splits, studies: the splits that were searched, and the number of their studies.
    truth: the known grades; None if no table of them was given.
    files: rank -> the files that were saved for that answer.
    """

    query: Query
    run: str
    splits: Sequence[str]
    studies: int
    answers: Sequence[Answer]
    truth: Truth | None = None
    files: Mapping[int, Sequence[Path]] = field(default_factory=dict)


def reply_text(reply: Reply) -> str:
    """Return the reply as lines for a person."""
    lines = explain(reply.query)
    lines += [f"searched    {reply.studies} studies of run {reply.run!r} ({' and '.join(reply.splits)})", ""]
    lines.append(answer_table(reply.answers, reply.truth) if reply.answers else "no study has an image of such a site")
    if any(answer.in_training for answer in reply.answers):
        lines += [
            "",
            "training study: the model was trained on this study, so its probabilities are optimistic",
        ]
    return "\n".join(lines)


def reply_json(reply: Reply) -> dict[str, Any]:
    """Return the reply as plain values for JSON."""
    answers = []
    for answer in reply.answers:
        files = reply.files.get(answer.rank)
        content = answer_json(answer, reply.truth)
        answers.append(content if files is None else {**content, "files": [str(path) for path in files]})
    return {
        "query": query_json(reply.query),
        "run": reply.run,
        "splits": list(reply.splits),
        "studies": reply.studies,
        "answers": answers,
    }


def explain(query: Query) -> list[str]:
    """Return how a text was understood, as lines."""
    lines = [f'text        "{query.text}"', f"understood  {query.words or 'no level, side, condition or severity'}"]
    if query.rest:
        lines.append(f'other words "{query.rest}"')
    lines.append(f"ranked by   {ranking_words(query)}")
    return lines + [f"note        {note}" for note in query.notes]


def ranking_words(query: Query) -> str:
    """Return in words the quantity that the answers are ranked by, for example ``P(severe)``."""
    requested = requested_severities(query)
    if not requested:
        return "likeness of the image to the other words"
    grades = " + ".join(f"P({severity.key})" for severity in sorted(requested, reverse=True))
    side = " of the less probable side" if query.both_sides else ""
    bands = f", in bands of {BAND:.0%}, then by likeness to the other words" if query.rest else ""
    return f"{grades}{side}{bands}"


def answer_table(answers: Sequence[Answer], truth: Truth | None = None) -> str:
    """Return aligned columns, one line per answer."""
    likeness = any(answer.likeness is not None for answer in answers)
    head = ["rank", "study", "site", "normal/mild", "moderate", "severe", "view", "series/image", "box", "source", ""]
    if likeness:
        head.insert(6, "likeness")
    if truth is not None:
        head.insert(-1, "truth")
    rows = [head] + [_cells(answer, likeness, truth) for answer in answers]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _cells(answer: Answer, likeness: bool, truth: Truth | None) -> list[str]:
    probabilities = [f"{p:.3f}" for p in answer.probabilities]
    box = ",".join(f"{x:.0f}" for x in answer.box)
    slice_name = f"{answer.series_id}/{answer.instance_number}"
    cells = [str(answer.rank), str(answer.study_id), answer.site.words, *probabilities]
    if likeness:
        cells.append(f"{answer.likeness:+.3f}")
    cells += [answer.view.words, slice_name, box, answer.source.value]
    if truth is not None:
        cells.append(truth_words(answer, truth))
    return [*cells, "training study" if answer.in_training else ""]


def truth_words(answer: Answer, truth: Truth) -> str:
    """Return the known grade of an answer's site, or "unknown"."""
    severity = truth.get((answer.study_id, answer.site))
    return Severity.to_column(severity) or "unknown"


def query_json(query: Query) -> dict[str, Any]:
    """Return the parsed query as plain values for JSON."""
    return {
        "text": query.text,
        "severities": [severity.key for severity in sorted(query.severities)],
        "sides": sorted(side.value for side in query.sides),
        "both_sides": query.both_sides,
        "conditions": [condition.value for condition in Condition if condition in query.conditions],
        "levels": [level.value for level in Level if level in query.levels],
        "rest": query.rest,
        "notes": list(query.notes),
        "ranked_by": ranking_words(query),
    }


def answer_json(answer: Answer, truth: Truth | None = None) -> dict[str, Any]:
    """Return an answer as plain values for JSON; its image is relative to the split's ``processed_data``."""
    known = truth.get((answer.study_id, answer.site)) if truth is not None else None
    content = {
        "rank": answer.rank,
        "study_id": answer.study_id,
        "split": answer.split,
        "seen": answer.in_training,
        **answer.site.columns,
        "probabilities": {s.key: p for s, p in zip(Severity, answer.probabilities, strict=True)},
        "score": answer.score,
        "likeness": answer.likeness,
        "view": answer.view.value,
        "series_id": answer.series_id,
        "instance_number": answer.instance_number,
        "image": answer.image,
        "box": list(answer.box),
        "source": answer.source.value,
    }
    return content if truth is None else {**content, "truth": Severity.to_column(known)}
