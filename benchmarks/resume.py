"""Whether a run that is broken off ends where the unbroken one does: every bit of its weights, every row of its records.

    python -m benchmarks.resume
    python -m benchmarks.resume --only SIGTERM

Sixteen runs of a small model are broken off through the real entry points, by SIGKILL and by SIGTERM, while a state is
being written and between two, with one process and with two, without loader workers and with two. Each is resumed, and
compared with the unbroken run of as many processes. Status 0 where all are equal.

SIGKILL goes to every process of the run, as from a node that fails; SIGTERM to the launcher of two processes, which
passes it on, or to the only process: its run must write a state of its own.
"""

import csv
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from data_prep.commands import SettingsParser, run_command
from data_prep.layout import DataRoot

PROG = "-m benchmarks.resume"
LAUNCHERS = {1: [], 2: ["-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", "CONFIG"]}
STEPS, STATES = 24, 5
SITES = 8  # of all processes together
#: Columns of metrics.csv that the clock decides.
CLOCKED = ("sites_per_second", "evaluation_seconds")
PATIENCE_SECONDS = 600


@dataclass(frozen=True)
class Interruption:
    by: signal.Signals
    while_writing: bool
    processes: int
    workers: int

    @property
    def name(self) -> str:
        place = "writing" if self.while_writing else "between"
        return f"{self.by.name.lower()}-{place}-{self.processes}-{self.workers}"


INTERRUPTIONS = [
    Interruption(*case) for case in itertools.product((signal.SIGKILL, signal.SIGTERM), (True, False), (1, 2), (0, 2))
]


def main() -> int:
    parser = SettingsParser(PROG, __doc__)
    parser.add_argument("--only", type=str | None, default=None, help="SIGKILL or SIGTERM")
    settings = parser.parse_args()
    cases = [case for case in INTERRUPTIONS if settings.only in (None, case.by.name)]
    with tempfile.TemporaryDirectory() as folder:
        root = make_data(Path(folder))
        for processes in sorted({case.processes for case in cases}):
            finish(start(root, f"unbroken-{processes}", processes, 0))
        print(f"{'broken off by':14}{'at':10}{'processes':>10}{'workers':>8}{'step':>6}  {'state':14}{'end':>10}")
        results = [try_out(root, case) for case in cases]
    print(f"{sum(results)} of {len(results)} ended where the unbroken run did")
    return 0 if all(results) else 1


def make_data(folder: Path) -> DataRoot:
    """Two prepared phantom studies, and a base for the adapters: a model that has learned nothing."""
    steps = (
        ["-m", "data_prep.phantom", "--root", str(folder), "--train", "3", "--test", "0", "--seed", "1"],
        ["prepare_data.py", "--root", str(folder), "--workers", "1", "--folds", "3"],
        ["train_vl.py", "--root", str(folder), "--run", "base", "--model", "lumbar-tiny", "--tune", "full"]
        + ["--max_train_steps", "0", "--report_to", "none"],
    )
    for step in steps:
        finish(subprocess.Popen([sys.executable, *step], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    return DataRoot(folder)
