"""What made a run: its settings and data, the versions of the packages, the state of the checkout, the machine."""

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "peft", "accelerate", "transformers", "numpy")
CHECKOUT = Path(__file__).resolve().parents[1]
GIT_SECONDS = 20
RUN_SCHEMA_VERSION = 1


def run_record(
    settings: dict[str, Any], dataset_fingerprint: str, steps: int, accelerator: Accelerator
) -> dict[str, Any]:
    """``run.json``: what a reader needs to know of a run, and later commands of its folds and data.

    The data root is left out of the settings: the run lies in it, wherever it is moved.
    """
    return {
        "schema_version": RUN_SCHEMA_VERSION,
        "settings": {name: value for name, value in settings.items() if name != "root"},
        "held_out_folds": settings["held_out_folds"],
        "dataset_fingerprint": dataset_fingerprint,
        "steps": steps,
        "processes": accelerator.num_processes,
        "processes_a_machine": int(os.environ.get("LOCAL_WORLD_SIZE") or 1),
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
    """Of a GPU its model, of a CPU its architecture."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str | None]:
    """Of Python and of the packages; None for one that is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in packages}


def git_state(checkout: Path = CHECKOUT) -> dict[str, Any] | None:
    """The commit, and whether tracked files differ from it; None where `checkout` is not a git checkout of its own."""
    try:
        if Path(_git(checkout, "rev-parse", "--show-toplevel")).resolve() != checkout.resolve():
            return None
        changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
        return {"commit": _git(checkout, "rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):  # no git, no repository, no commit yet, or not ours to read
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(checkout: Path, *arguments: str) -> str:
    command = ["git", "-C", str(checkout), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    return done.stdout.strip()
