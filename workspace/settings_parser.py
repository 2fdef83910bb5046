"""The settings of a command: one frozen dataclass, whose fields are the flags and whose attribute docstrings the help.

    @dataclass(frozen=True)
    class Settings:
        run: str = "default"
        \"\"\"The run's name.\"\"\"
        overwrite: bool = False
        \"\"\"Delete a run of this name first.\"\"\"

    settings = read_settings("train_vl.py", __doc__, Settings)

A field whose type is such a dataclass itself becomes a group of flags, whose names begin with the ``"prefix"`` of its
metadata if there is one. A field without a default is required. Field types: str, int, float and the bounded types of
`workspace.setting_types`, each optionally ``| None``; bool (a switch: ``--overwrite``, ``--overwrite true`` and
``--overwrite false``); `Literal` (choices); ``tuple[T, ...]`` and ``tuple[T, T, T]`` (several words).
``field(metadata={"positional": True})`` makes a positional argument, ``metadata={"without_value": 10}`` sets the value
of a flag that is given without one, and ``metadata={"flag": False}`` keeps a field out of the flags.
"""

import ast
import re
import sys
import textwrap
from argparse import Action, RawDescriptionHelpFormatter
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from workspace.cli import fail, invoked_as
from workspace.parser_messages import bounds_in_words, one_line
from workspace.settings_file import SettingsFile

S = TypeVar("S")

_SWITCH_WORDS = ("true", "false")
CONFIG_HELP = "A YAML file of settings. Flags take precedence over it."
#: Instead of the parser's own help texts.
_OWN_HELP = {
    "help": "Show this text and exit.",
    "print_config": "Print the settings as YAML and exit.",
}
_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def read_settings(prog: str, doc: str | None, kind: type[S], arguments: Sequence[str] | None = None) -> S:
    """Read the settings of a command from its flags and ``--config`` files.

    Args:
        prog: the command's name, as its messages show it.
        doc: the script's docstring: its first paragraph and its indented examples appear in ``--help``.
        kind: the dataclass of the settings.
        arguments: the words of the command line; those of this process by default.

    Leaves with status 2, after one line on stderr, if a setting is unknown, missing or out of bounds.
    """
    return SettingsParser(prog, doc, kind).read(arguments)


def plain_settings(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Return the settings as one flat dictionary of plain values, in the order of the flags: the form that is saved.

    Args:
        settings: an instance of a dataclass of settings.
        prefix: what the names of its flags begin with.
    """
    values: dict[str, Any] = {}
    for entry in _flags_of(settings):
        value = getattr(settings, entry.name)
        if is_dataclass(value):
            values |= plain_settings(value, prefix + entry.metadata.get("prefix", ""))
        else:
            values[prefix + entry.name] = list(value) if isinstance(value, tuple) else value
    return values


class SettingsParser(ArgumentParser):
    """jsonargparse's parser with ``--config``, without abbreviations, and with errors of one line."""

    def __init__(self, prog: str, doc: str | None, kind: type) -> None:
        super().__init__(
            prog=invoked_as(prog),
            description=_summary(doc),
            epilog=_examples(doc),
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        self.switches: set[str] = set()
        self.optional: set[str] = set()
        #: The file of ``--config`` while it is read, for the errors.
        self.settings_file: str | None = None
        self._kind = kind
        self.add_argument(
            "--config",
            action=SettingsFile,
            help=CONFIG_HELP,
            metavar="FILE",
        )
        _add_fields(self, self, kind)
        self.usage = f"{self._command()} {self._arguments()}"

    def read(self, arguments: Sequence[str] | None = None) -> Any:
        """Parse the arguments into an instance of the settings' dataclass."""
        namespace = self.parse_args(arguments)
        for action in self._actions:
            # An empty value is a shell's unset variable: it must not count as left out.
            if action.option_strings and namespace.get(action.dest) == "":
                self._refuse_empty(f"--{action.dest}")
        return _build(self._kind, namespace)

    def parse_args(self, args: Any = None, *others: Any, **named: Any) -> Any:
        words = self._in_one_grammar(sys.argv[1:] if args is None else args)
        return super().parse_args(settings_files_first(words), *others, **named)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: ARG002
        line = one_line(message, list(self._option_string_actions))
        if re.match(r"unrecognized arguments: (?!-)", line) and self._has_positional():
            line += " (put a text of several words in quotation marks)"
        if re.match(r"unrecognized arguments: -[^-]", line) and self._has_positional():
            line += " (a text that begins with a dash is written after --)"
        if self.settings_file is not None and "--config" not in line:
            line = f"--config {self.settings_file!r}: {line}"
        fail(self.prog, f"{line}; see {self._command()} --help")

    def _refuse_empty(self, flag: str) -> NoReturn:
        self.error(f"{flag} '': is empty; give it a value, or leave it out")

    def _command(self) -> str:
        is_installed = not self.prog.endswith(".py") and not self.prog.startswith("-m ")
        return self.prog if is_installed else f"python {self.prog}"

    def _arguments(self) -> str:
        """Return the positional and the required arguments, and that there are flags."""
        actions = [action for action in self._actions if action.required or not action.option_strings]
        positional = [str(a.metavar) if a.required else f"[{a.metavar}]" for a in actions if not a.option_strings]
        required = [f"{action.option_strings[0]} {action.metavar}" for action in actions if action.option_strings]
        return " ".join([*positional, *required, "[--flag value ...]"])

    def _in_one_grammar(self, words: Iterable[str]) -> list[str]:
        """Return the words with underscores in flags, and with each switch and its value joined by ``=``.

        A positional argument after a switch that is given alone is then not read as the value of the switch.
        """
        joined: list[str] = []
        left = list(words)
        while left:
            word = left.pop(0)
            if word == "--":
                return [*joined, word, *left]
            word = self._with_underscores(word)
            if word.endswith("=") and word[:-1] in self._option_string_actions:
                self._refuse_empty(word[:-1])
            if word.startswith("--") and word[2:] in self.switches:
                word = f"{word}={left.pop(0).lower() if left and self._is_value(left[0]) else 'true'}"
            joined.append(word)
        return joined

    def _is_value(self, word: str) -> bool:
        """Return whether the word after a switch is its value: true or false, or any word if none is positional."""
        return word.lower() in _SWITCH_WORDS or not (self._has_positional() or word.startswith("-"))

    def _has_positional(self) -> bool:
        return any(not action.option_strings for action in self._actions)

    def _with_underscores(self, word: str) -> str:
        flag, equals, value = word.partition("=")
        today = f"--{flag[2:].replace('-', '_')}"
        if not flag.startswith("--") or flag in self._option_string_actions or today not in self._option_string_actions:
            return word
        print(f"{self.prog}: note: {flag} is now spelled {today}", file=sys.stderr, flush=True)
        return f"{today}{equals}{value}"


class _HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Help texts as they are written, without the names of jsonargparse's types."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _get_help_string(self, action: Action) -> str:
        return _OWN_HELP.get(action.dest, action.help or "")


def settings_files_first(words: Iterable[str]) -> list[str]:
    """Return the same words with every ``--config FILE`` first, so that flags take precedence wherever they stand."""
    files: list[str] = []
    others: list[str] = []
    left = list(words)
    while left and left[0] != "--":
        word = left.pop(0)
        if word == "--config" and left:
            files += [word, left.pop(0)]
        else:
            (files if word.startswith("--config=") else others).append(word)
    return files + others + left


def _flags_of(settings: Any) -> "list[Field[Any]]":
    return [entry for entry in fields(settings) if entry.metadata.get("flag", True)]


def _add_fields(parser: SettingsParser, container: Any, kind: type, prefix: str = "") -> None:
    hints = get_type_hints(kind, include_extras=True)
    helps = _field_docstrings(kind)
    for entry in _flags_of(kind):
        hint = hints[entry.name]
        if is_dataclass(hint):
            summary = (hint.__doc__ or "").partition("\n")[0].rstrip(".")
            group = parser.add_argument_group(summary)
            _add_fields(parser, group, hint, prefix + entry.metadata.get("prefix", ""))  # type: ignore[arg-type]
        else:
            assert entry.name in helps, f"{kind.__name__}.{entry.name} has no attribute docstring"
            _add_field(parser, container, prefix, entry, hint, helps[entry.name])


def _add_field(parser: SettingsParser, container: Any, prefix: str, entry: "Field[Any]", hint: Any, text: str) -> None:
    """Add the flag of one field; the text of its help is followed by its bounds and its default."""
    name, options = prefix + entry.name, dict[str, Any]()
    kind = _bounded(hint)
    if entry.metadata.get("positional"):
        # A positional argument with a default may be left out.
        is_optional = {} if entry.default is MISSING else {"nargs": "?", "default": entry.default}
        container.add_argument(name, type=kind, metavar=name.upper(), help=text, **is_optional)
        return
    if NoneType in get_args(hint):
        parser.optional.add(name)
    default = entry.default_factory() if entry.default_factory is not MISSING else entry.default
    if default is MISSING:
        options["required"] = True
    else:
        options["default"] = list(default) if isinstance(default, tuple) else default
    if hint is bool:
        options |= {"type": bool, "nargs": "?", "const": True, "metavar": "true|false"}
        parser.switches.add(name)
    elif get_origin(hint) is Literal:
        options["choices"] = get_args(hint)
    elif get_origin(hint) is tuple:
        element, *others = get_args(hint)
        kind = _bounded(element)
        options |= {"type": kind, "nargs": "*" if others == [Ellipsis] else 1 + len(others), "metavar": _metavar(kind)}
    else:
        options |= {"type": kind, "metavar": _metavar(kind)}
        if "without_value" in entry.metadata:
            options |= {"nargs": "?", "const": entry.metadata["without_value"]}
    container.add_argument(f"--{name}", help=_help_text(text, kind, options), **options)


def _help_text(text: str, kind: Any, options: dict[str, Any]) -> str:
    default = options.get("default")
    notes = ["required"] if options.get("required") else []
    if bounds := getattr(_number_type(kind), "_restrictions", None):
        notes.append(bounds_in_words([(_SIGNS[compare.__name__], limit) for compare, limit in bounds]))
    if default is not None:
        words = " ".join(map(str, default)) if isinstance(default, list) else str(default)
        notes.append(f"default: {words.lower() if isinstance(default, bool) else words}")
    return f"{text} ({'; '.join(notes)})" if notes else text


def _metavar(kind: Any) -> str:
    number = _number_type(kind)
    return "N" if issubclass(number, int) else "X" if issubclass(number, float) else "TEXT"


def _number_type(kind: Any) -> type:
    """Return the type itself, or the one beside None in a union."""
    parts = [part for part in get_args(kind) if part is not NoneType]
    found: type = parts[0] if parts else kind
    return found if isinstance(found, type) else str


def _bounded(hint: Any) -> Any:
    """Return the type with the bounds: the annotation of an `Annotated` type, also within ``| None``."""
    if get_origin(hint) is Annotated:
        return get_args(hint)[1]
    if get_origin(hint) in (Union, UnionType):
        first, *others = (_bounded(part) for part in get_args(hint))
        for other in others:
            first = first | (None if other is NoneType else other)
        return first
    return hint


def _field_docstrings(kind: type) -> dict[str, str]:
    """Return the attribute docstrings of a dataclass and of the dataclasses that it extends, on one line each."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if is_dataclass(each):
            found |= _attribute_docstrings(str(sys.modules[each.__module__].__file__)).get(each.__name__, {})
    return found


@cache
def _attribute_docstrings(source: str) -> dict[str, dict[str, str]]:
    """Return class -> field -> the string below the field, of a source file. It is parsed once for all its classes."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.walk(ast.parse(Path(source).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            found[node.name] = {
                field.target.id: " ".join(below.value.value.split())
                for field, below in pairwise(node.body)
                if isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            }
    return found


def _build(kind: type[S], namespace: Namespace, prefix: str = "") -> S:
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for entry in _flags_of(kind):
        hint = hints[entry.name]
        if is_dataclass(hint):
            inner = prefix + entry.metadata.get("prefix", "")
            values[entry.name] = _build(hint, namespace, inner)  # type: ignore[arg-type]
        else:
            value = namespace[prefix + entry.name]
            values[entry.name] = tuple(value) if get_origin(hint) is tuple else value
    return kind(**values)


def _summary(doc: str | None) -> str:
    """Return the first paragraph of a docstring on one line."""
    return " ".join((doc or "").partition("\n\n")[0].split())


def _examples(doc: str | None) -> str | None:
    """Return the indented paragraphs of a docstring: the commands that run the script."""
    paragraphs = [part for part in (doc or "").split("\n\n")[1:] if part.strip("\n").startswith("    ")]
    return "examples:\n" + "\n".join(part.strip("\n") for part in paragraphs) if paragraphs else None
