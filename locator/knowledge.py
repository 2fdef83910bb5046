"""What a locator was trained to find: the landmarks of each orientation that were marked in its training studies.

A cohort whose readers marked one condition in one view trains one orientation's network, and some of its channels. The
others' output means nothing, so the locator does not use it: the spine prior places those sites relative to the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.sites import Condition
from locator.network import AXIAL_CHANNELS, SAGITTAL_CHANNELS

#: The condition and the level or side of each orientation's channels.
CHANNELS: Mapping[str, Sequence[tuple[Condition, Any]]] = {"sagittal": SAGITTAL_CHANNELS, "axial": AXIAL_CHANNELS}

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Knowledge:
    """The landmarks that a locator was trained to find.

    channels: for each trained orientation, whether each of its channels (`CHANNELS`) had marks, (C,). An orientation
    whose network was not trained is missing.
    """

    channels: Mapping[str, Mask]

    def conditions(self, orientation: str) -> list[Condition]:
        """Return the conditions that are known in an orientation."""
        known_C = self.channels.get(orientation, np.zeros(0, bool))
        known = {CHANNELS[orientation][channel][0] for channel in np.flatnonzero(known_C).tolist()}
        return [condition for condition in Condition if condition in known]

    @property
    def lines(self) -> list[str]:
        """What is known, in words: one line, or none if it is everything."""
        if all(orientation in self.channels and self.channels[orientation].all() for orientation in CHANNELS):
            return []
        known = [
            f"in {orientation} images {', '.join(condition.words for condition in self.conditions(orientation))}"
            for orientation in self.channels
        ]
        return [f"It knows {'; '.join(known)}. Other sites are placed relative to these by the spine prior."]

    def to_json(self) -> dict[str, list[str]]:
        """Return the names of the known channels of each trained orientation."""
        return {
            orientation: [channel_name(*CHANNELS[orientation][channel]) for channel in np.flatnonzero(known_C).tolist()]
            for orientation, known_C in self.channels.items()
        }


EVERYTHING = Knowledge({orientation: np.ones(len(channels), bool) for orientation, channels in CHANNELS.items()})


def channel_name(condition: Condition, part: Any) -> str:
    """Return the name of a channel, from its condition and its level or side.

    >>> channel_name(*AXIAL_CHANNELS[1])
    'neural_foraminal_narrowing left'
    """
    return str(condition) if part is None else f"{condition} {part}"


def read_knowledge(content: Mapping[str, Sequence[str]] | None) -> Knowledge:
    """Read what `Knowledge.to_json` wrote; None, as in older locators, is everything.

    Raises:
        ValueError: An orientation or a channel has another name, or nothing is known.
    """
    if content is None:
        return EVERYTHING
    channels = {}
    for orientation, names in content.items():
        if orientation not in CHANNELS:
            raise ValueError(f"it knows {orientation!r} images; the orientations are {', '.join(CHANNELS)}")
        own = [channel_name(*channel) for channel in CHANNELS[orientation]]
        if unknown := set(names) - set(own):
            raise ValueError(f"it knows {sorted(unknown)[0]!r} in {orientation} images, which is no landmark")
        channels[orientation] = np.array([name in names for name in own])
    if not channels:
        raise ValueError("it knows no landmark")
    return Knowledge(channels)
