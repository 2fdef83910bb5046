"""One real training with timing of its epochs, in this process; benchmarks/train.py and benchmarks/gpu.py start it.

    python benchmarks/timed_trainer.py REPORT.json 6 0 ours --root DATA --run first ...
    python benchmarks/timed_trainer.py REPORT.json 40 5 open_clip --model ViT-B-32 ...

The first number is the number of steps per epoch; the second is the number of steps at the beginning and at the end of
each epoch that are not timed. The trainer's own arguments follow its name. The report contains the time of each epoch's
timed steps, including loading and logging but not imports, the evaluation after the last step, or the writing of files;
and the process's peak of memory.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Timing:
    """Times and peaks of memory of a training.

    Attributes:
        clock: Seconds of wall-clock time of each epoch's timed steps.
        processor: Seconds of CPU time of the same steps.
        peak_mb: This process's largest resident set, MB.
        gpu_mb: The largest amount of GPU memory that torch allocated, MB.
    """

    clock: list[float]
    processor: list[float]
    peak_mb: float
    gpu_mb: float


Instant = npt.NDArray[np.float64]
"""Wall-clock time and CPU time, in seconds."""
Intervals = list[tuple[Instant, Instant]]


class Stopwatch:
    """Measures the time of each epoch of `steps` steps, without the first and the last `edge` steps.

    Some trainers start new loader workers in the first steps of each epoch, and end them after its last step.
    """

    def __init__(self, steps: int, edge: int) -> None:
        self.steps = steps
        self._edge = edge
        self._read: list[Instant] = []

    def step_begins(self, step: int) -> None:
        """Note the beginning of a step; `step` counts from 0 within its epoch."""
        if self._edge and step in (self._edge, self.steps - self._edge):
            self._read.append(now())

    def epoch_begins_or_ends(self) -> None:
        if not self._edge:
            self._read.append(now())

    @property
    def intervals(self) -> Intervals:
        """Beginning and end of the timed steps of each epoch."""
        return list(zip(self._read[::2], self._read[1::2], strict=False))  # an epoch that was not completed has no end


def main() -> None:
    path, steps, edge, trainer, *arguments = sys.argv[1:]
    watch = Stopwatch(int(steps), int(edge))
    intervals = time_ours(arguments, watch) if trainer == "ours" else time_open_clip(arguments, watch)
    if intervals:  # empty except in the first process
        clock, processor = np.transpose([end - begin for begin, end in intervals]).tolist()
        timing = Timing(clock, processor, peak_mb(), gpu_mb())
        Path(path).write_text(json.dumps(asdict(timing)), encoding="utf-8")


def time_ours(arguments: list[str], watch: Stopwatch) -> Intervals:
    """Time train_vl.py. Its batches are one stream, so that each epoch begins when the previous one ends."""
    import train_vl
    from runs.processes.launch import own_rank
    from vl_model.training.trainer import Trainer

    done = 0

    def timed(step: Callable[..., Any]) -> Callable[..., Any]:
        def timed_step(*given: Any, **named: Any) -> Any:
            nonlocal done
            if done == 0:
                watch.epoch_begins_or_ends()
            watch.step_begins(done % watch.steps)
            row = step(*given, **named)
            done += 1
            if done % watch.steps == 0:
                watch.epoch_begins_or_ends()
                watch.epoch_begins_or_ends()
            return row

        return timed_step

    Trainer.step = timed(Trainer.step)  # type: ignore[method-assign]
    sys.argv = ["train_vl.py", *arguments]
    train_vl.main()
    return watch.intervals if own_rank() == 0 else []


def time_open_clip(arguments: list[str], watch: Stopwatch) -> Intervals:
    """Time open_clip's trainer; each call of its learning rate scheduler is the beginning of a step."""
    import open_clip
    from open_clip_train import main as trainer

    from vl_model.towers.open_clip_towers import CONFIGS

    open_clip.add_model_config(CONFIGS)  # this project's own models
    train_one_epoch = trainer.train_one_epoch
    names = signature(train_one_epoch)

    def timed_epoch(*given: Any, **named: Any) -> None:
        call = names.bind(*given, **named)
        schedule = call.arguments["scheduler"]

        def timed_schedule(step: int) -> None:
            watch.step_begins(step % watch.steps)
            schedule(step)

        call.arguments["scheduler"] = timed_schedule
        watch.epoch_begins_or_ends()
        train_one_epoch(*call.args, **call.kwargs)
        watch.epoch_begins_or_ends()

    trainer.train_one_epoch = timed_epoch
    trainer.main(arguments)
    return watch.intervals


def now() -> Instant:
    """Return the time at which the GPU has finished all work that was submitted to it."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return np.array([time.perf_counter(), time.process_time()])


def peak_mb() -> float:
    """Return this process's own peak; getrusage would include the memory of its parent before the fork."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def gpu_mb() -> float:
    import torch

    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0


if __name__ == "__main__":
    main()
