"""Many questions at once: a YAML file of names and questions becomes a table for each, and one ``summary.json``.

The same file on the same index gives the same bytes.
"""

import json
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from prompts.canonical import MAX_TOP, parse_canonical
from prompts.parse import parse_query
from prompts.tree import Query
from vl_model.queries.reply import Reply, buckets_json, query_json, reply_csv, worth_json
from vl_model.queries.run_queries import Asked, RunQueries
from workspace.setting_error import SettingError
from workspace.whole_files import replacing

SCHEMA_VERSION = 1
SUMMARY = "summary.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
#: A canonical line begins with a term, a bracket or "not".
_LINE = re.compile(r"\s*(?:not\b\s*)*\(*\s*(?:any|all|both_sides|only_here|worse|same_level|\w+_\d_levels?)\s*\(")


def read_questions(path: Path) -> dict[str, str]:
    """Read a YAML file of names and questions. Raises SettingError that quotes the file and the entry."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise SettingError("queries", f"{str(path)!r}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError("queries", f"{str(path)!r}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict) or not tree:
        raise SettingError("queries", f"{str(path)!r}: expected lines such as  stenosis: severe canal stenosis")
    for name, question in tree.items():
        if not _NAME.fullmatch(name) or name == Path(SUMMARY).stem:
            raise SettingError("queries", f"{str(path)!r}: {name!r} cannot be the name of a table")
        if not isinstance(question, str):
            raise SettingError("queries", f"{str(path)!r}: {name}: expected a question, found {question!r}")
    if len({name.casefold() for name in tree}) < len(tree):
        raise SettingError("queries", f"{str(path)!r}: two names differ in upper and lower case alone")
    return dict(tree)


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
    written = [*(f"{name}.csv" for name in questions), SUMMARY]
    _check_folder(folder, written, overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMMARY).unlink(missing_ok=True)
    entries: dict[str, dict[str, Any]] = {}
    for name, question in questions.items():
        try:
            query = parse_question(question)
            limits = Asked(
                asked.split, asked.top or query.limits.top or MAX_TOP, asked.least, asked.seen, asked.likeness
            )
            reply = queries.ask(query, limits)
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
    summary = {
        "schema_version": SCHEMA_VERSION,
        "version": metadata.version("lumbar-vl"),
        "run": queries.run,
        "queries": entries,
        "text": _text(entries),
    }
    with replacing(folder / SUMMARY) as partial:
        partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def _check_folder(folder: Path, written: list[str], overwrite: bool) -> None:
    """Raise SettingError if the folder holds files of another batch, or others, that would stay beside these."""
    if not folder.is_dir():
        return
    others = sorted(path.name for path in folder.iterdir() if path.name not in written)
    if others and not overwrite:
        raise SettingError(
            "save", f"{str(folder)!r}: holds other files ({others[0]}, ...); choose another folder, or use --overwrite"
        )


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
