"""Which state a training goes on from: the newest that is whole, and in every process the same."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from runs.checkpoints import DamagedState, Saved, read_checkpoint
from runs.collectives import gather_objects, rank

T = TypeVar("T")


def resume(
    states: Sequence[Path],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: Any,
    plan: dict[str, Any],
) -> tuple[int, Path | None]:
    """Go on from the first of `states` (of `find_checkpoints`) that is whole: the step, and which one it was.

    To be called in every process. Raises ValueError as `first_whole` and `read_checkpoint` do, and where the processes
    would not go on alike; model and optimizer are then as they were.
    """
    saved, found = first_whole(states, lambda state: read_checkpoint(state, model, optimizer, plan))
    _check_same_start(saved, plan)
    if saved is None:
        return 0, None
    saved.put_into(model, optimizer, scaler)
    return saved.step, found


def first_whole(states: Sequence[Path], read: Callable[[Path], T]) -> tuple[T | None, Path | None]:
    """What `read` says of the first of `states` that is not damaged, and which one it was; None without states.

    Those left out are named. Raises what `read` raises, and DamagedState where all are damaged.
    """
    for state in states:
        try:
            return read(state), state
        except DamagedState as error:
            if state == states[-1]:
                raise
            if rank() == 0:
                print(f"{state.name} is left out for an older state: {error}", flush=True)
    return None, None


def _check_same_start(saved: Saved | None, plan: dict[str, Any]) -> None:
    """Each process reads data and states itself: a machine may have others at that path, or an old view of them.

    Without a state they were made alike when the model was wrapped.
    """
    digests = {f"sha256 of {name}": digest for name, digest in saved.digests.items()} if saved else {}
    first, *others = gather_objects({"step": saved.step if saved else 0} | plan | digests)
    for process, other in enumerate(others, start=1):
        for key in first:
            if first[key] != other.get(key):
                raise ValueError(
                    f"the processes would not go on alike: {key} is {first[key]!r} in process 0, but "
                    f"{other.get(key)!r} in process {process}; every machine must see the same --root, as it is now"
                )
