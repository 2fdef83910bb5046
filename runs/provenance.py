"""The provenance of a run: its settings and data, the versions of the packages, the git commit and the machine."""

import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from runs.processes.launch import Launch
from runs.processes.launch_environment import compiles, heeded_variables

PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "peft", "accelerate", "transformers", "numpy")
CHECKOUT = Path(__file__).resolve().parents[1]
GIT_SECONDS = 20
RUN_SCHEMA_VERSION = 1


def build_run_record(
    settings: dict[str, Any],
    dataset_fingerprint: str,
    steps: int,
    accelerator: Accelerator,
    launch: Launch,
    ignored: Mapping[str, str],
) -> dict[str, Any]:
    """Return the content of ``run.json``, for readers and for the commands that use the run.

    Args:
        settings: all resolved settings. The data root is left out, because it can be moved with the run inside.
        dataset_fingerprint: the fingerprint of the data that is learned from.
        steps: the number of steps of the whole training.
        accelerator: the processes, with their device and precision.
        launch: how they were started.
        ignored: further environment variables that would have changed the training, and were ignored.
    """
    return {
        "schema_version": RUN_SCHEMA_VERSION,
        "settings": {name: value for name, value in settings.items() if name != "root"},
        "held_out_folds": settings["held_out_folds"],
        "dataset_fingerprint": dataset_fingerprint,
        "steps": steps,
        "processes": accelerator.num_processes,
        "launcher": launch.launcher,
        "sharded": launch.shards and accelerator.num_processes > 1,
        "gradient_accumulation_steps": settings.get("gradient_accumulation_steps", 1),
        "compiled": bool(settings.get("compile")) and compiles(),
        "environment": heeded_variables(),
        "ignored_environment": dict(launch.world.ignored) | dict(ignored),
        "device": str(accelerator.device),
        "device_name": device_name(accelerator.device),
        "threads": torch.get_num_threads(),
        "mixed_precision": accelerator.mixed_precision,
        "seed": settings["seed"],
        "versions": versions(),
        "git": git_state(),
        "finished": False,
    }


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or the architecture of a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str | None]:
    """Return the version of Python and of each package; None for a package that is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in packages}


def git_state(checkout: Path = CHECKOUT) -> dict[str, Any] | None:
    """Return the commit, and whether tracked files differ from it; None if `checkout` is not the top of a checkout."""
    try:
        if Path(_git(checkout, "rev-parse", "--show-toplevel")).resolve() != checkout.resolve():
            return None
        changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
        return {"commit": _git(checkout, "rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):  # no git, no repository, no commit yet, or another user's
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(checkout: Path, *arguments: str) -> str:
    command = ["git", "-C", str(checkout), *arguments]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    return completed.stdout.strip()
