"""Rows of all processes, in rank order, with their gradient.

Every process gathers the rows of all of them and computes the same loss of the global batch. The sum over processes of
d loss / d (own rows) is then the number of processes W times this process's share, which is what `_Gather` hands
back; DDP's mean over processes divides by W again, and the result is the gradient of one process with the global
batch. No communication is needed on the way back. It holds for that use alone: a loss of the local rows would need the
other processes' gradients.

Dimensions: B rows of this process, N rows of all, D columns.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def row_counts(rows: int, device: torch.device) -> tuple[int, ...]:
    """How many rows each process brings, in rank order. It waits for the device: ask once, not in every step."""
    own_1 = torch.tensor([rows], device=device)
    counts: list[int] = gather(own_1).tolist()
    return tuple(counts)


def gather(tensor: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """Rows of all processes, in rank order, without gradient.

    counts: the rows of each process (`row_counts`); left out, they are as many in every process.
    """
    if world_size() == 1:
        return tensor
    counts = counts or [len(tensor)] * world_size()
    assert counts[rank()] == len(tensor), f"{len(tensor)} rows here, but process {rank()} promised {counts[rank()]}"
    # Collectives move tensors of one shape: shorter ones are padded on the way.
    padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def gather_objects(own: Any) -> list[Any]:
    """A small object of each process, in rank order; every process must bring one."""
    found = [own] * world_size()
    if len(found) > 1:
        dist.all_gather_object(found, own)
    return found


def gather_with_gradient(tensor_BD: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """As `gather`; see the module's text for the gradient, which needs a loss of the global batch."""
    return tensor_BD if world_size() == 1 else _Gather.apply(tensor_BD, counts)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor_BD: Tensor, counts: Sequence[int] | None) -> Tensor:
        ctx.first = sum(counts[: rank()]) if counts else rank() * len(tensor_BD)
        ctx.rows = len(tensor_BD)
        return gather(tensor_BD.detach(), counts)

    @staticmethod
    def backward(ctx: Any, gradient_ND: Tensor) -> tuple[Tensor, None]:
        return world_size() * gradient_ND[ctx.first : ctx.first + ctx.rows], None
