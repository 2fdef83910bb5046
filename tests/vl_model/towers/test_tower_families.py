"""Every family of towers, from its library's own format on disk, against the stock library."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.small_families import CAPTIONS, FAMILIES, stock_embeddings
from vl_model.towers.separate_attention import SeparateAttention
from vl_model.towers.towers import load_towers, save_towers

TEXTS = [*CAPTIONS[::40], "L4-L5: Severe", "a"]
HF = [name for name in FAMILIES if "open_clip" not in name]

Base = Callable[[str], str]


def images(towers: Any, count: int = 2) -> torch.Tensor:
    torch.manual_seed(5)
    return torch.randn(count, 3, towers.image_size, towers.image_size)


@torch.no_grad()
def assert_same_as_stock(towers: Any, model: str, tolerance: float) -> None:
    image_N3HW = images(towers)
    image_ND, text_KD = stock_embeddings(model, image_N3HW, TEXTS)
    assert torch.allclose(towers.encode_images(image_N3HW), image_ND, atol=tolerance)
    assert torch.allclose(towers.encode_texts(towers.tokenize(TEXTS)), text_KD, atol=tolerance)
    assert (text_KD[0] - text_KD[1]).abs().max() > 1e-3  # towers that give every text the same would agree too


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_are_those_of_the_stock_library(family: str, family_base: Base) -> None:
    towers = load_towers(family_base(family)).eval()
    assert_same_as_stock(towers, family_base(family), 1e-6)
    assert towers.encode_images(images(towers)).shape == (2, towers.embed_dim)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_towers_load_here_and_in_the_stock_library(family: str, family_base: Base, tmp_path: Path) -> None:
    towers = load_towers(family_base(family)).eval()
    with torch.no_grad():
        for parameter in towers.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    folder = tmp_path / "saved"
    save_towers(towers, folder)
    name = family_base(family).partition(":")[0] + f":{folder}"
    assert_same_as_stock(towers, name, 1e-6)
    again = load_towers(name).eval()
    assert torch.equal(again.encode_images(images(again)), towers.encode_images(images(towers)))
    assert torch.equal(again.tokenize(TEXTS), towers.tokenize(TEXTS)) and again.mean == towers.mean


@pytest.mark.parametrize("family", HF)
def test_what_images_and_texts_have_to_be_comes_from_the_folder(family: str, family_base: Base, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(family_base(family).removeprefix("hf:"), folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    settings |= {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    towers = load_towers(f"hf:{folder}")
    assert (towers.mean, towers.std, towers.image_size) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 32)
    assert towers.context_length == {"CLIP": 77}.get(family, 64)
    # SigLIP reads its last token: its texts are never cut. CLIP's end at the longest.
    tokens_NL = towers.tokenize(["a", "L4-L5: severe"])
    assert tokens_NL.shape[1] < 20 if family == "CLIP" else tokens_NL.shape[1] == 64
    assert towers.tokenize([TEXTS[0] * 40]).shape[1] == towers.context_length
    if family != "CLIP":
        assert torch.equal(towers.tokenize(["Severe L4"]), towers.tokenize(["severe l4"]))


@pytest.mark.parametrize("family", ["SigLIP"])
def test_siglips_pooling_is_unfused_and_fused_again(family: str, family_base: Base) -> None:
    towers = load_towers(family_base(family))
    assert isinstance(towers.clip.vision_model.head.attention, SeparateAttention)


def test_half_precision_weights_are_computed_in_float32(family_base: Base, tmp_path: Path) -> None:
    model = transformers.SiglipModel.from_pretrained(family_base("SigLIP").removeprefix("hf:"))
    shutil.copytree(family_base("SigLIP").removeprefix("hf:"), tmp_path / "half")
    model.bfloat16().save_pretrained(tmp_path / "half")
    towers = load_towers(f"hf:{tmp_path / 'half'}")
    assert {parameter.dtype for parameter in towers.parameters()} == {torch.float32}


def broken(folder: Path, what: str) -> None:
    """Make one thing wrong with a SigLIP's folder."""
    config = json.loads((folder / "config.json").read_text())
    if what.endswith((".json", ".safetensors", ".model")):
        (folder / what).unlink()
    elif what == "half the weights":
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:5000])
    elif what == "deeper":
        config["vision_config"]["num_hidden_layers"] = 3
    elif what == "fewer words":
        config["text_config"]["vocab_size"] = 4
        model = transformers.SiglipModel(transformers.SiglipConfig.from_dict(config))
        model.save_pretrained(folder)
    elif what == "another size":
        settings = json.loads((folder / "preprocessor_config.json").read_text())
        (folder / "preprocessor_config.json").write_text(json.dumps(settings | {"size": {"height": 64, "width": 64}}))
    else:
        config["model_type"] = what
    if what != "config.json":
        (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("config.json", "no file config.json there; on a machine with a network: hf download"),
        ("model.safetensors", "no file model.safetensors there"),
        ("preprocessor_config.json", "no file preprocessor_config.json there"),
        ("half the weights", "cannot be loaded"),
        ("deeper", "its weights lack 16 tensors, such as vision_model.encoder.layers.2"),
        ("another size", "its processor makes images of {'height': 64, 'width': 64}, its weights take 32"),
        ("fewer words", "its tokenizer has more tokens than its weights"),
        ("siglip2", "take one of fixed resolution"),
        ("blip", "is a 'blip' model; hf: takes clip and siglip"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(what: str, words: str, family_base: Base, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(family_base("SigLIP").removeprefix("hf:"), folder)
    broken(folder, what)
    with pytest.raises(ValueError, match=f"^--model hf:{folder}: ") as caught:
        load_towers(f"hf:{folder}")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_not_on_disk_says_what_to_bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("google/medsiglip-448", "openai/clip-vit-base-patch16"):
        with pytest.raises(ValueError, match="not on this machine, and the hub cannot be reached") as caught:
            load_towers(f"hf:{name}")
        words = str(caught.value)
        assert f"hf download {name} --include" in words and "give --model hf:FOLDER" in words and "\n" not in words
    with pytest.raises(ValueError, match="no such folder, nor a name such as hf:"):
        load_towers("hf:/nowhere/at/all")
    with pytest.raises(ValueError, match="leave --pretrained out"):
        load_towers("hf:google/medsiglip-448", "openai")


def test_a_model_in_the_hubs_cache_needs_no_network(
    family_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "models--nobody--small" / "snapshots" / ("0" * 40)
    shutil.copytree(family_base("SigLIP 2").removeprefix("hf:"), snapshot)
    (tmp_path / "models--nobody--small" / "refs").mkdir()
    (tmp_path / "models--nobody--small" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_towers("hf:nobody/small").embed_dim == 32


@pytest.mark.parametrize(
    ("without", "words"),
    [
        ("config.json", "hf download nobody/has-this-text-tower config.json"),
        ("vocab.txt", "no tokenizer there; on a machine with a network: hf download nobody/has-this-text-tower"),
        ("open_clip_pytorch_model.bin", "no file open_clip_model.safetensors there"),
    ],
)
def test_a_biomedclip_that_lacks_a_file_says_which(
    without: str, words: str, family_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "base"
    shutil.copytree(family_base("open_clip with BERT").removeprefix("local-dir:"), folder)
    (folder / without).unlink()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"^--model local-dir:") as caught:
        load_towers(f"local-dir:{folder}")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_two_kinds_of_folder_are_told_apart(family_base: Base) -> None:
    folder = family_base("CLIP").removeprefix("hf:")
    with pytest.raises(ValueError, match=f"is it a model of transformers. Then --model hf:{folder}"):
        load_towers(f"local-dir:{folder}")
