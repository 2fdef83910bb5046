"""The end of the Slurm job that this process belongs to, or belonged to.

``$SLURM_JOB_END_TIME`` (seconds since 1970) is written when a job starts. It does not change when the job's time is
extended, and a shell may have inherited it from a job that is over. So it is believed only as long as it lies ahead,
and Slurm itself (`squeue`, where it is installed) is asked when it would end a run.
"""

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass

JOB_END, JOB_ID = "SLURM_JOB_END_TIME", "SLURM_JOB_ID"
#: squeue answers within a second, or not at all while Slurm's controller is busy.
SQUEUE_SECONDS = 10
#: What squeue prints as the time left: [[days-]hours:]minutes:seconds.
_TIME_LEFT = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", re.ASCII)


@dataclass(frozen=True)
class JobClock:
    """The end of the job in seconds since 1970; None if there is none to heed.

    `notes` are lines for the start. `ignored` is the variable with its value if it is not believed.
    """

    end: float | None = None
    notes: tuple[str, ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()


def read_job_clock(margin: float) -> JobClock:
    """Return the end of the job as it is known at the start of a run.

    margin: how many seconds before the end of the job the run is to stop.
    """
    value = os.environ.get(JOB_END, "").strip()
    if not value:
        return JobClock()
    if not re.fullmatch(r"[0-9]{1,12}", value):
        no_number = f"{JOB_END}={value[:50]!r} is ignored: it should be a number of seconds since 1970"
        return JobClock(None, (no_number,), ((JOB_END, value),))
    end, now = float(value), time.time()
    if end - margin > now:
        return JobClock(end)
    asked = end_of_job()
    if asked is not None and asked > max(end, now) + 1:
        return _close(asked, margin, (f"the Slurm job was extended: {JOB_END} is {_span(asked - end)} too early",))
    if end <= now:
        past = f"{JOB_END}={value} lies {_span(now - end)} back: it is ignored, since that job is over or was extended"
        return JobClock(None, (past,), ((JOB_END, value),))
    return _close(end, margin)


def _close(end: float, margin: float, notes: tuple[str, ...] = ()) -> JobClock:
    left = end - time.time()
    if left > margin:
        return JobClock(end, notes)
    note = f"the Slurm job ends in {_span(left)}, and --stop_margin is {margin:g} seconds: this start takes one step"
    return JobClock(end, (*notes, note))


def end_of_job() -> float | None:
    """Return the end of this process's job as Slurm knows it now, in seconds since 1970; None if it cannot be known."""
    job, squeue = os.environ.get(JOB_ID, ""), shutil.which("squeue")
    if squeue is None or not re.fullmatch(r"[0-9]+", job):
        return None
    command = [squeue, "--noheader", f"--jobs={job}", "--states=RUNNING", "--format=%L"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=SQUEUE_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):  # the job is over, or Slurm does not answer: the variable stands
        return None
    found = _TIME_LEFT.fullmatch(said.strip())
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return time.time() + 86400 * days + 3600 * hours + 60 * minutes + seconds


def _span(seconds: float) -> str:
    """Return a duration in words: seconds below two minutes, minutes below two hours, then hours and days.

    >>> _span(60), _span(3000), _span(9000), _span(864000)
    ('60 seconds', '50 minutes', '2.5 hours', '10 days')
    """
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {name}" if seconds < 100 * size else f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} seconds"
