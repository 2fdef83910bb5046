"""What every command shares: flags with a settings file under them, and errors that fit on one line.

Exit status: 0 done, 2 the input or a setting is wrong (one line on stderr says which), 130 interrupted, 143 terminated.
"""

import difflib
import math
import os
import re
import sys
from collections.abc import Callable, Container, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from jsonargparse.typing import restricted_number_type

from workspace.interrupts import exit_status, is_requested
from workspace.setting_error import SettingError

EXIT_BAD_INPUT = 2

#: Numbers that flags may have: jsonargparse's own PositiveFloat takes an infinite one, and torch's seeds have 63 bits.
PositiveFinite = restricted_number_type("PositiveFinite", float, [(">", 0), ("<", math.inf)])
NonNegativeFinite = restricted_number_type("NonNegativeFinite", float, [(">=", 0), ("<", math.inf)])
LoaderWorkers = restricted_number_type("LoaderWorkers", int, [(">=", 0), ("<=", 64)])
Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**63)])


class SettingsFile(ActionConfigFile):
    """``--config``: checked before jsonargparse reads it, and named in what is wrong with it."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        known = [action for action in parser._actions if action.dest not in ("help", "config")]
        switches = {action.dest for action in known if action.nargs == 0}
        check_settings_file(values, {action.dest: action.default for action in known}, switches)
        try:
            super().__call__(parser, cfg, values, option_string)
        except TypeError as error:
            raise TypeError(f"--config {values!r}: {error}") from None


class SettingsParser(ArgumentParser):
    """jsonargparse's parser with ``--config``, without abbreviations, and with one-line errors."""

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(prog=prog, description=(description or "").split("\n\n")[0], allow_abbrev=False)
        self.add_argument("--config", action=SettingsFile, help="a YAML file of settings; other flags win")

    def parse_args(self, args: Any = None, *others: Any, **named: Any) -> Any:
        return super().parse_args(settings_files_first(sys.argv[1:] if args is None else args), *others, **named)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: ARG002
        """One line: what was wrong, and for an unknown flag the known one nearest to it."""
        line = _plain(message)
        if line.startswith(required := "the following arguments are required: "):
            names = line.removeprefix(required).split(", ")
            line = required + ", ".join(f"--{x}" if f"--{x}" in self._option_string_actions else x for x in names)
        for word in re.findall(r"--[\w-]+", line):
            near = difflib.get_close_matches(word, list(self._option_string_actions), n=1)
            if word not in self._option_string_actions and near:
                line += f" (did you mean {near[0]}?)"
                break
        fail(self.prog, f"{line}; see python {self.prog} --help")


def settings_files_first(words: Iterable[str]) -> list[str]:
    """The same words with every ``--config FILE`` before all others, so that flags win wherever they stand."""
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


def check_settings_file(name: str, defaults: Mapping[str, Any], switches: Container[str] = ()) -> None:
    """Raises TypeError, which a parser makes its error, where `name` is no YAML file of settings from `defaults`.

    switches: flags without a value, whose setting jsonargparse takes as it comes.
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
        raise TypeError(f"--config {name!r}: {found}; it should hold settings such as 'seed: 1', one a line")
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


def _plain(message: str) -> str:
    """jsonargparse's words on one line, without the names of its types."""
    line = re.sub(r"\s+", " ", message.replace("Parser key ", "--").replace('--"', '"--')).strip()
    line = re.sub(
        r'"(--[\w-]+)": Does not validate against any of .*? Errors: - (?:Not of type \w+: )?(.*?) - Expected a '
        r".*? Given value: (.*)",
        r"\1 \3: \2",
        line,
    )
    line = re.sub(r'"(--[\w-]+)"( element \d+)?: (?:Not of type \w+: )?', r"\1\2: ", line)
    line = re.sub(r"does not conform to restriction (v\S+(?: and v\S+)*)", _limits, line)
    return re.sub(r"[Ee]xpected a <class '([\w.]+)'>\. Got value: ", r"expected \1, got ", line)


def _limits(found: re.Match[str]) -> str:
    """``v>=0 and v<inf`` -> ``should be at least 0 and finite``"""
    limits = [re.fullmatch(r"v(\W+)(.*)", part) for part in found[1].split(" and ")]
    words = {">": "more than", ">=": "at least", "<": "less than", "<=": "at most"}
    told = [f"{words[limit[1]]} {limit[2]}" for limit in limits if limit]
    return f"should be {' and '.join(told)}".replace("less than inf", "finite")


def usable_cores() -> int:
    """Cores that this process may run on: fewer than the machine's under taskset, Slurm or a container's cpuset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fail(prog: str, message: str) -> NoReturn:
    """Say on one line of stderr what was wrong and leave with status 2."""
    print(f"{prog}: error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    raise SystemExit(EXIT_BAD_INPUT)


def run_command(prog: str, main: Callable[[], int | None]) -> NoReturn:
    """Run a script's `main` and exit with its status; a wrong input (ValueError, OSError) is one line and status 2.

    Ctrl-C and SIGTERM end it by way of every ``finally``, see `workspace.interrupts`. Any other exception is a defect
    of the program and keeps its traceback.
    """
    raise SystemExit(exit_status(prog, partial(_status, prog, main)))


def _status(prog: str, main: Callable[[], int | None]) -> int:
    try:
        status = main() or 0
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the output has ended (`| head`): this is no error, and nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        if os.environ.get("LUMBAR_TRACEBACK") or is_requested():
            raise
        fail(prog, _plain_error(error))
    return status


def _plain_error(error: ValueError | OSError) -> str:
    """Return the error's message; of a disk's error only the first line, since pydicom adds a traceback to it."""
    if isinstance(error, SettingError):
        return f"--{error}"
    if not isinstance(error, OSError):
        return str(error)
    if error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    # numpy's message for a full disk contains how many numbers of an array were written.
    return f"no space left on the disk ({line})" if re.search(r"\d+ requested and \d+ written", line) else line


def settings_of(namespace: Namespace) -> dict[str, Any]:
    """The resolved settings as plain values, to be saved beside what they produced."""
    settings: dict[str, Any] = namespace.as_dict()
    settings.pop("config", None)
    return settings
