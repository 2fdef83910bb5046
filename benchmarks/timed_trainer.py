"""One real training in this process, with a stopwatch: what benchmarks/train.py and benchmarks/gpu.py start.

    python benchmarks/timed_trainer.py REPORT.json 6 0 ours --root DATA --run first ...
    python benchmarks/timed_trainer.py REPORT.json 40 5 open_clip --model ViT-B-32 ...

The first number is that of an epoch's steps, the second how many of them at either edge do not count; what follows the
name are the trainer's own arguments. The report says how long what counts of each epoch took, with all that belongs to
its steps (batches, logs) and nothing else (imports, evaluation after the last step, files), and this process's peak of
memory.
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
    """Seconds of what counts of each epoch, by the clock and of this process's processors; the largest resident set,
    and on a GPU what torch allocated there at most, in MB."""

    clock: list[float]
    processor: list[float]
    peak_mb: float
    gpu_mb: float


Mark = npt.NDArray[np.float64]
"""The time by the clock, and by this process's processors."""
Marks = list[tuple[Mark, Mark]]


class Stopwatch:
    """Takes the time of each epoch of `steps` steps, or of what is left of it without `edge` steps at either edge.

    Loader workers start in an epoch's first steps and end after its last one, where a trainer has new ones each epoch.
    """

    def __init__(self, steps: int, edge: int) -> None:
        self.steps = steps
        self._edge = edge
        self._read: list[Mark] = []

    def step_begins(self, place: int) -> None:
        """Of an epoch's steps the `place`-th, from 0."""
        if self._edge and place in (self._edge, self.steps - self._edge):
            self._read.append(now())

    def epoch_begins_or_ends(self) -> None:
        if not self._edge:
            self._read.append(now())

    @property
    def marks(self) -> Marks:
        """Begin and end of what counts of each epoch."""
        return list(zip(self._read[::2], self._read[1::2], strict=False))  # an epoch that never ended has no end


def main() -> None:
    path, steps, edge, trainer, *arguments = sys.argv[1:]
    watch = Stopwatch(int(steps), int(edge))
    marks = time_ours(arguments, watch) if trainer == "ours" else time_open_clip(arguments, watch)
    if marks:  # of the first process alone
        clock, processor = np.transpose([after - before for before, after in marks]).tolist()
        timing = Timing(clock, processor, peak_mb(), gpu_mb())
        Path(path).write_text(json.dumps(asdict(timing)), encoding="utf-8")


def time_ours(arguments: list[str], watch: Stopwatch) -> Marks:
    """train_vl.py with these arguments, whose batches are one stream: an epoch begins where the last one ended."""
    import train_vl
    from runs.launch import own_rank
    from vl_model.training.trainer import Trainer

    done = 0

    def noting(step: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*given: Any, **named: Any) -> Any:
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

        return noted

    Trainer.step = noting(Trainer.step)  # type: ignore[method-assign]
    sys.argv = ["train_vl.py", *arguments]
    train_vl.main()
    return watch.marks if own_rank() == 0 else []


def time_open_clip(arguments: list[str], watch: Stopwatch) -> Marks:
    """open_clip's trainer, which also knows this project's own models; it asks for each step's rate when it begins."""
    import open_clip
    from open_clip_train import main as trainer

    from vl_model.towers.open_clip_towers import CONFIGS

    open_clip.add_model_config(CONFIGS)
    train_one_epoch = trainer.train_one_epoch
    names = signature(train_one_epoch)

    def timed(*given: Any, **named: Any) -> None:
        call = names.bind(*given, **named)
        schedule = call.arguments["scheduler"]

        def noted(step: int) -> None:
            watch.step_begins(step % watch.steps)
            schedule(step)

        call.arguments["scheduler"] = noted
        watch.epoch_begins_or_ends()
        train_one_epoch(*call.args, **call.kwargs)
        watch.epoch_begins_or_ends()

    trainer.train_one_epoch = timed
    trainer.main(arguments)
    return watch.marks


def now() -> Mark:
    """When the GPU has done what it was told to do so far."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return np.array([time.perf_counter(), time.process_time()])


def peak_mb() -> float:
    """Of this process alone: getrusage would count what its parent had before it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def gpu_mb() -> float:
    import torch

    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0


if __name__ == "__main__":
    main()
