"""Resuming a run: from the newest checkpoint that is not damaged, which must be the same in every process."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from runs.checkpoints import Checkpoint, DamagedCheckpoint, read_checkpoint
from runs.processes.collectives import gather_objects, rank

T = TypeVar("T")


def resume(
    checkpoints: Sequence[Path],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: Any,
    plan: dict[str, Any],
) -> tuple[int, Path | None]:
    """Load the first checkpoint that is not damaged. Every process must call this.

    Args:
        checkpoints: the folders of the candidates, in order of preference (`runs.checkpoints.find_checkpoints`).
        model, optimizer, scaler: what the checkpoint is loaded into. The scaler may be None.
        plan: the settings and fingerprints that the run must share with the checkpoint.

    Returns the step and the folder of the checkpoint; 0 and None if there are no candidates.

    Raises ValueError as `first_readable` and `read_checkpoint` do, and if the processes found different checkpoints,
    data or settings. Model and optimizer are then unchanged.
    """
    checkpoint, folder = first_readable(checkpoints, lambda each: read_checkpoint(each, model, optimizer, plan))
    _check_same_start(checkpoint, plan)
    if checkpoint is None:
        return 0, None
    checkpoint.load_into(model, optimizer, scaler)
    return checkpoint.step, folder


def first_readable(checkpoints: Sequence[Path], read: Callable[[Path], T]) -> tuple[T | None, Path | None]:
    """Read the first checkpoint that is not damaged, and print the name of each damaged one before it.

    Returns the result of `read` and the checkpoint's folder; None and None without checkpoints.

    Raises what `read` raises, and DamagedCheckpoint if all are damaged.
    """
    for folder in checkpoints:
        try:
            return read(folder), folder
        except DamagedCheckpoint as error:
            if folder == checkpoints[-1]:
                raise
            if rank() == 0:
                print(f"{folder.name} is damaged, an older checkpoint is tried instead: {error}", flush=True)
    return None, None


def _check_same_start(checkpoint: Checkpoint | None, plan: dict[str, Any]) -> None:
    """Raise ValueError if the processes do not agree on the step, the plan and the content of the checkpoint.

    Each process reads data and checkpoints itself, and the same path may lead to other or older files on another
    machine. Without a checkpoint the weights are equal already, since the first process's were broadcast.
    """
    digests = {f"sha256 of {name}": digest for name, digest in checkpoint.digests.items()} if checkpoint else {}
    first, *others = gather_objects({"step": checkpoint.step if checkpoint else 0} | plan | digests)
    for process, other in enumerate(others, start=1):
        for key in first:
            if first[key] != other.get(key):
                raise ValueError(
                    f"the processes differ: {key} is {first[key]!r} in process 0, but "
                    f"{other.get(key)!r} in process {process}; all machines must see the same data root"
                )
