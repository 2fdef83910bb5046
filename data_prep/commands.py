"""What every command shares: flags with a settings file under them, and errors that fit on one line.

Exit status: 0 done, 2 the input or a setting is wrong (one line on stderr says which), 130 interrupted.
"""

import difflib
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class SettingsParser(ArgumentParser):
    """jsonargparse's parser with ``--config``, without abbreviations, and with one-line errors."""

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(prog=prog, description=(description or "").split("\n\n")[0], allow_abbrev=False)
        self.add_argument("--config", action="config", help="a YAML file of settings; flags given after it win")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: ARG002
        """One line: what was wrong, and for an unknown flag the known one nearest to it."""
        line = re.sub(r"\s+", " ", message.replace("Parser key ", "--").replace('--"', '"--')).strip()
        for word in re.findall(r"--[\w-]+", line):
            near = difflib.get_close_matches(word, list(self._option_string_actions), n=1)
            if word not in self._option_string_actions and near:
                line += f" (did you mean {near[0]}?)"
                break
        fail(self.prog, f"{line}; see python {self.prog} --help")


def usable_cores() -> int:
    """Cores that this process may run on: fewer than the machine's under taskset, Slurm or a container's cpuset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fail(prog: str, message: str) -> NoReturn:
    """Say on one line of stderr what was wrong and leave with status 2."""
    print(f"{prog}: error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    raise SystemExit(EXIT_BAD_INPUT)


def run_command(prog: str, main: Callable[[], int | None]) -> NoReturn:
    """Run a script's story; wrong input (ValueError, OSError) becomes one line and status 2, Ctrl-C status 130.

    A KeyboardInterrupt's own words, such as how to go on, follow the word "interrupted".
    Everything else is a defect of the program and keeps its traceback.
    """
    try:
        status = main() or 0
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        print(": ".join([prog, "; ".join(["interrupted", *map(str, stop.args)])]), file=sys.stderr, flush=True)
        raise SystemExit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        # The reader of our output has left (`| head`): nothing is wrong, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except (ValueError, OSError) as error:
        if os.environ.get("LUMBAR_TRACEBACK"):
            raise
        fail(prog, str(error))
    raise SystemExit(status)


def settings_of(namespace: Namespace) -> dict[str, Any]:
    """The resolved settings as plain values, to be saved beside what they produced."""
    settings: dict[str, Any] = namespace.as_dict()
    settings.pop("config", None)
    return settings
