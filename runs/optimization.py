"""The updates of the weights of any model: the schedule of the learning rate, and the optimizer."""

import math

import torch
from torch import nn

from runs.settings import OptimizationSettings

#: Ends of the names of position and class embeddings, in all towers, and of the query that SigLIP pools with.
UNDECAYED = (
    *("positional_embedding", "class_embedding", "pos_embed", "cls_token"),
    *("position_embedding.weight", "position_embeddings.weight", "probe"),
)


def learning_rate_at(step: int, steps: int, settings: OptimizationSettings) -> float:
    """Return the learning rate of step `step` (from 0) of `steps`.

    Linear warm-up, then half a cosine to zero (Loshchilov and Hutter 2017, arXiv:1608.03983).
    """
    warmup_steps = round(settings.warmup_ratio * steps)
    if step < warmup_steps:
        return settings.learning_rate * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def build_optimizer(model: nn.Module, settings: OptimizationSettings) -> torch.optim.AdamW:
    """Return AdamW with CLIP's betas over the parameters that require a gradient.

    Matrices decay; gains, biases, position and class embeddings, and scalars do not.
    """
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    decays = {name: parameter.ndim >= 2 and not name.endswith(UNDECAYED) for name, parameter in learning.items()}
    groups = [
        {"params": [p for name, p in learning.items() if decays[name]], "weight_decay": settings.weight_decay},
        {"params": [p for name, p in learning.items() if not decays[name]], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), eps=1e-6)
