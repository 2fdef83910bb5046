"""Runs of ``train_vl.py`` on the small data set, and the files that they write."""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

REPOSITORY = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": "/nonexistent"}
#: Columns of metrics.csv that are measured times.
TIMED = ("sites_per_second", "evaluation_seconds")

Train = Callable[..., int]


def final(root: Path, run: str) -> "dict[str, Tensor]":
    """Return the weights of a run's result, by name."""
    from safetensors.torch import load_file  # imports torch, only if a test needs it

    folder = root / "train" / "checkpoints" / run / "final"
    return {k: v for path in sorted(folder.glob("*.safetensors")) for k, v in load_file(path).items()}


def metrics(root: Path, run: str) -> list[dict[str, str]]:
    """Return the rows of a run's metrics.csv."""
    with (root / "train" / "logs" / run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_result(root: Path, one: str, other: str) -> None:
    """Assert that the weights and the metrics of two runs are bitwise equal, except measured times."""
    first, second = final(root, one), final(root, other)
    assert first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)
    for row, again in zip(metrics(root, one), metrics(root, other), strict=True):
        assert {k: v for k, v in row.items() if k not in TIMED} == {k: v for k, v in again.items() if k not in TIMED}


def command(root: Path, base: str, run: str, *arguments: str) -> list[str]:
    """Return the words of a command that trains a run."""
    return ["train_vl.py", "--root", str(root), "--model", base, "--run", run, "--report_to", "none", *arguments]
