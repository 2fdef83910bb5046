"""The examination before the first step: against what a step really keeps, and what it says of what is wrong."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.runs import Train
from vl_model import doctor
from vl_model.memory import estimate_memory, saved_bytes


def test_all_is_well_and_nothing_is_written(train: Train, tiny_root: Path, capsys: pytest.CaptureFixture) -> None:
    before = sorted(path for path in tiny_root.rglob("*"))
    assert train("well", "--doctor", "--per_device_train_batch_size", "10") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * 10
    names = "packages devices processes precision run data set crops model memory disk"
    assert " ".join(line[5:16].strip() for line in lines) == names
    assert sorted(path for path in tiny_root.rglob("*")) == before


def test_what_is_wrong_is_said_line_by_line(
    train: Train, tiny_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["--doctor", "--per_device_train_batch_size", "10"]
    assert train("ill", *arguments, "--held_out_folds", "9", "--model", "lumbar-tiny") == 2
    ill = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("ok")]
    assert len(ill) == 2 and "--held_out_folds [9]" in ill[0] and "train it from nothing with --tune full" in ill[1]
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    monkeypatch.setattr(doctor, "version", lambda name: "1.0" if name == "torch" else "0.0")
    monkeypatch.setattr(doctor, "requires", lambda _: ["numpy", "torch==2.0"])
    assert train("ill", *arguments) == 2
    ill = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("ok")]
    assert len(ill) == 2 and "install the two together" in ill[0] and "make room" in ill[1]


def test_kept_bytes_are_those_of_the_layers_inputs() -> None:
    """A linear layer keeps its input for its weight, a ReLU its output: 4 bytes a number, each storage once."""
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    assert saved_bytes(model, lambda: model(torch.zeros(5, 8))) == 4 * 5 * (8 + 16)
    found = estimate_memory(model, lambda count: model(torch.zeros(count, 8)), 100)
    assert found.activations == 4 * 100 * (8 + 16) and found.moments == 2 * found.gradients
    assert found.gradients == found.weights == 4 * (8 * 16 + 16 + 16 * 4 + 4)
    model[0].requires_grad_(False)
    assert saved_bytes(model, lambda: model(torch.zeros(5, 8))) == 4 * 5 * 16
