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
        known = [action for action in parser._actions if action.dest not in ("help", "config")]
        lengths = {
            action.dest: None if action.nargs == "*" else action.nargs
            for action in known
            if action.nargs == "*" or (isinstance(action.nargs, int) and action.nargs > 0)
        }
        check_settings_file(values, {action.dest: action.default for action in known}, parser.switches, lengths)
        try:
            super().__call__(parser, cfg, values, option_string)
        except TypeError as error:
            raise TypeError(f"--config {values!r}: {error}") from None


def check_settings_file(
    name: str,
    defaults: Mapping[str, Any],
    switches: Container[str] = (),
    lengths: Mapping[str, int | None] | None = None,
) -> None:
    """Check that a file is YAML and holds known settings only.

    Args:
        name: the file's path.
        defaults: the default of each known setting.
        switches: the settings that must be true or false.
        lengths: the settings that must be lists, with their length; None: any length.

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
        if key not in defaults:
            near = difflib.get_close_matches(str(key), defaults, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise TypeError(f"--config {name!r}: no setting {str(key)[:50]!r}{hint}")
        if value is None and defaults[key] is not None:
            raise TypeError(f"--config {name!r}: {key} has no value")
        if key in switches and not isinstance(value, bool):
            raise TypeError(f"--config {name!r}: {key} should be true or false, not {str(value)[:50]!r}")
        if lengths and key in lengths:
            length = lengths[key]
            if not isinstance(value, list) or length not in (None, len(value)):
                wanted = "a list" if length is None else f"a list of {length} values"
                raise TypeError(f"--config {name!r}: {key} should be {wanted}, not {str(value)[:50]}")
