import csv
import json
import math
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from runs import accelerators, launch
from runs.accelerators import choose_precision
from runs.checkpoints import (
    complete_checkpoints,
    find_checkpoints,
    save_checkpoint,
    trainable_tensors,
)
from runs.launch import Launch, read_launch, threads_per_process
from runs.metrics_csv import MetricsFile
from runs.optimization import build_optimizer, learning_rate_at
from runs.resuming import resume
from runs.shutdown import SKIPPED_STEPS, Diverged, FiniteCheck, check_exploded
from vl_model.data.targets import one_hot_targets
from vl_model.training.loss import contrastive_loss
from vl_model.training.trainer import METRICS, TrainingSettings, held_out_sums
from workspace.whole_folders import whole_folder

SETTINGS = TrainingSettings(steps=100, learning_rate=1e-3, warmup_steps=10, weight_decay=0.2)
PLAN = {"seed": 1, "processes": 1}


def test_rate_rises_then_falls_along_a_cosine() -> None:
    rates = [learning_rate_at(step, SETTINGS) for step in range(101)]
    assert rates[0] == pytest.approx(1e-4) and rates[9] == rates[10] == pytest.approx(1e-3)
    assert rates[55] == pytest.approx(0.5e-3) and rates[100] == pytest.approx(0, abs=1e-12)
    assert all(rates[step] >= rates[step + 1] for step in range(10, 100))
    assert learning_rate_at(0, TrainingSettings(steps=0, learning_rate=1.0, warmup_steps=0)) == 1.0


def test_only_matrices_decay() -> None:
    model = nn.ModuleDict({"linear": nn.Linear(3, 2), "norm": nn.LayerNorm(3)})
    model.register_parameter("positional_embedding", nn.Parameter(torch.ones(4, 3)))
    model.register_parameter("trunk_pos_embed", nn.Parameter(torch.ones(1, 2, 3)))
    model["norm"].bias.requires_grad_(False)
    decayed, kept = build_optimizer(model, SETTINGS).param_groups
    assert decayed["weight_decay"] == 0.2 and kept["weight_decay"] == 0.0
    assert [p.shape for p in decayed["params"]] == [(2, 3)]
    assert sum(p.numel() for p in kept["params"]) == 2 + 3 + 12 + 6


def test_precision_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_precision("auto", use_cpu=True) == "no" and choose_precision("bf16", use_cpu=True) == "bf16"
    for capability, expected in (((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda found=capability: found)
        assert choose_precision("auto", use_cpu=False) == choose_precision("fast", use_cpu=False) == expected
    for has_instructions, expected in ((True, "bf16"), (False, "no")):
        monkeypatch.setattr(accelerators, "cpu_computes_in_bf16", lambda answer=has_instructions: answer)
        assert choose_precision("fast", use_cpu=True) == expected


def test_held_out_terms_are_those_of_the_loss() -> None:
    torch.manual_seed(0)
    image_BD = nn.functional.normalize(torch.randn(7, 5), dim=-1)
    text_KD = nn.functional.normalize(torch.randn(75, 5), dim=-1)
    caption_B, scale = torch.randint(0, 75, (7,)), torch.tensor(9.0)
    whole = contrastive_loss(image_BD, text_KD, scale, one_hot_targets(caption_B))
    sums = sum(held_out_sums(image_BD[part], text_KD, scale, caption_B[part]) for part in (slice(0, 3), slice(3, 7)))
    assert sums[2] == 7
    assert (sums[0] / 7).item() == pytest.approx(whole.caption.item(), rel=1e-5)
    assert (sums[1] / 7).item() == pytest.approx(whole.severity.item(), rel=1e-5)


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


def test_a_restored_state_goes_on_to_the_bit(tmp_path: Path) -> None:
    model, optimizer = trained(3)
    folder = save_checkpoint(tmp_path, 3, model, optimizer, None, PLAN, None)
    advance(model, optimizer, 3, 6)
    other, other_optimizer = trained(0)
    assert resume([folder], other, other_optimizer, None, PLAN) == (3, folder)
    advance(other, other_optimizer, 3, 6)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert "0.bias" not in trainable_tensors(model) and "1.running_mean" in trainable_tensors(model)


def test_only_the_newest_states_are_kept_and_broken_ones_ignored(tmp_path: Path) -> None:
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


def test_a_run_resumed_from_earlier_drops_the_states_of_its_other_future(tmp_path: Path) -> None:
    model, optimizer = trained(1)
    for step in (10, 20, 30, 15):
        save_checkpoint(tmp_path, step, model, optimizer, None, PLAN, 3 if step > 15 else 2)
    assert [step for step, _ in complete_checkpoints(tmp_path)] == [10, 15]


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
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


def test_the_first_loss_is_that_of_the_run(tmp_path: Path) -> None:
    """And not of the start: a resumed run is called exploded where the unbroken one would be."""
    path, columns = tmp_path / "metrics.csv", ["step", "loss"]
    file = MetricsFile(path, 0, columns)
    assert file.first("loss") is None
    for step, loss in enumerate((12.5, 6.0), start=1):
        file.write({"step": step, "loss": loss})
    file.close()
    assert MetricsFile(path, 1, columns).first("loss") == 12.5
    path.write_text(path.read_text().replace("12.5", "1x2"))
    with pytest.raises(ValueError, match=r"metrics.csv: cannot be gone on with \(its first loss is '1x2'\); delete it"):
        MetricsFile(path, 1, columns).first("loss")
    assert MetricsFile(path, 0, columns).first("loss") is None


def test_a_state_that_is_not_what_was_written_is_damaged(tmp_path: Path) -> None:
    """As after a power cut, or where files were put together of two runs: sizes and shapes say nothing."""
    model, optimizer = trained(2)
    older = save_checkpoint(tmp_path, 2, model, optimizer, None, PLAN, None)
    newest = save_checkpoint(tmp_path, 4, model, optimizer, None, PLAN, None)
    whole = {path.name: path.read_bytes() for path in newest.iterdir()}
    other, other_optimizer = trained(1, seed=5)
    strange = save_checkpoint(tmp_path / "other", 4, other, other_optimizer, None, PLAN, None)
    half = len(whole["trainable.safetensors"]) - 8
    for name, content in (
        ("trainable.safetensors", whole["trainable.safetensors"][:half] + bytes(8)),
        ("optimizer.pt", (strange / "optimizer.pt").read_bytes()),
        ("state.json", whole["state.json"].replace(b'"step": 4', b'"step": -3')),
        ("state.json", whole["state.json"].replace(b'"step": 4', b'"step": 1000')),
        ("state.json", re.sub(rb'"sha256": {[^}]*}', b'"sha256": [1]', whole["state.json"])),
    ):
        assert content != whole[name]
        (newest / name).write_bytes(content)
        assert resume(find_checkpoints(tmp_path, "latest"), model, optimizer, None, PLAN) == (2, older)
        with pytest.raises(ValueError, match=str(newest)):
            resume([newest], model, optimizer, None, PLAN)
        (newest / name).write_bytes(whole[name])
    assert resume([newest], model, optimizer, None, PLAN) == (4, newest)


@pytest.mark.parametrize("name", ["state.json", "optimizer.pt", "trainable.safetensors"])
def test_a_damaged_latest_state_is_named_and_the_one_before_gone_on_from(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model, optimizer = trained(3)
    older = save_checkpoint(tmp_path, 3, model, optimizer, None, PLAN, None)
    advance(model, optimizer, 3, 6)
    newest = save_checkpoint(tmp_path, 6, model, optimizer, None, PLAN, None)
    (newest / name).write_bytes(b"")
    other, other_optimizer = trained(0)
    assert resume(find_checkpoints(tmp_path, "latest"), other, other_optimizer, None, PLAN) == (3, older)
    said = capsys.readouterr().out
    assert said.startswith(f"checkpoint-6 is left out for an older state: {newest}") and said.count("\n") == 1
    advance(other, other_optimizer, 3, 6)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match=str(newest)):  # asked for by name
        resume(find_checkpoints(tmp_path, "checkpoint-6"), other, other_optimizer, None, PLAN)
    (older / name).write_bytes(b"")
    with pytest.raises(ValueError, match=str(older)):
        resume(find_checkpoints(tmp_path, "latest"), other, other_optimizer, None, PLAN)
    assert resume([], other, other_optimizer, None, PLAN) == (0, None)


def test_a_state_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    """As on a full disk, which safetensors and torch answer with errors of their own."""
    (tmp_path / "checkpoint-1").mkdir()
    for error in (SafetensorError("No space left on device"), RuntimeError("file write failed")):
        with pytest.raises(OSError, match="cannot be written"), whole_folder(tmp_path / "checkpoint-1") as partial:
            (partial / "half").write_text("")
            raise error
    assert [path.name for path in tmp_path.rglob("*")] == ["checkpoint-1"]


def test_a_state_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_resumed_run_drops_the_rows_that_it_writes_again(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "metrics.csv"
    first = MetricsFile(path, 0, METRICS)
    for step in (1, 2, 3):
        first.write({"step": step, "loss": 1 / step})
    first.close()
    again = MetricsFile(path, 2, METRICS)
    again.write({"step": 3, "loss": math.pi})
    again.close()
    rows = list(csv.DictReader(path.open()))
    assert tuple(rows[0]) == METRICS and [row["step"] for row in rows] == ["1", "2", "3"]
    assert float(rows[2]["loss"]) == math.pi and float(rows[1]["loss"]) == 0.5


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"step\nx\n", bytes(range(256))])
def test_a_damaged_record_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"metrics\.csv: cannot be gone on with"):
        MetricsFile(path, 2, METRICS)
    assert path.read_bytes() == content


def test_launch_is_read_from_the_launchers_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    config = tmp_path / "two.yaml"
    config.write_text("num_processes: 2\nuse_cpu: true\n")
    assert read_launch([]) == Launch()  # no file of answers, nothing said
    assert read_launch(["--config_file", str(config)]) == Launch(2, use_cpu=True)
    assert read_launch(["--config_file", str(config), "--num_processes=4"]) == Launch(4, use_cpu=True)
    assert read_launch(["--cpu", "--num_processes", "3", "--mixed_precision", "no"]) == Launch(3, use_cpu=True)
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.json").write_text(json.dumps({"num_processes": 8}))
    assert read_launch(["--mixed_precision", "no"]) == read_launch([]) == Launch(8)


def test_the_launchers_default_file_holds_where_it_was_given_no_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.yaml").write_text("num_processes: 2\nuse_cpu: true\n")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(sys, "argv", ["/somewhere/train_vl.py", "--run", "x"])
    parent = SimpleNamespace(cmdline=lambda: ["python", "/bin/accelerate", "launch", "train_vl.py", "--run", "x"])
    monkeypatch.setattr(launch.psutil, "Process", lambda _: parent)
    with pytest.raises(ValueError, match="configured for 2 processes but started 1"):
        launch.check_launch()
    parent.cmdline = lambda: ["bash"]
    assert launch.check_launch() == Launch()


def test_threads_are_shared_among_the_machines_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_per_process() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    assert threads_per_process() == 1


def test_a_loss_far_beyond_its_first_is_an_explosion() -> None:
    check_exploded(7, 49.0, first_loss=3.0)  # ten times what knowing nothing costs
    check_exploded(7, 199.0, first_loss=20.0)
    for loss, first in ((51.0, 3.0), (201.0, 20.0)):
        with pytest.raises(Diverged, match=f"step 7: the loss is {loss}, after {first} at first") as found:
            check_exploded(7, loss, first)
        assert found.value.step == 7


def test_a_gradient_that_is_not_finite_is_forgiven_to_a_scaler_for_a_while() -> None:
    check = FiniteCheck(is_scaled=True)
    for norm in (math.inf, 1.0, math.nan):  # one finite step begins the count anew
        for step in range(SKIPPED_STEPS):
            check(step, 4.0, norm)
    with pytest.raises(Diverged, match="step 7 moves no weight, like the 50 before it: the loss is 4"):
        check(7, 4.0, math.nan)
    for is_scaled, loss, norm in ((False, 4.0, math.inf), (False, math.nan, 1.0), (True, math.inf, 1.0)):
        with pytest.raises(Diverged, match=f"step 1: the loss is {loss} and its gradient's norm {norm}"):
            FiniteCheck(is_scaled=is_scaled)(1, loss, norm)
