"""Compilation of blocks changes neither gradients nor the names of parameters."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vl_model.model.lora import merged_towers
from vl_model.model.settings import LoraSettings, ModelSettings
from vl_model.model.site_model import SiteModel, build_site_model
from vl_model.towers.blocks import blocks_of, compile_blocks
from vl_model.towers.plain_attention import use_plain_attention


def gradients(model: SiteModel, images: int) -> dict[str, Tensor]:
    """Return the gradients of all trained weights; the number of images may vary, as that of tiles does."""
    torch.manual_seed(3)
    size = model.towers.image_size
    image_N3HW = torch.randn(images, 3, size, size)
    model.zero_grad()
    text_ND = model.towers.encode_texts(model.towers.tokenize(["severe spinal canal stenosis"]))
    (model.towers.encode_images(image_N3HW) @ text_ND.T).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", ["open_clip", "CLIP"])
def test_compiled_blocks_have_the_gradients_of_uncompiled_ones(family: str, family_base: Callable[[str], str]) -> None:
    """The backend traces and differentiates as inductor does, without its C++ compilation, which takes minutes."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    settings = ModelSettings(family_base(family), None, "lora", LoraSettings(4, 8, 0.0, "both"))
    model = build_site_model(settings).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    use_plain_attention(model)
    expected = [gradients(model, images) for images in (2, 3, 5)]
    names = list(model.state_dict())
    assert compile_blocks(model.towers, "aot_eager") == len(blocks_of(model.towers)) >= 4
    for images, before in zip((2, 3, 5), expected, strict=True):
        after = gradients(model, images)
        assert after.keys() == before.keys() and len(after) > 20
        for name, gradient in before.items():
            torch.testing.assert_close(after[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    assert list(model.state_dict()) == names
    assert not any("lora" in name for name in merged_towers(model.towers).state_dict())
