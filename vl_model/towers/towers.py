"""Image and text towers of any CLIP-like model, behind one small interface.

The name of a model is one of these:

- an open_clip name (``ViT-B-16``), with a tag (``openai``) or a weights file as `pretrained`. A tag records which
  activation its weights were trained with, a file does not: files of OpenAI's weights need the name with
  ``-quickgelu`` (``ViT-B-16-quickgelu``);
- ``local-dir:PATH``, an open_clip folder, or ``hf-hub:ORGANISATION/NAME``, an open_clip repository (BiomedCLIP);
- ``hf:PATH`` or ``hf:ORGANISATION/NAME``, a CLIP, SigLIP or SigLIP 2 model of transformers (MedSigLIP);
- a configuration of this project (``vl_model/towers/configs/``): ``lumbar-tiny``, small enough to be trained from
  random weights.

Both kinds of towers have

    image_size, mean, std       pixels, and normalisation, of the square images that `encode_images` takes
    embed_dim, context_length   dimension of the joint space; tokens of the longest text
    encode_images(image_N3HW)   -> image_ND, L2-normalised
    tokenize(texts)             -> token_NL
    encode_texts(token_NL)      -> text_ND, L2-normalised
    clip                        the stock library's model, with un-fused attention
    image_prefix, left_out      name prefixes of the image tower's layers, and of layers that get no adapters
    save(folder)                writes a folder that the stock library loads
"""

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from vl_model.towers.model_names import HF_HUB, LOCAL_DIR, TRANSFORMERS
from workspace.layout import home_expanded
from workspace.setting_error import SettingError

if TYPE_CHECKING:
    from vl_model.towers.open_clip_towers import OpenClipTowers
    from vl_model.towers.transformers_towers import TransformersTowers

    Towers: TypeAlias = OpenClipTowers | TransformersTowers


def load_towers(model: str, pretrained: str | None = None) -> "Towers":
    """Build the towers that `model` and `pretrained` name, with their weights, on the CPU in float32.

    Raises ValueError, in one line, for an unknown name and for a missing or unreadable file, with the remedy.
    """
    if model.startswith((LOCAL_DIR, HF_HUB, TRANSFORMERS)) and pretrained:
        raise SettingError("pretrained", f"{pretrained!r}: model {model!r} has its own weights; leave pretrained out")
    # Each library takes seconds to import, so only the one that is needed is imported.
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

    Raises ValueError if the towers have adapters, which `vl_model.model.lora.merged_towers` merges.
    """
    if adapters := [name for name in towers.clip.state_dict() if "lora_" in name]:
        raise ValueError(f"{adapters[0]!r}: is a weight of an adapter; merge the adapters before saving the towers")
    folder.mkdir(parents=True, exist_ok=True)
    towers.save(folder)
