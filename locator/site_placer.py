"""A finished locator as the conversion uses it: sent to workers by its path, and completed by an atlas.

Nothing here imports torch before the first study is placed.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from data_prep.placement.atlas import Atlas, load_atlas
from data_prep.placement.placer import Placer
from data_prep.placement.regions import Position
from data_prep.placement.shipped_atlas import shipped_atlas
from data_prep.sites import SITES, Site
from data_prep.studies.studies import Study
from locator.files import ATLAS, locator_fingerprint


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

        from locator.locator import loaded_once

        return completed(self.atlas, study, known, loaded_once(self.folder).place(study, known))


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
