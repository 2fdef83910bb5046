"""Adapters: start, gradients, files, merging, and the layers that they are on."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from peft import PeftModel
from torch import nn

from tests.tiny_model import TINY_BASE, tiny_towers
from vl_model.model.lora import (
    adapted_layers,
    adapter_parameters,
    add_adapters,
    base_state,
    check_gradients,
    load_adapters,
    merged_towers,
    save_adapters,
)
from vl_model.model.settings import LoraSettings
from vl_model.model.site_model_files import state_sha256
from vl_model.towers.open_clip_towers import OpenClipTowers
from vl_model.towers.towers import load_towers, save_towers

pytestmark = pytest.mark.usefixtures("tiny_base")
BOTH = LoraSettings(rank=3, alpha=5, towers="both")


def adapted(settings: LoraSettings = BOTH, moved: bool = True) -> OpenClipTowers:
    """Return towers with adapters; if `moved`, these are no longer the identity."""
    towers = tiny_towers()
    add_adapters(towers, settings)
    if moved:
        torch.manual_seed(1)
        for parameter in adapter_parameters(towers).values():
            nn.init.normal_(parameter, std=0.2)
    return towers


def embeddings(towers: OpenClipTowers) -> torch.Tensor:
    torch.manual_seed(2)
    image_N3HW = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        texts = towers.encode_texts(towers.tokenize(["L4-L5: severe", "normal"]))
        return torch.cat([towers.encode_images(image_N3HW), texts])


def test_adapters_start_as_the_identity() -> None:
    assert torch.equal(embeddings(adapted(moved=False)), embeddings(tiny_towers()))
    assert not torch.allclose(embeddings(adapted()), embeddings(tiny_towers()), atol=1e-3)


def test_every_projection_of_every_block_is_adapted_and_nothing_else_learns() -> None:
    towers = adapted(LoraSettings())
    names = {name.rpartition(".lora_")[0] for name in adapter_parameters(towers)}
    assert len(names) == 2 * 6 and all(name.startswith("clip.visual.") for name in names)
    assert {name for name, p in towers.named_parameters() if p.requires_grad} == set(adapter_parameters(towers))
    assert len(adapted_layers(tiny_towers(), BOTH)) == 4 * 6


def test_gradients_are_those_of_finite_differences() -> None:
    towers = adapted().double()
    torch.manual_seed(3)
    image_N3HW, token_NL = torch.randn(2, 3, 32, 32).double(), towers.tokenizer(["L4-L5: severe"])
    weight_D = torch.randn(towers.embed_dim).double()

    def objective() -> torch.Tensor:
        return (towers.clip.encode_image(image_N3HW) @ weight_D).sum() + (
            towers.clip.encode_text(token_NL) @ weight_D
        ).sum()

    objective().backward()
    for name, parameter in adapter_parameters(towers).items():
        direction = torch.randn_like(parameter)
        direction /= direction.norm()
        with torch.no_grad():
            values = []
            for step in (1e-5, -1e-5):
                parameter += step * direction
                values.append(objective())
                parameter -= step * direction
        numeric, exact = (values[0] - values[1]) / 2e-5, (parameter.grad * direction).sum()
        assert abs(numeric - exact) <= 1e-6 * parameter.grad.norm() + 1e-9, name


def test_the_base_never_changes() -> None:
    towers = adapted()
    before = state_sha256(base_state(towers))
    assert before == state_sha256(dict(tiny_towers().state_dict()))
    optimizer = torch.optim.AdamW([p for p in towers.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            loss = towers.encode_images(torch.randn(2, 3, 32, 32))[:, 0].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert state_sha256(base_state(towers)) == before


def test_saved_adapters_load_here_and_in_peft(tmp_path: Path) -> None:
    towers = adapted()
    save_adapters(towers, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"adapter_model.safetensors", "adapter_config.json"}
    ours = tiny_towers()
    load_adapters(ours, BOTH, tmp_path)
    assert torch.equal(embeddings(ours), embeddings(towers))
    wrapped = PeftModel.from_pretrained(tiny_towers(), str(tmp_path))
    assert torch.allclose(embeddings(wrapped.base_model.model), embeddings(towers), atol=1e-6)


def test_adapters_of_another_rank_are_refused(tmp_path: Path) -> None:
    save_adapters(adapted(), tmp_path)
    with pytest.raises(ValueError, match="do not fit"):
        load_adapters(tiny_towers(), LoraSettings(rank=4, towers="both"), tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match="cannot be read"):
        load_adapters(tiny_towers(), BOTH, tmp_path)


def test_merged_towers_load_in_stock_open_clip(tmp_path: Path) -> None:
    towers = adapted()
    with pytest.raises(ValueError, match="merge the adapters"):
        save_towers(towers, tmp_path / "unmerged")
    save_towers(merged_towers(towers), tmp_path / "merged")
    clip = open_clip.create_model(f"local-dir:{tmp_path / 'merged'}").eval()
    image_N3HW = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = towers.encode_images(image_N3HW)
        assert torch.allclose(clip.encode_image(image_N3HW, normalize=True), expected, atol=1e-5)
    assert torch.allclose(
        embeddings(load_towers(f"local-dir:{tmp_path / 'merged'}").eval()), embeddings(towers), atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet10t", 8),
        ("pvt_v2_b0", 41),
        ("convnext_atto", 24),
        ("vit_tiny_patch16_224", 49),
        ("efficientnet_lite0", 31),
    ],
    ids=lambda x: str(x),
)
def test_towers_of_timm_are_adapted_and_merged(name: str, count: int, tmp_path: Path) -> None:
    config = TINY_BASE | {"vision_cfg": {"image_size": 224, "timm_model_name": name, "timm_pool": "avg"}}
    config["vision_cfg"]["timm_proj"] = "linear"
    path = tmp_path / f"tiny-{name}.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    torch.manual_seed(0)
    towers = load_towers(path.stem).eval()
    for module in towers.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm starts the last one of a block at zero, where all gradients vanish
    assert len(add_adapters(towers, LoraSettings(rank=2, alpha=2))) == count
    for parameter in adapter_parameters(towers).values():
        nn.init.normal_(parameter, std=0.1)
    image_N3HW = torch.randn(2, 3, 224, 224)
    towers.encode_images(image_N3HW)[:, 0].sum().backward()
    assert all(parameter.grad.any() for parameter in adapter_parameters(towers).values())
    with torch.no_grad():
        expected = towers.encode_images(image_N3HW)
        assert torch.allclose(merged_towers(towers).encode_images(image_N3HW), expected, atol=1e-5)


def test_attention_pooling_gets_no_adapter_without_effect(tmp_path: Path) -> None:
    """Its attention stays fused, and uses the weight of its output layer without calling the layer or an adapter."""
    pooled = {**TINY_BASE["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2}
    path = tmp_path / "tiny-attention-pool.json"
    path.write_text(json.dumps(TINY_BASE | {"vision_cfg": pooled}))
    open_clip.add_model_config(path)
    torch.manual_seed(0)
    towers = load_towers(path.stem)
    assert len(add_adapters(towers, LoraSettings())) == 2 * 6
    for parameter in adapter_parameters(towers).values():
        nn.init.normal_(parameter, std=0.1)
    towers.encode_images(torch.randn(2, 3, 32, 32))[:, 0].sum().backward()
    assert all(parameter.grad is not None for parameter in adapter_parameters(towers).values())


def test_adapters_of_the_last_blocks_only() -> None:
    towers = adapted(LoraSettings(towers="both", last_blocks=1))
    names = {name.rpartition(".lora_")[0] for name in adapter_parameters(towers)}
    assert len(names) == 2 * 6 and all("resblocks.1." in name for name in names)
    with pytest.raises(ValueError, match="lora_last_blocks 3: the image tower has only 2 blocks"):
        add_adapters(tiny_towers(), LoraSettings(last_blocks=3))


def test_an_adapter_without_a_gradient_is_named() -> None:
    towers = adapted(moved=False)
    with pytest.raises(ValueError, match=r"the adapter on clip\.visual\.transformer\.\S+ gets no gradient"):
        check_gradients(towers)
    towers.encode_images(torch.randn(2, 3, 32, 32))[:, 0].sum().backward()
    with pytest.raises(ValueError, match=r"clip\.transformer\.resblocks\.0\.attn\.q_proj gets no gradient"):
        check_gradients(towers)
    towers.encode_texts(towers.tokenize(["a"]))[:, 0].sum().backward()
    assert not any(p.grad.any() for name, p in adapter_parameters(towers).items() if ".lora_A." in name)
    check_gradients(towers)
    dead = dict(towers.named_parameters())["clip.visual.transformer.resblocks.1.mlp.c_fc.lora_B.default.weight"]
    dead.grad.zero_()
    with pytest.raises(ValueError, match=r"resblocks\.1\.mlp\.c_fc gets no gradient"):
        check_gradients(towers)


def test_a_tower_without_such_layers_is_refused() -> None:
    towers = tiny_towers()
    towers.clip.visual.transformer = nn.Identity()
    with pytest.raises(ValueError, match="tune 'lora': the image tower has no layers that can be adapted"):
        add_adapters(towers, LoraSettings())
