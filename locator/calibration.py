"""How well a locator does on studies that it did not learn from, and what it then says of its own errors.

`fit` measures, on held-out studies, how far sightings of each kind lie from the marks, and how the posterior's
deviation compares with the true error; `cross_fitted` does so on one half of them and locates the other, so that the
figures that are reported were calibrated on other studies.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_prep.geometry import Array
from data_prep.placement.pose import Pose
from data_prep.sites import SITES, Condition
from locator.detections import FIRST_DEVIATIONS, KINDS, Sighting
from locator.errors import Measured
from locator.locator import Located, Locator

#: A deviation is believed from this many sightings on, and never less than this (mm).
LEAST_SIGHTINGS, LEAST_DEVIATION_MM = 20, 0.6
#: Median absolute deviation -> standard deviation of a normal distribution.
MAD_TO_DEVIATION = 1.4826
#: The median of a squared distance in three dimensions, of alike normal coordinates, over its mean: chi-squared's
#: median, 2.366, over 3.
MEDIAN_SHARE = 2.366 / 3
#: The predicted error's scale stays within these: a few sites cannot make it absurd.
SMALLEST_SCALE, LARGEST_SCALE = 0.5, 4.0

_CONDITION_N = np.array([site.condition for site in SITES])


@dataclass(frozen=True)
class Seen:
    """A held-out study as the networks saw it.

    marked_N3: its marks, NaN where none; pose None: nothing was seen; count_error: of its levels, mm.
    """

    study_id: int
    marked_N3: Array
    pose: Pose | None
    sightings: tuple[Sighting, ...]
    count_error: float

    def locate(self, locator: Locator) -> Located | None:
        """As `Locator.locate`, without marks and without looking again."""
        if self.pose is None:
            return None
        posterior = locator.fuse(self.pose, self.sightings)
        return locator.located(posterior, self.sightings, self.count_error)


def fit(locator: Locator, seen: Sequence[Seen]) -> Locator:
    """The locator with deviations and scales of the errors measured on `seen`."""
    measured = replace(locator, deviation_mm=_deviations(seen), error_scale=dict.fromkeys(Condition, 1.0))
    return replace(measured, error_scale=_scales(measured, seen))


def cross_fitted(locator: Locator, seen: Sequence[Seen]) -> list[tuple[Seen, Located | None]]:
    """Each study located by a locator whose deviations and scales come of the other half."""
    halves = [list(seen[0::2]), list(seen[1::2])]
    results = []
    for own, other in (halves, halves[::-1]):
        calibrated = fit(locator, other) if other else locator
        results += [(study, study.locate(calibrated)) for study in own]
    return sorted(results, key=lambda result: result[0].study_id)


def measured(results: Sequence[tuple[Seen, Located | None]]) -> Measured:
    """Located places against the marks."""
    nowhere, nothing = np.full((len(SITES), 3), np.nan), np.full(len(SITES), np.nan)
    return Measured(
        np.array([located.place_N3 if located else nowhere for _, located in results]),
        np.array([study.marked_N3 for study, _ in results]),
        np.array([located.error_N if located else nothing for _, located in results]),
    )


def _deviations(seen: Sequence[Seen]) -> dict[str, Array]:
    apart: dict[str, list[Array]] = {kind: [] for kind in KINDS}
    for study in seen:
        for sighting in study.sightings:
            distance = sighting.place_mm - study.marked_N3[sighting.index]
            if np.isfinite(distance).all():
                apart[sighting.kind].append(distance)
    return {
        kind: np.maximum(MAD_TO_DEVIATION * np.median(np.abs(distances), axis=0), LEAST_DEVIATION_MM)
        if len(distances) >= LEAST_SIGHTINGS
        else FIRST_DEVIATIONS[kind]
        for kind, distances in apart.items()
    }


def _scales(locator: Locator, seen: Sequence[Seen]) -> dict[Condition, float]:
    shares: dict[Condition, list[float]] = {condition: [] for condition in Condition}
    for study in seen:
        located = study.locate(locator)
        if located is None or study.count_error:
            continue
        squared_N = np.sum((located.place_N3 - study.marked_N3) ** 2, axis=1) / located.error_N**2
        for condition, share in zip(_CONDITION_N, squared_N, strict=True):
            if np.isfinite(share):
                shares[condition].append(share)
    return {condition: _scale(found) for condition, found in shares.items()}


def _scale(shares: Sequence[float]) -> float:
    """Of true over expected error, from the median of the squared ratios; 1 where hardly anything was measured.

    A few studies that are a level off, 35 mm, would make a mean say nothing of the others.
    """
    if len(shares) < LEAST_SIGHTINGS:
        return 1.0
    return float(np.clip(np.sqrt(np.median(shares) / MEDIAN_SHARE), SMALLEST_SCALE, LARGEST_SCALE))
