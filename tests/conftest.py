"""Fixtures that the tests of several packages share."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.tiny_dataset import write_tiny_dataset
from tests.training_runs import Train


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The ``local-dir:`` name of a base model with random weights."""
    from tests.tiny_model import write_tiny_base  # imports torch, only if a test needs it

    return write_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with six studies and all their sites, whose crops show the severity clearly."""
    root = tmp_path_factory.mktemp("root")
    write_tiny_dataset(root / "train" / "processed_data")
    return root


@pytest.fixture(scope="session")
def evaluated_root(tmp_path_factory: pytest.TempPathFactory, tiny_base: str) -> Path:
    """A data root with a prepared phantom cohort and the evaluated run `first`."""
    from tests.evaluated_root import write_evaluated_root

    root = tmp_path_factory.mktemp("evaluated")
    write_evaluated_root(root, tiny_base)
    return root


@pytest.fixture
def train(tiny_root: Path, tiny_base: str, monkeypatch: pytest.MonkeyPatch) -> Train:
    """A function that runs ``train_vl.py --run NAME ...`` in this process and returns its exit status."""
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

    return run


@pytest.fixture(scope="session")
def family_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """A function from a name in `tests.small_families.FAMILIES` to the ``--model`` of a small base of that family.

    Each base is written to disk once.
    """

    @cache
    def base(family: str) -> str:
        from tests.small_families import FAMILIES

        return FAMILIES[family](tmp_path_factory.mktemp(family.replace(" ", "-")))

    return base
