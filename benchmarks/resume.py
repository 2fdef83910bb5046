"""Check that interrupted and resumed runs equal an uninterrupted run in every bit of the weights and the metrics.

    python -m benchmarks.resume
    python -m benchmarks.resume --only SIGTERM

The benchmark interrupts sixteen runs of train_vl.py with a small model with dropout: by SIGKILL and by SIGTERM, while a
checkpoint is being written and between two checkpoints, in the middle of an epoch, with one and with two processes,
with and without loader workers. Each run is resumed and compared with an uninterrupted run of as many processes. The
exit status is 0 if all are equal. SIGKILL is sent to all processes of a run at once, as if the machine failed. SIGTERM
is sent to the launcher of two processes, which forwards it, or to the only process; the run then writes a checkpoint
before it stops. It takes about half an hour on two cores.
"""

import csv
import itertools
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from workspace.cli import run_command
from workspace.layout import DataRoot
from workspace.settings_parser import read_settings

PROG = "-m benchmarks.resume"
LAUNCHER = ["-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", "accelerate_configs/cpu_2.yaml"]
STEPS, CHECKPOINTING_STEPS = 24, 5
GLOBAL_BATCH = 8
#: Columns of metrics.csv that depend on the time.
TIME_COLUMNS = ("sites_per_second", "evaluation_seconds")
TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class Interruption:
    by: signal.Signals
    is_writing: bool
    processes: int
    workers: int

    @property
    def run(self) -> str:
        return f"{self.by.name}-{'writing' if self.is_writing else 'between'}-{self.processes}-{self.workers}"


INTERRUPTIONS = [
    Interruption(*case) for case in itertools.product((signal.SIGKILL, signal.SIGTERM), (True, False), (1, 2), (0, 2))
]


@dataclass(frozen=True)
class Settings:
    """Settings of the benchmark of resuming."""

    only: Literal["SIGKILL", "SIGTERM"] | None = None
    """The only signal to interrupt runs with: SIGKILL or SIGTERM. By default both are used."""


def main() -> int:
    settings = read_settings(PROG, __doc__, Settings)
    with tempfile.TemporaryDirectory() as folder:
        root = make_data(Path(folder))
        for processes in (1, 2):
            wait_for(train(root, f"uninterrupted-{processes}", processes, 0))
        print("signal         checkpoint     processes  workers  after step  resumes from   result", flush=True)
        results = [interrupt_and_resume(root, case) for case in INTERRUPTIONS if settings.only in (None, case.by.name)]
    print(f"{sum(results)} of {len(results)} resumed runs are equal to the uninterrupted run.")
    return 0 if all(results) else 1


def make_data(folder: Path) -> DataRoot:
    """Prepare three phantom studies, and save a base with random weights."""
    for arguments in (
        "-m data_prep.phantom --train 3 --test 0 --seed 1",
        "prepare_data.py --workers 1 --folds 3",
        "train_vl.py --run base --model lumbar-tiny --tune full --max_train_steps 0 --per_device_train_batch_size 8 "
        "--report_to none",
    ):
        command = [sys.executable, *arguments.split(), "--root", str(folder)]
        wait_for(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    return DataRoot(folder)


def train(root: DataRoot, run: str, processes: int, workers: int, *more: str) -> subprocess.Popen[bytes]:
    """Start a run; its epochs have two or three steps, so that most interruptions are within an epoch."""
    settings = {
        "root": root.path,
        "run": run,
        "model": f"local-dir:{root.run('base') / 'final'}",
        "lora_dropout": 0.1,
        "max_train_steps": STEPS,
        "per_device_train_batch_size": GLOBAL_BATCH // processes,
        "gradient_accumulation_steps": 2,
        "checkpointing_steps": CHECKPOINTING_STEPS,
        "evaluation_steps": 4,
        "learning_rate": 1e-3,
        "dataloader_num_workers": workers,
        "report_to": "none",
    }
    flags = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, *(LAUNCHER if processes > 1 else []), "train_vl.py", *flags, *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def interrupt_and_resume(root: DataRoot, case: Interruption) -> bool:
    """Interrupt one run, resume it and print a row; return whether it equals the uninterrupted run."""
    process = train(root, case.run, case.processes, case.workers)
    wait_until_due(process, root, case)
    signal_run(process, case.by)
    process.communicate(timeout=TIMEOUT_SECONDS)
    step, checkpoints = len(read_metrics(root, case.run)), checkpoint_names(root, case.run)
    if (root.run(case.run) / "final").exists():
        raise ValueError(f"run {case.run}: it was finished before it could be interrupted")
    wait_for(train(root, case.run, case.processes, case.workers, "--resume_from_checkpoint", "latest"))
    is_equal = are_equal(root, f"uninterrupted-{case.processes}", case.run)
    checkpoint = "being written" if case.is_writing else "between two"
    result = "equal" if is_equal else "DIFFERENT"
    row = f"{case.by.name:14} {checkpoint:14} {case.processes:9} {case.workers:8} {step:11}"
    print(f"{row}  {checkpoints[-1] if checkpoints else 'the start':14} {result}", flush=True)
    return is_equal


def wait_until_due(process: subprocess.Popen[bytes], root: DataRoot, case: Interruption) -> None:
    """Wait until a checkpoint after the first one is being written, or until a step between two checkpoints is done."""
    first, last_step = f"checkpoint-{CHECKPOINTING_STEPS}", 2 * CHECKPOINTING_STEPS - 2
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if case.is_writing:
            partial = {path.name for path in root.run(case.run).glob(".checkpoint-*.partial")}
            if partial - {f".{first}.partial"}:
                return
        elif len(read_metrics(root, case.run)) >= last_step:
            return
        time.sleep(0.001)
    raise ValueError(f"run {case.run}: it ended, or took too long, before it could be interrupted")


def signal_run(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send SIGKILL to all processes of a run, or another signal to the first one."""
    first = psutil.Process(process.pid)
    receivers = [first, *first.children(recursive=True)] if number == signal.SIGKILL else [first]
    for receiver in receivers:
        receiver.send_signal(number)


def wait_for(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a process.

    Raises:
        ValueError: It failed; the error contains the last line of its output.
    """
    _, output = process.communicate(timeout=TIMEOUT_SECONDS)
    if process.returncode:
        raise ValueError(
            f"{process.args!r}: failed with status {process.returncode}: {output.decode().splitlines()[-1:]}"
        )


def are_equal(root: DataRoot, one: str, other: str) -> bool:
    """Return whether the weights of two runs are equal in every byte, and their metrics in all but `TIME_COLUMNS`."""
    files = sorted(path.name for path in (root.run(one) / "final").glob("*.safetensors"))
    weights = [[(root.run(run) / "final" / name).read_bytes() for name in files] for run in (one, other)]
    metrics = [
        [{key: row[key] for key in row if key not in TIME_COLUMNS} for row in read_metrics(root, run)]
        for run in (one, other)
    ]
    return bool(files) and weights[0] == weights[1] and metrics[0] == metrics[1] and len(metrics[0]) == STEPS


def read_metrics(root: DataRoot, run: str) -> list[dict[str, str]]:
    path = root.logs(run) / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def checkpoint_names(root: DataRoot, run: str) -> list[str]:
    names = [path.name for path in root.run(run).glob("checkpoint-*")]
    return sorted(names, key=lambda name: int(name.removeprefix("checkpoint-")))


if __name__ == "__main__":
    run_command(PROG, main)
