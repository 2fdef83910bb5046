"""Gradient checkpointing leaves gradients unchanged, in each family of towers, and keeps less memory."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.tiny_model import tiny_towers
from vl_model.model.settings import LoraSettings, ModelSettings
from vl_model.model.site_model import SiteModel, build_site_model
from vl_model.towers.gradient_checkpointing import checkpoint_blocks, is_checkpointed
from vl_model.training.memory import saved_bytes


def gradients(model: SiteModel) -> dict[str, torch.Tensor]:
    """Return the gradients of all trained weights, from fixed images and a text, with a fixed seed for dropout."""
    torch.manual_seed(3)
    size = model.towers.image_size
    height, width = (size, size) if isinstance(size, int) else size
    image_N3HW = torch.randn(2, 3, height, width)
    model.zero_grad()
    torch.manual_seed(4)
    text_ND = model.towers.encode_texts(model.towers.tokenize(["severe spinal canal stenosis"]))
    (model.towers.encode_images(image_N3HW) @ text_ND.T).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", ["open_clip", "open_clip with BERT", "CLIP"])
def test_gradients_are_equal_to_the_bit(family: str, family_base: Callable[[str], str]) -> None:
    settings = ModelSettings(family_base(family), None, "lora", LoraSettings(4, 8, 0.5, "both"))
    torch.manual_seed(0)
    model = build_site_model(settings).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)  # they start at zero, where half of the gradients are zero too
    expected, names = gradients(model), list(model.state_dict())
    assert checkpoint_blocks(model.towers) >= 4
    found = gradients(model)
    assert found.keys() == expected.keys() and all(found[name].equal(expected[name]) for name in expected)
    assert list(model.state_dict()) == names


def test_less_memory_is_kept(tiny_base: str) -> None:
    towers = tiny_towers()
    image_N3HW = torch.randn(4, 3, 32, 32)
    before = saved_bytes(towers, lambda: towers.encode_images(image_N3HW))
    assert checkpoint_blocks(towers) == 4
    assert saved_bytes(towers, lambda: towers.encode_images(image_N3HW)) < 0.5 * before


def test_blocks_with_batch_statistics_are_not_checkpointed() -> None:
    blocks = nn.Sequential(*(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)) for _ in range(2)))
    assert checkpoint_blocks(blocks) == 0 and not any(map(is_checkpointed, blocks.modules()))
