"""``README.md`` of a run's ``final/``: what the model is, in words, for a person or a hub to read.

It says what is known when training ends, and no more: how good the model is, `eval_vl.py` says.
"""

from collections.abc import Mapping
from typing import Any

LOCAL_DIR = "local-dir:"


def model_card(card: Mapping[str, Any]) -> str:
    """Markdown from the content of ``site_model.json``."""
    is_adapter = card["tune"] == "lora"
    base = _base(card)
    what = (
        f"Low-rank adapters (rank {card['lora']['rank']}, {_towers(card)}) on {base}"
        if is_adapter
        else f"A whole CLIP model, trained from {base}"
    )
    size = card["preprocessing"]["image_size"]
    width, height = (size, size) if isinstance(size, int) else (size[-1], size[0])
    lines = [
        "---",
        f"library_name: {'peft' if is_adapter else 'open_clip'}",
        "tags: [lumbar-spine, mri, contrastive, clip]",
        "---",
        "",
        "# A lumbar-spine vision-language model",
        "",
        f"{what}, for grading the 25 sites of the RSNA 2024 Lumbar Spine Degenerative Classification set by comparing "
        "images of a site with sentences about it.",
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
        _stock_use(is_adapter),
        "",
        "## Limits",
        "",
        "- Its probabilities mean something only after `eval_vl.py` has calibrated them on studies that it never saw.",
        "- It sees regions, not whole studies: where a site was placed wrongly, it grades the wrong place.",
        "- How good it is, and by which measure, is not said here: `report.html` of `eval_vl.py` says it.",
        "",
    ]
    return "\n".join(lines)


def _base(card: Mapping[str, Any]) -> str:
    if card["model"].startswith(LOCAL_DIR):
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


def _stock_use(is_adapter: bool) -> str:
    if is_adapter:
        return "`adapter_model.safetensors` is in peft's format, for towers whose attention is un-fused."
    return 'Stock open_clip loads it as `open_clip.create_model_and_transforms("local-dir:FOLDER")`.'
