"""Image and text towers of any CLIP-like model, behind one small interface.

A model is named as ``--model`` names it:

- an open_clip name (``ViT-B-16``), with ``--pretrained`` a tag (``openai``) or a weights file; a tag knows which
  activation its weights were trained with, a file does not: OpenAI's need the name's twin (``ViT-B-16-quickgelu``);
- ``local-dir:PATH``, an open_clip folder, or ``hf-hub:ORGANISATION/NAME``, an open_clip repository (BiomedCLIP);
- ``hf:PATH`` or ``hf:ORGANISATION/NAME``, a CLIP, SigLIP or SigLIP 2 of transformers (MedSigLIP);
- a configuration of this project's own (``vl_model/configs/``): ``lumbar-tiny``, small enough to train from nothing.

Both kinds of towers have

    image_size, mean, std       of the square, normalised images that `encode_images` takes
    embed_dim, context_length   of the joint space; of the longest text, in tokens
    encode_images(image_N3HW)   -> image_ND, of length one
    tokenize(texts)             -> token_NL
    encode_texts(token_NL)      -> text_ND, of length one
    clip                        the stock library's model, its attention un-fused
    image_prefix, left_out      where its image tower's layers are; which of them adapters leave alone
    save(folder)                writes what the stock library loads
"""

import re
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, TypeAlias

from data_prep.layout import home_expanded

if TYPE_CHECKING:
    from vl_model.open_clip_towers import OpenClipTowers
    from vl_model.transformers_towers import TransformersTowers

    Towers: TypeAlias = OpenClipTowers | TransformersTowers

LOCAL_DIR = "local-dir:"
HF_HUB = "hf-hub:"
TRANSFORMERS = "hf:"
OPEN_CLIP_CONFIG = "open_clip_config.json"


def load_towers(model: str, pretrained: str | None = None) -> "Towers":
    """Build the towers that `model` and `pretrained` name, with their weights, on the CPU in float32.

    Raises ValueError with one line that says what is unknown, or which file is missing and where it belongs.
    """
    if model.startswith((LOCAL_DIR, HF_HUB, TRANSFORMERS)) and pretrained:
        raise ValueError(f"--pretrained {pretrained!r}: {model!r} brings its own weights; leave --pretrained out")
    # Each library takes seconds to import: only the one that is needed.
    if model.startswith(TRANSFORMERS):
        from vl_model.transformers_towers import load_transformers_towers

        return load_transformers_towers(model.removeprefix(TRANSFORMERS))
    from vl_model.open_clip_towers import load_folder, load_hub, load_named

    if model.startswith(LOCAL_DIR):
        return load_folder(home_expanded(model.removeprefix(LOCAL_DIR), "--model"))
    if model.startswith(HF_HUB):
        return load_hub(model)
    return load_named(model, pretrained)


def why_unreadable(error: BaseException) -> str:
    """What may be said of a library's error over weights: torch advises to load what are none unsafely."""
    return "damaged, or more than tensors" if isinstance(error, UnpicklingError) else " ".join(str(error).split())[:300]


def folder_of(model: str) -> Path | None:
    """The folder that ``local-dir:PATH`` or ``hf:PATH`` names; None where it names none that exists."""
    for prefix in (LOCAL_DIR, TRANSFORMERS):
        if model.startswith(prefix):
            folder = home_expanded(model.removeprefix(prefix), "--model")
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


def save_towers(towers: "Towers", folder: Path) -> None:
    """Write a folder that the stock library loads: open_clip as ``local-dir:folder``, transformers by its path.

    The towers must not carry adapters: `vl_model.lora.merged_towers` first.
    """
    if stray := [name for name in towers.clip.state_dict() if "lora_" in name]:
        raise ValueError(f"{stray[0]!r} is an adapter's: merge the adapters before saving the towers")
    folder.mkdir(parents=True, exist_ok=True)
    towers.save(folder)
