"""The settings of a site model: base, tuning and adapters. Nothing here imports torch: ``--help`` reads it."""

from dataclasses import dataclass, field
from typing import Literal

from data_prep.conversion.crop_geometry import VIEW_MM
from workspace.setting_types import PositiveInteger, PositiveNumber, Share

DEFAULT_MODEL, DEFAULT_PRETRAINED = "ViT-B-16", "openai"


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters (--tune lora)."""

    rank: PositiveInteger = 8
    """The rank of the adapters."""
    alpha: PositiveInteger = 16
    """The adapters' output is multiplied by alpha / rank."""
    dropout: Share = 0.0
    """The dropout of the adapters' input."""
    towers: Literal["image", "both"] = "image"
    """The towers that get adapters: the image tower, or both."""
    last_blocks: PositiveInteger | None = None
    """Adapt only the last N blocks of each tower. By default all layers are adapted."""


@dataclass(frozen=True)
class ModelSettings:
    """Model."""

    model: str = DEFAULT_MODEL
    """The model to start from: an open_clip name, local-dir:FOLDER, hf-hub:NAME, hf:FOLDER or hf:NAME."""
    pretrained: str | None = None
    """The weights for an open_clip name: a tag of open_clip, or a file. For ViT-B-16 the default is openai."""
    tune: Literal["lora", "full", "head"] = "lora"
    """What is trained: adapters on the frozen towers, every weight, or only the head on the frozen towers."""
    view_mm: PositiveNumber = VIEW_MM
    """The width of a tile in millimetres: the middle of the stored crops, whose width is --field_mm of
    prepare_data.py."""
    lora: LoraSettings = field(default_factory=LoraSettings, metadata={"prefix": "lora_"})
