"""Fixtures that several rooms' tests share."""

from pathlib import Path

import pytest

from tests.tiny_dataset import write_tiny_dataset


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
