"""One real training in this process, with a stopwatch: what benchmarks/train.py and benchmarks/gpu.py start.

    python benchmarks/timed_trainer.py REPORT.json 6 ours --root DATA --run first ...
    python benchmarks/timed_trainer.py REPORT.json 6 open_clip --model ViT-B-32 ...

The number is that of an epoch's steps; what follows the name are the trainer's own arguments. The report says how
long each epoch took, with all that belongs to its steps (batches, logs) and nothing else (imports, evaluation after the
last step, files), and this process's peak of memory.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Timing:
    """Seconds of each epoch by the clock, and of this process's processors; the largest resident set, and on a GPU what
    torch allocated there at most, in MB."""

    clock: list[float]
    processor: list[float]
    peak_mb: float
    gpu_mb: float


Mark = npt.NDArray[np.float64]
"""The time by the clock, and by this process's processors."""
Marks = list[tuple[Mark, Mark]]


def main() -> None:
    path, steps_per_epoch, trainer, *arguments = sys.argv[1:]
    marks = time_ours(arguments, int(steps_per_epoch)) if trainer == "ours" else time_open_clip(arguments)
    if marks:  # of the first process alone
        clock, processor = np.transpose([after - before for before, after in marks]).tolist()
        timing = Timing(clock, processor, peak_mb(), gpu_mb())
        Path(path).write_text(json.dumps(asdict(timing)), encoding="utf-8")


def time_ours(arguments: list[str], steps_per_epoch: int) -> Marks:
    """train_vl.py with these arguments; begin and end of each epoch."""
    import train_vl
    from vl_model.launch import own_rank
    from vl_model.training import Trainer

    begins: list[Mark] = []
    ends: list[Mark] = []

    def noting(step: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*given: Any, **named: Any) -> Any:
            begins.append(now())
            row = step(*given, **named)
            ends[:] = [now()]
            return row

        return noted

    Trainer.step = noting(Trainer.step)  # type: ignore[method-assign]
    sys.argv = ["train_vl.py", *arguments]
    train_vl.main()
    edges = [*begins[::steps_per_epoch], ends[0]]
    return list(pairwise(edges)) if own_rank() == 0 else []


def time_open_clip(arguments: list[str]) -> Marks:
    """open_clip's trainer, which also knows this project's own models; begin and end of each epoch."""
    import open_clip
    from open_clip_train import main as trainer

    from vl_model.open_clip_towers import CONFIGS

    open_clip.add_model_config(CONFIGS)
    marks: Marks = []
    train_one_epoch = trainer.train_one_epoch

    def timed(*given: Any, **named: Any) -> None:
        begin = now()
        train_one_epoch(*given, **named)
        marks.append((begin, now()))

    trainer.train_one_epoch = timed
    trainer.main(arguments)
    return marks


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
