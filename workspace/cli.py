"""What every command shares: exit statuses, and errors that fit on one line.

Exit status: 0 done, 2 the input or a setting is wrong (one line on stderr says which), 130 interrupted, 143 terminated.
"""

import os
import re
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from workspace.interrupts import raise_at_ctrl_c
from workspace.setting_error import SettingError

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


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
    SIGTERM leaves by way of every ``finally``, so that nothing half-written stays. A launcher's workers, and the
    processes that a command starts, keep the default, which ends them even while they wait for one another.
    Everything else is a defect of the program and keeps its traceback.
    """
    raise_at_ctrl_c()
    if "LOCAL_RANK" not in os.environ:
        signal.signal(signal.SIGTERM, _terminate)
        os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    try:
        status = main() or 0
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        # What it left half made, such as a progress bar, has nothing to say when it is taken apart.
        sys.unraisablehook = lambda _: None
        print(": ".join([prog, "; ".join(["interrupted", *map(str, stop.args)])]), file=sys.stderr, flush=True)
        raise SystemExit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        # The reader of our output has left (`| head`): nothing is wrong, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except (ValueError, OSError) as error:
        if os.environ.get("LUMBAR_TRACEBACK"):
            raise
        fail(prog, _plain_error(error))
    raise SystemExit(status)


def in_flags(error: Exception) -> str:
    """Return an error's message; a setting is named as the flag that it is."""
    return f"--{error}" if isinstance(error, SettingError) else str(error)


def _plain_error(error: ValueError | OSError) -> str:
    """Its words; of an error of the disk the first line, because pydicom writes a traceback into the others."""
    if not isinstance(error, OSError):
        return in_flags(error)
    if error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    # numpy says of a full disk how many of an array's numbers went onto it.
    return f"no space left on the disk ({line})" if re.search(r"\d+ requested and \d+ written", line) else line


def _terminate(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    raise SystemExit(EXIT_TERMINATED)
