"""``README.md`` of a run's ``final/``: the model card, for people and for the hub.

It contains only what is known when training ends. How good the model is, is in the report of `eval_vl.py`.
"""

from collections.abc import Mapping
from typing import Any

from runs.run_record import MODEL_RUN

#: The same content for programs, in the same folder.
CARD = MODEL_RUN.file

#: How the name of a base in a local folder begins. With ``hf:``, only a path can begin with a slash.
FOLDERS = ("local-dir:", "hf:/")


def model_card(card: Mapping[str, Any]) -> str:
    """Return the model card in Markdown, from the content of ``site_model.json``."""
    size = card["preprocessing"]["image_size"]
    width, height = (size, size) if isinstance(size, int) else (size[-1], size[0])
    lines = [
        "---",
        f"library_name: {'peft' if card['tune'] == 'lora' else _library(card)}",
        "tags: [lumbar-spine, mri, contrastive, clip]",
        "---",
        "",
        "# A lumbar-spine vision-language model",
        "",
        f"{_description(card)}, for grading the 25 sites of the RSNA 2024 Lumbar Spine Degenerative Classification set "
        "by comparing images of a site with sentences about it.",
        "",
        "**For research. Not a medical device:** no output may guide the care of a patient.",
        "",
        *_facts(card),
        f"- images: {width} x {height} pixels, the {card['preprocessing']['view_mm']:g} mm around a site, three "
        "neighbouring slices as the channels",
        "",
        "## How to use it",
        "",
        "This folder is the `final/` of a run of Lumbar VL. Put it into `<root>/train/checkpoints/<run>/`, with the "
        "`run.json` of that run beside it; then `eval_vl.py`, `predict_vl.py` and `query_vl.py` use it with "
        "`--run <run>`.",
        _stock_use(card),
        "",
        "## Limits",
        "",
        "- Its probabilities are meaningful only after `eval_vl.py` has calibrated them on studies that it was not "
        "trained on.",
        "- Its input is regions, not complete studies: if the position of a site is wrong, so is the region that it "
        "grades.",
        "- This card does not contain its accuracy: see `report.html`, which `eval_vl.py` writes.",
        "",
    ]
    return "\n".join(lines)


def _description(card: Mapping[str, Any]) -> str:
    if card["tune"] == "lora":
        return f"Low-rank adapters (rank {card['lora']['rank']}, {_towers(card)}) on {_base(card)}"
    if card["tune"] == "head":
        return f"A residual linear layer on the frozen towers of {_base(card)}"
    return f"A complete CLIP model, trained from {_base(card)}"


def _base(card: Mapping[str, Any]) -> str:
    if card["model"].startswith(FOLDERS):
        return "weights of a local folder"
    tag = f" (`{card['pretrained']}`)" if card.get("pretrained") and "/" not in card["pretrained"] else ""
    return f"`{card['model']}`{tag}"


def _towers(card: Mapping[str, Any]) -> str:
    return "both towers" if card["lora"]["towers"] == "both" else "image tower"


def _facts(card: Mapping[str, Any]) -> list[str]:
    """Return the known facts as a list in Markdown; a model that was saved outside a run has fewer."""
    facts = {
        "SHA-256 of the base's weights": card.get("base_sha256"),
        "fingerprint of the training data": card.get("dataset_fingerprint"),
        "held-out folds": ", ".join(map(str, card["held_out_folds"])) if card.get("held_out_folds") else None,
        "steps": card.get("steps"),
        "sites with suspect labels, left out of training": card.get("dropped_sites", {}).get("count"),
    }
    return [f"- {name}: {value}" for name, value in facts.items() if value is not None]


def _library(card: Mapping[str, Any]) -> str:
    return "transformers" if card["model"].startswith("hf:") else "open_clip"


def _stock_use(card: Mapping[str, Any]) -> str:
    if card["tune"] == "lora":
        return (
            "`adapter_model.safetensors` is in peft's format, for towers with un-fused attention; "
            f"`train_vl.py --run <run> --export FOLDER` merges it into the base for stock {_library(card)}."
        )
    if card["tune"] == "head":
        return "The towers are those of the base, unchanged; the linear layer is in `site_model.safetensors`."
    if _library(card) == "transformers":
        return 'Stock transformers loads it as `AutoModel.from_pretrained("FOLDER")`.'
    return 'Stock open_clip loads it as `open_clip.create_model_and_transforms("local-dir:FOLDER")`.'
