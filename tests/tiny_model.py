"""A base model so small that a training step takes milliseconds, as an open_clip folder on disk."""

import json
from pathlib import Path

import open_clip
import torch

from vl_model.towers.open_clip_towers import OpenClipTowers
from vl_model.towers.towers import load_towers, save_towers

TINY_BASE = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 40, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


def write_tiny_base(folder: Path, seed: int = 0) -> str:
    """Write a model with random weights into `folder`; return its model name."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "tiny-test-base.json"
    config.write_text(json.dumps(TINY_BASE))
    open_clip.add_model_config(config)
    save_towers(tiny_towers(seed), folder)
    return f"local-dir:{folder}"


def tiny_towers(seed: int = 0) -> OpenClipTowers:
    """Return the model in memory; `write_tiny_base` must have registered its configuration with open_clip."""
    torch.manual_seed(seed)
    return load_towers("tiny-test-base").eval()
