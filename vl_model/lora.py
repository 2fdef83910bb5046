"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) on the towers, through peft.

The towers' attention is already un-fused (`vl_model.attention`), so adapters on query, key, value, output and the two
MLP layers are adapters on six plain `nn.Linear` layers a block; residual networks have theirs on convolutions. The
base is frozen and its bytes never change.
`adapter_model.safetensors` and `adapter_config.json` are peft's own formats: ``PeftModel.from_pretrained(towers,
folder)`` reads them too.
"""

import re
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vl_model.towers import OpenClipTowers

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"

#: Kind and names of the layers to adapt, by family of tower; the first family whose names are all there is taken.
FAMILIES: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (nn.Linear, ("q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj")),  # open_clip's transformers, un-fused
    (nn.Linear, ("out_proj", "c_fc", "c_proj")),  # open_clip's "custom" blocks
    (nn.Linear, ("qkv", "proj", "fc1", "fc2")),  # timm's transformers
    (nn.Linear, ("q", "kv", "proj", "fc1", "fc2")),  # timm's pyramid transformers
    (nn.Linear, ("fc1", "fc2")),  # timm's ConvNeXt
    (nn.Conv2d, ("fc1", "fc2")),  # timm's small ConvNeXt
    (nn.Conv2d, ("conv1", "conv2")),  # residual networks
)

_PEFT_PREFIX = "base_model.model."  # what peft puts before the names of a wrapped model's parameters


@dataclass(frozen=True)
class LoraSettings:
    """Adapters of rank `rank`, scaled by alpha / rank, on the image tower or on both towers."""

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    towers: Literal["image", "both"] = "image"


def add_adapters(towers: OpenClipTowers, settings: LoraSettings) -> list[str]:
    """Freeze the towers and add adapters, which start as the identity; the names of the adapted layers.

    Raises ValueError where a tower has no layer that could be adapted.
    """
    names = adapted_layers(towers, settings)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=f"({'|'.join(re.escape(name) for name in names)})",
        bias="none",
    )
    inject_adapter_in_model(config, towers)
    towers.adapter_config = config
    return names


def adapted_layers(towers: OpenClipTowers, settings: LoraSettings) -> list[str]:
    """Names of the layers that `add_adapters` adapts. Raises ValueError where there are none."""
    layers = dict(towers.named_modules())
    for name, layer in towers.named_modules():
        if isinstance(layer, nn.MultiheadAttention):
            # Fused attention (attention pooling has it) takes its output layer's weight, not the layer: an adapter
            # there would be dead.
            del layers[f"{name}.out_proj"]
    image_layers = {name: layers[name] for name in layers if name.startswith("clip.visual.")}
    names = _matching(image_layers, "image")
    if settings.towers == "both":
        names += _matching({name: layers[name] for name in layers if name not in image_layers}, "text")
    return names


def save_adapters(towers: OpenClipTowers, folder: Path) -> None:
    """Write the adapters in peft's format into an existing folder."""
    state = get_peft_model_state_dict(towers)
    save_file(
        {_PEFT_PREFIX + name: value.detach().cpu().contiguous() for name, value in state.items()},
        folder / ADAPTER_WEIGHTS,
    )
    assert towers.adapter_config is not None
    towers.adapter_config.save_pretrained(str(folder))


def load_adapters(towers: OpenClipTowers, settings: LoraSettings, folder: Path) -> None:
    """Add the adapters that `save_adapters` wrote. Raises ValueError where they are not these towers'."""
    add_adapters(towers, settings)
    own = adapter_parameters(towers)
    try:
        saved = load_file(folder / ADAPTER_WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder / ADAPTER_WEIGHTS}: cannot be read ({error})") from None
    saved = {name.removeprefix(_PEFT_PREFIX): value for name, value in saved.items()}
    shapes = {name.replace(".default.", "."): parameter for name, parameter in own.items()}
    if saved.keys() != shapes.keys() or any(saved[name].shape != shapes[name].shape for name in saved):
        raise ValueError(
            f"{folder / ADAPTER_WEIGHTS}: {len(saved)} adapter tensors that do not fit this model's {len(shapes)}"
        )
    for name, parameter in shapes.items():
        parameter.data.copy_(saved[name])


def adapter_parameters(towers: nn.Module) -> dict[str, nn.Parameter]:
    """The adapters' parameters by name."""
    return {name: parameter for name, parameter in towers.named_parameters() if ".lora_" in name}


def base_state(towers: nn.Module) -> dict[str, Tensor]:
    """The frozen base's tensors under the names they had before the adapters."""
    return {
        name.replace(".base_layer.", "."): value for name, value in towers.state_dict().items() if ".lora_" not in name
    }


def merge_adapters(towers: OpenClipTowers) -> OpenClipTowers:
    """Add the adapters into the base's weights, in place, and take the adapters away."""
    layers = [(name, module) for name, module in towers.named_modules() if isinstance(module, LoraLayer)]
    for name, layer in layers:
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(towers.get_submodule(parent), child, layer.get_base_layer())
    return towers


def merged_towers(towers: OpenClipTowers) -> OpenClipTowers:
    """A copy of the towers with the adapters merged, for `vl_model.towers.save_towers`."""
    return merge_adapters(deepcopy(towers))


def _matching(layers: dict[str, nn.Module], tower: str) -> list[str]:
    for kind, targets in FAMILIES:
        names = [n for n, layer in layers.items() if isinstance(layer, kind) and n.rpartition(".")[2] in targets]
        if {name.rpartition(".")[2] for name in names} == set(targets):
            return names
    known = "; ".join(", ".join(targets) for _, targets in FAMILIES)
    raise ValueError(
        f"--tune lora: the {tower} tower has none of the layers that adapters go on ({known}): use --tune full"
    )
