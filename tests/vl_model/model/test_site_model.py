"""The site model: its files, what each `tune` trains, its base, and the wordings of captions."""

import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from torch import nn

from vl_model.model.lora import adapter_parameters
from vl_model.model.settings import LoraSettings, ModelSettings
from vl_model.model.site_model import SiteModel, build_site_model
from vl_model.model.site_model_files import load_site_model, save_site_model
from vl_model.training.captions import Captions

TEXTS = ["L4-L5 left neural foraminal narrowing: severe", "normal"]


def moved(model: SiteModel) -> SiteModel:
    """Move all trained weights away from their start."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = 0.2 if "lora" in name or "pooling" in name else 0.01
            parameter.data += scale * torch.randn_like(parameter)
    return model.eval()


def tiles() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    return torch.randn(3, 2, 3, 32, 32), torch.tensor([[True, True], [True, False], [True, True]])


@torch.no_grad()
def outputs(model: SiteModel) -> torch.Tensor:
    image_BD, _, scale, _ = model(*tiles(), None)
    return torch.cat([image_BD.flatten(), model.embed_texts(TEXTS).flatten(), scale.view(1)])


@pytest.mark.parametrize(
    "settings",
    [
        ModelSettings("", tune="lora", lora=LoraSettings(rank=4, alpha=4, towers="both")),
        ModelSettings("", tune="full"),
        ModelSettings("", tune="head"),
    ],
    ids=lambda settings: settings.tune,
)
def test_saved_models_load_and_embed_the_same(settings: ModelSettings, tiny_base: str, tmp_path: Path) -> None:
    settings = ModelSettings(tiny_base, tune=settings.tune, lora=settings.lora)
    model = moved(build_site_model(settings))
    save_site_model(model, tmp_path / "final", {"steps": 3})
    again = load_site_model(tmp_path / "final")
    assert torch.allclose(outputs(again), outputs(model), atol=1e-5)
    assert not again.training and not any(parameter.requires_grad for parameter in again.parameters())
    card = json.loads((tmp_path / "final" / "site_model.json").read_text())
    assert card["steps"] == 3 and card["tune"] == settings.tune and card["preprocessing"]["view_mm"] == 48.0
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    assert (tmp_path / "final" / "adapter_model.safetensors").exists() == (settings.tune == "lora")


def test_a_fully_tuned_model_is_a_stock_open_clip_folder(tiny_base: str, tmp_path: Path) -> None:
    model = moved(build_site_model(ModelSettings(tiny_base, tune="full")))
    save_site_model(model, tmp_path / "final")
    clip = open_clip.create_model(f"local-dir:{tmp_path / 'final'}").eval()
    assert clip.logit_scale.exp().item() == pytest.approx(model.logit_scale().item())
    one_tile = tiles()[0][:, 0]
    with torch.no_grad():
        expected = model.embed_sites(one_tile[:, None], torch.ones(3, 1, dtype=torch.bool))
        assert torch.allclose(clip.encode_image(one_tile, normalize=True), expected, atol=1e-5)


def test_sites_are_pooled_from_their_own_tiles(tiny_base: str) -> None:
    model = build_site_model(ModelSettings(tiny_base)).eval()
    tiles_BT3HW, mask_BT = tiles()
    with torch.no_grad():
        image_BD = model.embed_sites(tiles_BT3HW, mask_BT)
        single = model.towers.encode_images(tiles_BT3HW[1, :1])
        pair = model.towers.encode_images(tiles_BT3HW[2]).mean(dim=0, keepdim=True)
    assert torch.allclose(image_BD[1:2], single, atol=1e-5)
    assert torch.allclose(image_BD[2:3], pair / pair.norm(), atol=1e-5)


def test_only_the_tuned_parts_get_gradients(tiny_base: str) -> None:
    lora = build_site_model(ModelSettings(tiny_base))
    learning = {name for name, parameter in lora.named_parameters() if parameter.requires_grad}
    adapters = {f"towers.{name}" for name in adapter_parameters(lora.towers)}
    assert learning == adapters | {"pooling.query_D", "logit_scale.log_scale"}
    head = build_site_model(ModelSettings(tiny_base, tune="head"))
    learning = {name for name, parameter in head.named_parameters() if parameter.requires_grad}
    assert learning == {"pooling.query_D", "logit_scale.log_scale", "image_map.weight_DD"}
    full = build_site_model(ModelSettings(tiny_base, tune="full"))
    assert {name for name, p in full.named_parameters() if not p.requires_grad} == {"towers.clip.logit_scale"}
    image_BD, text_KD, scale, _ = full(*tiles(), full.towers.tokenize(TEXTS))
    (scale * image_BD @ text_KD.T).logsumexp(dim=1).sum().backward()
    without = {
        name for name, parameter in full.named_parameters() if parameter.requires_grad and parameter.grad is None
    }
    assert not without


def test_logit_scale_stays_within_a_hundred(tiny_base: str) -> None:
    model = build_site_model(ModelSettings(tiny_base))
    model.logit_scale.log_scale.data.fill_(9.0)
    model.logit_scale.clamp_()
    assert model.logit_scale().item() == pytest.approx(100.0)
    model.logit_scale().backward()
    assert model.logit_scale.log_scale.grad.item() != 0


def test_frozen_batch_statistics_do_not_change(tiny_base: str) -> None:
    model = build_site_model(ModelSettings(tiny_base))
    model.towers.clip.visual.ln_post = nn.BatchNorm1d(5)
    model.train()
    assert model.training and model.towers.training and not model.towers.clip.visual.ln_post.training


def test_adapters_refuse_another_base(tiny_base: str, tmp_path: Path) -> None:
    from tests.tiny_model import write_tiny_base

    base = tmp_path / "base"
    shutil.copytree(tiny_base.removeprefix("local-dir:"), base)
    save_site_model(build_site_model(ModelSettings(f"local-dir:{base}")), tmp_path / "runs" / "first" / "final")
    load_site_model(tmp_path / "runs" / "first" / "final")
    write_tiny_base(base, seed=9)
    with pytest.raises(ValueError, match="other weights of"):
        load_site_model(tmp_path / "runs" / "first" / "final")


def test_other_folders_and_versions_are_refused(tiny_base: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no site_model\.json; give the final/"):
        load_site_model(tmp_path)
    model = build_site_model(ModelSettings(tiny_base, tune="full"))
    save_site_model(model, tmp_path / "final")
    card = tmp_path / "final" / "site_model.json"
    card.write_text(card.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    with pytest.raises(ValueError, match="schema version 99, expected 1"):
        load_site_model(tmp_path / "final")
    with pytest.raises(ValueError, match="has random weights, which tune 'lora' would keep frozen"):
        build_site_model(ModelSettings("lumbar-tiny"))


def test_wordings_change_with_the_step_and_are_embedded_once_when_frozen(tiny_base: str) -> None:
    frozen = Captions(build_site_model(ModelSettings(tiny_base)).eval(), seed=4)
    learning = Captions(build_site_model(ModelSettings(tiny_base, tune="full")).eval(), seed=4)
    assert (frozen.choose(3) == learning.choose(3)).all() and (frozen.choose(3) != frozen.choose(4)).any()
    chosen = [frozen.texts[index] for index in frozen.choose(3)]
    assert frozen.tokens(3) is None and learning.embeddings(3) is None
    expected = build_site_model(ModelSettings(tiny_base)).eval().embed_texts(chosen)
    assert torch.allclose(frozen.embeddings(3), expected, atol=1e-5)
    assert frozen.first_texts()[0] == "L1-L2 spinal canal stenosis: normal or mild" and len(set(chosen)) == 75


def test_frozen_captions_are_embedded_without_dropout(tiny_base: str) -> None:
    model = build_site_model(ModelSettings(tiny_base))
    expected = Captions(model.eval(), seed=4).embeddings(0)
    model.towers.clip.ln_final = nn.Sequential(model.towers.clip.ln_final, nn.Dropout(0.5))
    assert torch.equal(Captions(model.train(), seed=4).embeddings(0), expected) and model.training


def test_a_head_starts_as_the_bare_base_and_learns(tiny_base: str) -> None:
    head, bare = build_site_model(ModelSettings(tiny_base, tune="head")), build_site_model(ModelSettings(tiny_base))
    assert torch.allclose(outputs(head.eval()), outputs(bare.eval()), atol=1e-6)
    image_BD = head.embed_sites(*tiles())
    image_BD[:, 0].sum().backward()
    assert head.image_map is not None and head.image_map.weight_DD.grad.any() and head.pooling.query_D.grad.any()
    assert not head.train().towers.training and head.pooling.training


def test_a_base_with_other_preprocessing_is_refused(tiny_base: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base.removeprefix("local-dir:"), base)
    save_site_model(build_site_model(ModelSettings(f"local-dir:{base}")), tmp_path / "runs" / "first" / "final")
    path = base / "open_clip_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}))
    with pytest.raises(ValueError, match=r"was trained with mean \[0\.48.* now has \[0\.5"):
        load_site_model(tmp_path / "runs" / "first" / "final")
