"""The encoders that a locator's networks can have, and how a pretrained one gets its weights.

A small encoder learns from random weights. EfficientNet-Lite0 has the weights of ImageNet (Apache 2.0) and keeps them:
features of photographs survive the change from synthetic to real pictures better than features of synthetic ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from workspace.setting_error import SettingError

#: The file of a base folder (``vl_model.towers.packaged_bases``) that holds both towers, and how the names of the image
#: tower's tensors begin there.
BASE_WEIGHTS, IMAGE_TOWER = "open_clip_model.safetensors", "visual.trunk."


@dataclass(frozen=True)
class Encoder:
    """An architecture of timm.

    Attributes:
        name: Its name there.
        stages: The number of its stages that are needed.
        is_pretrained: Whether it has pretrained weights, which do not change.
    """

    name: str
    stages: int
    is_pretrained: bool = False


SMALL = Encoder("mobilenetv3_small_100", 4)
PRETRAINED = Encoder("tf_efficientnet_lite0", 5, is_pretrained=True)
ENCODERS = {encoder.name: encoder for encoder in (SMALL, PRETRAINED)}


def load_pretrained(encoder: nn.Module, base: Path) -> None:
    """Load the encoder's weights from the image tower of a base.

    Args:
        encoder: The timm model of `PRETRAINED`, shortened to its first stages.
        base: The folder of a base with this image tower.

    Raises:
        SettingError: The folder has no such weights.
    """
    path = base / BASE_WEIGHTS
    try:
        weights: Mapping[str, Tensor] = load_file(path)
        own = {name: weights[IMAGE_TOWER + name] for name in encoder.state_dict()}
        encoder.load_state_dict(own)
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        reason = "it does not exist" if not path.exists() else str(error).splitlines()[0]
        raise SettingError(
            "base",
            f"{str(base)!r}: {path.name} has no weights of {PRETRAINED.name} ({reason}); "
            "python -m vl_model.towers.packaged_bases makes such a base",
        ) from None
