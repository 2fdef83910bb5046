"""Depthwise convolutions that compute in float32 under bf16: all values and gradients, and which layers change."""

from copy import deepcopy

import pytest
import timm
import torch
from torch import nn

from vl_model.towers.depthwise import use_float32_depthwise


def test_strided_and_large_depthwise_convolutions_change() -> None:
    network = timm.create_model("tf_efficientnet_lite0", num_classes=4)
    kinds = {name: type(layer) for name, layer in network.named_modules()}
    use_float32_depthwise(network)
    changed = {name for name, layer in network.named_modules() if type(layer) is not kinds[name]}
    depthwise = {n: layer for n, layer in network.named_modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1}
    small = {n for n, layer in depthwise.items() if layer.kernel_size == (3, 3) and layer.stride == (1, 1)}
    assert changed == set(depthwise) - small
    assert len(changed) == 11 and len(small) == 5
    assert network.state_dict().keys() == timm.create_model("tf_efficientnet_lite0", num_classes=4).state_dict().keys()


@pytest.mark.parametrize("stride", [1, 2])
def test_values_and_gradients_are_those_of_float32(stride: int) -> None:
    torch.manual_seed(0)
    slow = nn.Conv2d(6, 6, 5, stride, 2, groups=6)
    fast = deepcopy(slow)
    use_float32_depthwise(fast)
    image = torch.randn(2, 6, 9, 8, requires_grad=True)
    other = image.detach().clone().requires_grad_()
    expected = slow(image)
    with torch.autocast("cpu", torch.bfloat16):
        found = fast(other)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (found * weight).sum().backward()
    torch.testing.assert_close(other.grad, image.grad)
    torch.testing.assert_close(fast.weight.grad, slow.weight.grad)


def test_the_dtype_of_the_layers_around_is_kept() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 5, padding=2, groups=4), nn.Conv2d(4, 5, 1))
    use_float32_depthwise(network)
    dtypes = []
    for layer in network:
        layer.register_forward_hook(lambda _layer, _inputs, output: dtypes.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(1, 3, 8, 8)).float().sum().backward()
    assert dtypes == [torch.bfloat16] * 3


def test_a_copy_computes_with_its_own_weights() -> None:
    layer = nn.Conv2d(4, 4, 5, groups=4)
    use_float32_depthwise(layer)
    twin = deepcopy(layer)
    nn.init.zeros_(twin.weight)
    image = torch.randn(1, 4, 5, 5)
    assert not torch.equal(twin(image), layer(image))
