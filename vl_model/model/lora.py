"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) on the towers, through peft.

The towers' attention is un-fused or was never fused (`vl_model.towers.separate_attention`), so adapters on query, key,
value, output and the two MLP layers are adapters on plain `nn.Linear` layers; residual networks have theirs on
convolutions. The base is frozen and its bytes never change. `adapter_model.safetensors` and `adapter_config.json` are
peft's own formats: ``PeftModel.from_pretrained(towers, folder)`` reads them too. peft takes 50 MB of each process, so
it is imported where there are adapters.
"""

import re
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from runs.full_tensors import full_tensor
from vl_model.model.settings import LoraSettings

if TYPE_CHECKING:
    from vl_model.towers.towers import Towers

ADAPTER_WEIGHTS = "adapter_model.safetensors"

#: Kind and names of the layers to adapt, by family of tower; the first family whose names are all there is taken.
FAMILIES: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (nn.Linear, ("q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj")),  # open_clip's transformers, un-fused
    (nn.Linear, ("out_proj", "c_fc", "c_proj")),  # open_clip's "custom" blocks
    (nn.Linear, ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")),  # CLIP and SigLIP of transformers
    (nn.Linear, ("query", "key", "value", "dense")),  # BERT and its like, open_clip's text towers of transformers
    (nn.Linear, ("qkv", "proj", "fc1", "fc2")),  # timm's transformers
    (nn.Linear, ("q", "kv", "proj", "fc1", "fc2")),  # timm's pyramid transformers
    (nn.Linear, ("fc1", "fc2")),  # timm's ConvNeXt
    (nn.Conv2d, ("fc1", "fc2")),  # timm's small ConvNeXt
    (nn.Conv2d, ("conv1", "conv2")),  # residual networks
)

_PEFT_PREFIX = "base_model.model."  # what peft puts before the names of a wrapped model's parameters


def add_adapters(towers: "Towers", settings: LoraSettings) -> list[str]:
    """Freeze the towers and add adapters, which start as the identity; the names of the adapted layers.

    Raises ValueError where a tower has no layer that could be adapted.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    names = adapted_layers(towers, settings)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=f"({'|'.join(re.escape(name) for name in names)})",
        bias="none",
    )
    inject_adapter_in_model(config, towers)
    for layer in towers.modules():
        if isinstance(layer, LoraLayer):
            # Under autocast peft would make float32 of what came in, and autocast half precision of that again.
            layer.cast_input_dtype_enabled = False
    towers.adapter_config = config
    return names


def adapted_layers(towers: "Towers", settings: LoraSettings) -> list[str]:
    """Names of the layers that `add_adapters` adapts. Raises ValueError where there are none."""
    layers = dict(towers.named_modules())
    for name, layer in towers.named_modules():
        if isinstance(layer, nn.MultiheadAttention):
            # Fused attention (attention pooling has it) takes its output layer's weight, not the layer: an adapter
            # there would be dead.
            del layers[f"{name}.out_proj"]
    layers = {name: layer for name, layer in layers.items() if not name.startswith(towers.left_out)}
    image_layers = {name: layers[name] for name in layers if name.startswith(towers.image_prefix)}
    names = _last_blocks(_matching(image_layers, "image"), "image", settings.last_blocks)
    if settings.towers == "both":
        text_layers = {name: layers[name] for name in layers if name not in image_layers}
        names += _last_blocks(_matching(text_layers, "text"), "text", settings.last_blocks)
    return names


def check_gradients(towers: "Towers") -> None:
    """After the first backward pass: raises ValueError where an adapter learns nothing, naming it.

    An adapter is B A x with B = 0 at its start: B has a gradient there, and A one that is zero.
    """
    for name, parameter in adapter_parameters(towers).items():
        gradient = parameter.grad
        if gradient is None or (".lora_B." in name and not full_tensor(gradient).any()):
            layer = name.partition(".lora_")[0]
            raise ValueError(
                f"--tune lora: the adapter on {layer} gets no gradient and would never learn; adapt fewer layers "
                "(--lora_towers, --lora_last_blocks), or use --tune full"
            )


def save_adapters(towers: "Towers", folder: Path) -> None:
    """Write the adapters in peft's format into an existing folder."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(towers)
    save_file(
        {_PEFT_PREFIX + name: value.detach().cpu().contiguous() for name, value in state.items()},
        folder / ADAPTER_WEIGHTS,
    )
    assert towers.adapter_config is not None
    towers.adapter_config.save_pretrained(str(folder))


def load_adapters(towers: "Towers", settings: LoraSettings, folder: Path) -> None:
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


def merge_adapters(towers: "Towers") -> "Towers":
    """Add the adapters into the base's weights, in place, and take the adapters away."""
    from peft.tuners.lora import LoraLayer

    layers = [(name, module) for name, module in towers.named_modules() if isinstance(module, LoraLayer)]
    for name, layer in layers:
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(towers.get_submodule(parent), child, layer.get_base_layer())
    return towers


def merged_towers(towers: "Towers") -> "Towers":
    """A copy of the towers with the adapters merged, for `vl_model.towers.towers.save_towers`."""
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


def _last_blocks(names: list[str], tower: str, count: int | None) -> list[str]:
    """Those of the layers that lie in the last `count` blocks; a block is the innermost numbered module."""
    if count is None:
        return names
    block_of = {name: found[1] for name in names if (found := re.match(r"(.+\.\d+)\.", name))}
    blocks = list(dict.fromkeys(block_of.values()))
    if count > len(blocks):
        raise ValueError(f"--lora_last_blocks {count}: the {tower} tower has {len(blocks)} blocks")
    return [name for name, block in block_of.items() if block in blocks[-count:]]
