"""``train_vl.py --export``: stock libraries load its folders and compute the same embeddings."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.small_families import CAPTIONS, FAMILIES, stock_embeddings
from tests.training_runs import Train
from vl_model.model.export import export_run
from vl_model.model.lora import adapter_parameters
from vl_model.model.settings import LoraSettings, ModelSettings
from vl_model.model.site_model import SiteModel, build_site_model
from vl_model.model.site_model_files import save_site_model

Base = Callable[[str], str]
TEXTS = CAPTIONS[::50]


def write_run(run: Path, model: SiteModel) -> None:
    """Write a finished run of a model whose trained weights are moved from their start."""
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data += (0.1 if "lora_" in name else 0.01) * torch.randn_like(parameter)
    save_site_model(model, run / "final")
    (run / "run.json").write_text(
        json.dumps({"held_out_folds": [0], "dataset_fingerprint": "", "settings": {}, "finished": True})
    )


@pytest.mark.parametrize(
    ("family", "tune"), [*((family, "lora") for family in FAMILIES), ("CLIP", "full"), ("SigLIP", "full")]
)
def test_stock_libraries_load_an_export_and_embed_the_same(
    family: str, tune: str, family_base: Base, tmp_path: Path
) -> None:
    settings = ModelSettings(family_base(family), tune=tune, lora=LoraSettings(rank=3, towers="both"))
    model = build_site_model(settings)
    write_run(tmp_path / "run", model)
    name = export_run(tmp_path / "run", tmp_path / "out")
    assert name == family_base(family).partition(":")[0] + f":{tmp_path / 'out'}"
    towers = model.eval().towers
    torch.manual_seed(4)
    image_N3HW = torch.randn(2, 3, towers.image_size, towers.image_size)
    image_ND, text_KD = stock_embeddings(name, image_N3HW, TEXTS)
    bare_ND, _ = stock_embeddings(family_base(family), image_N3HW, TEXTS)
    with torch.no_grad():
        assert (towers.encode_images(image_N3HW) - image_ND).abs().max() < 1e-5
        assert (towers.encode_texts(towers.tokenize(TEXTS)) - text_KD).abs().max() < 1e-5
    assert (image_ND - bare_ND).abs().max() > 1e-3
    weights = next((tmp_path / "out").glob("*.safetensors"))
    with safe_open(weights, "pt") as file:
        assert file.get_tensor("logit_scale").item() == pytest.approx(model.logit_scale.log_scale.item())
        assert not [key for key in file.keys() if "lora" in key]  # noqa: SIM118
    with pytest.raises(ValueError, match="already exists; name a new folder"):
        export_run(tmp_path / "run", tmp_path / "out")


def test_a_head_has_nothing_to_export(tiny_base: str, tmp_path: Path) -> None:
    write_run(tmp_path / "run", build_site_model(ModelSettings(tiny_base, tune="head")))
    with pytest.raises(ValueError, match="was trained with tune 'head'"):
        export_run(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_on_a_model_of_transformers_is_trained_and_exported(
    train: Train, tiny_root: Path, family_base: Base, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    short = ["--model", family_base("SigLIP"), "--max_train_steps", "2", "--per_device_train_batch_size", "10"]
    assert train("to-export", *short, "--lora_towers", "both", "--lora_last_blocks", "1") == 0
    out = tmp_path / "out"
    assert train("to-export", "--export", str(out)) == 0
    assert f"wrote hf:{out}" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} >= {"config.json", "model.safetensors", "spiece.model"}
    # An export is a base like any other.
    again = ["--model", f"hf:{out}", *short[2:], "--tune", "full"]
    assert train("from-exported", *again) == 0
    final = tiny_root / "train" / "checkpoints" / "from-exported" / "final"
    assert {path.name for path in final.iterdir()} >= {"config.json", "model.safetensors", "site_model.json"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nobody", "--export", "out"), "no such run"),
        (("begun", "--export", "out"), "has no final/ yet"),
        (("begun", "--export", "out", "--overwrite", "true"), "leave out --overwrite and --resume_from_checkpoint"),
    ],
)
def test_wrong_use_is_reported_in_one_line(
    arguments: tuple[str, ...], words: str, train: Train, tiny_root: Path, capsys: pytest.CaptureFixture
) -> None:
    (tiny_root / "train" / "checkpoints" / "begun").mkdir(parents=True, exist_ok=True)
    assert train(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("train_vl.py: error: ") and error.count("\n") == 1 and words in error


def test_adapters_of_every_family_are_on_all_six_kinds_of_layer(family_base: Base) -> None:
    """The kinds are query, key, value, output and the MLP's two, in both towers; SigLIP's pooling gets no adapters."""
    expected = {
        "open_clip": {"q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj"},
        "open_clip with BERT": {"qkv", "proj", "fc1", "fc2", "query", "key", "value", "dense"},
    }
    for family in FAMILIES:
        model = build_site_model(ModelSettings(family_base(family), lora=LoraSettings(towers="both")))
        layers = {name.rpartition(".lora_")[0] for name in adapter_parameters(model.towers)}
        kinds = {layer.rpartition(".")[2] for layer in layers}
        assert kinds == expected.get(family, {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"})
        assert not [layer for layer in layers if ".head.a" in layer or "vision_model.head" in layer]
