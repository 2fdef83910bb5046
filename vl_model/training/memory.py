"""How much memory a training will need, before it needs it.

Weights, gradients and AdamW's two moments are counted from the parameters. What a step keeps for its way back is
counted from the tensors that autograd saves for one site and for two: the difference is what each further site adds.
Not counted: passing buffers of single layers, the allocator's slack, torch itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vl_model.towers.gradient_checkpointing import keeps_its_input_alone

GIB = 2**30


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one process."""

    weights: int
    gradients: int
    moments: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.moments + self.activations

    @property
    def state(self) -> int:
        """On disk: a checkpoint's learning weights and their moments."""
        return self.gradients + self.moments

    def spread_over(self, processes: int) -> "MemoryEstimate":
        """Where each process holds its part of all but the activations."""
        parts = {name: getattr(self, name) // processes for name in ("weights", "gradients", "moments")}
        return replace(self, **parts)

    def __str__(self) -> str:
        parts = {name: getattr(self, name) for name in ("weights", "gradients", "moments", "activations")}
        return f"{self.total / GIB:.2f} GiB (" + ", ".join(f"{k} {v / GIB:.2f}" for k, v in parts.items()) + ")"


def estimate_memory(model: nn.Module, forward: Callable[[int], object], sites: int) -> MemoryEstimate:
    """`forward(n)` runs the model on n sites, with gradient; `sites`: of one process and batch."""
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
    """Of the tensors that autograd keeps for the way back, each storage once, the model's own left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}  # the tensors themselves, so that no storage is freed and its place counted again

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = tensor
        return tensor

    def keep_inputs(_: nn.Module, inputs: tuple[object, ...]) -> None:
        for value in inputs:
            if isinstance(value, Tensor):
                keep(value)

    hooks = [m.register_forward_pre_hook(keep_inputs) for m in model.modules() if keeps_its_input_alone(m)]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    del result
    for hook in hooks:
        hook.remove()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
