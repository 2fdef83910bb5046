"""``--config FILE``: a YAML file of settings, checked before it is used."""

import difflib
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile


class SettingsFile(ActionConfigFile):
    """The action of ``--config``: it checks the file first, and names it in every error."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        known = [action for action in parser._actions if action.dest not in ("help", "config", "print_config")]
        check_settings_file(values, {action.dest: action.nargs for action in known}, parser.switches, parser.optional)
        parser.settings_file = values
        try:
            super().__call__(parser, cfg, values, option_string)
        except TypeError as error:
            raise TypeError(f"--config {values!r}: {error}") from None
        parser.settings_file = None


def check_settings_file(
    name: str, values_of: Mapping[str, Any], switches: Container[str], optional: Container[str]
) -> None:
    """Check that a file is YAML, holds known settings only, and as many values of each as its flag takes.

    Args:
        name: the file's path.
        values_of: for each known setting the number of its values, as argparse writes it (`nargs`).
        switches: the settings that must be true or false.
        optional: the settings that may be null.

    Raises:
        TypeError: with one line that quotes the file; argparse turns it into the parser's error.
    """
    try:
        content = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
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
    for key, value in content.items():
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


def _wrong_number(value: object, nargs: object) -> str | None:
    """Return what the value should be if a flag with this `nargs` takes another number of values; else None."""
    if nargs == "*" and not isinstance(value, list):
        return "a list such as [0, 1]"
    if isinstance(nargs, int) and not (isinstance(value, list) and len(value) == nargs):
        return f"a list of {nargs} values"
    if nargs in (None, "?") and isinstance(value, list | dict):
        return "a single value"
    return None
