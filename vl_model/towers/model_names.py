"""The grammar of model names, and what follows from a name before anything is loaded."""

import re
from pathlib import Path

from workspace.layout import home_expanded

LOCAL_DIR = "local-dir:"
HF_HUB = "hf-hub:"
TRANSFORMERS = "hf:"
OPEN_CLIP_CONFIG = "open_clip_config.json"


def model_folder(model: str) -> Path | None:
    """Return the folder that ``local-dir:PATH`` or ``hf:PATH`` names; None if there is no such folder."""
    for prefix in (LOCAL_DIR, TRANSFORMERS):
        if model.startswith(prefix):
            folder = home_expanded(model.removeprefix(prefix), "model")
            return folder if folder.is_dir() else None
    return None


def hub_repository(model: str) -> str | None:
    """Return the repository that ``hf-hub:NAME`` or ``hf:ORGANISATION/NAME`` names; None for any other name.

    ``hf:A/B`` may also be a relative path. If no such folder exists, it is taken for a repository.
    """
    if model.startswith(HF_HUB):
        return model.removeprefix(HF_HUB)
    name = model.removeprefix(TRANSFORMERS)
    is_name = model.startswith(TRANSFORMERS) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)
    return name if is_name and model_folder(model) is None else None


def model_name(folder: Path) -> str:
    """Return the model name of a folder that `save_towers` wrote: ``local-dir:folder`` or ``hf:folder``."""
    return f"{LOCAL_DIR if (folder / OPEN_CLIP_CONFIG).is_file() else TRANSFORMERS}{folder}"


def has_own_weights(model: str, pretrained: str | None) -> bool:
    """Whether the named towers come with trained weights rather than random ones."""
    return bool(pretrained) or model.startswith((LOCAL_DIR, HF_HUB, TRANSFORMERS))
