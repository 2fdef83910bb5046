"""Sharding of weights, gradients and optimizer state over the processes (FSDP2), for towers that do not fit one GPU.

Zhao et al. 2023, arXiv:2304.11277, by `torch.distributed.fsdp.fully_shard`: each process keeps and updates a part of
every block's weights, and a block's full weights are gathered only for its own forward and backward pass. accelerate
requests sharding (``distributed_type: FSDP``), but supports it on GPUs only. This module works alike on CPUs, where
tests compare its gradients with those of unsharded processes. Checkpoints and results contain full tensors, so that
they can be read with and without sharding.

Only matrices are sharded. Gains, biases and scalars, a hundredth of the weights, are not, and their gradients are
averaged here: FSDP does not support scalars, and layer norms need gains in float32. Its torch modules take seconds and
50 MB to import, so this module is imported only if weights are sharded.
"""

from inspect import signature

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm

from runs.processes.full_tensors import full_tensor
from vl_model.towers.blocks import blocks_of

#: Methods of the model, besides `forward`, that are called from outside and need full weights.
ENTRIES = ("embed_sites", "embed_texts")


class Sharding:
    """The sharding of one model, in place.

    All methods are collective: every process must construct one and call each method together with the others.
    """

    def __init__(self, model: nn.Module, mixed_precision: str) -> None:
        """Shard `model`, with the weights of the first process in all.

        mixed_precision: accelerate's setting. With bf16 the blocks' matrices are gathered in bf16, to which autocast
        would round them anyway; activations between layers, and sums of gradients, stay float32.
        Raises ValueError if torch is too old.
        """
        if "ignored_params" not in signature(fully_shard).parameters:
            raise ValueError(f"torch {torch.__version__}: cannot shard only some of the weights; install 2.7 or later")
        self._model = model
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.detach(), 0)
        mesh = init_device_mesh(next(model.parameters()).device.type, (dist.get_world_size(),))
        unsharded = {parameter for parameter in model.parameters() if parameter.ndim < 2}
        block_policy = MixedPrecisionPolicy()
        if mixed_precision == "bf16":
            block_policy = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for block in blocks_of(model):
            fully_shard(block, mesh=mesh, mp_policy=block_policy, ignored_params=unsharded)
        # Without reshard_after_forward the weights outside blocks would stay gathered after an evaluation, since no
        # backward pass follows it.
        fully_shard(model, mesh=mesh, ignored_params=unsharded, reshard_after_forward=True)
        for name in ENTRIES:
            register_fsdp_forward_method(model, name)

    def synchronise_unsharded(self) -> None:
        """Average the gradients of unsharded weights and broadcast batch statistics, as DDP does.

        To be called after the backward pass. All gradients are exchanged in one message.
        """
        _, gradients = self._gradients()
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))
        for layer in self._model.modules():
            if isinstance(layer, _BatchNorm) and layer.training:
                for statistics in layer.buffers():
                    dist.broadcast(statistics, 0)

    def clip_gradients(self, largest: float) -> float:
        """Clip all gradients together to the norm `largest`; return their norm before clipping.

        `torch.nn.utils.clip_grad_norm_` cannot combine sharded and unsharded gradients.
        """
        shards, unsharded = self._gradients()
        square = _square(shards)
        dist.all_reduce(square)
        norm = (square + _square(unsharded)).sqrt()
        scale = (largest / (norm + 1e-6)).clamp(max=1.0)
        for gradient in (*shards, *unsharded):
            gradient.mul_(scale)
        return float(norm)

    def _gradients(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return this process's shards of the sharded gradients, and the unsharded gradients."""
        gradients = [parameter.grad for parameter in self._model.parameters() if parameter.grad is not None]
        shards = [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]
        return shards, [gradient for gradient in gradients if not isinstance(gradient, DTensor)]

    def full_state_dict(self) -> dict[str, Tensor]:
        """Return the model's `state_dict` with full tensors, on the CPU; in other processes than the first, {}."""
        state = {}
        for name, tensor in self._model.state_dict().items():
            full = full_tensor(tensor).detach()
            if dist.get_rank() == 0:
                state[name] = full.cpu()
        return state


def _square(tensors: list[Tensor]) -> Tensor:
    """Return the sum of squares of all elements."""
    return torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors]).square().sum()
