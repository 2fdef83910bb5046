"""The interface for placing unannotated sites: the atlas of this folder and a locator implement it."""

from collections.abc import Mapping
from typing import Protocol

from data_prep.placement.regions import Position
from data_prep.sites import Site
from data_prep.studies.studies import Study


class Placer(Protocol):
    """Finds the positions of unannotated sites. It is sent to worker processes, so it must be picklable and small."""

    @property
    def fingerprint(self) -> str:
        """Digest of all that the positions depend on, besides the study."""

    def place(self, study: Study, known: Mapping[Site, Position]) -> dict[Site, Position]:
        """Return positions of the sites that are not in `known`, without those that cannot be placed."""
