"""The locator and atlas that a run carries along, so that it places the sites of new studies as its test split's.

They lie in ``<run>/placing/``: ``atlas.json``, and ``locator/`` where a locator placed them. Nothing here needs torch,
nor what reads images before a site is placed: a training is spared both.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.conversion.pairs import read_metadata
from locator.files import ATLAS, LOCATOR, WEIGHTS, check_locator, find_locator
from workspace.layout import DataRoot
from workspace.whole_folders import whole_folder

if TYPE_CHECKING:
    from data_prep.placement.placer import Placer

PLACING, OWN_LOCATOR = "placing", "locator"


@dataclass(frozen=True)
class Placing:
    """What a run is to carry: a locator's ``final/``, and the training studies' atlas; None where there is none."""

    locator: Path | None
    atlas: Path | None

    def copy_to(self, run: Path) -> None:
        with whole_folder(run / PLACING) as partial:
            if self.atlas is not None:
                shutil.copyfile(self.atlas, partial / ATLAS)
            if self.locator is not None:
                (partial / OWN_LOCATOR).mkdir()
                for name in (LOCATOR, WEIGHTS, ATLAS):
                    shutil.copyfile(self.locator / name, partial / OWN_LOCATOR / name)


def placing_to_carry(root: DataRoot) -> Placing:
    """The locator that placed the test split, where that is prepared and its locator still there, else the newest.

    Raises ValueError where it is damaged: before a training, not after it.
    """
    atlas = root.processed("train") / ATLAS
    return Placing(_locator_of_test_split(root), atlas if atlas.is_file() else None)


def _locator_of_test_split(root: DataRoot) -> Path | None:
    try:
        noted = read_metadata(root.processed("test"))["settings"].get("locator")
    except (KeyError, ValueError):
        return find_locator(root, None)  # there is no test split
    if noted is None:
        return None
    there = (root.run(noted["run"]) / "final" / LOCATOR).is_file()
    return find_locator(root, noted["run"] if there else None)


def placing_of(root: DataRoot, run: Path, wanted: str | None) -> "Placer":
    """What places the sites of new studies: the locator `wanted` ("none" for none), else what the run carries.

    A run that carries nothing has the newest locator, and the atlas of the training studies or the shipped one.
    Raises ValueError where the locator is missing or damaged.
    """
    from data_prep.placement.atlas import load_atlas
    from locator.site_placer import placer_of

    carried = run / PLACING
    kept = next((path for path in (carried / ATLAS, root.processed("train") / ATLAS) if path.is_file()), None)
    atlas = load_atlas(kept) if kept else None
    locator = find_locator(root, wanted) if wanted or not carried.is_dir() else _own_locator(carried)
    return placer_of(locator, atlas)


def _own_locator(carried: Path) -> Path | None:
    folder = carried / OWN_LOCATOR
    if not folder.is_dir():
        return None
    check_locator(folder)
    return folder
