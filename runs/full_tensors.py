"""Tell sharded tensors from full ones without importing what shards them."""

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def whole(tensor: "Tensor | DTensor") -> Tensor:
    """The tensor itself, or put together of its parts: then every process must ask."""
    together: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return together


def spread_like(tensor: Tensor, like: "Tensor | DTensor") -> Tensor:
    """The tensor itself, or where `like` is spread its parts, which the first process hands out: then all must ask."""
    if not hasattr(like, "full_tensor"):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(tensor.to(like.device, like.dtype), like.device_mesh, like.placements)
