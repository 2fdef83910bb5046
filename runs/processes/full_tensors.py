"""Full and sharded tensors, without the import of the sharding package, which takes seconds."""

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def full_tensor(tensor: "Tensor | DTensor") -> Tensor:
    """Return the full tensor. If it is sharded, every process must call this."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


def shard_like(tensor: Tensor, like: "Tensor | DTensor") -> Tensor:
    """Return a full tensor sharded like `like`, or unchanged if `like` is not sharded.

    If it is, every process must call this; each gets its shard of the first process's tensor.
    """
    if not hasattr(like, "full_tensor"):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(tensor.to(like.device, like.dtype), like.device_mesh, like.placements)
