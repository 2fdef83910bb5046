"""How ``--model`` names a model, and what its name tells before anything is loaded."""

import re
from pathlib import Path

from workspace.layout import home_expanded

LOCAL_DIR = "local-dir:"
HF_HUB = "hf-hub:"
TRANSFORMERS = "hf:"
OPEN_CLIP_CONFIG = "open_clip_config.json"


def folder_of(model: str) -> Path | None:
    """The folder that ``local-dir:PATH`` or ``hf:PATH`` names; None where it names none that exists."""
    for prefix in (LOCAL_DIR, TRANSFORMERS):
        if model.startswith(prefix):
            folder = home_expanded(model.removeprefix(prefix), "model")
            return folder if folder.is_dir() else None
    return None


def hub_name(model: str) -> str | None:
    """The repository that ``hf-hub:NAME`` or ``hf:ORGANISATION/NAME`` names; None for anything else.

    ``hf:NAME`` may be a folder that is gone; what reads as a repository's name may be one too.
    """
    if model.startswith(HF_HUB):
        return model.removeprefix(HF_HUB)
    name = model.removeprefix(TRANSFORMERS)
    is_name = model.startswith(TRANSFORMERS) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)
    return name if is_name and folder_of(model) is None else None


def name_of(folder: Path) -> str:
    """What ``--model`` calls a folder that `save_towers` wrote."""
    return f"{LOCAL_DIR if (folder / OPEN_CLIP_CONFIG).is_file() else TRANSFORMERS}{folder}"


def has_own_weights(model: str, pretrained: str | None) -> bool:
    """Whether the named towers come with trained weights rather than random ones."""
    return bool(pretrained) or model.startswith((LOCAL_DIR, HF_HUB, TRANSFORMERS))
