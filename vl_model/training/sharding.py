"""Weights, gradients and moments spread over the processes, for towers that do not fit one GPU (FSDP2).

Zhao et al. 2023, arXiv:2304.11277, by `torch.distributed.fsdp.fully_shard`: each block's weights are put together for
its own way forward and back alone, and each process keeps, and updates, a part of them. accelerate asks for it
(``distributed_type: FSDP``), but would do it on GPUs only; done here it is the same on CPUs, where tests hold it to the
gradients of processes that keep everything. States and results are of whole tensors: they fit either way.

Matrices are spread. Gains, biases and scalars, a hundredth of the weights, stay whole, and their gradients are averaged
here: FSDP takes no scalars, and layer norms compute with gains of float32. torch takes seconds and 50 MB to import what
is needed, so this is imported where weights are spread.
"""

from inspect import signature

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm

from runs.full_tensors import full_tensor
from vl_model.towers.blocks import blocks_of

#: What is called from outside besides `forward`, and needs whole weights too.
ENTRIES = ("embed_sites", "embed_texts")


class Sharding:
    """Of one model, in place. Every process must make one, and call each method when the others do."""

    def __init__(self, model: nn.Module, mixed_precision: str) -> None:
        """The model begins as the first process' does.

        mixed_precision: accelerate's word. In bf16 the blocks' matrices travel so, rounded as autocast rounds those of
        layers: what flows between the layers, and the sums of gradients, stay float32.
        Raises ValueError where torch is too old for it.
        """
        if "ignored_params" not in signature(fully_shard).parameters:
            raise ValueError(
                f"torch {torch.__version__} cannot leave weights whole among spread ones: 2.7 and later can"
            )
        self._model = model
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.detach(), 0)
        mesh = init_device_mesh(next(model.parameters()).device.type, (dist.get_world_size(),))
        kept = {parameter for parameter in model.parameters() if parameter.ndim < 2}
        of_blocks = MixedPrecisionPolicy()
        if mixed_precision == "bf16":
            of_blocks = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for block in blocks_of(model):
            fully_shard(block, mesh=mesh, mp_policy=of_blocks, ignored_params=kept)
        # Else the outermost parts would stay together after an evaluation, which no way back follows.
        fully_shard(model, mesh=mesh, ignored_params=kept, reshard_after_forward=True)
        for name in ENTRIES:
            register_fsdp_forward_method(model, name)

    def exchange_what_is_whole(self) -> None:
        """After the way back, as by DDP: what is not spread has its gradients averaged, in one message, and batch
        statistics are the first process'."""
        _, gradients = self._gradients()
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        together /= dist.get_world_size()
        for gradient, mean in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))
        for layer in self._model.modules():
            if isinstance(layer, _BatchNorm) and layer.training:
                for statistics in layer.buffers():
                    dist.broadcast(statistics, 0)

    def clip_gradients(self, largest: float) -> float:
        """As `torch.nn.utils.clip_grad_norm_`, which does not take parts and whole gradients together; their norm."""
        parts, others = self._gradients()
        square = _square(parts)
        dist.all_reduce(square)
        norm = (square + _square(others)).sqrt()
        scale = (largest / (norm + 1e-6)).clamp(max=1.0)
        for gradient in (*parts, *others):
            gradient.mul_(scale)
        return float(norm)

    def _gradients(self) -> tuple[list[Tensor], list[Tensor]]:
        """This process' parts of those that are spread, and those that are not."""
        gradients = [parameter.grad for parameter in self._model.parameters() if parameter.grad is not None]
        parts = [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]
        return parts, [gradient for gradient in gradients if not isinstance(gradient, DTensor)]

    def whole_state(self) -> dict[str, Tensor]:
        """The model's `state_dict`, whole and on the CPU, in the first process; empty in the others."""
        state = {}
        for name, tensor in self._model.state_dict().items():
            together = full_tensor(tensor).detach()
            if dist.get_rank() == 0:
                state[name] = together.cpu()
        return state


def _square(tensors: list[Tensor]) -> Tensor:
    return torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors]).square().sum()
