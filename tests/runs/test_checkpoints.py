"""Checkpoints are complete or absent, restored bit for bit, and refused if damaged or of another run."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from runs.checkpoints import (
    check_checkpoint,
    complete_checkpoints,
    find_checkpoints,
    save_checkpoint,
    trainable_tensors,
)
from runs.optimization import build_optimizer
from runs.resuming import resume
from runs.settings import OptimizationSettings
from tests.immutable import immutable
from workspace.whole_folders import whole_folder

SETTINGS = OptimizationSettings(learning_rate=1e-3, warmup_ratio=0.1, weight_decay=0.2)
PLAN = {"seed": 1, "processes": 1}


def trained(steps: int, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    model[0].bias.requires_grad_(False)
    optimizer = build_optimizer(model, SETTINGS)
    advance(model, optimizer, 0, steps)
    return model, optimizer


def advance(model: nn.Module, optimizer: torch.optim.Optimizer, start: int, stop: int) -> None:
    for step in range(start, stop):
        torch.manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()


def test_training_resumes_from_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    model, optimizer = trained(3)
    folder = save_checkpoint(tmp_path, 3, model, optimizer, None, PLAN, None)
    advance(model, optimizer, 3, 6)
    other, other_optimizer = trained(0)
    assert resume([folder], other, other_optimizer, None, PLAN) == (3, folder)
    advance(other, other_optimizer, 3, 6)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert "0.bias" not in trainable_tensors(model) and "1.running_mean" in trainable_tensors(model)


def test_only_the_newest_checkpoints_are_kept_and_incomplete_ones_are_ignored(tmp_path: Path) -> None:
    model, optimizer = trained(1)
    for step in (5, 10, 100):
        save_checkpoint(tmp_path, step, model, optimizer, None, PLAN, 2)
    assert [step for step, _ in complete_checkpoints(tmp_path)] == [10, 100]
    shutil.copytree(tmp_path / "checkpoint-100", tmp_path / ".checkpoint-200.partial")
    (tmp_path / "checkpoint-300").mkdir()
    assert find_checkpoints(tmp_path, "latest") == [tmp_path / "checkpoint-100", tmp_path / "checkpoint-10"]
    assert find_checkpoints(tmp_path, "checkpoint-10") == [tmp_path / "checkpoint-10"]
    assert not find_checkpoints(tmp_path / "none", "latest")
    with pytest.raises(ValueError, match=r"checkpoint-300.*give 'latest' or"):
        find_checkpoints(tmp_path, "checkpoint-300")


def test_a_run_resumed_from_an_earlier_checkpoint_deletes_the_later_ones(tmp_path: Path) -> None:
    model, optimizer = trained(1)
    for step in (10, 20, 30, 15):
        save_checkpoint(tmp_path, step, model, optimizer, None, PLAN, 3 if step > 15 else 2)
    assert [step for step, _ in complete_checkpoints(tmp_path)] == [10, 15]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    model, optimizer = trained(1)
    folder = save_checkpoint(tmp_path, 1, model, optimizer, None, PLAN, None)
    with pytest.raises(ValueError, match="was written with processes = 1, now it is 2"):
        resume([folder], model, optimizer, None, PLAN | {"processes": 2})
    with pytest.raises(ValueError, match="other tensors"):
        resume([folder], nn.Linear(2, 2), optimizer, None, PLAN)
    for name in ("optimizer.pt", "trainable.safetensors"):
        (folder / name).write_bytes(b"half a fi")
        with pytest.raises(ValueError, match="cannot be read"):
            resume([folder], model, optimizer, None, PLAN)


def test_a_checkpoint_that_was_changed_is_damaged(tmp_path: Path) -> None:
    """After a power cut, or if the files of two runs were mixed, sizes and shapes may still be right."""
    model, optimizer = trained(2)
    older = save_checkpoint(tmp_path, 2, model, optimizer, None, PLAN, None)
    newest = save_checkpoint(tmp_path, 4, model, optimizer, None, PLAN, None)
    intact = {path.name: path.read_bytes() for path in newest.iterdir()}
    other, other_optimizer = trained(1, seed=5)
    of_other_run = save_checkpoint(tmp_path / "other", 4, other, other_optimizer, None, PLAN, None)
    half = len(intact["trainable.safetensors"]) - 8
    for name, content in (
        ("trainable.safetensors", intact["trainable.safetensors"][:half] + bytes(8)),
        ("optimizer.pt", (of_other_run / "optimizer.pt").read_bytes()),
        ("state.json", intact["state.json"].replace(b'"step": 4', b'"step": -3')),
        ("state.json", intact["state.json"].replace(b'"step": 4', b'"step": 1000')),
        ("state.json", re.sub(rb'"sha256": {[^}]*}', b'"sha256": [1]', intact["state.json"])),
    ):
        assert content != intact[name]
        (newest / name).write_bytes(content)
        assert resume(find_checkpoints(tmp_path, "latest"), model, optimizer, None, PLAN) == (2, older)
        with pytest.raises(ValueError, match=str(newest)):
            resume([newest], model, optimizer, None, PLAN)
        (newest / name).write_bytes(intact[name])
    assert resume([newest], model, optimizer, None, PLAN) == (4, newest)


@pytest.mark.parametrize("name", ["state.json", "optimizer.pt", "trainable.safetensors"])
def test_a_damaged_latest_checkpoint_is_named_and_the_one_before_is_used(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model, optimizer = trained(3)
    older = save_checkpoint(tmp_path, 3, model, optimizer, None, PLAN, None)
    advance(model, optimizer, 3, 6)
    newest = save_checkpoint(tmp_path, 6, model, optimizer, None, PLAN, None)
    (newest / name).write_bytes(b"")
    other, other_optimizer = trained(0)
    assert resume(find_checkpoints(tmp_path, "latest"), other, other_optimizer, None, PLAN) == (3, older)
    printed = capsys.readouterr().out
    assert printed.startswith(f"checkpoint-6 is damaged, an older checkpoint is tried instead: {newest}")
    assert printed.count("\n") == 1
    advance(other, other_optimizer, 3, 6)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match=str(newest)):  # requested by name
        resume(find_checkpoints(tmp_path, "checkpoint-6"), other, other_optimizer, None, PLAN)
    (older / name).write_bytes(b"")
    with pytest.raises(ValueError, match=str(older)):
        resume(find_checkpoints(tmp_path, "latest"), other, other_optimizer, None, PLAN)
    assert resume([], other, other_optimizer, None, PLAN) == (0, None)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    """On a full disk, safetensors and torch raise exceptions of their own, not OSError."""
    (tmp_path / "checkpoint-1").mkdir()
    for error in (SafetensorError("No space left on device"), RuntimeError("file write failed")):
        with pytest.raises(OSError, match="cannot be written"), whole_folder(tmp_path / "checkpoint-1") as partial:
            (partial / "half").write_text("")
            raise error
    assert [path.name for path in tmp_path.rglob("*")] == ["checkpoint-1"]


def test_a_checkpoint_is_synced_to_disk_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, bool]] = []
    write_out = os.fsync

    def note(descriptor: int) -> None:
        found = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((found.relative_to(tmp_path).as_posix(), (tmp_path / "checkpoint-1").exists()))
        write_out(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    save_checkpoint(tmp_path, 1, *trained(1), None, PLAN, None)
    partial, names = ".checkpoint-1.partial", ("trainable.safetensors", "optimizer.pt", "state.json")
    assert set(synced[:3]) == {(f"{partial}/{name}", False) for name in names}
    assert synced[3:] == [(partial, False), (".", True)]


@pytest.mark.parametrize("held", ["optimizer.pt", "trainable.safetensors", "state.json", "."])
def test_an_old_checkpoint_that_stays_is_named_once_and_not_resumed_from(
    held: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The folder itself: it stays whole, and is a good old state."""
    model, optimizer = trained(1)
    save_checkpoint(tmp_path, 1, model, optimizer, None, PLAN, limit=1)
    with immutable(tmp_path / "checkpoint-1" / held):
        for step in (2, 3, 4):
            save_checkpoint(tmp_path, step, model, optimizer, None, PLAN, limit=1)
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1 and "cannot be removed (Operation not permitted)" in said[0]
        names = [folder.name for folder in find_checkpoints(tmp_path, "latest")]
        assert names == (["checkpoint-4", "checkpoint-1"] if held == "." else ["checkpoint-4"])


def test_a_later_checkpoint_of_another_attempt_never_stays_whole(tmp_path: Path) -> None:
    model, optimizer = trained(1)
    for step in (2, 4):
        save_checkpoint(tmp_path, step, model, optimizer, None, PLAN, limit=None)
    with immutable(tmp_path / "checkpoint-4" / "optimizer.pt"):
        save_checkpoint(tmp_path, 3, model, optimizer, None, PLAN, limit=None)
        assert [folder.name for folder in find_checkpoints(tmp_path, "latest")] == ["checkpoint-3", "checkpoint-2"]
        save_checkpoint(tmp_path, 4, model, optimizer, None, PLAN, limit=None)
    with (
        immutable(tmp_path / "checkpoint-4"),
        pytest.raises(OSError, match="checkpoint-4: is of an earlier attempt and cannot be removed"),
    ):
        save_checkpoint(tmp_path, 3, model, optimizer, None, PLAN, limit=None)


@pytest.mark.parametrize(
    ("saved", "now", "is_same"),
    [
        ({"model": "local-dir:/a/x", "base_sha256": "1"}, {"model": "local-dir:/b/x", "base_sha256": "1"}, True),
        ({"model": "hf:/a/x", "base_sha256": "1"}, {"model": "hf:/b/y", "base_sha256": "1"}, True),
        ({"pretrained": "/a/x.pt", "base_sha256": "1"}, {"pretrained": "/b/x.pt", "base_sha256": "1"}, True),
        ({"model": "local-dir:/a/x", "base_sha256": None}, {"model": "local-dir:/a/x", "base_sha256": "1"}, True),
        ({"model": "local-dir:/a/x", "base_sha256": "1"}, {"model": "local-dir:/b/x", "base_sha256": "2"}, False),
        ({"model": "local-dir:/a/x", "base_sha256": None}, {"model": "local-dir:/b/x", "base_sha256": "1"}, False),
        ({"model": "local-dir:/a/x", "base_sha256": "1"}, {"model": "hf:/a/x", "base_sha256": "1"}, False),
        ({"pretrained": "openai", "base_sha256": "1"}, {"pretrained": "/b/x.pt", "base_sha256": "1"}, False),
    ],
)
def test_a_base_may_lie_elsewhere_if_its_weights_are_the_same(
    saved: dict[str, Any], now: dict[str, Any], is_same: bool, tmp_path: Path
) -> None:
    model, optimizer = trained(1)
    folder = save_checkpoint(tmp_path, 1, model, optimizer, None, PLAN | saved, limit=1)
    if is_same:
        assert check_checkpoint(folder, PLAN | now)[0] == 1
    else:
        with pytest.raises(ValueError, match="was written with"):
            check_checkpoint(folder, PLAN | now)
