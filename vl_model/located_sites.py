"""A finished locator as the conversion uses it: found among the runs, checked, and sent to workers by its path.

Nothing here imports torch before the first study is placed.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from data_prep.atlas import Atlas, load_atlas
from data_prep.json_files import read_object
from data_prep.layout import DataRoot
from data_prep.placing import Placer
from data_prep.regions import Position
from data_prep.shipped_atlas import shipped_atlas
from data_prep.sites import SITES, Site
from data_prep.studies import Study

SCHEMA_VERSION = 1
LOCATOR, WEIGHTS, ATLAS = "locator.json", "locator.safetensors", "atlas.json"
#: In the logs of a locator's run: marks of its held-out studies that it disagrees with.
SUSPECTS = "suspects.csv"
#: What `--locator` says for none at all.
NO_LOCATOR = "none"


@dataclass(frozen=True)
class LocatedSites:
    """Places a study's unmarked sites by the locator in `folder`; those that it is too unsure of by `atlas`.

    Each worker process loads the networks once, when it meets its first study.
    """

    folder: Path
    atlas: Atlas

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{locator_fingerprint(self.folder)} {self.atlas.fingerprint}".encode()).hexdigest()

    def place(self, study: Study, known: Mapping[Site, Position]) -> dict[Site, Position]:
        """Positions of the sites that are not known; none where no image of the study has geometry."""
        if len(known) == len(SITES):
            return {}

        from vl_model.locator import loaded_once

        return completed(self.atlas, study, known, loaded_once(self.folder).place(study, known))


def locator_fingerprint(folder: Path) -> str:
    """locator.json says all: it holds a digest of the weights."""
    return hashlib.sha256((folder / LOCATOR).read_bytes()).hexdigest()


def find_locator(root: DataRoot, wanted: str | None) -> Path | None:
    """``final/`` of a run's locator, or of the one that was finished last; None for "none", or where there is none.

    Raises ValueError where the run named has none, or where the one found is damaged.
    """
    if wanted == NO_LOCATOR:
        return None
    if wanted is not None:
        folder = root.run(wanted, "--locator") / "final"
        if not (folder / LOCATOR).is_file():
            raise ValueError(
                f"--locator {wanted!r}: no {LOCATOR} in {folder}; train_locator.py --run {wanted} writes it"
            )
    else:
        found = root.path.glob(f"train/checkpoints/*/final/{LOCATOR}")
        newest = max(found, key=lambda path: (path.stat().st_mtime_ns, path), default=None)
        if newest is None:
            return None
        folder = newest.parent
    check_locator(folder)
    return folder


def check_locator(folder: Path) -> None:
    """Raises ValueError where the weights are not those that locator.json speaks of."""
    content = read_object(folder / LOCATOR, "train_locator.py", SCHEMA_VERSION)
    path = folder / WEIGHTS
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != content.get("weights_sha256"):
        raise ValueError(f"{path}: missing, or not the weights that {LOCATOR} speaks of; train_locator.py writes both")


def completed(
    atlas: Atlas, study: Study, known: Mapping[Site, Position], found: Mapping[Site, Position]
) -> dict[Site, Position]:
    """`found`, and the atlas's positions of the sites left; what is known or found holds the atlas in place."""
    if len(found) + len(known) == len(SITES):
        return dict(found)
    return {**atlas.place(study, {**known, **found}), **found}


def placer_of(locator: Path | None, atlas: Atlas | None) -> Placer:
    """What places unmarked sites: the locator in a folder, else an atlas.

    atlas: of the data at hand. Where there is none, that of the studies that the locator learned from; without a
    locator the one that ships.
    """
    if locator is None:
        return atlas or shipped_atlas()
    return LocatedSites(locator, atlas or load_atlas(locator / ATLAS))
