"""Gather the rows of all processes, in rank order, with or without their gradient.

Every process gathers the rows of all processes and computes the same loss of the global batch. The sum over the W
processes of d loss / d (own rows) is then W times the gradient that this process has computed, and `_Gather` returns
that product in the backward pass. DDP's mean over processes divides by W again, so that the result is the gradient of
one process with the global batch. The backward pass needs no communication. This is only correct for a loss of the
global batch: a loss of the local rows would need the gradients of the other processes.

Dimensions: B rows of this process, N rows of all processes, D columns.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def row_counts(rows: int, device: torch.device) -> tuple[int, ...]:
    """Return the number of rows of each process, in rank order.

    This waits for the device: call it once, not in every step.
    """
    own_1 = torch.tensor([rows], device=device)
    counts: list[int] = gather(own_1).tolist()
    return tuple(counts)


def gather(tensor: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """Return the rows of all processes, in rank order, without gradient. Every process must call this.

    counts: the number of rows of each process (`row_counts`); by default all have the same number.
    """
    if world_size() == 1:
        return tensor
    counts = counts or [len(tensor)] * world_size()
    assert counts[rank()] == len(tensor), f"process {rank()} has {len(tensor)} rows, but counts has {counts[rank()]}"
    # all_gather needs tensors of one shape.
    padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def gather_objects(own: Any) -> list[Any]:
    """Return one small object of each process, in rank order. Every process must call this."""
    objects = [own] * world_size()
    if len(objects) > 1:
        dist.all_gather_object(objects, own)
    return objects


def gather_with_gradient(tensor_BD: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """Return the same as `gather`, with the gradient of a loss of the global batch (see the module's docstring)."""
    return tensor_BD if world_size() == 1 else _Gather.apply(tensor_BD, counts)


class _Gather(torch.autograd.Function):
    """`gather`, whose backward pass returns the own rows' gradient times the number of processes."""

    @staticmethod
    def forward(ctx: Any, tensor_BD: Tensor, counts: Sequence[int] | None) -> Tensor:
        ctx.first = sum(counts[: rank()]) if counts else rank() * len(tensor_BD)
        ctx.rows = len(tensor_BD)
        return gather(tensor_BD.detach(), counts)

    @staticmethod
    def backward(ctx: Any, gradient_ND: Tensor) -> tuple[Tensor, None]:
        return world_size() * gradient_ND[ctx.first : ctx.first + ctx.rows], None
