"""``checkpoint-<step>/``: what a killed run needs to end where the unkilled one would have.

    trainable.safetensors   what learns (and, for --tune full, the buffers)
    optimizer.pt            the optimiser's moments, and the fp16 scaler's state where there is one
    state.json              the step, what must not change on the way, and digests of both; written last

A folder appears under its name by rename, when it is complete. Everything random is a function of (seed, step), so no
random state is kept.
"""

import hashlib
import json
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from runs.collectives import rank
from runs.full_tensors import spread_like, whole
from workspace.json_files import read_object
from workspace.layout import home_expanded
from workspace.setting_error import SettingError
from workspace.whole_folders import whole_folder

PREFIX = "checkpoint-"
STATE = "state.json"
WEIGHTS = "trainable.safetensors"
OPTIMIZER = "optimizer.pt"
SHA256 = "sha256"


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
    weights = {name: _put_together(tensor) for name, tensor in trainable_tensors(model).items()}
    moments = tree_map_only(Tensor, _put_together, optimizer.state_dict())
    if rank():
        return folder
    state = {"optimizer": moments, "scaler": scaler.state_dict() if scaler else None}
    with whole_folder(folder) as partial:
        save_file(weights, partial / WEIGHTS)
        torch.save(state, partial / OPTIMIZER)
        files = {name: _sha256(partial / name) for name in (WEIGHTS, OPTIMIZER)}
        content = {"step": step, "plan": plan, SHA256: files}
        (partial / STATE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    own = [path for number, path in complete_checkpoints(run) if number <= step]
    later = [path for number, path in complete_checkpoints(run) if number > step]
    for path in [*later, *own[: -limit if limit else 0]]:
        shutil.rmtree(path)
    return folder


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds, whole and on the CPU."""

    step: int
    weights: dict[str, Tensor]
    moments: dict[str, Any]
    scaler: dict[str, Any] | None
    digests: dict[str, str]  # of its files, by name

    def put_into(self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any) -> None:
        """Where weights are spread over processes all must, and have the first one's."""
        for name, tensor in trainable_tensors(model).items():
            tensor.data.copy_(spread_like(self.weights[name], tensor))
        optimizer.load_state_dict({**self.moments, "state": self._spread_moments(optimizer)})
        if scaler and self.scaler:
            scaler.load_state_dict(self.scaler)

    def _spread_moments(self, optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
        """Of a weight that is spread, the moments are, one after the other: the optimizer would take all whole."""
        numbers = [number for group in self.moments["param_groups"] for number in group["params"]]
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        like = dict(zip(numbers, parameters, strict=True))
        return {
            number: {
                name: spread_like(value, like[number]) if value.shape == like[number].shape else value
                for name, value in moments.items()
            }
            for number, moments in self.moments["state"].items()
        }


def read_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, plan: dict[str, Any]) -> Saved:
    """A checkpoint that fits the model, in this process' memory; nothing is changed, and no other process asked.

    Raises DamagedState where it cannot be read, and ValueError where `plan` differs from that of the run that wrote it.
    """
    step, digests = check_state(folder, plan)
    try:
        weights = load_file(folder / WEIGHTS)
        saved = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
        moments, scaler = saved["optimizer"], saved["scaler"]
        counts = [len(group["params"]) for group in moments["param_groups"]]
    except pickle.UnpicklingError:  # its own words advise to load it unsafely
        raise DamagedState(f"{folder / OPTIMIZER}: is damaged, or holds more than tensors") from None
    except (OSError, EOFError, RuntimeError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        raise DamagedState(f"{folder}: cannot be read ({error})") from None
    shapes = {name: tensor.shape for name, tensor in trainable_tensors(model).items()}
    if {name: weight.shape for name, weight in weights.items()} != shapes:
        raise ValueError(f"{folder / WEIGHTS}: holds other tensors than this model trains")
    if counts != [len(group["params"]) for group in optimizer.param_groups]:
        raise DamagedState(f"{folder / OPTIMIZER}: cannot be read (it has moments of {sum(counts)} other tensors)")
    return Saved(step, weights, moments, scaler, digests)


def check_state(folder: Path, plan: dict[str, Any]) -> tuple[int, dict[str, str]]:
    """The step of a checkpoint that a run of this plan may go on from, and the digests of its files.

    Raises DamagedState where they are not what was written, and ValueError where `plan` differs from that of the run
    that wrote it.
    """
    state = _read_state(folder)
    _check_plan(folder, state["plan"], plan)
    written = state.get(SHA256) or {}  # older states have none
    try:
        digests = {name: _sha256(folder / name) for name in (WEIGHTS, OPTIMIZER)}
    except OSError as error:
        raise DamagedState(f"{folder}: cannot be read ({error})") from None
    for name, digest in digests.items():
        if written and (not isinstance(written, dict) or written.get(name) != digest):
            raise DamagedState(f"{folder / name}: cannot be read (it is not what was written)")
    return int(state["step"]), digests


def find_checkpoints(run: Path, wanted: str | None) -> list[Path]:
    """``latest`` -> the run's complete checkpoints, newest first; none where it has none yet. Else the named folder.

    None wants none. Raises ValueError for a folder that is no complete checkpoint.
    """
    if wanted is None:
        return []
    if wanted == "latest":
        return [folder for _, folder in reversed(complete_checkpoints(run))]
    for folder in (home_expanded(wanted, "resume_from_checkpoint"), run / wanted):
        if (folder / STATE).is_file():
            return [folder]
    raise SettingError(
        "resume_from_checkpoint", f"{wanted!r}: contains no {STATE}; give 'latest' or a checkpoint-<step> folder"
    )


def complete_checkpoints(run: Path) -> list[tuple[int, Path]]:
    """(step, folder) of the run's checkpoints, oldest first."""
    found = [
        (int(folder.name.removeprefix(PREFIX)), folder)
        for folder in run.glob(f"{PREFIX}*")
        if folder.name.removeprefix(PREFIX).isdigit() and (folder / STATE).is_file()
    ]
    return sorted(found)


def trainable_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint holds of the model, by name: what learns, and the buffers beside it."""
    tensors: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # Batch statistics move only where their layer learns: a frozen base's buffers need no copy.
    for name, buffer in model.named_buffers():
        if f"{name.rpartition('.')[0]}.weight" in tensors:
            tensors[name] = buffer
    return tensors


def _put_together(tensor: Tensor) -> Tensor:
    """On the CPU, in the first process; nothing is left in the others, nor on a GPU beside the next one."""
    together = whole(tensor).detach()
    return torch.empty(0) if rank() else together.cpu().contiguous()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state = read_object(folder / STATE, "the training")
    except ValueError as error:
        raise DamagedState(str(error)) from None
    if not isinstance(state.get("step"), int) or not isinstance(state.get("plan"), dict):
        raise DamagedState(f"{folder / STATE}: does not say which step of which run it is; resume from another state")
    named = folder.name.removeprefix(PREFIX)
    if state["step"] < 1 or (named.isdigit() and int(named) != state["step"]):
        raise DamagedState(f"{folder / STATE}: cannot be of step {state['step']}; resume from another state")
    return state


def _check_plan(folder: Path, saved: dict[str, Any], plan: dict[str, Any]) -> None:
    for key in sorted(saved.keys() | plan.keys()):
        if saved.get(key) != plan.get(key):
            raise ValueError(
                f"{folder}: was written with {key} = {saved.get(key)!r}, now it is {plan.get(key)!r}; "
                "resume with the same, or start another --run"
            )
