"""Grades as a text names them: "severe", "at least moderate", "moderate or worse", "Schizas C"."""

import re
from collections.abc import Sequence
from dataclasses import replace

from data_prep.sites import Condition, Severity
from prompts.reading.piece import DROPPED, JOINTS, Grade, Piece, TokenRow
from prompts.tree import DISEASED

_SEVERITY_OF = {
    "normal": Severity.NORMAL_MILD,
    "mild": Severity.NORMAL_MILD,
    "normal_mild": Severity.NORMAL_MILD,
    "moderate": Severity.MODERATE,
    "severe": Severity.SEVERE,
}
#: The published grades, mapped: Lee 2010 (foramen), Schizas 2010 (canal), Bartynski 2003 (lateral recess).
_SCALES = {
    "lee": (Condition.NEURAL_FORAMINAL_NARROWING, {"0": "normal", "1": "mild", "2": "moderate", "3": "severe"}),
    "schizas": (Condition.SPINAL_CANAL_STENOSIS, {"a": "normal", "b": "moderate", "c": "severe", "d": "severe"}),
    "bartynski": (Condition.SUBARTICULAR_STENOSIS, {"0": "normal", "1": "mild", "2": "moderate", "3": "severe"}),
}


def grade_pieces(row: TokenRow, at: int) -> list[Piece]:
    """Return the severities at token `at` ("severe", "at least moderate", "moderate or worse", "only mild")."""
    if row.kind(at) == "scale":
        return _scale(row, at)
    if row.kind(at) == "exception" and (severity := _degree_left_out(row, at)) is not None:
        left = DISEASED - {_SEVERITY_OF[row.tokens[severity].key]}
        return [row.piece("grade", at, severity, grade=Grade(left, is_of_list=True))]
    if row.kind(at) == "mere" and row.kind(at + 1) == "severity" and row.tokens[at + 1].key != "severe":
        [graded] = grade_pieces(row, at + 1)
        assert graded.grade is not None
        return [row.piece("grade", at, graded.last, grade=replace(graded.grade, is_mere=True))]
    compared = row.tokens[at].key if row.kind(at) == "comparison" else ""
    first = row.skip(at + 1, DROPPED) if compared else at
    if row.kind(first) != "severity" or compared in ("or_more", "or_less"):
        return []
    keys, last = _chain(row, first)
    if not compared and row.kind(last + 1) == "comparison":
        following = row.tokens[last + 1].key
        if following in ("or_more", "or_less"):
            compared, last = following, last + 1
    grade = _grade_of(keys, compared, row.words(at, last))
    if row.kind(last + 1) == "mere" and "severe" not in keys and row.kind(last + 2) in ("break", ""):
        last += 1
        grade = replace(grade, is_mere=True)
    return [row.piece("grade", at, last, grade=grade)]


def _degree_left_out(row: TokenRow, at: int) -> int | None:
    """Return the severity that an exception takes from the degrees before it: "of any degree except severe"."""
    severity = row.skip(at + 1, DROPPED)
    after = row.skip(severity + 1, DROPPED)
    is_of_degrees = at > 0 and row.words(at - 1, at - 1).casefold().endswith(("degree", "degrees", "grade", "grades"))
    is_alone = row.kind(severity) == "severity" and row.kind(after) not in ("finding", "condition", "side")
    return severity if is_of_degrees and is_alone else None


def _chain(row: TokenRow, at: int) -> tuple[list[str], int]:
    """Return the severities joined from token `at` on ("moderate or severe"), and the last token."""
    keys = [row.tokens[at].key]
    last = at
    while True:
        following = row.skip(last + 1, JOINTS | {"ignored"})
        if row.kind(following) != "severity":
            return keys, last
        if following == last + 1 and {keys[-1], row.tokens[following].key} != {"moderate", "severe"}:
            return keys, last
        joints = {row.kind(number) for number in range(last + 1, following)} - {"ignored"}
        if "break" in joints and not _ends_list(row, following):
            return keys, last
        if "and" in joints and not _ends_chain(row, following):
            return keys, last
        keys += _through(keys[-1], row.tokens[following].key) if "range" in joints else []
        keys.append(row.tokens[following].key)
        last = following


def _ends_list(row: TokenRow, at: int) -> bool:
    """Return whether the severity at `at`, after a comma, is followed by the last of a list: ", moderate or severe"."""
    while True:
        following = row.skip(at + 1, JOINTS)
        if row.kind(following) != "severity":
            return False
        if {"or", "and"} & {row.kind(number) for number in range(at + 1, following)}:
            return True
        at = following


def _ends_chain(row: TokenRow, at: int) -> bool:
    """Return whether nothing in front of these severities is graded by the first one alone."""
    before = at - 1
    while before >= 0 and row.kind(before) in JOINTS | DROPPED | {"severity"}:
        before -= 1
    return before < 0 or row.kind(before) in ("negation", "with")


def _through(low: str, high: str) -> list[str]:
    first, last = sorted((_SEVERITY_OF[low], _SEVERITY_OF[high]))
    return ["moderate"] if last - first == 2 else []


def _scale(row: TokenRow, at: int) -> list[Piece]:
    name, values = row.tokens[at].key.split(" ", 1)
    condition, meaning = _SCALES[name]
    given = [value[0] for value in re.findall(r"\b[0-3a-d][1-4]?\b", values)]
    if wrong := [value for value in given if value not in meaning]:
        allowed = ", ".join(x.upper() for x in meaning)
        raise ValueError(f'"{row.words(at, at)}": {wrong[0].upper()} is not one of its grades, {allowed}')
    if "to" in values or "-" in values:
        order = list(meaning)
        given = order[order.index(given[0]) : order.index(given[-1]) + 1]
    keys = [meaning[value] for value in given]
    grade = _grade_of(keys, "or_more" if values.endswith("+") else "", row.words(at, at))
    words = " or ".join(severity.label for severity in sorted(grade.severities))
    note = f'"{row.words(at, at)}" was mapped to {condition.words} {words}'
    return [
        row.piece("condition", at, at, condition=condition, notes=(note,)),
        row.piece("grade", at, at, grade=Grade(grade.severities, grade.is_all)),
    ]


def _grade_of(keys: Sequence[str], compared: str, words: str) -> Grade:
    """Return the grade that severities and their comparison name."""
    named = frozenset(_SEVERITY_OF[key] for key in keys)
    low, high = min(named), max(named)
    match compared:
        case "at_least" | "or_more" | "at_or_above":
            severities = frozenset(s for s in Severity if s >= low)
        case "at_most" | "or_less" | "at_or_below":
            severities = frozenset(s for s in Severity if s <= high)
        case "above":
            severities = frozenset(s for s in Severity if s > high)
        case "below":
            severities = frozenset(s for s in Severity if s < low)
        case _:
            severities = named
    if not severities:
        raise ValueError(f'"{words}": no grade is {"worse" if compared == "above" else "better"} than that')
    if len(severities) == len(Severity):
        raise ValueError(
            f'"{words}": names every grade, because normal and mild are one grade here; ask for moderate or severe'
        )
    is_upper_bound = compared in ("at_most", "or_less", "at_or_below", "below")
    is_normal = Severity.NORMAL_MILD in named and (bool({"normal", "normal_mild"} & set(keys)))
    is_mild = "mild" in keys and not is_normal and not is_upper_bound and compared not in ("above",)
    return Grade(severities, is_all=is_upper_bound or is_normal, is_mild=is_mild)
