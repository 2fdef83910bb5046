"""Weights that are sharded over two gloo processes give the gradients, runs and checkpoints of full weights."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import open_clip
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from runs.checkpoints import save_checkpoint
from runs.processes.accelerators import choose_precision
from runs.processes.collectives import rank
from runs.processes.full_tensors import full_tensor
from runs.processes.launch import SHARDING_VARIABLE, check_launch
from runs.resuming import resume
from tests.processes import in_processes
from tests.runs.processes.test_collectives import CAPTIONS
from tests.training_runs import ENVIRONMENT, REPOSITORY, Train, assert_same_result, command, final, metrics
from vl_model.data.targets import one_hot_targets
from vl_model.model.settings import LoraSettings, ModelSettings
from vl_model.model.site_model import SiteModel, build_site_model
from vl_model.towers.plain_attention import use_plain_attention
from vl_model.training.loss import contrastive_loss
from vl_model.training.sharding import Sharding

SHARDED = {SHARDING_VARIABLE: "true", "FSDP_VERSION": "2"}
RESNET = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "head_width": 64},
    "text_cfg": {"context_length": 40, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


def backward(wrapped: nn.Module, model: SiteModel) -> None:
    """Take the backward pass of the loss of both processes' sites, which differ."""
    torch.manual_seed(3)
    size = model.towers.image_size
    tile_NT3HW = torch.randn(8, 2, 3, size, size).double()[rank() * 4 :][:4]
    token_KL = model.towers.tokenize([f"caption {number} of all" for number in range(CAPTIONS)])
    image_BD, text_KD, scale, _ = wrapped(tile_NT3HW, torch.ones(4, 2, dtype=torch.bool), token_KL)
    targets = one_hot_targets((torch.arange(8) * 9)[rank() * 4 :][:4])
    contrastive_loss(image_BD.double(), text_KD.double(), scale, targets).total.backward()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: full_tensor(p.grad) for name, p in model.named_parameters() if p.grad is not None}


Trained = tuple[nn.Module, torch.optim.Optimizer]


def exchange_checkpoints(folder: Path, full: Trained, sharded: Trained) -> None:
    """Resume each model from the other's checkpoint: weights and moments of both are then equal."""
    for step, (writer, reader) in enumerate(((sharded, full), (full, sharded)), start=1):
        with torch.no_grad():
            for parameter in reader[0].parameters():
                parameter.zero_()
            for moments in reader[1].state.values():
                moments["exp_avg"].zero_()
        checkpoint = save_checkpoint(folder, step, *writer, None, {}, None)
        dist.barrier()
        assert resume([checkpoint], *reader, None, {}) == (step, checkpoint)
        for one, other in zip(sharded[1].param_groups[0]["params"], full[1].param_groups[0]["params"], strict=True):
            assert torch.equal(full_tensor(one), other)
            assert all(
                torch.equal(full_tensor(sharded[1].state[one][name]), x) for name, x in full[1].state[other].items()
            )


def compare(model: SiteModel, precision: str, folder: Path) -> None:
    """Compare two steps of full and sharded weights in float64: gradients, norms, weights, batch statistics."""
    full, sharded = deepcopy(model), deepcopy(model)
    wrapped = nn.parallel.DistributedDataParallel(full, find_unused_parameters=model.settings.tune == "full")
    with torch.no_grad():
        for parameter in sharded.parameters():
            parameter.add_(rank())  # the sharded model starts with the first process's weights
    sharding = Sharding(sharded, precision)
    held = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in sharded.parameters())
    assert held < 0.6 * sum(parameter.numel() for parameter in full.parameters())
    two = [torch.optim.AdamW([p for p in each.parameters() if p.requires_grad], lr=1e-3) for each in (full, sharded)]
    for _ in range(2):
        for optimizer in two:
            optimizer.zero_grad()
        backward(wrapped, full)
        backward(sharded, sharded)
        sharding.synchronise_unsharded()
        expected, found = gradients(full), gradients(sharded)
        assert expected.keys() == found.keys() and "logit_scale.log_scale" in found
        for name, gradient in expected.items():
            assert (found[name] - gradient).norm() <= 1e-10 * gradient.norm() + 1e-14, name
        norm = float(nn.utils.clip_grad_norm_(full.parameters(), 0.01))
        assert sharding.clip_gradients(0.01) == pytest.approx(norm, rel=1e-10)
        for optimizer in two:
            optimizer.step()
    gathered = sharding.full_state_dict()
    if rank() == 0:
        for name, value in full.state_dict().items():
            torch.testing.assert_close(gathered[name], value, rtol=1e-9, atol=1e-11, msg=name)
    else:
        assert not gathered
    exchange_checkpoints(folder, (full, two[0]), (sharded, two[1]))
    # Compare the methods that evaluation calls, in the first process: DDP broadcasts its batch statistics to the others
    # only with the next step.
    full.eval()
    sharded.eval()
    tile_BT3HW, mask_BT = torch.randn(2, 1, 3, 32, 32).double(), torch.ones(2, 1, dtype=torch.bool)
    with torch.no_grad():
        image_BD, text_KD = sharded.embed_sites(tile_BT3HW, mask_BT), sharded.embed_texts(["one"])
        if rank() == 0:
            torch.testing.assert_close(image_BD, full.embed_sites(tile_BT3HW, mask_BT))
            torch.testing.assert_close(text_KD, full.embed_texts(["one"]))


TRANSFORMERS = ("open_clip", "open_clip with BERT", "CLIP", "SigLIP")


@pytest.mark.parametrize(
    ("family", "tune"),
    [*((family, tune) for family in TRANSFORMERS for tune in ("full", "lora")), ("batch statistics", "full")],
)
def test_sharded_weights_learn_what_full_ones_do(
    family: str, tune: str, family_base: Callable[[str], str], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    if family == "batch statistics":
        path = tmp_path / "tiny-test-resnet.json"
        path.write_text(json.dumps(RESNET))
        open_clip.add_model_config(path)
        model = build_site_model(ModelSettings(path.stem, None, "full"))
    else:
        model = build_site_model(ModelSettings(family_base(family), None, tune, LoraSettings(4, 8, 0.0, "both")))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    for layer in model.modules():  # BERT has dropout by default
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    use_plain_attention(model)
    in_processes(2, compare, model.double().train(), "no", tmp_path)


def start(root: Path, base: str, run: str, *arguments: str) -> str:
    """Run train_vl.py in two processes with sharded weights, and return what it printed."""
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    launcher += ["--config_file", "accelerate_configs/cpu_2.yaml"]
    training = command(root, base, run, *arguments)
    environment = {**ENVIRONMENT, **SHARDED}
    done = subprocess.run([*launcher, *training], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_sharded_run_equals_that_of_one_process_and_resumes_bit_for_bit(
    train: Train, tiny_root: Path, tiny_base: str
) -> None:
    arguments = ["--max_train_steps", "8", "--learning_rate", "2e-3", "--lora_towers", "both", "--held_out_sites", "7"]
    arguments += ["--gradient_accumulation_steps", "2", "--cache_negatives", "true", "--evaluation_steps", "4"]
    own = [*arguments, "--per_device_train_batch_size", "5", "--checkpointing_steps", "3"]
    printed = start(tiny_root, tiny_base, "sharded", *own, "--checkpoints_total_limit", "9")
    assert "2 processes, device cpu, precision fp32, sharded weights" in printed
    assert train("sharded-full", *arguments, "--per_device_train_batch_size", "10") == 0
    for one, other in zip(metrics(tiny_root, "sharded"), metrics(tiny_root, "sharded-full"), strict=True):
        for name in ("loss", "gradient_norm", "logit_scale", "held_out_caption", "held_out_severity"):
            assert float(one[name] or 0) == pytest.approx(float(other[name] or 0), rel=2e-4), name
    first, second = final(tiny_root, "sharded"), final(tiny_root, "sharded-full")
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=2e-4) for name in first)
    runs, logs = tiny_root / "train" / "checkpoints", tiny_root / "train" / "logs"
    shutil.copytree(runs / "sharded" / "checkpoint-3", runs / "sharded-again" / "checkpoint-3")
    shutil.copytree(logs / "sharded", logs / "sharded-again")
    printed = start(tiny_root, tiny_base, "sharded-again", *own, "--resume_from_checkpoint", "latest")
    assert "resumed from checkpoint-3" in printed
    assert_same_result(tiny_root, "sharded", "sharded-again")
    assert json.loads((runs / "sharded-again" / "run.json").read_text())["sharded"]


def test_all_weights_are_sharded_in_bf16(train: Train, tiny_root: Path, tiny_base: str) -> None:
    """Sharding rounds where autocast rounds: the losses equal those of full weights to the precision of bf16."""
    arguments = ["--tune", "full", "--max_train_steps", "4", "--mixed_precision", "bf16"]
    arguments += ["--gradient_checkpointing", "true"]
    start(tiny_root, tiny_base, "sharded-half", *arguments, "--per_device_train_batch_size", "6")
    assert train("sharded-half-full", *arguments, "--per_device_train_batch_size", "12") == 0
    for one, other in zip(metrics(tiny_root, "sharded-half"), metrics(tiny_root, "sharded-half-full"), strict=True):
        assert float(one["loss"]) == pytest.approx(float(other["loss"]), rel=5e-3)
    assert (tiny_root / "train" / "checkpoints" / "sharded-half" / "final" / "open_clip_model.safetensors").is_file()


def test_one_process_does_not_shard(train: Train, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for name, value in SHARDED.items():
        monkeypatch.setenv(name, value)
    assert train("sharded-alone", "--max_train_steps", "1", "--per_device_train_batch_size", "5") == 0
    assert "1 process, device cpu, precision fp32\n" in capsys.readouterr().out
    assert os.environ[SHARDING_VARIABLE] == "false"  # for accelerate and transformers


def test_settings_that_cannot_be_combined_with_sharding_are_refused(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    for name, value in SHARDED.items():
        monkeypatch.setenv(name, value)
    assert train("sharded-compiled", "--max_train_steps", "1", "--compile", "true") == 2
    assert "--compile true: cannot be combined with sharded weights (FSDP2)" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    with pytest.raises(ValueError, match="mixed_precision auto: means fp16 on this device"):
        choose_precision("auto", use_cpu=False, shards=True)


def test_other_kinds_of_sharding_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SHARDING_VARIABLE, "true")
    with pytest.raises(ValueError, match=r"fsdp_version is 1: .* see accelerate_configs/fsdp2.yaml"):
        check_launch()
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert check_launch().shards
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match=r"ACCELERATE_USE_DEEPSPEED is set: .* with FSDP2"):
        check_launch()
