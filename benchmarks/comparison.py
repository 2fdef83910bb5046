"""Timed trainings in separate processes, and the rates that they are compared by; used by train.py and gpu.py."""

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
from benchmarks.training_images import CAPTION_COLUMN, IMAGE_COLUMN, TABLE

REPOSITORY = Path(__file__).parents[1]
TIMED_TRAINER = "benchmarks/timed_trainer.py"
#: An interval beyond the last step: evaluations and checkpoints are not timed.
NEVER = "1000000"
#: This project's names of precisions -> open_clip's.
OPEN_CLIP_PRECISION = {"no": "fp32", "bf16": "amp_bf16"}


@dataclass(frozen=True)
class Job:
    """One training; its first epoch is not timed.

    An epoch has `steps` batches, however many images there are: train_vl.py is timed in such parts, and open_clip's
    trainer is given a table with as many images, repeated if necessary.

    Attributes:
        root: The data root of the images.
        model: The name of the model.
        precision: As train_vl.py's --mixed_precision.
        batch: Images per step and process.
        steps: Steps per epoch.
        epochs: Number of epochs.
        device: The device of open_clip's trainer.
        threads: Threads per process.
        processes: Number of processes.
        workers: Loader workers per process.
        edge: Steps at the beginning and at the end of each epoch that are not timed (`benchmarks.timed_trainer`).
    """

    root: Path
    model: str
    precision: str
    batch: int
    steps: int
    epochs: int
    device: str = "cpu"
    threads: int = 1
    processes: int = 1
    workers: int = 0
    edge: int = 0

    @property
    def images(self) -> int:
        """Number of timed images per epoch, over all processes."""
        return self.batch * (self.steps - 2 * self.edge) * self.processes


@dataclass(frozen=True)
class Rate:
    """The speed of the fastest epoch after the first one, and the peaks of memory.

    Attributes:
        clock: Images per second by wall-clock time.
        processor: Images per second of CPU time; meaningful for one process only.
        peak_mb: Peak of the process's memory.
        gpu_mb: Peak of GPU memory.
    """

    clock: float
    processor: float
    peak_mb: float
    gpu_mb: float


def train_ours(job: Job, *arguments: str) -> Rate:
    """Time train_vl.py, with `arguments` or else full fine-tuning; several processes are launched by accelerate."""
    with tempfile.TemporaryDirectory(dir=job.root) as folder:
        return _rate(job, _launcher(job), Path(folder), our_arguments(job, Path(folder).name, *arguments))


def train_open_clip(job: Job) -> Rate:
    """Time open_clip's own trainer on the PNG files of the same images."""
    with tempfile.TemporaryDirectory(dir=job.root) as folder:
        return _rate(job, [sys.executable], Path(folder), open_clip_arguments(job, Path(folder)))


def our_arguments(job: Job, run: str, *arguments: str) -> list[str]:
    """Return the arguments of benchmarks/timed_trainer.py for train_vl.py."""
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
    return ["ours", *_command_line(flags), *(arguments or ("--tune", "full"))]


def open_clip_arguments(job: Job, logs: Path) -> list[str]:
    """Write a table of images, and return the arguments of benchmarks/timed_trainer.py for open_clip's trainer."""
    header, *rows = (job.root / TABLE).read_text(encoding="utf-8").splitlines(keepends=True)
    table = logs / TABLE
    table.write_text(header + "".join(islice(cycle(rows), job.batch * job.steps)), encoding="utf-8")
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
    return ["open_clip", *_command_line(flags)]


def _command_line(flags: dict[str, Any]) -> list[str]:
    return [text for name, value in flags.items() for text in (f"--{name}", str(value))]


def _launcher(job: Job) -> list[str]:
    if job.processes == 1:
        return [sys.executable]
    config = "accelerate_configs/cpu_2.yaml"
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", config]
    return [*launch, "--num_processes", str(job.processes)]


def _rate(job: Job, launcher: list[str], folder: Path, arguments: list[str]) -> Rate:
    """Run a training and read its timing.

    Raises:
        RuntimeError: The training failed; the error contains the end of its output.
    """
    report = folder / "timing.json"
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(job.threads),
        "PYTHONPATH": str(REPOSITORY),
        "HF_HUB_OFFLINE": "1",
    }
    command = [*launcher, TIMED_TRAINER, str(report), str(job.steps), str(job.edge), *arguments]
    finished = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    if finished.returncode or not report.is_file():
        raise RuntimeError(f"{' '.join(command)}: failed with status {finished.returncode}\n{finished.stderr[-2000:]}")
    timing = Timing(**json.loads(report.read_text(encoding="utf-8")))
    seconds, processor = min(timing.clock[1:]), min(timing.processor[1:])
    return Rate(job.images / seconds, job.images / processor, timing.peak_mb, timing.gpu_mb)


def best(rates: list[Rate]) -> Rate:
    """Return the best of several repetitions, because other programs may slow some of them down."""
    return Rate(
        max(rate.clock for rate in rates),
        max(rate.processor for rate in rates),
        min(rate.peak_mb for rate in rates),
        min(rate.gpu_mb for rate in rates),
    )


def print_row(quantity: str, value: str, aim: str = "", met: bool | None = None) -> None:
    """Print one row of the table of results."""
    verdict = "" if met is None else "met" if met else "missed"
    print(f"  {quantity:<72} {value:>12}  {aim:<8} {verdict}".rstrip(), flush=True)
