"""The files of a site model: a run's ``final/``.

It holds ``site_model.json`` (the settings and the base of the model), ``site_model.safetensors`` (pooling, logit scale
and, for tune "head", the residual head) and, by `tune`:

- "lora": the adapters (`vl_model.model.lora`), without their base;
- "full": both towers, as a folder of their own library;
- "head": nothing more.
"""

import hashlib
import json
import math
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vl_model.model.base_places import base_path, check_has_base, is_there, other_places, place_named
from vl_model.model.lora import LoraSettings, base_state, load_adapters, merge_adapters, save_adapters
from vl_model.model.model_card import CARD, model_card
from vl_model.model.site_model import ModelSettings, SiteModel
from vl_model.towers.model_names import model_name
from vl_model.towers.towers import load_towers, save_towers
from workspace.json_files import read_object
from workspace.setting_error import SettingError
from workspace.whole_files import ESCAPED
from workspace.whole_folders import whole_folder

SCHEMA_VERSION = 1
WEIGHTS = "site_model.safetensors"


def save_site_model(model: SiteModel, folder: Path, record: dict[str, Any] | None = None) -> None:
    """Write the model into `folder`, which appears only when it is complete.

    record: further entries for ``site_model.json``.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_beside_towers().items()}
    card = {**_card_of(model), **(record or {})}
    with whole_folder(folder) as partial:
        save_file(tensors, partial / WEIGHTS)
        if model.settings.tune == "lora":
            save_adapters(model.towers, partial)
        elif model.settings.tune == "full":
            model.write_logit_scale()
            save_towers(model.towers, partial)
        (partial / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(model_card(card), encoding="utf-8", errors=ESCAPED)


def load_site_model(folder: Path, base: str | None = None) -> SiteModel:
    """Load the model of a finished run's ``final/``: adapters merged, frozen, in evaluation mode.

    A base that is no longer where the run recorded it is looked for beside the run, and known by its weights.

    Args:
        folder: the run's ``final/``.
        base: the folder, or file of weights, in which the base lies now; None: where the run recorded it, or beside it.

    Raises ValueError if a file is missing or unreadable, if the base is not found, or if it or the version differs.
    """
    card = _read_card(folder)
    settings = _settings_of(card)
    if settings.tune == "full":
        if base:
            check_has_base(settings, base)
        model = SiteModel(load_towers(model_name(folder)), settings)
    else:
        model = _model_on_base(card, settings, folder, base)
    if settings.tune == "lora":
        load_adapters(model.towers, settings.lora, folder)
        merge_adapters(model.towers)
    _load_beside_towers(model, folder / WEIGHTS)
    return model.requires_grad_(False).eval()


def base_sha256(model: SiteModel) -> str | None:
    """Return the SHA-256 of the frozen base; None for tune "full", which keeps no base."""
    return None if model.settings.tune == "full" else state_sha256(base_state(model.towers.clip))


def find_base(settings: ModelSettings, sha256: str | None, final: Path) -> ModelSettings:
    """Return the settings with the place at which the base lies now: the recorded one, or one beside the run.

    Args:
        settings: the settings with the recorded base.
        sha256: the digest of the base's weights; None if it is not known, so that no other place is accepted.
        final: the run's ``final/``, whether it exists yet or not.

    Raises SettingError if nothing is at the recorded place, and these weights are at none of the others.
    """
    if is_there(settings):
        return settings
    for place in other_places(settings, final):
        with suppress(ValueError):  # It is not the one that is looked for, and the error below tells of all.
            if sha256 and state_sha256(base_state(load_towers(place.model, place.pretrained).clip)) == sha256:
                return place
    known = f"sha256 {sha256[:12]}" if sha256 else "whose digest the run did not record"
    raise SettingError(
        "base",
        f"is needed: {final.parent} was trained on {base_path(settings)}, which is not to be found there; its weights "
        f"({known}) were looked for at the same place relative to the run, and in the other runs of "
        f"{final.parent.parent}",
    )


def check_base_is_there(folder: Path, base: str | None = None) -> None:
    """Raise ValueError as `load_site_model` does if the base is not found; if it is, its weights are not compared."""
    recorded_base(folder, base)


def recorded_base(folder: Path, base: str | None = None) -> ModelSettings | None:
    """Return the settings with the place at which the base of a run lies now; None for tune "full", which has none.

    Raises ValueError if it is not found.
    """
    card = _read_card(folder)
    settings = _settings_of(card)
    if settings.tune == "full":
        return None
    return place_named(settings, base) if base else find_base(settings, card.get("base_sha256"), folder)


def state_sha256(state: dict[str, Tensor]) -> str:
    """Return the SHA-256 of a state dict: of the tensors' names and bytes, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _card_of(model: SiteModel) -> dict[str, Any]:
    settings = asdict(model.settings)
    del settings["view_mm"]  # which is in "preprocessing"
    return {
        "schema_version": SCHEMA_VERSION,
        **settings,
        "base_sha256": base_sha256(model),
        "preprocessing": model.preprocessing(),
    }


def _read_card(folder: Path) -> dict[str, Any]:
    path = folder / CARD
    if not path.is_file():
        raise ValueError(f"{folder}: has no {CARD}; give the final/ folder of a run that train_vl.py has finished")
    card = read_object(path, "train_vl.py", SCHEMA_VERSION)
    try:
        view_mm = _settings_of(card).view_mm
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: has no complete settings of a model ({error}); train the run again") from None
    if not 0 < view_mm < math.inf:
        raise ValueError(f"{path}: was trained on tiles of {view_mm} mm, which cannot be; train the run again")
    return card


def _settings_of(card: dict[str, Any]) -> ModelSettings:
    return ModelSettings(
        model=card["model"],
        pretrained=card["pretrained"],
        tune=card["tune"],
        view_mm=float(card["preprocessing"]["view_mm"]),
        lora=LoraSettings(**card["lora"]),
    )


def _model_on_base(card: dict[str, Any], settings: ModelSettings, folder: Path, base: str | None) -> SiteModel:
    """Return the model on its base, before the adapters are loaded. Raises ValueError if it is not the run's base."""
    place = place_named(settings, base) if base else find_base(settings, card.get("base_sha256"), folder)
    model = SiteModel(load_towers(place.model, place.pretrained), place)
    try:
        _check_base(model, card, folder)
    except ValueError as error:
        if base:
            raise SettingError("base", f"{base!r}: is not the run's base ({error})") from None
        moved = _moved_base(card, settings, folder)
        if moved is None:
            raise
        model = moved
    return model


def _moved_base(card: dict[str, Any], settings: ModelSettings, folder: Path) -> SiteModel | None:
    """Return the model on a base beside the run, if something else lies at the recorded place."""
    for place in other_places(settings, folder):
        with suppress(ValueError):
            model = SiteModel(load_towers(place.model, place.pretrained), place)
            _check_base(model, card, folder)
            return model
    return None


def _check_base(model: SiteModel, card: dict[str, Any], folder: Path) -> None:
    """Check that the base is the one that the run was trained on; raises ValueError if not."""
    found = state_sha256(base_state(model.towers.clip))
    recorded = card.get("base_sha256")
    if recorded and recorded != found:
        raise ValueError(
            f"{folder}: was trained on other weights of {card['model']!r} (sha256 {recorded[:12]}) than the "
            f"present ones ({found[:12]}); restore them, or train again"
        )
    now = model.preprocessing()
    if changed := [name for name in now if name in card["preprocessing"] and card["preprocessing"][name] != now[name]]:
        raise ValueError(
            f"{folder}: was trained with {changed[0]} {card['preprocessing'][changed[0]]}, but {card['model']!r} now "
            f"has {now[changed[0]]}; restore the base, or train again"
        )


def _load_beside_towers(model: SiteModel, path: Path) -> None:
    """Load what `save_site_model` wrote beside the towers; raises ValueError if it is of another model."""
    try:
        saved: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    own = model.state_beside_towers()
    if {name: x.shape for name, x in saved.items()} != {name: x.shape for name, x in own.items()}:
        raise ValueError(f"{path}: holds other tensors than this model's {', '.join(sorted(own))}; train again")
    for name, tensor in own.items():
        tensor.copy_(saved[name])
