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
from data_prep.placement.regions import Position, points_of
from data_prep.placement.shipped_atlas import shipped_atlas
from data_prep.sites import SITES, Site
from data_prep.studies.studies import Study
from locator.files import ATLAS, SHIPPED, locator_fingerprint


@dataclass(frozen=True)
class LocatorPlacer:
    """Places the unmarked sites of a study by the locator in `folder`; those with a large expected error by `atlas`.

    Each worker process loads the networks once, for its first study. A `folder` of None is the shipped locator, which
    may lie elsewhere on the machine of a worker.
    """

    folder: Path | None
    atlas: Atlas

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(
            f"{locator_fingerprint(self.folder or SHIPPED)} {self.atlas.fingerprint}".encode()
        ).hexdigest()

    def place(self, study: Study, known: Mapping[Site, Position]) -> dict[Site, Position]:
        """Return positions of the sites that are not known; none if no image of the study has geometry."""
        if len(known) == len(SITES):
            return {}

        from locator.saved_locator import load_worker_locator

        located = load_worker_locator(self.folder or SHIPPED).locate(study, points_of(known))
        if located is None:
            return complete_by_atlas(self.atlas, study, known, {})
        reliable = located.reliable_except(known)
        return complete_by_atlas(self.atlas, study, known, reliable, located.level_confidence)


def complete_by_atlas(
    atlas: Atlas,
    study: Study,
    known: Mapping[Site, Position],
    located: Mapping[Site, Position],
    level_confidence: float | None = None,
) -> dict[Site, Position]:
    """Return the located positions, and the atlas's positions of the sites that are neither known nor located.

    The atlas is aligned with the known and the located positions. Its level confidence is at most `level_confidence`,
    that of the locator in this study: where the locator cannot count the levels, the atlas cannot be certain either.
    """
    if len(located) + len(known) == len(SITES):
        return dict(located)
    largest = 1.0 if level_confidence is None else level_confidence
    return {**atlas.place(study, {**known, **located}, largest), **located}


def make_placer(locator: Path | None, atlas: Atlas | None, *, may_ship: bool = True) -> Placer:
    """Return the placer of unmarked sites.

    Args:
        locator: The folder of a locator; None to place sites by an atlas alone.
        atlas: The atlas of the data at hand. If it is None, the placer uses the atlas of the locator's training
            studies, or what ships with the program if there is no locator either.
        may_ship: Whether the shipped locator places the sites if there is neither a locator nor an atlas; otherwise the
            shipped atlas does, alone.
    """
    if locator is None and (atlas is not None or not may_ship):
        return atlas or shipped_atlas()
    folder = None if locator == SHIPPED else locator
    return LocatorPlacer(folder, atlas or atlas_of(folder or SHIPPED))


def atlas_of(locator: Path) -> Atlas:
    """Return the atlas of a locator's training studies; the shipped one for the shipped locator, which has none."""
    path = locator / ATLAS
    return load_atlas(path) if path.is_file() else shipped_atlas()
