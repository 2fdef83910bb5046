"""The encoders that a locator's networks can have, and how a pretrained one gets its weights.

A small encoder learns from random weights. An EfficientNet-Lite0 has those of a base (``packaged_bases``: ImageNet's,
Apache 2.0) and keeps them, so that it cannot adapt to what only synthetic pictures show.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from locator.files import BASE_WEIGHTS, not_a_base

#: How the names of the image tower's tensors begin in the file of a base.
IMAGE_TOWER = "visual.trunk."
#: The number of times that the encoders halve the image: a U-Net adds the features of each size to its decoder's.
ENCODER_DEPTH = 4


@dataclass(frozen=True)
class EncoderKind:
    """An architecture of timm.

    Attributes:
        name: Its name there.
        stages: The number of its stages that halve the image `ENCODER_DEPTH` times; later ones are left out.
        is_pretrained: Whether it has pretrained weights, which do not change.
    """

    name: str
    stages: int
    is_pretrained: bool = False


SMALL = EncoderKind("mobilenetv3_small_100", 4)
PRETRAINED = EncoderKind("tf_efficientnet_lite0", 5, is_pretrained=True)
ENCODERS = {kind.name: kind for kind in (SMALL, PRETRAINED)}


def encoder_kind(name: object) -> EncoderKind:
    """Return the kind of this name. Raises ValueError if there is none."""
    if not isinstance(name, str) or name not in ENCODERS:
        raise ValueError(f"sagittal_encoder is {name!r}; this version knows {', '.join(ENCODERS)}")
    return ENCODERS[name]


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
    except FileNotFoundError:
        raise not_a_base(base, "does not exist") from None
    except (OSError, SafetensorError) as error:
        raise not_a_base(base, f"cannot be read ({error})") from None
    own = {name: weights.get(IMAGE_TOWER + name) for name in encoder.state_dict()}
    for name, tensor in encoder.state_dict().items():
        found = own[name]
        if found is None:
            raise not_a_base(base, f"has no tensor {IMAGE_TOWER}{name}")
        if found.shape != tensor.shape:
            raise not_a_base(base, f"has {IMAGE_TOWER}{name} of the shape {tuple(found.shape)}")
    encoder.load_state_dict(own)


def weights_sha256(encoder: nn.Module) -> str:
    """Return a digest of an encoder's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
