"""A base folder whose image tower is an EfficientNet-Lite0, with random weights."""

from pathlib import Path

import timm
from safetensors.torch import save_file
from torch import Tensor

from locator.encoders import IMAGE_TOWER, PRETRAINED
from locator.files import BASE_WEIGHTS


def write_base(folder: Path) -> dict[str, Tensor]:
    """Write the base and return the image tower's tensors."""
    tower = dict(timm.create_model(PRETRAINED.name).state_dict())
    save_file({IMAGE_TOWER + name: tensor.contiguous() for name, tensor in tower.items()}, folder / BASE_WEIGHTS)
    return tower
