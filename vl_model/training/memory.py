"""An estimate of the memory that a training needs, made before the training starts.

Weights, gradients and AdamW's two moments are counted from the parameters. Activations are counted from the tensors
that autograd keeps for the backward pass, for one site and for two: the difference is what each further site adds.
Temporary buffers of single layers, the allocator's slack and torch itself are not counted.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vl_model.towers.gradient_checkpointing import is_checkpointed

GIB = 2**30


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of one process, in bytes."""

    weights: int
    gradients: int
    moments: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.moments + self.activations

    @property
    def state(self) -> int:
        """Size of a checkpoint on disk: the trained weights and their moments."""
        return self.gradients + self.moments

    def sharded_over(self, processes: int) -> "MemoryEstimate":
        """Return the estimate for sharded training, in which each process holds a part of all but the activations."""
        parts = {name: getattr(self, name) // processes for name in ("weights", "gradients", "moments")}
        return replace(self, **parts)

    def __str__(self) -> str:
        parts = {name: getattr(self, name) for name in ("weights", "gradients", "moments", "activations")}
        return f"{self.total / GIB:.2f} GiB (" + ", ".join(f"{k} {v / GIB:.2f}" for k, v in parts.items()) + ")"


def estimate_memory(model: nn.Module, forward: Callable[[int], object], sites: int) -> MemoryEstimate:
    """Estimate the memory of training `model`.

    Args:
        model: the model, with `requires_grad` set as in training.
        forward: called with n; runs the model on n sites and returns a result with gradient.
        sites: sites per process and batch.
    """
    kept_1, kept_2 = saved_bytes(model, lambda: forward(1)), saved_bytes(model, lambda: forward(2))
    learning = sum(_bytes(parameter) for parameter in model.parameters() if parameter.requires_grad)
    held = [*model.parameters(), *model.buffers()]
    return MemoryEstimate(
        weights=sum(map(_bytes, held)),
        gradients=learning,
        moments=2 * learning,
        activations=max(kept_1, kept_1 + (sites - 1) * (kept_2 - kept_1)),
    )


def saved_bytes(model: nn.Module, forward: Callable[[], object]) -> int:
    """Return the bytes that autograd keeps for the backward pass, each storage once, without the model's weights."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}  # holds the tensors, because a freed storage's address could be reused and missed

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in own:
            kept[address] = tensor
        return tensor

    def keep_inputs(_: nn.Module, inputs: tuple[object, ...]) -> None:
        for value in inputs:
            if isinstance(value, Tensor):
                keep(value)

    hooks = [m.register_forward_pre_hook(keep_inputs) for m in model.modules() if is_checkpointed(m)]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    del result
    for hook in hooks:
        hook.remove()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
