"""How the weights of any model are updated: the settings, the schedule of the learning rate, the optimizer."""

import math
from dataclasses import dataclass

import torch
from torch import nn

#: Ends of the names of position and class embeddings, in all towers, and of the query that SigLIP pools with.
UNDECAYED = (
    *("positional_embedding", "class_embedding", "pos_embed", "cls_token"),
    *("position_embedding.weight", "position_embeddings.weight", "probe"),
)


@dataclass(frozen=True)
class OptimizationSettings:
    """How to train; a step is one update of the weights, on `accumulation` global batches."""

    steps: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float = 0.1
    max_gradient_norm: float = 1.0
    accumulation: int = 1
    checkpointing_steps: int | None = None
    seed: int = 0


def learning_rate_at(step: int, settings: OptimizationSettings) -> float:
    """Linear warm-up, then half a cosine to zero (Loshchilov and Hutter 2017, arXiv:1608.03983)."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def build_optimizer(model: nn.Module, settings: OptimizationSettings) -> torch.optim.AdamW:
    """AdamW with CLIP's betas; matrices decay, gains, biases, embeddings of position and class, and scalars do not."""
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    decays = {name: parameter.ndim >= 2 and not name.endswith(UNDECAYED) for name, parameter in learning.items()}
    groups = [
        {"params": [p for name, p in learning.items() if decays[name]], "weight_decay": settings.weight_decay},
        {"params": [p for name, p in learning.items() if not decays[name]], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), eps=1e-6)
