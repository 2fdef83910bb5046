"""``README.md`` of a run's ``final/``: what the model is, in words, for a person or a hub to read.

It says what is known when training ends, and no more: how good the model is, `eval_vl.py` says.
"""

from collections.abc import Mapping
from typing import Any

#: In the same folder, the same for programs.
CARD = "site_model.json"

#: What names a base that lies in a folder; of transformers' models, whose names a slash may begin only there.
FOLDERS = ("local-dir:", "hf:/")


def model_card(card: Mapping[str, Any]) -> str:
    """Markdown from the content of ``site_model.json``."""
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
        f"{_what(card)}, for grading the 25 sites of the RSNA 2024 Lumbar Spine Degenerative Classification set by "
        "comparing images of a site with sentences about it.",
        "",
        "**For research. Not a medical device:** no output may guide the care of a patient.",
        "",
        *_facts(card),
        f"- images: {width} x {height} pixels, the {card['preprocessing']['view_mm']:g} mm around a site, three "
        "neighbouring slices as the channels",
        "",
        "## How to use it",
        "",
        "This folder is the `final/` of a run of Lumbar VL: under `<root>/train/checkpoints/<run>/`, with that run's "
        "`run.json` beside it, `eval_vl.py`, `predict_vl.py` and `query_vl.py` take it by `--run <run>`.",
        _stock_use(card),
        "",
        "## Limits",
        "",
        "- Its probabilities mean something only after `eval_vl.py` has calibrated them on studies that it never saw.",
        "- It sees regions, not whole studies: where a site was placed wrongly, it grades the wrong place.",
        "- How good it is, and by which measure, is not said here: `report.html` of `eval_vl.py` says it.",
        "",
    ]
    return "\n".join(lines)


def _what(card: Mapping[str, Any]) -> str:
    if card["tune"] == "lora":
        return f"Low-rank adapters (rank {card['lora']['rank']}, {_towers(card)}) on {_base(card)}"
    if card["tune"] == "head":
        return f"A linear map behind the frozen towers of {_base(card)}"
    return f"A whole CLIP model, trained from {_base(card)}"


def _base(card: Mapping[str, Any]) -> str:
    if card["model"].startswith(FOLDERS):
        return "weights of a local folder"
    tag = f" (`{card['pretrained']}`)" if card.get("pretrained") and "/" not in card["pretrained"] else ""
    return f"`{card['model']}`{tag}"


def _towers(card: Mapping[str, Any]) -> str:
    return "both towers" if card["lora"]["towers"] == "both" else "image tower"


def _facts(card: Mapping[str, Any]) -> list[str]:
    """What is known; a model that was saved outside a run knows less."""
    facts = {
        "base, sha256 of its weights": card.get("base_sha256"),
        "training data, fingerprint": card.get("dataset_fingerprint"),
        "folds it never saw": ", ".join(map(str, card["held_out_folds"])) if card.get("held_out_folds") else None,
        "steps": card.get("steps"),
    }
    return [f"- {name}: {value}" for name, value in facts.items() if value is not None]


def _library(card: Mapping[str, Any]) -> str:
    return "transformers" if card["model"].startswith("hf:") else "open_clip"


def _stock_use(card: Mapping[str, Any]) -> str:
    if card["tune"] == "lora":
        return (
            "`adapter_model.safetensors` is in peft's format, for towers whose attention is un-fused; "
            f"`train_vl.py --run <run> --export FOLDER` merges it into the base for stock {_library(card)}."
        )
    if card["tune"] == "head":
        return "The towers are the base's own, as stock libraries load them; the map is in `site_model.safetensors`."
    if _library(card) == "transformers":
        return 'Stock transformers loads it as `AutoModel.from_pretrained("FOLDER")`.'
    return 'Stock open_clip loads it as `open_clip.create_model_and_transforms("local-dir:FOLDER")`.'
