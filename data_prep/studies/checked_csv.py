"""Read a CSV file as rows of parsed cells: tolerant of its format, strict about each cell.

Tolerated are a byte-order mark, CRLF, blank lines, spaces and case in headings, spaces around cells, trailing commas
and additional columns. A cell that its parser rejects becomes a fault with its line; its value is never guessed.
"""

import csv
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.faults import Fault, FaultKind

#: A cell may be very long: a message is cut after this many characters.
LONGEST_REASON = 200


@dataclass(frozen=True)
class Cell:
    """The rule for the cells of a column: `parse` returns the value, or raises ValueError for a fault of `kind`.

    optional: whether a rejected cell has the value None; otherwise its whole row is skipped.
    """

    kind: FaultKind
    parse: Callable[[str], object]
    optional: bool = False


@dataclass
class CheckedTable:
    """A table as read: (line, value, value, ...) per usable row, in the order of the file, and the faults."""

    path: Path
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def skip(
        self, line: int, study_id: int | None, kind: FaultKind, message: str, series_id: int | None = None
    ) -> None:
        """Add a fault for what is skipped in a line."""
        self.faults.append(Fault(study_id, series_id, f"{self.path.name}:{line}", kind, "skipped", message))


@dataclass(frozen=True)
class _Outcome:
    """The parsed value of a text, or the reason why it was rejected."""

    value: Any
    reason: str = ""


def read_checked(path: Path, cells: Mapping[str, Cell]) -> CheckedTable:
    """Read the columns named in `cells`, in that order.

    Raises ValueError if the file is not a table with these columns, OSError if it cannot be read.
    """
    table = CheckedTable(path)
    lines, texts = _columns(table, list(cells))
    # A column has few distinct texts, so each is parsed only once.
    outcomes = {name: {text: _outcome(cell, text) for text in set(texts[name])} for name, cell in cells.items()}
    values = {name: [outcomes[name][text].value for text in texts[name]] for name in cells}
    ids = {name: dict(zip(lines, values[name], strict=True)) for name in ("study_id", "series_id") if name in cells}
    rejected = set()
    for line, name, text in _failures(lines, texts, outcomes):
        found = (ids.get(key, {}).get(line) for key in ("study_id", "series_id"))
        study_id, series_id = (value if isinstance(value, int) else None for value in found)
        message = f"{name}: {outcomes[name][text].reason}"
        table.skip(line, study_id, cells[name].kind, message, series_id)
        if not cells[name].optional:
            rejected.add(line)
    table.rows = [row for row in zip(lines, *values.values(), strict=True) if row[0] not in rejected]
    return table


def _columns(table: CheckedTable, names: Sequence[str]) -> tuple[list[int], dict[str, list[str]]]:
    """Return the line number of each row and the stripped texts of each named column. Raise ValueError for no table."""
    if not table.path.is_file():  # reading a pipe could wait forever
        exists = "is a folder" if table.path.is_dir() else "is not a regular file"
        problem = exists if table.path.exists() else "no such file"
        raise FileNotFoundError(f"{table.path}: {problem}; it should be a CSV file")
    heading: list[str] = []
    lines: list[int] = []
    rows: list[list[str]] = []
    with table.path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, skipinitialspace=True, strict=True)
        try:
            for raw in reader:
                texts = [text.strip() for text in raw]
                if not any(texts):
                    continue
                if not heading:
                    heading = _heading(table.path, texts, names)
                elif any(texts[len(heading) :]):
                    message = f"{len(texts)} cells, but the heading has {len(heading)}: quote cells that contain commas"
                    table.skip(reader.line_num, None, FaultKind.BAD_ROW, message)
                else:
                    lines.append(reader.line_num)
                    rows.append(texts + [""] * (len(heading) - len(texts)))
        except UnicodeDecodeError as error:
            raise ValueError(f"{table.path}: not a CSV file in UTF-8 ({error})") from None
        except csv.Error as error:
            raise ValueError(f"{table.path}: not a CSV file (line {reader.line_num}: {error})") from None
    heading = heading or _heading(table.path, [], names)
    columns = {name: heading.index(name) for name in names}
    return lines, {name: [row[column] for row in rows] for name, column in columns.items()}


def _heading(path: Path, texts: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the headings in the spelling of `names`. Raise ValueError if a column is missing or duplicated."""
    heading = [re.sub(r"[\s_/-]+", "_", text.lower()) for text in texts]
    for name in names:
        if heading.count(name) > 1:
            raise ValueError(f"{path}: {heading.count(name)} columns are named {name!r}; expected one")
        if name not in heading:
            near = difflib.get_close_matches(name, heading, n=1)
            columns = f"its columns are {', '.join(map(repr, heading))}" if heading else "it has no columns"
            found = f"the nearest is {near[0]!r}" if near else columns
            separator = next((f"; expected commas, not {mark!r}" for mark in ";\t|" if mark in "".join(texts)), "")
            raise ValueError(f"{path}: no column {name!r}; {found}{separator}")
    return heading


def _failures(
    lines: Sequence[int], texts: Mapping[str, Sequence[str]], outcomes: Mapping[str, Mapping[str, _Outcome]]
) -> list[tuple[int, str, str]]:
    """Return (line, column, text) of every rejected cell, for all columns and lines at once."""
    if not any(outcome.reason for column in outcomes.values() for outcome in column.values()):
        return []
    # pandera takes a second to import. Processes that convert images import this module but read no table.
    import pandas as pd
    import pandera.pandas as pa

    def accepted(name: str) -> pa.Check:
        bad = {text for text, outcome in outcomes[name].items() if outcome.reason}
        return pa.Check(lambda column: ~column.isin(bad), name=f"{name} can be parsed")

    schema = pa.DataFrameSchema({name: pa.Column(str, accepted(name)) for name in texts}, strict=True)
    try:
        schema.validate(pd.DataFrame(dict(texts), index=list(lines), dtype=str), lazy=True)
    except pa.errors.SchemaErrors as errors:
        cases = errors.failure_cases
        return sorted((int(case.index), case.column, case.failure_case) for case in cases.itertuples(name="Case"))
    return []


def _outcome(cell: Cell, text: str) -> _Outcome:
    try:
        return _Outcome(cell.parse(text))
    except ValueError as error:
        return _Outcome(None, str(error)[:LONGEST_REASON])
