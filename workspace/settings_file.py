"""``--config FILE``: a YAML file of settings, checked before it is used.

YAML 1.1 reads the words no, off, yes and on as false and true. Where a setting chooses among words, the word that the
file holds is meant. A single value of a setting that takes several is a list of one.
"""

import difflib
from collections.abc import Collection, Container, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile

#: The words of true and of false in YAML 1.1.
_YES, _NO = ("yes", "on", "true", "y"), ("no", "off", "false", "n")


class SettingsFile(ActionConfigFile):
    """The action of ``--config``: it checks the file first, and names it in every error."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        known = [action for action in parser._actions if action.dest not in ("help", "config", "print_config")]
        choices = {action.dest: action.choices for action in known if action.choices}
        nargs = {action.dest: action.nargs for action in known}
        content = read_settings_file(values, nargs, parser.switches, parser.optional, choices)
        parser.settings_file = values
        try:
            super().__call__(parser, cfg, content or values, option_string)
        except TypeError as error:
            cause = str(error).removeprefix('Parser key "config": ')
            raise TypeError(f"--config {values!r}: {cause}") from None
        parser.settings_file = None


def read_settings_file(
    name: str,
    values_of: Mapping[str, Any],
    switches: Container[str],
    optional: Container[str],
    choices: Mapping[str, Collection[str]],
) -> str | None:
    """Check that a file is YAML, holds known settings only, and as many values of each as its flag takes.

    Args:
        name: the file's path.
        values_of: for each known setting the number of its values, as argparse writes it (`nargs`).
        switches: the settings that must be true or false.
        optional: the settings that may be null.
        choices: the words that a setting chooses among.

    Returns the settings as YAML that holds the words of choices as texts and lists as lists; None if the file is such.

    Raises:
        TypeError: with one line that quotes the file; argparse turns it into the parser's error.
    """
    try:
        text = Path(name).read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except OSError as error:
        raise TypeError(f"--config {name!r}: {error.strerror}; it should be a YAML file of settings") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise TypeError(f"--config {name!r}: {line}not YAML ({error.problem})") from None
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise TypeError(f"--config {name!r}: not YAML in UTF-8 ({error})") from None
    if not isinstance(content, dict):
        found = "is empty" if content is None else f"holds a {type(content).__name__}"
        raise TypeError(f"--config {name!r}: {found}; it should hold settings such as 'seed: 1', one per line")
    meant = _as_meant(content, _words_of(text), values_of, choices)
    for key, value in meant.items():
        if key == "config":
            raise TypeError(f"--config {name!r}: one settings file cannot name another; give --config twice")
        if key not in values_of:
            near = difflib.get_close_matches(str(key), values_of, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise TypeError(f"--config {name!r}: unknown setting {str(key)[:50]!r}{hint}")
        if value is None and key not in optional:
            raise TypeError(f"--config {name!r}: {key} has no value")
        if key in switches and not isinstance(value, bool):
            raise TypeError(f"--config {name!r}: {key} should be true or false, not {str(value)[:50]!r}")
        if problem := _wrong_number(value, values_of[key]):
            raise TypeError(f"--config {name!r}: {key} should be {problem}, not {str(value)[:50]!r}")
    return yaml.safe_dump(meant, allow_unicode=True) if meant != content else None


def _words_of(text: str) -> dict[str, str]:
    """Return setting -> its value as it is written, for the settings of a single value."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(node, yaml.MappingNode), "the file has been read as a dictionary"
    return {key.value: value.value for key, value in node.value if isinstance(value, yaml.ScalarNode)}


def _as_meant(
    content: Mapping[str, Any],
    words: Mapping[str, str],
    values_of: Mapping[str, Any],
    choices: Mapping[str, Collection[str]],
) -> dict[str, Any]:
    """Return the content with the words of choices as they are written, and a single value of a list as a list."""
    meant = dict(content)
    for key, value in content.items():
        if isinstance(value, bool) and key in choices:
            meant[key] = _word(words.get(key, ""), value, choices[key])
        elif values_of.get(key) == "*" and isinstance(value, int | float | str) and not isinstance(value, bool):
            meant[key] = [value]
    return meant


def _word(written: str, value: bool, choices: Collection[str]) -> str:
    """Return the choice that YAML has read as true or false: the word itself, or the only one of that meaning.

    >>> _word("No", False, ["auto", "no"]), _word("false", False, ["auto", "no"]), _word("true", True, ["auto", "no"])
    ('no', 'no', 'true')
    """
    alike = [choice for choice in choices if choice in (_YES if value else _NO)]
    if written.lower() in choices or len(alike) != 1:
        return written.lower()
    return alike[0]


def _wrong_number(value: object, nargs: object) -> str | None:
    """Return what the value should be if a flag with this `nargs` takes another number of values; else None."""
    if nargs == "*" and not isinstance(value, list):
        return "a list such as [0, 1]"
    if isinstance(nargs, int) and not (isinstance(value, list) and len(value) == nargs):
        return f"a list of {nargs} values"
    if nargs in (None, "?") and isinstance(value, list | dict):
        return "a single value"
    return None
