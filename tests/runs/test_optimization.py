"""The schedule of the learning rate and the optimizer's parameter groups."""

import pytest
import torch
from torch import nn

from runs.optimization import build_optimizer, learning_rate_at
from runs.settings import OptimizationSettings

SETTINGS = OptimizationSettings(learning_rate=1e-3, warmup_ratio=0.1, weight_decay=0.2)


def test_the_learning_rate_rises_then_falls_along_a_cosine() -> None:
    rates = [learning_rate_at(step, 100, SETTINGS) for step in range(101)]
    assert rates[0] == pytest.approx(1e-4) and rates[9] == rates[10] == pytest.approx(1e-3)
    assert rates[55] == pytest.approx(0.5e-3) and rates[100] == pytest.approx(0, abs=1e-12)
    assert all(rates[step] >= rates[step + 1] for step in range(10, 100))
    assert learning_rate_at(0, 0, OptimizationSettings(learning_rate=1.0, warmup_ratio=0.0)) == 1.0


def test_only_matrices_decay() -> None:
    model = nn.ModuleDict({"linear": nn.Linear(3, 2), "norm": nn.LayerNorm(3)})
    model.register_parameter("positional_embedding", nn.Parameter(torch.ones(4, 3)))
    model.register_parameter("trunk_pos_embed", nn.Parameter(torch.ones(1, 2, 3)))
    model["norm"].bias.requires_grad_(False)
    decayed, kept = build_optimizer(model, SETTINGS).param_groups
    assert decayed["weight_decay"] == 0.2 and kept["weight_decay"] == 0.0
    assert [p.shape for p in decayed["params"]] == [(2, 3)]
    assert sum(p.numel() for p in kept["params"]) == 2 + 3 + 12 + 6
