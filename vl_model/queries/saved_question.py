"""``question.json``: which question a folder of saved answers belongs to, and which files in it are its own.

Nothing in a folder is replaced or removed but the files that its ``question.json`` lists. It is written twice: before
the first picture, with the names that are planned, so that what an interrupted command left is known to be its own;
and last, with the names that were written.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from vl_model.queries.reply import Reply, query_json
from workspace.json_files import read_object
from workspace.setting_error import SettingError
from workspace.whole_files import replacing

SCHEMA_VERSION = 1
QUESTION = "question.json"
#: The names that are ever written beside it. Others in ``question.json`` are not from this program.
_OWN_NAME = re.compile(r"answers\.(png|csv)|[0-9]{2,4}_[0-9]{1,20}_[a-z0-9_]{1,60}_(slice|crop)\.png")


@dataclass(frozen=True)
class MissingPicture:
    """A slice that could not be shown. image: relative to ``processed_data``. reason: in words."""

    rank: int
    image: str
    reason: str


def question_json(reply: Reply) -> dict[str, Any]:
    """Return what makes a question another one: what was asked, of which run, studies, model and data."""
    query = query_json(reply)
    return {
        "line": reply.line,
        "text": reply.query.text if reply.line is None else None,
        "limits": query["limits"],
        "likeness": None if reply.likeness is None else reply.likeness.words,
        "run": reply.run,
        "segments": list(reply.segments),
        "fingerprints": {name: dict(fingerprint) for name, fingerprint in reply.fingerprints.items()},
    }


def write_question(
    folder: Path, reply: Reply, files: Sequence[str], missing: Sequence[MissingPicture] = (), complete: bool = False
) -> None:
    """Write ``question.json`` by rename; `files` are the names of all other files of the answers."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "version": metadata.version("lumbar-vl"),
        "text": reply.query.text,
        "question": question_json(reply),
        "complete": complete,
        "files": list(files),
        "missing_pictures": [{"rank": one.rank, "image": one.image, "reason": one.reason} for one in missing],
    }
    with replacing(folder / QUESTION) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def make_room(folder: Path, reply: Reply, names: Sequence[str], overwrite: bool) -> None:
    """Make the folder ready for files of these names: create it, or remove the files of earlier answers.

    The answers to the same question are replaced. Another question's are replaced with `overwrite` alone. A folder
    without ``question.json`` must be empty (names that begin with a dot do not count); with `overwrite` it may hold
    other files. Files that are not listed in ``question.json`` always stay: if one of them has one of the names, the
    folder is refused. Links within the folder are neither followed nor removed.

    Raises:
        SettingError: The folder is refused; the message names what it holds.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise SettingError("save", f"{folder}: is not a folder")
    folder.mkdir(parents=True, exist_ok=True)
    listed = _listed(folder, reply, overwrite)
    for name in sorted({*names, QUESTION} - set(listed)):
        if os.path.lexists(folder / name):
            raise SettingError(
                "save",
                f"{folder}: holds a file {name} that is not listed in {QUESTION}; it is never replaced: move it away, "
                "or choose another folder",
            )
    for name in listed:
        if name != QUESTION:  # it goes last, by being replaced, so that an interruption leaves the list
            (folder / name).unlink(missing_ok=True)


def _listed(folder: Path, reply: Reply, overwrite: bool) -> list[str]:
    """Return the names of the earlier answers' files, ``question.json`` among them; empty if there are none."""
    path = folder / QUESTION
    if not os.path.lexists(path):
        if not overwrite:
            _refuse_strangers(folder)
        return []
    _check_plain_file(folder, QUESTION)
    content = _read(folder, path)
    if content["question"] != question_json(reply) and not overwrite:
        held = _held(content, reply)
        raise SettingError("save", f"{folder}: holds {held}; choose another folder, or replace them by --overwrite")
    for name in content["files"]:
        if not isinstance(name, str) or not _OWN_NAME.fullmatch(name):
            raise SettingError(
                "save", f"{folder}: its {QUESTION} lists {name!r}, which --save never writes; choose another folder"
            )
        _check_plain_file(folder, name)
    return [*content["files"], QUESTION]


def _read(folder: Path, path: Path) -> dict[str, Any]:
    try:
        content = read_object(path, "query_vl.py --save", SCHEMA_VERSION)
        if not isinstance(content.get("question"), dict) or not isinstance(content.get("files"), list):
            raise ValueError(f"{path}: it lacks the question or the files")
    except ValueError as error:
        raise SettingError(
            "save", f"{folder}: cannot tell which files in it are earlier answers ({error}); choose another folder"
        ) from None
    return content


def _refuse_strangers(folder: Path) -> None:
    held = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    if not held:
        return
    others = f" and {len(held) - 1} more" if len(held) > 1 else ""
    raise SettingError(
        "save",
        f"{folder}: holds {printable(held[0])!r}{others}, and no answers that --save wrote; choose an empty folder, or "
        "write beside what it holds by --overwrite",
    )


def _check_plain_file(folder: Path, name: str) -> None:
    path = folder / name
    if path.is_symlink() or (path.exists() and not path.is_file()):
        kind = "a link" if path.is_symlink() else "no file"
        raise SettingError("save", f"{folder}: {name} in it is {kind}, which --save never writes; move it away")


def _held(content: dict[str, Any], reply: Reply) -> str:
    """Return in words which answers the folder holds."""
    earlier, now = content["question"], question_json(reply)
    asked = printable(str(earlier.get("line") or earlier.get("text") or content.get("text")))
    run = f"run {printable(str(earlier.get('run')))!r}"
    if any(earlier.get(key) != now[key] for key in ("line", "text", "limits", "likeness")):
        return f"the answers of {run} to another question ({asked})"
    if earlier.get("run") != now["run"]:
        return f"the answers of another run ({run})"
    return f"answers of {run} from other studies, or from before its model or data changed"


def printable(text: str) -> str:
    """Return the text with a space for each control, zero-width or unassigned character."""
    return "".join(c if c.isprintable() else " " for c in text)
