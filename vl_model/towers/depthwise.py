"""Depthwise convolutions in float32, which replace bf16 ones in training on the CPU.

In bf16 on the CPU, torch 2.15 computes the gradients of strided and of large depthwise convolutions two to twenty times
more slowly than in float32: half of the time of a step of an EfficientNet. All other layers gain from bf16, among them
depthwise convolutions of 3 x 3 pixels and stride 1, so only these leave it. Channels come last, which is the fastest
layout for them and is kept by the layers between.
"""

from typing import Any

import torch
from torch import Tensor, nn


def use_float32_depthwise(module: nn.Module) -> None:
    """Let strided and large depthwise convolutions inside `module` compute in float32, whatever autocast says."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d) and _is_slow_in_bf16(child):
            child.__class__ = _in_float32(type(child))


def _is_slow_in_bf16(layer: nn.Conv2d) -> bool:
    is_depthwise = 1 < layer.groups == layer.in_channels
    return is_depthwise and (max(layer.stride) > 1 or max(layer.kernel_size) > 3)


def _in_float32(kind: type[nn.Conv2d]) -> type[nn.Conv2d]:
    """Return the subclass of a kind of convolution, such as timm's with its own padding, that leaves autocast."""

    def forward(self: Any, image_NCHW: Tensor) -> Tensor:
        last = image_NCHW.to(torch.float32, memory_format=torch.channels_last)
        with torch.autocast("cpu", enabled=False):
            out_NCHW: Tensor = kind.forward(self, last)
        return out_NCHW.to(image_NCHW.dtype)

    return type(f"Float32{kind.__name__}", (kind,), {"forward": forward})
