"""A reading session: what readers noted of answers, one line of JSON per note, in a file beside the run per reader.

Nothing of it changes a grade. A later note of the same reader on the same question and study replaces an earlier one.
"""

import csv
import errno
import io
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from prompts.canonical import canonical_line, parse_canonical
from vl_model.queries.reply import csv_cell

Verdict = Literal["agree", "disagree", "unsure"]
MAX_NOTE = 1000
MAX_READER = 50
#: No number of a study, a series or an instance reaches it.
END_OF_IDENTIFIERS = 10**18
#: What a reader's name is made of.
READER = rf"^[A-Za-z0-9][A-Za-z0-9_-]{{0,{MAX_READER - 1}}}$"
COLUMNS = ("reader", "time", "line", "split", "study_id", "verdict", "note", "matches")


@dataclass(frozen=True)
class Note:
    """What a reader noted of one answer. line: the canonical line of the question's tree. time: in UTC."""

    reader: str
    time: str
    line: str
    split: str
    study_id: int
    verdict: str
    note: str = ""


@dataclass(frozen=True)
class ReadingSession:
    """The notes on one run, in ``logs/<run>/reading/<reader>.jsonl``."""

    folder: Path

    def add(self, reader: str, line: str, split: str, study_id: int, verdict: str, note: str) -> Note:
        """Append a note; limits of the line are not kept.

        Raises ValueError for a wrong name, line or verdict, or a long note, and OSError if it cannot.
        """
        if not re.fullmatch(READER, reader):
            raise ValueError(f"reader {reader!r}: a name has 1 to {MAX_READER} letters, digits, '-' and '_'")
        if verdict not in get_args(Verdict):
            raise ValueError(f"verdict {verdict!r}: must be agree, disagree or unsure")
        if len(note) > MAX_NOTE:
            raise ValueError(f"a note has at most {MAX_NOTE} characters")
        time = datetime.now(UTC).isoformat(timespec="seconds")
        added = Note(reader, time, tree_line(line), split, study_id, verdict, note)
        self.folder.mkdir(parents=True, exist_ok=True)
        _append_line(self.folder / f"{reader}.jsonl", json.dumps(asdict(added)))
        return added

    def notes(self, reader: str | None = None, line: str | None = None) -> list[Note]:
        """Return the last note of each reader on each question and study, oldest first; damaged lines are left out.

        reader, line: of this reader or question alone. Raises ValueError for a line that cannot be read.
        """
        asked = None if line is None else tree_line(line)
        last: dict[tuple[str, str, str, int], Note] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
                note = _read(text)
                if note is None or reader not in (None, note.reader) or asked not in (None, note.line):
                    continue
                key = (note.reader, note.line, note.split, note.study_id)
                last.pop(key, None)
                last[key] = note
        return list(last.values())


@lru_cache(maxsize=1000)
def tree_line(line: str) -> str:
    """Return the canonical line of a line's tree, without limits: the same for all spellings of a question.

    Raises ValueError for a line that cannot be read.
    """
    tree = parse_canonical(line).tree
    assert tree is not None
    return canonical_line(tree)


def _append_line(path: Path, line: str) -> None:
    """Append a line by one write, on a new line also after one that was cut short. Raises OSError if it cannot."""
    with path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        is_cut = file.read(1) not in (b"", b"\n")
        content = b"\n" * is_cut + line.encode() + b"\n"
        if file.write(content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _read(line: str) -> Note | None:
    """Return the note of a line; None if it is damaged: cut short, of wrong types, or with values that none has."""
    try:
        note = Note(**json.loads(line))
        "".join((note.reader, note.time, note.split, note.note)).encode()
        note = replace(note, line=tree_line(note.line))
    except (RecursionError, TypeError, ValueError):
        return None
    is_study = type(note.study_id) is int and 0 <= note.study_id < END_OF_IDENTIFIERS
    return note if is_study and note.verdict in get_args(Verdict) else None


def notes_csv(notes: Iterable[Note], matches: Mapping[tuple[str, str, int], bool | None]) -> str:
    """Return notes as CSV, each beside whether known grades fulfil the question: (line, split, study) -> matches."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for note in notes:
        row: dict[str, Any] = asdict(note) | {"matches": matches.get((note.line, note.split, note.study_id))}
        table.writerow({name: csv_cell(value) for name, value in row.items()})
    return text.getvalue()
