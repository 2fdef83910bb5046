"""Trainings, each in a process of its own, and what they are compared by: the parts of train.py and gpu.py."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from benchmarks.timed_trainer import Timing
from benchmarks.training_material import CAPTION_COLUMN, IMAGE_COLUMN, TABLE

REPOSITORY = Path(__file__).parents[1]
TIMED_TRAINER = "benchmarks/timed_trainer.py"
#: Beyond the last step: evaluations and states are not what is timed.
NEVER = "1000000"
#: Our words for precision -> open_clip's.
OPEN_CLIP_PRECISION = {"no": "fp32", "bf16": "amp_bf16"}


@dataclass(frozen=True)
class Job:
    """What is trained: `batch` images a step and process; the first epoch is not counted.

    An epoch is `steps` batches, however many sites there are: ours is timed so, open_clip's is given as many rows, some
    more than once. Of each epoch `edge` steps at either edge are not counted (`benchmarks.timed_trainer`).
    """

    root: Path
    model: str
    precision: str  # as train_vl.py's --mixed_precision
    batch: int
    steps: int
    epochs: int
    device: str = "cpu"
    threads: int = 1
    processes: int = 1
    workers: int = 0  # that load images, a process
    edge: int = 0

    @property
    def images(self) -> int:
        """Those of an epoch that count, of all processes."""
        return self.batch * (self.steps - 2 * self.edge) * self.processes


@dataclass(frozen=True)
class Rate:
    """The best epoch from the second on, and the larger of the peaks."""

    clock: float  # images a second
    processor: float  # images a second of one processor; only of one process
    peak_mb: float
    gpu_mb: float


def train_ours(job: Job, *arguments: str) -> Rate:
    """train_vl.py, full fine-tuning unless the arguments say otherwise; two processes through accelerate."""
    with tempfile.TemporaryDirectory(dir=job.root) as folder:
        return _rate(job, _launcher(job), Path(folder), our_words(job, Path(folder).name, *arguments))


def train_open_clip(job: Job) -> Rate:
    """open_clip's own trainer on the PNG files of the same images."""
    with tempfile.TemporaryDirectory(dir=job.root) as folder:
        return _rate(job, [sys.executable], Path(folder), open_clip_words(job, Path(folder)))


def our_words(job: Job, run: str, *arguments: str) -> list[str]:
    """What benchmarks/timed_trainer.py is told to start train_vl.py."""
    flags = {
        "root": job.root,
        "run": run,
        "model": job.model,
        "max_train_steps": job.steps * job.epochs,
        "per_device_train_batch_size": job.batch,
        "mixed_precision": job.precision,
        "evaluation_steps": NEVER,
        "checkpointing_steps": NEVER,
        "held_out_sites": 1,
        "report_to": "none",
    }
    return ["ours", *_words(flags), *(arguments or ("--tune", "full"))]


def open_clip_words(job: Job, logs: Path) -> list[str]:
    """What benchmarks/timed_trainer.py is told to start open_clip's trainer, on the CSV's rows, in turns."""
    head, *rows = (job.root / TABLE).read_text(encoding="utf-8").splitlines(keepends=True)
    table = logs / TABLE
    table.write_text(head + "".join(islice(cycle(rows), job.batch * job.steps)), encoding="utf-8")
    flags = {
        "train-data": table,
        "dataset-type": "csv",
        "csv-img-key": IMAGE_COLUMN,
        "csv-caption-key": CAPTION_COLUMN,
        "csv-separator": ",",
        "model": job.model,
        "batch-size": job.batch,
        "epochs": job.epochs,
        "workers": job.workers,
        "precision": OPEN_CLIP_PRECISION[job.precision],
        "device": job.device,
        "lr": 1e-4,
        "warmup": 1,
        "logs": logs,
        "zeroshot-frequency": 0,
        "save-frequency": 0,
    }
    return ["open_clip", *_words(flags)]


def _words(flags: dict[str, Any]) -> list[str]:
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def _launcher(job: Job) -> list[str]:
    if job.processes == 1:
        return [sys.executable]
    config = "accelerate_configs/cpu_2.yaml"
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", config]
    return [*launch, "--num_processes", str(job.processes)]


def _rate(job: Job, launcher: list[str], folder: Path, words: list[str]) -> Rate:
    """Start the trainer and read what its stopwatch wrote. Raises RuntimeError with its last words where it failed."""
    report = folder / "timing.json"
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(job.threads),
        "PYTHONPATH": str(REPOSITORY),
        "HF_HUB_OFFLINE": "1",
    }
    command = [*launcher, TIMED_TRAINER, str(report), str(job.steps), str(job.edge), *words]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    if done.returncode or not report.is_file():
        raise RuntimeError(f"{' '.join(words)}\n{done.stderr[-2000:]}")
    timing = Timing(**json.loads(report.read_text(encoding="utf-8")))
    seconds, processor = min(timing.clock[1:]), min(timing.processor[1:])
    return Rate(job.images / seconds, job.images / processor, timing.peak_mb, timing.gpu_mb)


def best(rates: list[Rate]) -> Rate:
    """Of several turns: others may be using the machine."""
    return Rate(
        max(rate.clock for rate in rates),
        max(rate.processor for rate in rates),
        min(rate.peak_mb for rate in rates),
        min(rate.gpu_mb for rate in rates),
    )


def describe(what: str, figure: str, aim: str = "", met: bool | None = None) -> None:
    """One line of the table."""
    verdict = "" if met is None else "met" if met else "missed"
    print(f"  {what:<72} {figure:>12}  {aim:<8} {verdict}".rstrip(), flush=True)
