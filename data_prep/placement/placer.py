"""What places the sites of a study that nobody marked: an atlas, or a model that this room need not know."""

from collections.abc import Mapping
from typing import Protocol

from data_prep.placement.regions import Position
from data_prep.sites import Site
from data_prep.studies.studies import Study


class Placer(Protocol):
    """It travels to worker processes, so it must pickle, and be small."""

    @property
    def fingerprint(self) -> str:
        """Of all that its places depend on, besides the study."""

    def place(self, study: Study, known: Mapping[Site, Position]) -> dict[Site, Position]:
        """Positions of the sites that are not known; sites that it cannot place are left out."""
