"""The crops that a run was made for: it records their geometry, and is used on no others.

New studies are cropped as the run was trained. A data set with other crops is refused, because the model would see
every site larger, smaller, blurred or sharper than those it learned from. Nothing here imports torch.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.conversion.crop_geometry import CropGeometry, crop_geometry
from data_prep.conversion.crops import read_crop_geometry
from vl_model.model.model_card import CARD
from workspace.json_files import read_object
from workspace.setting_error import SettingError

#: The entry of ``site_model.json``, and of the record of an export.
CROPS = "crops"


def crops_record(geometry: CropGeometry, view_mm: float) -> dict[str, Any]:
    """Return the entry of ``site_model.json``: the geometry of the crops, and the width of the tiles cut from them."""
    return {**asdict(geometry), "view_mm": view_mm}


def crops_of_run(final: Path) -> CropGeometry:
    """Return the geometry of the crops that a run was made for; runs of earlier versions had the default.

    Raises ValueError if the record is damaged.
    """
    path = final / CARD
    try:
        return crop_geometry(dict(read_object(path, "train_vl.py").get(CROPS, {})))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: has no valid description of crops ({error}); train the run again") from None


def check_crops(run: str, made_for: CropGeometry, processed: Path) -> None:
    """Raise ValueError if the crops in `processed` are not such as the run was made for."""
    if difference := made_for.difference(read_crop_geometry(processed)):
        raise SettingError(
            "run",
            f"{run!r}: was made for crops with {difference} as in {processed}; prepare these again with "
            f"{made_for.flags}, or train a new run on them",
        )


def note_on_base(runs: list[dict[str, Any]], geometry: CropGeometry, view_mm: float) -> str | None:
    """Return in words how the crops that a base was trained on differ from those of a new run; None if they do not.

    runs: the lineage of the base (`vl_model.model.lineage`), the base itself first; empty if it is no run.
    """
    if not runs:
        return None
    record = runs[0].get(CROPS) or {}
    base_view = record.get("view_mm", view_mm)
    difference = crop_geometry(record).difference(geometry)
    if not difference and base_view != view_mm:
        difference = f"tiles of {base_view:g} mm, not {view_mm:g} mm"
    return f"the base was trained on crops with {difference} as here; it has to adapt to them" if difference else None
