"""Several processes resume from the same checkpoint, or none of them does."""

import os
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn

import train_vl
from runs.checkpoints import find_checkpoints, save_checkpoint
from runs.processes.collectives import rank
from runs.resuming import resume
from tests.processes import in_processes
from tests.training_runs import command

PLAN: dict[str, Any] = {"seed": 1, "processes": 2, "held_out_folds": [0]}
SHORT = ["--max_train_steps", "2", "--per_device_train_batch_size", "5", "--checkpointing_steps", "1"]


def small_model(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    return model, torch.optim.AdamW(model.parameters())


def resume_each(cases: list[tuple[Path, dict[str, Any], str | None]]) -> None:
    """Resume from the checkpoints that each process has in a subfolder of its own.

    cases: the folder, the plan of the second process, and the error that both processes must raise.
    """
    for folder, other_plan, words in cases:
        model, optimizer = small_model(9)
        checkpoints = find_checkpoints(folder / str(rank()), "latest")
        with pytest.raises(ValueError, match=words) if words else nullcontext():
            resume(checkpoints, model, optimizer, None, other_plan if rank() else PLAN)


def test_all_processes_resume_alike_or_none_does(tmp_path: Path) -> None:
    one, other = small_model(1), small_model(2)
    for process in (0, 1):
        save_checkpoint(tmp_path / "same" / str(process), 5, *one, None, PLAN, None)
        save_checkpoint(tmp_path / "steps" / str(process), 5 + process, *one, None, PLAN, None)
        save_checkpoint(tmp_path / "weights" / str(process), 5, *(other if process else one), None, PLAN, None)
        for step in (3, 5):
            save_checkpoint(tmp_path / "damaged" / str(process), step, *one, None, PLAN, None)
    (tmp_path / "damaged" / "1" / "checkpoint-5" / "state.json").write_bytes(b"")
    folds = PLAN | {"held_out_folds": [1]}
    cases = [
        (tmp_path / "same", PLAN, None),
        (tmp_path / "none", PLAN, None),
        (
            tmp_path / "steps",
            PLAN,
            "step is 5 in process 0, but 6 in process 1; all machines must see the same",
        ),
        (tmp_path / "damaged", PLAN, "step is 5 in process 0, but 3 in process 1"),
        (
            tmp_path / "weights",
            PLAN,
            "sha256 of trainable.safetensors is '[0-9a-f]{64}' in process 0, but '[0-9a-f]{64}' in process 1",
        ),
        (tmp_path / "none", folds, r"held_out_folds is \[0\] in process 0, but \[1\] in process 1"),
    ]
    in_processes(2, resume_each, cases)


def train_from(roots: tuple[Path, Path], base: str, arguments: list[str], words: str | None) -> None:
    """Run train_vl.py with another root in each process, as if a path led to different disks on two machines."""
    os.environ |= {"RANK": str(rank()), "LOCAL_RANK": str(rank()), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    os.environ["OMP_NUM_THREADS"] = "1"  # the threads of the test's process do not exist in a fork
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
    }  # required but not used: the process group exists already
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()
    sys.argv = command(roots[rank()], base, "apart", *arguments)
    with pytest.raises(ValueError, match=words) if words else nullcontext():
        train_vl.main()


def test_processes_with_different_roots_are_refused(tiny_root: Path, tiny_base: str, tmp_path: Path) -> None:
    roots = (tmp_path / "first", tmp_path / "second")
    shutil.copytree(tiny_root / "train" / "processed_data", roots[0] / "train" / "processed_data")
    in_processes(2, train_from, (roots[0], roots[0]), tiny_base, SHORT, None)
    shutil.copytree(roots[0], roots[1])
    shutil.rmtree(roots[1] / "train" / "checkpoints" / "apart" / "checkpoint-2")
    latest = [*SHORT, "--resume_from_checkpoint", "latest"]
    in_processes(2, train_from, roots, tiny_base, latest, "step is 2 in process 0, but 1 in process 1")
