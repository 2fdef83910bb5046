"""A trained locator as a placer of sites for the conversion; an atlas places the sites that it cannot locate.

A placer is sent to worker processes, with the locator as a path. This module imports torch only when the first study is
placed.
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
class LocatorPlacer:
    """Places the unmarked sites of a study by the locator in `folder`; those with a large expected error by `atlas`.

    Each worker process loads the networks once, for its first study.
    """

    folder: Path
    atlas: Atlas

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{locator_fingerprint(self.folder)} {self.atlas.fingerprint}".encode()).hexdigest()

    def place(self, study: Study, known: Mapping[Site, Position]) -> dict[Site, Position]:
        """Return positions of the sites that are not known; none if no image of the study has geometry."""
        if len(known) == len(SITES):
            return {}

        from locator.locator import load_worker_locator

        return complete_by_atlas(self.atlas, study, known, load_worker_locator(self.folder).place(study, known))


def complete_by_atlas(
    atlas: Atlas, study: Study, known: Mapping[Site, Position], located: Mapping[Site, Position]
) -> dict[Site, Position]:
    """Return the located positions, and the atlas's positions of the sites that are neither known nor located.

    The atlas is aligned with the known and the located positions.
    """
    if len(located) + len(known) == len(SITES):
        return dict(located)
    return {**atlas.place(study, {**known, **located}), **located}


def make_placer(locator: Path | None, atlas: Atlas | None) -> Placer:
    """Return the placer of unmarked sites.

    Args:
        locator: The folder of a locator; None to place sites by an atlas alone.
        atlas: The atlas of the data at hand. If it is None, the placer uses the atlas of the locator's training
            studies, or the shipped atlas if there is no locator either.
    """
    if locator is None:
        return atlas or shipped_atlas()
    return LocatorPlacer(locator, atlas or load_atlas(locator / ATLAS))
