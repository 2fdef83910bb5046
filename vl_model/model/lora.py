"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) on the towers, through peft.

The towers' attention is un-fused or was never fused (`vl_model.towers.separate_attention`), so the adapters on query,
key, value, output and the two MLP layers are adapters on plain `nn.Linear` layers; in residual networks they are on
convolutions. The base is frozen and its bytes never change. `adapter_model.safetensors` and `adapter_config.json` are
peft's own formats, which ``PeftModel.from_pretrained(towers, folder)`` also reads. peft takes 50 MB per process, so it
is imported only if there are adapters.
"""

import re
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from runs.processes.full_tensors import full_tensor
from vl_model.model.settings import LoraSettings
from workspace.setting_error import SettingError

if TYPE_CHECKING:
    from vl_model.towers.towers import Towers

ADAPTER_WEIGHTS = "adapter_model.safetensors"

#: Class and names of the layers to adapt, by family of towers. The first family whose names all occur is used.
FAMILIES: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (nn.Linear, ("q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj")),  # open_clip's transformers, un-fused
    (nn.Linear, ("out_proj", "c_fc", "c_proj")),  # open_clip's "custom" blocks
    (nn.Linear, ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")),  # CLIP and SigLIP of transformers
    (nn.Linear, ("query", "key", "value", "dense")),  # BERT and its like, open_clip's text towers of transformers
    (nn.Linear, ("qkv", "proj", "fc1", "fc2")),  # timm's transformers
    (nn.Linear, ("q", "kv", "proj", "fc1", "fc2")),  # timm's pyramid transformers
    (nn.Linear, ("fc1", "fc2")),  # timm's ConvNeXt
    (nn.Conv2d, ("fc1", "fc2")),  # timm's small ConvNeXt
    (nn.Conv2d, ("conv_pw", "conv_pwl")),  # the pointwise convolutions of timm's EfficientNets and MobileNets
    (nn.Conv2d, ("conv1", "conv2")),  # residual networks
)

_PEFT_PREFIX = "base_model.model."  # what peft puts before the names of a wrapped model's parameters


def add_adapters(towers: "Towers", settings: LoraSettings) -> list[str]:
    """Freeze the towers and add adapters, which do not change them at first; return the names of the adapted layers.

    Raises ValueError if a tower has no layers that can be adapted.
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
            # Under autocast peft would convert the input to float32, and autocast would convert it back.
            layer.cast_input_dtype_enabled = False
    towers.adapter_config = config
    return names


def adapted_layers(towers: "Towers", settings: LoraSettings) -> list[str]:
    """Return the names of the layers that `add_adapters` adapts. Raises ValueError if there are none."""
    layers = dict(towers.named_modules())
    for name, layer in towers.named_modules():
        if isinstance(layer, nn.MultiheadAttention):
            # Fused attention, as in attention pooling, uses the weight of its output layer without calling the layer:
            # an adapter there would have no effect.
            del layers[f"{name}.out_proj"]
    layers = {name: layer for name, layer in layers.items() if not name.startswith(towers.left_out)}
    image_layers = {name: layers[name] for name in layers if name.startswith(towers.image_prefix)}
    names = _last_blocks(_matching(image_layers, "image"), "image", settings.last_blocks)
    if settings.towers == "both":
        text_layers = {name: layers[name] for name in layers if name not in image_layers}
        names += _last_blocks(_matching(text_layers, "text"), "text", settings.last_blocks)
    return names


def check_gradients(towers: "Towers") -> None:
    """Check, after the first backward pass, that every adapter gets a gradient; raises ValueError if not.

    An adapter computes B A x with B = 0 at the start. There, the gradient of B is not zero, but that of A is.
    """
    for name, parameter in adapter_parameters(towers).items():
        gradient = parameter.grad
        if gradient is None or (".lora_B." in name and not full_tensor(gradient).any()):
            layer = name.partition(".lora_")[0]
            raise SettingError(
                "tune",
                f"'lora': the adapter on {layer} gets no gradient and would never learn; adapt fewer layers "
                "(lora_towers, lora_last_blocks), or set tune to full",
            )


def save_adapters(towers: "Towers", folder: Path) -> None:
    """Write the adapters into an existing folder, in peft's format."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(towers)
    save_file(
        {_PEFT_PREFIX + name: value.detach().cpu().contiguous() for name, value in state.items()},
        folder / ADAPTER_WEIGHTS,
    )
    assert towers.adapter_config is not None
    towers.adapter_config.save_pretrained(str(folder))


def load_adapters(towers: "Towers", settings: LoraSettings, folder: Path) -> None:
    """Add the adapters that `save_adapters` wrote. Raises ValueError if they do not fit these towers."""
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
            f"{folder / ADAPTER_WEIGHTS}: its {len(saved)} tensors do not fit the model, whose adapters have "
            f"{len(shapes)}; the file must be of the same run as the other files of the folder"
        )
    for name, parameter in shapes.items():
        parameter.data.copy_(saved[name])


def adapter_parameters(towers: nn.Module) -> dict[str, nn.Parameter]:
    """Return the adapters' parameters by name."""
    return {name: parameter for name, parameter in towers.named_parameters() if ".lora_" in name}


def base_state(towers: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of the frozen base, under the names that they have without adapters."""
    return {
        name.replace(".base_layer.", "."): value for name, value in towers.state_dict().items() if ".lora_" not in name
    }


def merge_adapters(towers: "Towers") -> "Towers":
    """Add the adapters to the base's weights, in place, and remove them."""
    from peft.tuners.lora import LoraLayer

    layers = [(name, module) for name, module in towers.named_modules() if isinstance(module, LoraLayer)]
    for name, layer in layers:
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(towers.get_submodule(parent), child, layer.get_base_layer())
    return towers


def merged_towers(towers: "Towers") -> "Towers":
    """Return a copy of the towers with merged adapters, which `vl_model.towers.towers.save_towers` can write."""
    return merge_adapters(deepcopy(towers))


def _matching(layers: dict[str, nn.Module], tower: str) -> list[str]:
    """Return the names of the layers to adapt, of the first family that fits. Raises ValueError if none fits."""
    for kind, targets in FAMILIES:
        names = [n for n, layer in layers.items() if isinstance(layer, kind) and n.rpartition(".")[2] in targets]
        if {name.rpartition(".")[2] for name in names} == set(targets):
            return names
    known = "; ".join(", ".join(targets) for _, targets in FAMILIES)
    raise SettingError(
        "tune", f"'lora': the {tower} tower has no layers that can be adapted ({known}); set tune to full"
    )


def _last_blocks(names: list[str], tower: str, count: int | None) -> list[str]:
    """Return the layers in the last `count` blocks; a layer's block is the innermost numbered module around it."""
    if count is None:
        return names
    block_of = {name: found[1] for name in names if (found := re.match(r"(.+\.\d+)\.", name))}
    blocks = list(dict.fromkeys(block_of.values()))
    if count > len(blocks):
        raise SettingError(
            "lora_last_blocks", f"{count}: the {tower} tower has only {len(blocks)} blocks; set at most that"
        )
    return [name for name, block in block_of.items() if block in blocks[-count:]]
