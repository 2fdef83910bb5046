"""The locator and the atlas that a run carries, so that it places the sites of new studies as those of its test split.

They are copied to ``<run>/placing/``: ``atlas.json``, and ``locator/`` if a locator placed the sites. This module
imports torch and the modules that read images only when sites are placed, because training does not need them.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.conversion.pairs import read_metadata
from locator.files import ATLAS, LOCATOR, NO_LOCATOR, SHIPPED_LOCATOR, WEIGHTS, check_locator, find_locator
from workspace.layout import DataRoot
from workspace.whole_folders import whole_folder

if TYPE_CHECKING:
    from data_prep.placement.placer import Placer

CARRIED_FOLDER, CARRIED_LOCATOR = "placing", "locator"


@dataclass(frozen=True)
class CarriedFiles:
    """The files that a run is to carry.

    Attributes:
        locator: The folder ``final/`` of a locator, or None.
        atlas: The file of the training studies' atlas, or None.
    """

    locator: Path | None
    atlas: Path | None

    def copy_to(self, run: Path) -> None:
        with whole_folder(run / CARRIED_FOLDER) as partial:
            if self.atlas is not None:
                shutil.copyfile(self.atlas, partial / ATLAS)
            if self.locator is not None:
                (partial / CARRIED_LOCATOR).mkdir()
                for name in (LOCATOR, WEIGHTS, ATLAS):
                    if name != ATLAS or (self.locator / name).is_file():  # the shipped locator has no atlas
                        shutil.copyfile(self.locator / name, partial / CARRIED_LOCATOR / name)


def find_carried_files(root: DataRoot) -> CarriedFiles:
    """Return the files that a new run is to carry.

    The locator is the one that placed the sites of the test split. If there is no prepared test split, or its locator
    does not exist any more, it is the newest one.

    Raises:
        ValueError: The locator is damaged; this is found before the training, not after it.
    """
    atlas = root.processed("train") / ATLAS
    return CarriedFiles(_locator_of_test_split(root), atlas if atlas.is_file() else None)


def _locator_of_test_split(root: DataRoot) -> Path | None:
    try:
        recorded = read_metadata(root.processed("test"))["settings"].get("locator")
    except (KeyError, ValueError):
        return find_locator(root, None)  # the test split is not prepared
    if recorded is None:
        return None
    if recorded["run"] == SHIPPED_LOCATOR:
        return find_locator(root, SHIPPED_LOCATOR)
    exists = (root.run(recorded["run"]) / "final" / LOCATOR).is_file()
    return find_locator(root, recorded["run"] if exists else None)


def placer_for_run(root: DataRoot, run: Path, requested: str | None) -> "Placer":
    """Return the placer of the sites of new studies.

    Args:
        root: The data root.
        run: The folder of the run that grades the studies.
        requested: The run of another locator, "shipped" for the shipped one, or "none" for the atlas alone; None for
            what the run carries. A run that carries nothing uses the newest locator and the atlas of the training
            studies; if there is neither, what ships with the program.

    Raises:
        ValueError: The locator is missing or damaged.
    """
    from data_prep.placement.atlas import load_atlas
    from locator.site_placer import make_placer

    carried = run / CARRIED_FOLDER
    found = next((path for path in (carried / ATLAS, root.processed("train") / ATLAS) if path.is_file()), None)
    atlas = load_atlas(found) if found else None
    locator = find_locator(root, requested) if requested or not carried.is_dir() else _carried_locator(carried)
    return make_placer(locator, atlas, may_ship=requested != NO_LOCATOR)


def _carried_locator(carried: Path) -> Path | None:
    folder = carried / CARRIED_LOCATOR
    if not folder.is_dir():
        return None
    check_locator(folder)
    return folder
