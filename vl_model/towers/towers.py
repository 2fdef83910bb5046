"""Image and text towers of any CLIP-like model, behind one small interface.

A model is named as ``--model`` names it:

- an open_clip name (``ViT-B-16``), with ``--pretrained`` a tag (``openai``) or a weights file; a tag knows which
  activation its weights were trained with, a file does not: OpenAI's need the name's twin (``ViT-B-16-quickgelu``);
- ``local-dir:PATH``, an open_clip folder, or ``hf-hub:ORGANISATION/NAME``, an open_clip repository (BiomedCLIP);
- ``hf:PATH`` or ``hf:ORGANISATION/NAME``, a CLIP, SigLIP or SigLIP 2 of transformers (MedSigLIP);
- a configuration of this project's own (``vl_model/towers/configs/``): ``lumbar-tiny``, small enough to train from
nothing.

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

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from vl_model.towers.model_names import HF_HUB, LOCAL_DIR, TRANSFORMERS
from workspace.layout import home_expanded

if TYPE_CHECKING:
    from vl_model.towers.open_clip_towers import OpenClipTowers
    from vl_model.towers.transformers_towers import TransformersTowers

    Towers: TypeAlias = OpenClipTowers | TransformersTowers


def load_towers(model: str, pretrained: str | None = None) -> "Towers":
    """Build the towers that `model` and `pretrained` name, with their weights, on the CPU in float32.

    Raises ValueError with one line that says what is unknown, or which file is missing and where it belongs.
    """
    if model.startswith((LOCAL_DIR, HF_HUB, TRANSFORMERS)) and pretrained:
        raise ValueError(f"--pretrained {pretrained!r}: {model!r} brings its own weights; leave --pretrained out")
    # Each library takes seconds to import: only the one that is needed.
    if model.startswith(TRANSFORMERS):
        from vl_model.towers.transformers_towers import load_transformers_towers

        return load_transformers_towers(model.removeprefix(TRANSFORMERS))
    from vl_model.towers.open_clip_towers import load_folder, load_hub, load_named

    if model.startswith(LOCAL_DIR):
        return load_folder(home_expanded(model.removeprefix(LOCAL_DIR), "model"))
    if model.startswith(HF_HUB):
        return load_hub(model)
    return load_named(model, pretrained)


def save_towers(towers: "Towers", folder: Path) -> None:
    """Write a folder that the stock library loads: open_clip as ``local-dir:folder``, transformers by its path.

    The towers must not carry adapters: `vl_model.model.lora.merged_towers` first.
    """
    if stray := [name for name in towers.clip.state_dict() if "lora_" in name]:
        raise ValueError(f"{stray[0]!r} is an adapter's: merge the adapters before saving the towers")
    folder.mkdir(parents=True, exist_ok=True)
    towers.save(folder)
