"""Towers of open_clip: embeddings, cut texts, un-fused attention, files and errors."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import nn

from data_prep.sites import SITES, Severity
from prompts.render import training_captions
from tests.tiny_model import tiny_towers
from vl_model.towers.separate_attention import SeparateAttention, fused_state_dict, unfuse_attention
from vl_model.towers.towers import load_towers, save_towers

TEXTS = [training_captions(site, Severity.SEVERE)[1] for site in SITES[:6]] + ["a"]


def stock(name: str) -> tuple[nn.Module, object]:
    return open_clip.create_model(name).eval(), open_clip.get_tokenizer(name)


@torch.no_grad()
def test_embeddings_are_those_of_stock_open_clip(tiny_base: str) -> None:
    towers = load_towers(tiny_base).eval()
    clip, tokenizer = stock(tiny_base)
    image_N3HW = torch.randn(3, 3, 32, 32)
    assert torch.allclose(towers.encode_images(image_N3HW), clip.encode_image(image_N3HW, normalize=True), atol=1e-6)
    expected = clip.encode_text(tokenizer(TEXTS), normalize=True)
    assert torch.allclose(towers.encode_texts(towers.tokenize(TEXTS)), expected, atol=1e-6)


@torch.no_grad()
def test_texts_cut_to_their_longest_are_exact(tiny_base: str) -> None:
    towers = load_towers(tiny_base).eval()
    full_NL = towers.tokenizer(TEXTS)
    cut_NL = towers.tokenize(TEXTS)
    longest = max(len(towers.tokenizer.encode(text)) + 2 for text in TEXTS)  # start and end
    assert cut_NL.shape[1] == longest < full_NL.shape[1] == towers.context_length
    assert torch.allclose(towers.encode_texts(cut_NL), towers.encode_texts(full_NL), atol=1e-6)


def test_gradients_of_cut_texts_are_exact(tiny_base: str) -> None:
    towers = load_towers(tiny_base).double()
    gradients = []
    for token_NL in (towers.tokenizer(TEXTS), towers.tokenize(TEXTS)):
        towers.zero_grad()
        weights_ND = torch.linspace(-1, 1, len(TEXTS) * towers.embed_dim).view(len(TEXTS), -1)
        (towers.encode_texts(token_NL) * weights_ND).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in towers.clip.transformer.parameters()]))
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-5, atol=1e-9)


def test_texts_of_a_tower_that_attends_to_padding_are_not_cut(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "embed_dim": 16,
        "custom_text": True,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 16},
        "text_cfg": {
            "context_length": 24,
            "width": 16,
            "heads": 2,
            "layers": 1,
            "no_causal_mask": True,
            "pool_type": "last",
        },
    }
    (tmp_path / "tiny-bidirectional.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-bidirectional.json")
    towers = load_towers("tiny-bidirectional").eval()
    assert towers.tokenize(["a"]).shape[1] == 24
    assert towers.encode_texts(towers.tokenize(["a"])).shape == (1, 16)


@torch.no_grad()
def test_unfused_attention_is_the_fused_one() -> None:
    block = open_clip.transformer.ResidualAttentionBlock(24, 3).eval()
    x_NLD, mask_LL = torch.randn(2, 5, 24), torch.full((5, 5), float("-inf")).triu(1)
    before, state = block(x_NLD, attn_mask=mask_LL), {k: v.clone() for k, v in block.state_dict().items()}
    assert unfuse_attention(block, type(block), "attn") == 1 and isinstance(block.attn, SeparateAttention)
    assert torch.allclose(block(x_NLD, attn_mask=mask_LL), before, atol=1e-6)
    mask_MLL = torch.randn(2 * 3, 5, 5)  # per sequence and head, as in text towers with a class token
    stock_block = open_clip.transformer.ResidualAttentionBlock(24, 3).eval()
    stock_block.load_state_dict(state)
    assert torch.allclose(block(x_NLD, attn_mask=mask_MLL), stock_block(x_NLD, attn_mask=mask_MLL), atol=1e-6)
    fused = fused_state_dict(block)
    assert fused.keys() == state.keys()
    assert all(torch.equal(fused[name], state[name]) for name in state)


def test_saved_towers_load_in_stock_open_clip(tiny_base: str, tmp_path: Path) -> None:
    towers = tiny_towers(seed=7)
    save_towers(towers, tmp_path / "out")
    clip, _ = stock(f"local-dir:{tmp_path / 'out'}")
    image_N3HW = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(
            towers.encode_images(image_N3HW), clip.encode_image(image_N3HW, normalize=True), atol=1e-6
        )
    assert tuple(clip.visual.image_mean) == towers.mean and tuple(clip.visual.image_std) == towers.std


def test_own_configuration_has_its_sizes() -> None:
    towers = load_towers("lumbar-tiny")
    assert towers.embed_dim == 256 and towers.context_length == 32
    longest = max(
        (text for site in SITES for severity in Severity for text in training_captions(site, severity)), key=len
    )
    assert len(towers.tokenizer.encode(longest)) + 2 <= towers.context_length


@pytest.mark.parametrize(
    ("model", "pretrained", "words"),
    [
        ("ViT-B-61", None, "ViT-B-16"),
        ("ViT-B-16", "opanai", "openai"),
        ("local-dir:/nowhere/at/all", None, "open_clip_config.json"),
        ("local-dir:/nowhere/at/all", "openai", "leave pretrained out"),
    ],
)
def test_a_wrong_name_is_reported_with_the_right_ones(model: str, pretrained: str | None, words: str) -> None:
    with pytest.raises(ValueError, match=r"^(model|pretrained) ") as caught:
        load_towers(model, pretrained)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_weights_that_are_not_on_disk_are_reported_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    download = r"hf download timm/vit_base_patch16_clip_224\.openai open_clip_model\.safe"
    with pytest.raises(ValueError, match=rf"{download}.* set model to ViT-B-16-quickgelu and pretrained to its path"):
        load_towers("ViT-B-16", "openai")
    with pytest.raises(
        ValueError, match=r"hf download laion/CLIP-ViT-B-16-laion2B-s34B-b88K .* set pretrained to its path"
    ):
        load_towers("ViT-B-16", "laion2b_s34b_b88k")


def test_the_recipes_name_the_quickgelu_model_for_a_file_of_openais_weights() -> None:
    """A weights file does not record that it was trained with QuickGELU, and both models load it without an error."""
    recipes = [path.read_text() for path in (Path(__file__).parents[3] / "recipes").glob("*.yaml")]
    offline = [text for text in recipes if "pretrained: openai" in text]
    assert len(offline) == 3
    for text in offline:
        name = text.partition("\nmodel: ")[2].split()[0]
        assert f"--model {name}-quickgelu --pretrained" in text
        assert open_clip.get_model_config(f"{name}-quickgelu")["quick_gelu"]


def test_weights_of_another_model_are_refused(tiny_base: str, tmp_path: Path) -> None:
    folder = Path(tiny_base.removeprefix("local-dir:"))
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["width"] = 48
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "open_clip_model.safetensors").write_bytes((folder / "open_clip_model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_towers(f"local-dir:{tmp_path}")
