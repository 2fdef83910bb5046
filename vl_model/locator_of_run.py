"""The locator and atlas that a run carries along, so that it places the sites of new studies wherever it is taken.

They lie in ``<run>/placing/``: ``atlas.json``, and ``locator/`` where there was a locator when training ended.
Nothing here imports torch.
"""

import shutil
from pathlib import Path

from data_prep.atlas import load_atlas
from data_prep.layout import DataRoot
from data_prep.placing import Placer
from data_prep.shipped_atlas import shipped_atlas
from vl_model.located_sites import ATLAS, LOCATOR, WEIGHTS, check_locator, find_locator, located_sites
from vl_model.whole_folders import whole_folder

PLACING, OWN_LOCATOR = "placing", "locator"


def carry_placing(root: DataRoot, run: Path) -> None:
    """Copy the newest locator, and the atlas of the training studies, into `run`."""
    locator, atlas = find_locator(root, None), root.processed("train") / ATLAS
    with whole_folder(run / PLACING) as partial:
        if atlas.is_file():
            shutil.copyfile(atlas, partial / ATLAS)
        if locator is not None:
            (partial / OWN_LOCATOR).mkdir()
            for name in (LOCATOR, WEIGHTS, ATLAS):
                shutil.copyfile(locator / name, partial / OWN_LOCATOR / name)


def placing_of(root: DataRoot, run: Path, wanted: str | None) -> Placer:
    """What places the sites of new studies: the locator `wanted` ("none" for none), else the run's own, else the
    newest; without one the atlas that the run carries, else that of the training studies, else the shipped one.

    Raises ValueError where the locator is missing or damaged.
    """
    carried = run / PLACING
    kept = next((path for path in (carried / ATLAS, root.processed("train") / ATLAS) if path.is_file()), None)
    atlas = load_atlas(kept) if kept else None
    if wanted is None and (carried / OWN_LOCATOR).is_dir():
        locator: Path | None = carried / OWN_LOCATOR
        check_locator(carried / OWN_LOCATOR)
    else:
        locator = find_locator(root, wanted)
    return located_sites(locator, atlas) if locator else atlas or shipped_atlas()
