"""The file that ``--queries`` names: a flat YAML mapping of names to questions.

Only its events are read, never objects made of it: aliases, which can make a small file enormous, and nested lists have
no meaning here and are refused where they begin.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from workspace.setting_error import SettingError

MAX_BYTES = 1_000_000
MAX_QUESTIONS = 1000
#: What cannot be the name of a table, because it is that of the summary.
RESERVED = "summary"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_EXPECTED = "expected lines such as  stenosis: severe canal stenosis"


def read_questions(path: Path) -> dict[str, str]:
    """Read names and questions, in the order of the file. Raises SettingError, which quotes the file and the entry."""
    where = repr(str(path))
    try:
        questions = _mapping(_text(path), where)
    except OSError as error:
        raise SettingError("queries", f"{where}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError("queries", f"{where}: is not YAML: {' '.join(str(error).split())}") from None
    if not questions:
        raise SettingError("queries", f"{where}: is empty; {_EXPECTED}")
    if len(questions) > MAX_QUESTIONS:
        raise SettingError("queries", f"{where}: has {len(questions)} questions; at most {MAX_QUESTIONS} are answered")
    return questions


def _text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise SettingError("queries", f"{str(path)!r}: is larger than {MAX_BYTES:,} bytes")
    return content.decode("utf-8-sig")


def _mapping(text: str, where: str) -> dict[str, str]:
    events = (event for event in yaml.parse(text, Loader=yaml.BaseLoader) if not _is_frame(event))
    first = next(events, None)
    if first is None:
        return {}
    if not isinstance(first, yaml.MappingStartEvent):
        raise SettingError("queries", f"{where}: {_EXPECTED}")
    questions: dict[str, str] = {}
    names: dict[str, str] = {}
    for name in _scalars(events, where):
        question = next(_scalars(events, where))
        if not _NAME.fullmatch(name) or name.casefold() == RESERVED:
            raise SettingError(
                "queries",
                f"{where}: {name[:100]!r} cannot be the name of a table: letters, digits, '-' and '_' can, up to 100, "
                f"and not {RESERVED!r}",
            )
        if (other := names.setdefault(name.casefold(), name)) != name:
            raise SettingError("queries", f"{where}: {other!r} and {name!r} differ in upper and lower case alone")
        if name in questions:
            raise SettingError("queries", f"{where}: {name!r} occurs twice")
        questions[name] = question
    if next(events, None) is not None:
        raise SettingError("queries", f"{where}: has several documents; {_EXPECTED}")
    return questions


def _is_frame(event: yaml.Event) -> bool:
    return isinstance(
        event, yaml.StreamStartEvent | yaml.StreamEndEvent | yaml.DocumentStartEvent | yaml.DocumentEndEvent
    )


def _scalars(events: Iterator[yaml.Event], where: str) -> Iterator[str]:
    """Yield names and questions up to the end of the mapping."""
    for event in events:
        if isinstance(event, yaml.MappingEndEvent):
            return
        if not isinstance(event, yaml.ScalarEvent):
            line = event.start_mark.line + 1 if event.start_mark else "?"
            what = "an alias" if isinstance(event, yaml.AliasEvent) else "a list or a mapping"
            raise SettingError("queries", f"{where}, line {line}: is {what}; {_EXPECTED}")
        yield event.value
