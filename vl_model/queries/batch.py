"""Many questions at once: a YAML file of names and questions becomes a table for each, and one ``summary.json``.

The same file on the same index gives the same bytes.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from prompts.canonical import MAX_TOP, parse_canonical
from prompts.reading.parse import parse_query
from prompts.tree import Query
from vl_model.queries.question_file import RESERVED
from vl_model.queries.reply import Reply, buckets_json, query_json, reply_csv, worth_json
from vl_model.queries.run_queries import Asked, RunQueries
from workspace.json_files import read_object
from workspace.setting_error import SettingError
from workspace.whole_files import replacing

SCHEMA_VERSION = 1
SUMMARY = f"{RESERVED}.json"
#: A canonical line begins with a term, a bracket or "not".
_LINE = re.compile(r"\s*(?:not\b\s*)*\(*\s*(?:any|all|both_sides|only_here|worse|same_level|\w+_\d_levels?)\s*\(")


def parse_question(question: str) -> Query:
    """Read a text or a canonical line. Raises ValueError."""
    return parse_canonical(question) if _LINE.match(question) else parse_query(question)


def answer_questions(
    queries: RunQueries, questions: Mapping[str, str], folder: Path, asked: Asked, overwrite: bool = False
) -> dict[str, Any]:
    """Answer all questions, write their tables and the summary, and return the summary.

    A question that cannot be read or answered is set aside, with the reason in the summary. Raises SettingError if the
    folder holds other files and `overwrite` is not set, and ValueError if none of the questions could be answered.
    """
    if not overwrite:
        _check_folder(folder, questions)
    folder.mkdir(parents=True, exist_ok=True)
    # Written before the first table, so that what an interrupted command left is known to be its own.
    _write_summary(folder, {"run": queries.run, "complete": False, "queries": dict.fromkeys(questions)})
    entries: dict[str, dict[str, Any]] = {}
    for name, question in questions.items():
        try:
            query = parse_question(question)
            reply = queries.ask(query, replace(asked, top=asked.top or query.limits.top or MAX_TOP))
        except ValueError as error:
            entries[name] = {"question": question, "error": str(error)}
            continue
        with replacing(folder / f"{name}.csv") as partial:
            partial.write_text(reply_csv(reply), encoding="utf-8")
        entries[name] = _entry(question, reply)
    failed = {name: entry["error"] for name, entry in entries.items() if "error" in entry}
    if len(failed) == len(questions):
        name, reason = next(iter(failed.items()))
        raise ValueError(f"none of the {len(questions)} questions could be answered; {name}: {reason}")
    return _write_summary(folder, {"run": queries.run, "complete": True, "queries": entries, "text": _text(entries)})


def _write_summary(folder: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``summary.json`` by rename, and return it."""
    summary = {"schema_version": SCHEMA_VERSION, "version": metadata.version("lumbar-vl"), **content}
    with replacing(folder / SUMMARY) as partial:
        partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def _check_folder(folder: Path, questions: Mapping[str, str]) -> None:
    """Raise SettingError unless the folder is empty, or holds only tables of these names that its summary lists."""
    if not folder.is_dir():
        return
    held = sorted(path.name for path in folder.iterdir())
    own = {SUMMARY, *(f"{name}.csv" for name in _listed(folder) if name in questions)}
    if others := [name for name in held if name not in own]:
        raise SettingError(
            "save",
            f"{str(folder)!r}: holds {others[0]!r}, which is not a table of these questions; choose another folder, or "
            "use --overwrite",
        )


def _listed(folder: Path) -> list[str]:
    """Return the names in the folder's ``summary.json``; none if it cannot be read."""
    try:
        queries = read_object(folder / SUMMARY, "query_vl.py --queries", SCHEMA_VERSION).get("queries")
    except ValueError:
        return []
    return list(queries) if isinstance(queries, dict) else []


def _entry(question: str, reply: Reply) -> dict[str, Any]:
    """Return what became of the studies at each step."""
    found = reply.found
    entry: dict[str, Any] = {"question": question, **query_json(reply)}
    if found is not None:
        entry |= {
            "searched": found.studies,
            "left_out_as_seen": found.left_out,
            "not_assessable": len(found.not_assessable),
            "assessable": found.studies - len(found.not_assessable),
            "buckets": buckets_json(found.buckets),
            "worth": worth_json(found.worth),
        }
    entry["answers"] = len(reply.answers)
    entry["fingerprints"] = {name: dict(fingerprint) for name, fingerprint in reply.fingerprints.items()}
    return entry


def _text(entries: Mapping[str, Mapping[str, Any]]) -> str:
    width = max(len(name) for name in entries)
    lines = []
    for name, entry in entries.items():
        if "error" in entry:
            lines.append(f"{name:{width}}  not answered: {entry['error']}")
            continue
        expected = (entry.get("worth") or {}).get("expected_matches")
        words = "" if expected is None else f", {expected[0]:.1f} ({expected[1]:.0f} to {expected[2]:.0f}) expected"
        told = entry.get("buckets")
        if told:
            words += f", by sets {told['matches']} match and {told['cannot_tell']} cannot be told"
        read = f"  not read: {entry['rest']!r}" if entry["rest"] else ""
        assessable = entry.get("assessable", "?")
        lines.append(
            f"{name:{width}}  {entry['answers']} answers of {assessable} studies{words}; {entry['line']}{read}"
        )
    return "\n".join(lines)
