"""The parts that all commands share: exit statuses, and errors that fit on one line.

Exit status: 0 done, 2 the input or a setting is wrong (one line on stderr says which), 130 interrupted, 143 terminated.
"""

import io
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

from workspace.interrupts import exit_status, is_requested
from workspace.setting_error import SettingError
from workspace.whole_files import ESCAPED

EXIT_BAD_INPUT = 2


def usable_cores() -> int:
    """Return the number of cores that this process may use, as limited by taskset, Slurm or a container's cpuset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def invoked_as(prog: str) -> str:
    """Return the name by which the user called the command: the installed one (``lumbar-train``), or `prog`."""
    name = Path(sys.argv[0]).name
    return name if name.startswith("lumbar-") else prog


def printable(text: str) -> str:
    """Return a text with its control characters as escapes: quoted input must not reach the terminal as commands."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def fail(prog: str, message: str) -> NoReturn:
    """Print on one line of stderr what is wrong, and exit with status 2."""
    print(f"{prog}: error: {printable(' '.join(message.split()))}", file=sys.stderr, flush=True)
    raise SystemExit(EXIT_BAD_INPUT)


def run_command(prog: str, main: Callable[[], int | None]) -> NoReturn:
    """Run a script's `main` and exit with its status; a wrong input (ValueError, OSError) is one line and status 2.

    Ctrl-C and SIGTERM end it by way of every ``finally``, see `workspace.interrupts`. Any other exception is a defect
    of the program and keeps its traceback.
    """
    _escape_what_cannot_be_encoded()
    prog = invoked_as(prog)
    raise SystemExit(exit_status(prog, partial(_status, prog, main)))


def _escape_what_cannot_be_encoded() -> None:
    """Print characters that the output's encoding lacks as escapes: ``\\xe9``, or ``\\udcff`` for a byte in a name.

    Without a UTF-8 locale they would end the command, and so would the name of a folder that is not UTF-8.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPED)


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


def in_flags(error: Exception) -> str:
    """Return an error's message; a setting is named as the flag that it is."""
    return f"--{error}" if isinstance(error, SettingError) else str(error)


def _plain_error(error: ValueError | OSError) -> str:
    """Return the error's message; of a disk's error only the first line, since pydicom adds a traceback to it."""
    if not isinstance(error, OSError):
        return in_flags(error)
    if error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    # numpy's message for a full disk contains how many numbers of an array were written.
    return f"no space left on the disk ({line})" if re.search(r"\d+ requested and \d+ written", line) else line
