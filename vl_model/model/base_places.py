"""Where the base of a run lies: at the place that the run recorded or, after both have moved, at another one.

A run records the absolute path of its base. On another machine, or under another mount, that path leads nowhere, while
the base still lies where it lay before relative to the run: in another run of the same data root, or in a folder that
was moved with the root. The places to look at are listed here; which of them holds the base is told by the SHA-256 of
its weights (`vl_model.model.site_model_files`). Nothing here imports torch.
"""

from dataclasses import replace
from pathlib import Path

from vl_model.model.model_card import CARD
from vl_model.model.settings import ModelSettings
from vl_model.towers.model_names import HF_HUB, LOCAL_DIR, OPEN_CLIP_CONFIG, TRANSFORMERS
from workspace.json_files import read_object
from workspace.layout import home_expanded
from workspace.setting_error import SettingError

#: The file without which a folder is no model, by the beginning of its name.
_MAIN_FILE = {LOCAL_DIR: OPEN_CLIP_CONFIG, TRANSFORMERS: "config.json"}


def base_path(settings: ModelSettings) -> Path | None:
    """Return the path of the weights file or of the folder that names the base; None if a library knows its name."""
    if settings.pretrained and "/" in settings.pretrained:
        return home_expanded(settings.pretrained, "pretrained")
    prefix = _prefix(settings.model)
    if prefix is None or (prefix == TRANSFORMERS and settings.model[len(prefix) :][:1] not in ("/", "~")):
        return None
    return home_expanded(settings.model.removeprefix(prefix), "model")


def is_there(settings: ModelSettings) -> bool:
    """Return whether the base can lie where it is named; true if a library knows its name."""
    path, prefix = base_path(settings), _prefix(settings.model)
    if path is None:
        return True
    return _is_file(path if prefix is None else path / _MAIN_FILE[prefix])


def other_places(settings: ModelSettings, final: Path) -> list[ModelSettings]:
    """Return the places to which the base may have moved with the run, the likeliest first.

    These are the places that exist now at the end of the recorded path under a folder above the run, the longest end
    first, and then the other runs beside it.

    Args:
        settings: the settings with the recorded base.
        final: the run's ``final/``.
    """
    path = base_path(settings)
    if path is None:
        return []
    is_file = _prefix(settings.model) is None
    runs = sorted(final.parent.parent.glob(f"*/final/{path.name}" if is_file else "*/final"))
    return _existing(settings, [*_relative_places(path, final), *runs], final)


def place_beside(settings: ModelSettings, final: Path) -> ModelSettings:
    """Return the recorded place of the base or, if nothing is there, the likeliest place relative to the run."""
    path = base_path(settings)
    if path is None or is_there(settings):
        return settings
    return next(iter(_existing(settings, _relative_places(path, final), final)), settings)


def place_named(settings: ModelSettings, base: str) -> ModelSettings:
    """Return the place that the setting `base` names: a folder, a run's folder, or a file of weights.

    Raises SettingError if there is no such file or folder, or if the base is one that a library knows by its name.
    """
    path = home_expanded(base.removeprefix(_prefix(base) or ""), "base")
    if not path.exists():
        raise SettingError("base", f"{base!r}: no such folder")
    recorded, prefix = base_path(settings), _prefix(settings.model)
    if recorded is not None and prefix is None:
        return renamed(settings, path / recorded.name if path.is_dir() else path)
    if settings.model.startswith(HF_HUB):
        settings, prefix = replace(settings, model=LOCAL_DIR), LOCAL_DIR
    if prefix is None:
        raise SettingError(
            "base", f"{base!r}: the run's base is {settings.model!r}, which is found by its name; leave base out"
        )
    place = next((each for each in (path, path / "final") if (each / _MAIN_FILE[prefix]).is_file()), None)
    if place is None:
        raise SettingError("base", f"{base!r}: holds no model; the file {_MAIN_FILE[prefix]} is missing")
    return replace(settings, model=f"{prefix}{place.resolve()}")


def check_base_named(final: Path, base: str) -> None:
    """Check that a finished run needs a base, and that `base` can be one; its weights are compared when they are read.

    Raises ValueError if not.
    """
    card = read_object(final / CARD, "train_vl.py")
    settings = ModelSettings(card.get("model", ""), card.get("pretrained"), card.get("tune", "lora"))
    check_has_base(settings, base)
    place_named(settings, base)


def check_has_base(settings: ModelSettings, base: str) -> None:
    """Raise SettingError if a base is named for a run that contains its whole model."""
    if settings.tune == "full":
        raise SettingError("base", f"{base!r}: the run was trained with tune 'full' and needs no base; leave base out")


def renamed(settings: ModelSettings, path: Path) -> ModelSettings:
    """Return the settings with the base at another path."""
    prefix = _prefix(settings.model)
    if prefix is None:
        return replace(settings, pretrained=str(path))
    return replace(settings, model=f"{prefix}{path}")


def _existing(settings: ModelSettings, paths: list[Path], final: Path) -> list[ModelSettings]:
    """Return the settings with the base at those of the paths where one can lie, without the recorded and own place."""
    places = [renamed(settings, path) for path in dict.fromkeys(paths) if path.resolve() != final.resolve()]
    return [place for place in places if place != settings and is_there(place)]


def _relative_places(path: Path, final: Path) -> list[Path]:
    """Return each end of the path under each folder above the run: the longest end first, the nearest folder first."""
    parts = path.parts[1:] if path.is_absolute() else path.parts
    above = list(dict.fromkeys((*final.absolute().parents, *final.resolve().parents)))
    return [folder.joinpath(*parts[first:]) for first in range(len(parts)) for folder in above]


def _is_file(path: Path) -> bool:
    """Return whether this user can see such a file: other places are looked at if a folder of others is closed."""
    try:
        return path.is_file()
    except OSError:
        return False


def _prefix(model: str) -> str | None:
    return next((prefix for prefix in _MAIN_FILE if model.startswith(prefix)), None)
