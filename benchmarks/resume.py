"""Whether a run that was broken off ends where the unbroken one does, in every bit of its weights and records.

    python -m benchmarks.resume
    python -m benchmarks.resume --only SIGTERM

Sixteen runs of a small model with dropout are broken off through the real entry points, by SIGKILL and by SIGTERM,
while a state is being written and between two, in the middle of an epoch, with one process and with two, without loader
workers and with two. Each is resumed, and compared with the unbroken run of as many processes. Status 0 where all are
equal.

SIGKILL goes to every process of the run at once, as from a machine that fails. SIGTERM goes to the launcher of two
processes, which passes it on, or to the only process; the run writes a state of its own then.
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

import psutil

from workspace.cli import SettingsParser, run_command
from workspace.layout import DataRoot

PROG = "-m benchmarks.resume"
LAUNCHER = ["-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", "accelerate_configs/cpu_2.yaml"]
STEPS, STEPS_BETWEEN_STATES = 24, 5
BATCH = 8  # of all processes together
#: Columns of metrics.csv that the clock decides.
CLOCKED = ("sites_per_second", "evaluation_seconds")
PATIENCE_SECONDS = 600


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


def main() -> int:
    parser = SettingsParser(PROG, __doc__)
    parser.add_argument("--only", type=str | None, default=None, help="SIGKILL or SIGTERM")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = make_data(Path(folder))
        for processes in (1, 2):
            wait_for(train(root, f"unbroken-{processes}", processes, 0))
        print("broken off by  at a state     processes  workers  after step  goes on from   end", flush=True)
        results = [try_out(root, case) for case in INTERRUPTIONS if settings.only in (None, case.by.name)]
    print(f"{sum(results)} of {len(results)} ended where the unbroken run did")
    return 0 if all(results) else 1


def make_data(folder: Path) -> DataRoot:
    """Three prepared phantom studies, and a base for the adapters that has learned nothing."""
    for words in (
        "-m data_prep.phantom --train 3 --test 0 --seed 1",
        "prepare_data.py --workers 1 --folds 3",
        "train_vl.py --run base --model lumbar-tiny --tune full --max_train_steps 0 --per_device_train_batch_size 8 "
        "--report_to none",
    ):
        command = [sys.executable, *words.split(), "--root", str(folder)]
        wait_for(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    return DataRoot(folder)


def train(root: DataRoot, run: str, processes: int, workers: int, *more: str) -> subprocess.Popen[bytes]:
    """Start a run; its epochs are of two or three steps, so that most interruptions are within one."""
    settings = {
        "root": root.path,
        "run": run,
        "model": f"local-dir:{root.run('base') / 'final'}",
        "lora_dropout": 0.1,
        "max_train_steps": STEPS,
        "per_device_train_batch_size": BATCH // processes,
        "gradient_accumulation_steps": 2,
        "checkpointing_steps": STEPS_BETWEEN_STATES,
        "evaluation_steps": 4,
        "learning_rate": 1e-3,
        "dataloader_num_workers": workers,
        "report_to": "none",
    }
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, *(LAUNCHER if processes > 1 else []), "train_vl.py", *flags, *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def try_out(root: DataRoot, case: Interruption) -> bool:
    """Break one run off, resume it, print a line of the table; whether its end is the unbroken run's."""
    process = train(root, case.run, case.processes, case.workers)
    wait_until_due(process, root, case)
    signal_run(process, case.by)
    process.communicate(timeout=PATIENCE_SECONDS)
    reached, states = len(read_metrics(root, case.run)), state_names(root, case.run)
    if (root.run(case.run) / "final").exists():
        raise ValueError(f"{case.run}: was over before it could be broken off")
    wait_for(train(root, case.run, case.processes, case.workers, "--resume_from_checkpoint", "latest"))
    is_equal = same_end(root, f"unbroken-{case.processes}", case.run)
    at, end = "being written" if case.is_writing else "between two", "equal" if is_equal else "DIFFERS"
    row = f"{case.by.name:14} {at:14} {case.processes:9} {case.workers:8} {reached:11}"
    print(f"{row}  {states[-1] if states else 'the start':14} {end}", flush=True)
    return is_equal


def wait_until_due(process: subprocess.Popen[bytes], root: DataRoot, case: Interruption) -> None:
    """Until a state after the first is half written, or until a step between two is done."""
    first, late = f"checkpoint-{STEPS_BETWEEN_STATES}", 2 * STEPS_BETWEEN_STATES - 2
    until = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < until:
        if case.is_writing:
            partial = {path.name for path in root.run(case.run).glob(".checkpoint-*.partial")}
            if partial - {f".{first}.partial"}:
                return
        elif len(read_metrics(root, case.run)) >= late:
            return
        time.sleep(0.001)
    raise ValueError(f"{case.run}: never came as far as it should be broken off")


def signal_run(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    leader = psutil.Process(process.pid)
    family = [leader, *leader.children(recursive=True)] if number == signal.SIGKILL else [leader]
    for member in family:
        member.send_signal(number)


def wait_for(process: subprocess.Popen[bytes]) -> None:
    """Raises ValueError with the process's last line where it failed."""
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    if process.returncode:
        raise ValueError(f"{process.args!r}: status {process.returncode}: {said.decode().splitlines()[-1:]}")


def same_end(root: DataRoot, one: str, other: str) -> bool:
    """Whether files of ``final/`` are equal in every byte, and the records in all that the clock does not decide."""
    files = sorted(path.name for path in (root.run(one) / "final").glob("*.safetensors"))
    weights = [[(root.run(run) / "final" / name).read_bytes() for name in files] for run in (one, other)]
    records = [
        [{key: row[key] for key in row if key not in CLOCKED} for row in read_metrics(root, run)]
        for run in (one, other)
    ]
    return bool(files) and weights[0] == weights[1] and records[0] == records[1] and len(records[0]) == STEPS


def read_metrics(root: DataRoot, run: str) -> list[dict[str, str]]:
    path = root.logs(run) / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def state_names(root: DataRoot, run: str) -> list[str]:
    names = [path.name for path in root.run(run).glob("checkpoint-*")]
    return sorted(names, key=lambda name: int(name.removeprefix("checkpoint-")))


if __name__ == "__main__":
    run_command(PROG, main)
