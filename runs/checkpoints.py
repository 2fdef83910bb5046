"""Checkpoints: a run that is resumed from ``checkpoint-<step>/`` has the same result as an uninterrupted run.

    trainable.safetensors   the weights that are trained, and the buffers of their layers
    optimizer.pt            the optimizer's moments, and the state of the fp16 scaler if there is one
    state.json              the step, the plan, and the SHA-256 of both files; written last

A folder gets its name by rename, when it is complete. Every random number is a function of (seed, step), so a
checkpoint contains no state of a random generator.
"""

import hashlib
import json
import pickle
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from runs.processes.collectives import rank
from runs.processes.full_tensors import full_tensor, shard_like
from runs.run_folder import CHECKPOINT, STATE_FILE, complete_checkpoints
from workspace.json_files import read_object
from workspace.layout import home_expanded
from workspace.setting_error import SettingError
from workspace.tidying import discard_folder
from workspace.whole_folders import whole_folder

WEIGHTS_FILE = "trainable.safetensors"
OPTIMIZER_FILE = "optimizer.pt"
SHA256 = "sha256"
#: Settings that may name files, and the digest of what they name: files with the same digest may lie elsewhere now.
DIGESTS = {"model": "base_sha256", "pretrained": "base_sha256"}
#: Settings that the plans of earlier versions lack, with the values that they had then.
LATER_SETTINGS = {"crops": "64 mm at 0.5 mm per pixel", "view_mm": 48.0, "drop_tile": 0.0, "jitter_slice": 0.0}


class DamagedCheckpoint(ValueError):
    """A checkpoint cannot be read. An older one may be intact."""


def save_checkpoint(
    run: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: Any,
    plan: dict[str, Any],
    limit: int | None,
) -> Path:
    """Write ``run/checkpoint-<step>``, delete the checkpoints that it replaces, and return its folder.

    Every process must call this; the first one writes. Checkpoints of later steps are deleted too: they belong to an
    earlier attempt, if the run was resumed from a checkpoint that was not its last.

    Args:
        run: the run's folder.
        step: the number of steps that have been taken.
        model, optimizer: what is trained. Sharded tensors are written as full ones.
        scaler: the fp16 gradient scaler, if any.
        plan: the settings and fingerprints that a resumed run must share with the checkpoint.
        limit: the number of newest checkpoints to keep; None keeps all.
    """
    folder = run / f"{CHECKPOINT}{step}"
    weights = {name: _full_on_cpu(tensor) for name, tensor in trainable_tensors(model).items()}
    moments = tree_map_only(Tensor, _full_on_cpu, optimizer.state_dict())
    if rank():
        return folder
    state = {"optimizer": moments, "scaler": scaler.state_dict() if scaler else None}
    with whole_folder(folder) as partial:
        save_file(weights, partial / WEIGHTS_FILE)
        with (partial / OPTIMIZER_FILE).open("wb") as file:  # torch takes no name that is not UTF-8
            torch.save(state, file)
        files = {name: _sha256(partial / name) for name in (WEIGHTS_FILE, OPTIMIZER_FILE)}
        content = {"step": step, "plan": plan, SHA256: files}
        (partial / STATE_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    _remove_replaced(run, step, limit)
    return folder


def _remove_replaced(run: Path, step: int, limit: int | None) -> None:
    """Delete the checkpoints of later steps, and the oldest of those up to `step`.

    Raises OSError if one of a later step stays whole: the run would be resumed from it. An old one may stay.
    """
    earlier = [path for number, path in complete_checkpoints(run) if number <= step]
    later = [path for number, path in complete_checkpoints(run) if number > step]
    for path in earlier[: -limit if limit else 0]:
        discard_folder(path, STATE_FILE)
    for path in later:
        if not discard_folder(path, STATE_FILE):
            raise OSError(f"{path}: is of an earlier attempt and cannot be removed; choose another name for the run")


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint: full tensors, on the CPU.

    Args:
        step: the number of steps that had been taken.
        weights: the trained weights and their buffers, by name.
        moments: the `state_dict` of the optimizer.
        scaler: the `state_dict` of the fp16 gradient scaler, if there was one.
        digests: the SHA-256 of the checkpoint's files, by name.
    """

    step: int
    weights: dict[str, Tensor]
    moments: dict[str, Any]
    scaler: dict[str, Any] | None
    digests: dict[str, str]

    def load_into(self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any) -> None:
        """Load the content into the model, the optimizer and the scaler, in place.

        If the weights are sharded, every process must call this; all get their shards of the first one's tensors.
        """
        for name, tensor in trainable_tensors(model).items():
            tensor.data.copy_(shard_like(self.weights[name], tensor))
        optimizer.load_state_dict({**self.moments, "state": self._sharded_moments(optimizer)})
        if scaler and self.scaler:
            scaler.load_state_dict(self.scaler)

    def _sharded_moments(self, optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
        """Return the moments by the number of their parameter, sharded like it.

        They are sharded one at a time; `load_state_dict` itself would take them as full tensors.
        """
        numbers = [number for group in self.moments["param_groups"] for number in group["params"]]
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        parameter_of = dict(zip(numbers, parameters, strict=True))
        return {
            number: {
                name: shard_like(value, parameter_of[number]) if value.shape == parameter_of[number].shape else value
                for name, value in moments.items()
            }
            for number, moments in self.moments["state"].items()
        }


def read_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, plan: dict[str, Any]
) -> Checkpoint:
    """Read a checkpoint into the memory of this process. Model and optimizer are not changed.

    Raises DamagedCheckpoint if it cannot be read, and ValueError if it was written for another plan or another model.
    """
    step, digests = check_checkpoint(folder, plan)
    try:
        weights = load_file(folder / WEIGHTS_FILE)
        saved = torch.load(folder / OPTIMIZER_FILE, map_location="cpu", weights_only=True)
        moments, scaler = saved["optimizer"], saved["scaler"]
        counts = [len(group["params"]) for group in moments["param_groups"]]
    except pickle.UnpicklingError:  # torch's message advises to load the file unsafely
        raise DamagedCheckpoint(f"{folder / OPTIMIZER_FILE}: is damaged, or contains more than tensors") from None
    except (OSError, EOFError, RuntimeError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        raise DamagedCheckpoint(f"{folder}: cannot be read ({error})") from None
    shapes = {name: tensor.shape for name, tensor in trainable_tensors(model).items()}
    if {name: weight.shape for name, weight in weights.items()} != shapes:
        raise ValueError(f"{folder / WEIGHTS_FILE}: contains other tensors than this model trains")
    if counts != [len(group["params"]) for group in optimizer.param_groups]:
        raise DamagedCheckpoint(
            f"{folder / OPTIMIZER_FILE}: cannot be read (it contains the moments of {sum(counts)} other tensors)"
        )
    return Checkpoint(step, weights, moments, scaler, digests)


def check_checkpoint(folder: Path, plan: dict[str, Any]) -> tuple[int, dict[str, str]]:
    """Check a checkpoint without reading its tensors; return its step and the SHA-256 of its files, by name.

    Raises DamagedCheckpoint if a file is missing or was changed, and ValueError if it was written for another plan.
    """
    state = _read_state(folder)
    _check_plan(folder, state["plan"], plan)
    written = state.get(SHA256) or {}  # older checkpoints have none
    try:
        digests = {name: _sha256(folder / name) for name in (WEIGHTS_FILE, OPTIMIZER_FILE)}
    except OSError as error:
        raise DamagedCheckpoint(f"{folder}: cannot be read ({error})") from None
    for name, digest in digests.items():
        if written and (not isinstance(written, dict) or written.get(name) != digest):
            raise DamagedCheckpoint(f"{folder / name}: cannot be read (it was changed after it was written)")
    return int(state["step"]), digests


def find_checkpoints(run: Path, requested: str | None) -> list[Path]:
    """Return the checkpoints that the run may resume from, in order of preference.

    Args:
        run: the run's folder.
        requested: the setting resume_from_checkpoint: ``latest`` for all complete checkpoints of the run, newest first,
            or one folder, by its path or its name within the run. None: no checkpoint.

    Raises SettingError if that folder is not a complete checkpoint.
    """
    if requested is None:
        return []
    if requested == "latest":
        return [folder for _, folder in reversed(complete_checkpoints(run))]
    places = (home_expanded(requested, "resume_from_checkpoint"), run / requested)
    for folder in places:
        if (folder / STATE_FILE).is_file():
            return [folder]
    if any(folder.is_dir() for folder in places):
        raise SettingError(
            "resume_from_checkpoint",
            f"{requested!r}: contains no {STATE_FILE}; give 'latest' or a checkpoint-<step> folder",
        )
    names = [folder.name for _, folder in complete_checkpoints(run)]
    there = f"has {', '.join(names)}" if names else "has no complete checkpoint"
    raise SettingError("resume_from_checkpoint", f"{requested!r}: no such folder; the run {run.name!r} {there}")


def trainable_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's tensors that a checkpoint contains: trained weights, and the buffers of their layers."""
    tensors: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # Batch statistics change only in layers that are trained: those of a frozen base need no copy.
    for name, buffer in model.named_buffers():
        if f"{name.rpartition('.')[0]}.weight" in tensors:
            tensors[name] = buffer
    return tensors


def planned(checkpoints: Sequence[Path], key: str) -> Any:
    """Return an entry of the plan of the first checkpoint whose plan can be read; None without one."""
    for folder in checkpoints:
        with suppress(DamagedCheckpoint):
            return _read_state(folder)["plan"].get(key)
    return None


def _full_on_cpu(tensor: Tensor) -> Tensor:
    """Return the full tensor on the CPU in the first process, and an empty one in the others."""
    full = full_tensor(tensor).detach()
    return torch.empty(0) if rank() else full.cpu().contiguous()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state = read_object(folder / STATE_FILE, "the training")
    except ValueError as error:
        raise DamagedCheckpoint(str(error)) from None
    if not isinstance(state.get("step"), int) or not isinstance(state.get("plan"), dict):
        raise DamagedCheckpoint(f"{folder / STATE_FILE}: contains no step or no plan; resume from another checkpoint")
    suffix = folder.name.removeprefix(CHECKPOINT)
    if state["step"] < 1 or (suffix.isdigit() and int(suffix) != state["step"]):
        raise DamagedCheckpoint(
            f"{folder / STATE_FILE}: contains the impossible step {state['step']}; resume from another checkpoint"
        )
    return state


def _check_plan(folder: Path, saved: dict[str, Any], plan: dict[str, Any]) -> None:
    saved, plan = LATER_SETTINGS | saved, LATER_SETTINGS | plan
    for key in sorted(saved.keys() | plan.keys()):
        if saved.get(key) != plan.get(key) and not _is_same_file(key, saved, plan):
            raise ValueError(
                f"{folder}: was written with {key} = {saved.get(key)!r}, now it is {plan.get(key)!r}; "
                "resume with the same value, or start another run"
            )


def _is_same_file(key: str, saved: dict[str, Any], plan: dict[str, Any]) -> bool:
    """Return whether a setting that differs names the same file at another place. Older plans may lack a digest."""
    if key in DIGESTS.values():
        return saved.get(key) is None
    digest = saved.get(DIGESTS.get(key, ""))
    names = [str(settings.get(key)) for settings in (saved, plan)]
    kinds = {name.rpartition(":")[0] for name in names}
    return bool(digest) and digest == plan.get(DIGESTS[key]) and len(kinds) == 1 and all("/" in name for name in names)
