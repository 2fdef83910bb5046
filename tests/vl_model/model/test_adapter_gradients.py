"""Adapters on every family of towers: gradients against finite differences, start, merging, and a frozen base."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.small_families import CAPTIONS, FAMILIES
from vl_model.model.lora import adapter_parameters, add_adapters, base_state, merged_towers
from vl_model.model.settings import LoraSettings
from vl_model.model.site_model_files import state_sha256
from vl_model.towers.towers import load_towers

#: Step of the central differences: their error is of the order of STEP ** 2, their rounding of 1e-16 / STEP.
STEP = 1e-5
#: Without SigLIP 2, which is the class of SigLIP with another tokenizer.
CLASSES = [name for name in FAMILIES if name != "SigLIP 2"]
BOTH = LoraSettings(rank=2, alpha=3, towers="both")
Base = Callable[[str], str]


class Objective:
    """Weighted sums of the embeddings of either tower, in float64."""

    def __init__(self, towers: Any) -> None:
        torch.manual_seed(6)
        self.towers = towers
        self.image_N3HW = torch.randn(1, 3, towers.image_size, towers.image_size, dtype=torch.float64)
        self.token_NL = towers.tokenize(CAPTIONS[7:9])
        self.weight_D = torch.randn(towers.embed_dim, dtype=torch.float64)

    def image(self) -> Tensor:
        return (self.towers.encode_images(self.image_N3HW) @ self.weight_D).sum()

    def text(self) -> Tensor:
        return (self.towers.encode_texts(self.token_NL) @ self.weight_D).sum()


@torch.no_grad()
def slope(objective: Callable[[], Tensor], parameter: Tensor, direction: Tensor) -> float:
    """Return the derivative along `direction`: (f(h) - f(-h)) / 2 h."""
    start, values = parameter.clone(), []
    for step in (STEP, -STEP):
        parameter.copy_(start + step * direction)
        values.append(float(objective()))
    parameter.copy_(start)
    return (values[0] - values[1]) / (2 * STEP)


@pytest.mark.parametrize("family", CLASSES)
def test_gradients_are_those_of_finite_differences(family: str, family_base: Base) -> None:
    towers = load_towers(family_base(family)).double().eval()
    layers = add_adapters(towers, BOTH)
    towers.double()
    torch.manual_seed(7)
    adapters = adapter_parameters(towers)
    for parameter in adapters.values():
        nn.init.normal_(parameter, std=0.1)  # away from B = 0, where A has no gradient
    objective = Objective(towers)
    (objective.image() + objective.text()).backward()
    assert len(adapters) == 2 * len(layers)
    for name, parameter in adapters.items():
        gradient = parameter.grad
        assert gradient is not None and gradient.dtype == torch.float64
        # Half along the gradient, so that the slope is not zero, and half random, so that every entry counts.
        noise = torch.randn_like(parameter)
        direction = gradient / gradient.norm() + noise / noise.norm()
        exact = float((gradient * direction).sum())
        tower = objective.image if name.startswith(towers.image_prefix) else objective.text
        numeric = slope(tower, parameter.data, direction)
        assert abs(numeric - exact) < 1e-6 * abs(exact), f"{name}: {numeric} against {exact}"


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_adapters_start_as_the_bare_tower_and_merge_into_it(family: str, family_base: Base) -> None:
    bare, towers = (load_towers(family_base(family)).eval() for _ in range(2))
    before = state_sha256(dict(bare.state_dict()))
    add_adapters(towers, BOTH)
    torch.manual_seed(8)
    image_N3HW = torch.randn(2, 3, bare.image_size, bare.image_size)
    token_NL = bare.tokenize(CAPTIONS[:3])
    assert torch.equal(towers.encode_images(image_N3HW), bare.encode_images(image_N3HW))
    assert torch.equal(towers.encode_texts(token_NL), bare.encode_texts(token_NL))
    for parameter in adapter_parameters(towers).values():
        nn.init.normal_(parameter, std=0.1)
    assert state_sha256(base_state(towers)) == before
    merged = merged_towers(towers)
    assert (merged.encode_images(image_N3HW) - towers.encode_images(image_N3HW)).abs().max() < 1e-5
    assert (merged.encode_texts(token_NL) - towers.encode_texts(token_NL)).abs().max() < 1e-5
    assert (merged.encode_images(image_N3HW) - bare.encode_images(image_N3HW)).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_training_in_half_precision_never_changes_the_base(family: str, family_base: Base) -> None:
    towers = load_towers(family_base(family))
    before = state_sha256(dict(towers.state_dict()))
    add_adapters(towers, BOTH)
    optimizer = torch.optim.AdamW([p for p in towers.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            image_ND = towers.encode_images(torch.randn(2, 3, towers.image_size, towers.image_size))
            loss = (image_ND @ towers.encode_texts(towers.tokenize(CAPTIONS[:2])).T).trace()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert state_sha256(base_state(towers)) == before
    assert all(parameter.abs().max() > 0.05 for name, parameter in adapter_parameters(towers).items())
