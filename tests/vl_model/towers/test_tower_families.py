"""Every family of towers, loaded from its library's own format on disk, against the stock library."""

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
    assert (text_KD[0] - text_KD[1]).abs().max() > 1e-3  # else equal embeddings of all texts would pass


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
def test_preprocessing_and_tokenization_come_from_the_folder(family: str, family_base: Base, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(family_base(family).removeprefix("hf:"), folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    settings |= {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    towers = load_towers(f"hf:{folder}")
    assert (towers.mean, towers.std, towers.image_size) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 32)
    assert towers.context_length == {"CLIP": 77}.get(family, 64)
    # SigLIP pools at its last token, so its texts are never cut. CLIP's are cut to the longest.
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


def damage(folder: Path, what: str) -> None:
    """Make one thing wrong in the folder of a SigLIP."""
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
        ("config.json", "missing files: config.json; on a machine with a network, run hf download"),
        ("model.safetensors", "missing files: model.safetensors"),
        ("preprocessor_config.json", "missing files: preprocessor_config.json"),
        ("half the weights", "cannot be loaded"),
        ("deeper", "the weights lack 16 tensors, such as vision_model.encoder.layers.2"),
        ("another size", "the processor makes images of {'height': 64, 'width': 64}, but the weights expect 32"),
        ("fewer words", "the tokenizer has more tokens than the weights"),
        ("siglip2", "choose one of fixed resolution"),
        ("blip", "is a 'blip' model; hf: supports clip and siglip"),
    ],
)
def test_a_damaged_folder_is_reported_in_one_line(what: str, words: str, family_base: Base, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(family_base("SigLIP").removeprefix("hf:"), folder)
    damage(folder, what)
    with pytest.raises(ValueError, match=f"^model 'hf:{folder}': ") as caught:
        load_towers(f"hf:{folder}")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_that_is_not_on_disk_is_reported_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("google/medsiglip-448", "openai/clip-vit-base-patch16"):
        with pytest.raises(ValueError, match="is not on this machine, and the hub cannot be reached") as caught:
            load_towers(f"hf:{name}")
        words = str(caught.value)
        assert f"hf download {name} --include" in words and "set model to hf:FOLDER" in words and "\n" not in words
    with pytest.raises(ValueError, match="no such folder; give an existing one, or a name such as hf:"):
        load_towers("hf:/nowhere/at/all")
    with pytest.raises(ValueError, match="leave pretrained out"):
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
        (
            "vocab.txt",
            "the tokenizer is missing; on a machine with a network, run hf download nobody/has-this",
        ),
        ("open_clip_pytorch_model.bin", "the file open_clip_model.safetensors is missing"),
    ],
)
def test_a_missing_file_of_a_biomedclip_is_named(
    without: str, words: str, family_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "base"
    shutil.copytree(family_base("open_clip with BERT").removeprefix("local-dir:"), folder)
    (folder / without).unlink()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"^model 'local-dir:") as caught:
        load_towers(f"local-dir:{folder}")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_of_the_other_library_is_recognised(family_base: Base) -> None:
    folder = family_base("CLIP").removeprefix("hf:")
    with pytest.raises(ValueError, match=f"if it is a model of transformers, its name is hf:{folder}"):
        load_towers(f"local-dir:{folder}")
