"""``checkpoint-<step>/``: what a killed run needs to end where the unkilled one would have.

    trainable.safetensors   what learns (and, for --tune full, the buffers)
    optimizer.pt            the optimiser's moments, and the fp16 scaler's state where there is one
    state.json              the step and what must not change on the way; written last

A folder appears under its name by rename, when it is complete. Everything random is a function of (seed, step), so no
random state is kept.
"""

import json
import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from data_prep.json_files import read_object
from data_prep.layout import home_expanded
from vl_model.gathering import gather_objects, rank, world_size
from vl_model.site_model import state_sha256
from vl_model.whole_folders import whole_folder
from vl_model.whole_tensors import spread_like, whole

PREFIX = "checkpoint-"
STATE = "state.json"
WEIGHTS = "trainable.safetensors"
OPTIMIZER = "optimizer.pt"


class DamagedState(ValueError):
    """A state that cannot be read, though an older one perhaps can."""


def save_checkpoint(
    run: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: Any,
    plan: dict[str, Any],
    limit: int | None,
) -> Path:
    """Write ``run/checkpoint-<step>`` and delete the oldest beyond `limit`; the first process does, all must call it.

    Later ones are deleted too: they are another future's, where the run was resumed from before its last state.
    """
    folder = run / f"{PREFIX}{step}"
    weights = trainable_state(model)
    moments = tree_map_only(Tensor, whole, optimizer.state_dict())
    state = {"optimizer": moments, "scaler": scaler.state_dict() if scaler else None}
    if rank():
        return folder
    with whole_folder(folder) as partial:
        save_file(weights, partial / WEIGHTS)
        torch.save(state, partial / OPTIMIZER)
        (partial / STATE).write_text(json.dumps({"step": step, "plan": plan}, indent=2) + "\n", encoding="utf-8")
    own = [path for number, path in complete_checkpoints(run) if number <= step]
    later = [path for number, path in complete_checkpoints(run) if number > step]
    for path in [*later, *own[: -limit if limit else 0]]:
        shutil.rmtree(path)
    return folder


def resume(
    states: Sequence[Path],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: Any,
    plan: dict[str, Any],
) -> tuple[int, Path | None]:
    """Go on from the first of `states` (of `find_checkpoints`) that is whole: the step, and which one it was.

    To be called in every process. Raises ValueError as `first_whole` and `load_checkpoint` do, and where the processes
    would not go on alike.
    """
    start, found = first_whole(states, lambda state: load_checkpoint(state, model, optimizer, scaler, plan))
    _check_same_start(start, model, plan)
    return start, found


def first_whole(states: Sequence[Path], read: Callable[[Path], int]) -> tuple[int, Path | None]:
    """What `read` says of the first of `states` that is not damaged, and which one it was; 0 and None without states.

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
    return 0, None


def _check_same_start(start: int, model: nn.Module, plan: dict[str, Any]) -> None:
    """Each process reads data and states itself: a machine may have others at that path, or an old view of them."""
    if world_size() == 1:
        return
    own = {"step": start} | plan
    if start:  # else they were made alike when the model was wrapped
        own["weights_sha256"] = state_sha256(trainable_state(model))
    first, *others = gather_objects(own)
    for process, other in enumerate(others, start=1):
        for key in first:
            if first[key] != other.get(key):
                raise ValueError(
                    f"the processes would not go on alike: {key} is {first[key]!r} in process 0, but "
                    f"{other.get(key)!r} in process {process}; every machine must see the same --root, as it is now"
                )


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any, plan: dict[str, Any]
) -> int:
    """Put a checkpoint's state into model and optimiser; the step to go on from.

    Raises DamagedState where it cannot be read, and ValueError where `plan` differs from that of the run that wrote it.
    """
    step = check_state(folder, plan)
    try:
        weights = load_file(folder / WEIGHTS)
        saved = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
        optimizer.load_state_dict(saved["optimizer"])
        _spread_moments(optimizer)
        if scaler and saved["scaler"]:
            scaler.load_state_dict(saved["scaler"])
    except pickle.UnpicklingError:  # its own words advise to load it unsafely
        raise DamagedState(f"{folder / OPTIMIZER}: is damaged, or holds more than tensors") from None
    except (OSError, EOFError, RuntimeError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        raise DamagedState(f"{folder}: cannot be read ({error})") from None
    own = _trainable_tensors(model)
    if {name: w.shape for name, w in weights.items()} != {name: tensor.shape for name, tensor in own.items()}:
        raise ValueError(f"{folder / WEIGHTS}: holds other tensors than this model trains")
    for name, tensor in own.items():
        tensor.data.copy_(spread_like(weights[name], tensor))
    return step


def _spread_moments(optimizer: torch.optim.Optimizer) -> None:
    """What was read is whole: of a weight that is spread, each process keeps its part of the moments."""
    for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
        moments = optimizer.state.get(parameter, {})
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                moments[name] = spread_like(value, parameter)


def check_state(folder: Path, plan: dict[str, Any]) -> int:
    """The step of a checkpoint that a run of this plan may go on from; of its files ``state.json`` alone is read.

    Raises DamagedState where it cannot be read, and ValueError where `plan` differs from that of the run that wrote it.
    """
    state = _read_state(folder)
    _check_plan(folder, state["plan"], plan)
    return int(state["step"])


def find_checkpoints(run: Path, wanted: str) -> list[Path]:
    """``latest`` -> the run's complete checkpoints, newest first; none where it has none yet. Else the named folder.

    Raises ValueError for a folder that is no complete checkpoint.
    """
    if wanted == "latest":
        return [folder for _, folder in reversed(complete_checkpoints(run))]
    for folder in (home_expanded(wanted, "--resume_from_checkpoint"), run / wanted):
        if (folder / STATE).is_file():
            return [folder]
    raise ValueError(
        f"--resume_from_checkpoint {wanted!r}: no {STATE} there; give 'latest' or a checkpoint-<step> folder"
    )


def complete_checkpoints(run: Path) -> list[tuple[int, Path]]:
    """(step, folder) of the run's checkpoints, oldest first."""
    found = [
        (int(folder.name.removeprefix(PREFIX)), folder)
        for folder in run.glob(f"{PREFIX}*")
        if folder.name.removeprefix(PREFIX).isdigit() and (folder / STATE).is_file()
    ]
    return sorted(found)


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Copies, on the CPU, of what a checkpoint holds of the model; of one that is spread every process must ask."""
    return {
        name: whole(tensor).detach().cpu().clone().contiguous() for name, tensor in _trainable_tensors(model).items()
    }


def _trainable_tensors(model: nn.Module) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # Batch statistics move only where their layer learns: a frozen base's buffers need no copy.
    for name, buffer in model.named_buffers():
        if f"{name.rpartition('.')[0]}.weight" in tensors:
            tensors[name] = buffer
    return tensors


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state = read_object(folder / STATE, "the training")
    except ValueError as error:
        raise DamagedState(str(error)) from None
    if not isinstance(state.get("step"), int) or not isinstance(state.get("plan"), dict):
        raise DamagedState(f"{folder / STATE}: does not say which step of which run it is; resume from another state")
    return state


def _check_plan(folder: Path, saved: dict[str, Any], plan: dict[str, Any]) -> None:
    for key in sorted(saved.keys() | plan.keys()):
        if saved.get(key) != plan.get(key):
            raise ValueError(
                f"{folder}: was written with {key} = {saved.get(key)!r}, now it is {plan.get(key)!r}; "
                "resume with the same, or start another --run"
            )
