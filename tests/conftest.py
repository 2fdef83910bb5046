"""Fixtures that several rooms' tests share."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.tiny_dataset import write_tiny_dataset
from tests.training_runs import Train


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """``local-dir:`` name of a base model of random weights."""
    from tests.tiny_model import write_tiny_base  # torch only where a test needs it

    return write_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root whose processed_data shows severity plainly: six studies, all sites."""
    root = tmp_path_factory.mktemp("root")
    write_tiny_dataset(root / "train" / "processed_data")
    return root


@pytest.fixture
def train(tiny_root: Path, tiny_base: str, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Run ``train_vl.py --run RUN ...`` in this process; its exit status."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    import train_vl
    from workspace.cli import run_command

    def run(name: str, *arguments: str) -> int:
        for state in (AcceleratorState, PartialState, GradientState):
            state._reset_state()
        common = ["--root", str(tiny_root), "--model", tiny_base, "--run", name, "--report_to", "none"]
        monkeypatch.setattr(sys, "argv", ["train_vl.py", *common, *arguments])
        with pytest.raises(SystemExit) as left:
            run_command("train_vl.py", train_vl.main)
        return int(left.value.code or 0)

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return run


@pytest.fixture(scope="session")
def family_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """A family's name in `tests.small_families.FAMILIES` -> what ``--model`` calls a small base of it, on disk once."""

    @cache
    def base(family: str) -> str:
        from tests.small_families import FAMILIES

        return FAMILIES[family](tmp_path_factory.mktemp(family.replace(" ", "-")))

    return base
