"""A study's series -> its 25 sites in patient millimetres, each with an honest error.

``final/`` of a locator's run holds ``locator.safetensors`` (the two networks) and ``locator.json`` (the prior of the
spine, how well sites are seen in each view, the calibration of the predicted error). Sites are seen in sagittal
slices first; where the canal then is, axial slices are cut around it; all that was seen, the readers' marks where
there are some, and the prior make one posterior. A site whose predicted error is too large is left to the atlas.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep.geometry import Array
from data_prep.placement.atlas import Atlas, load_atlas
from data_prep.placement.pose import Pose
from data_prep.placement.regions import Position, points_of, vector
from data_prep.sites import SITES, Condition, Level, Site, Source
from data_prep.studies.studies import Study
from locator.detections import (
    FIRST_DEVIATIONS,
    KINDS,
    Maps,
    Sighting,
    axial_sightings,
    column_pose,
    sagittal_sightings,
)
from locator.files import ATLAS, LOCATOR, SCHEMA_VERSION, WEIGHTS
from locator.network import LocatorNetwork, load_weights, save_network, to_channels_last
from locator.slices import AXIAL_SHAPE, SAGITTAL_SHAPE, Picture, as_batch, sagittal_pictures
from locator.spine_prior import POSE_SPREAD, Observation, Posterior, SpinePrior, mark_observations
from locator.training_data import level_axial_pictures
from workspace.json_files import read_object
from workspace.whole_files import replacing

#: Pictures that go through a network at a time: few, so that what layers pass on stays in the cache.
BATCH = 8
#: A site with a larger predicted error (root of the mean squared distance) is left to the atlas.
LARGEST_ERROR_MM = 15.0
#: How far off the usual a spine lies that no picture shows: the pose is then all but unknown.
UNSEEN_SPREAD = np.array([10.0, 15.0, 25.0, 0.10, 0.12])

#: Where no sagittal slice shows the column, its level is where it usually is in such volumes: one phantom study in
#: twelve was a level (35 mm) off. Where the last disc lies at the images' lower edge, the sacrum is not seen, and what
#: is taken for the last disc may be another: then the sites are the atlas's.
UNCOUNTED_MM, NO_SACRUM_MM = 11.0, 25.0
#: So much of the sacrum below the last disc is needed to count.
SACRUM_MM = 20.0
#: A row of a picture shows something where a pixel of it is brighter than this, of 255.
DARK = 24
LAST_CANAL = SITES.index(Site(Condition.SPINAL_CANAL_STENOSIS, None, Level.L5_S1))


@dataclass(frozen=True)
class Located:
    """place_N3: mm, in the order of `SITES`; error_N: predicted, mm; sightings: what they rest on."""

    place_N3: Array
    error_N: Array
    sightings: tuple[Sighting, ...]

    @property
    def sure(self) -> dict[Site, Position]:
        """Positions of the sites whose predicted error is not too large."""
        return {
            site: Position(site, vector(place), Source.LOCATED)
            for site, place, error in zip(SITES, self.place_N3, self.error_N, strict=True)
            if error <= LARGEST_ERROR_MM
        }


@dataclass(frozen=True)
class Locator:
    """deviation_mm: of each kind of sighting, (3,); error_scale: by condition, of the posterior's deviation."""

    network: LocatorNetwork
    prior: SpinePrior
    atlas: Atlas
    deviation_mm: Mapping[str, Array] = field(default_factory=lambda: FIRST_DEVIATIONS)
    error_scale: Mapping[Condition, float] = field(default_factory=lambda: dict.fromkeys(Condition, 1.0))

    def locate(self, study: Study, marked_N3: Array | None = None) -> Located | None:
        """All sites; None where no series of the study has geometry. marked_N3: readers' places, NaN where none."""
        pose, seen, count_error = self.see(study, marked_N3)
        return None if pose is None else self.located(self.fuse(pose, seen, marked_N3), seen, count_error)

    def located(self, posterior: Posterior, seen: Sequence[Sighting], count_error: float) -> Located:
        error_N = np.hypot(posterior.deviation_N * self._scale_N, count_error)
        return Located(posterior.place_N3, error_N, tuple(seen))

    def place(self, study: Study, known: Mapping[Site, Position]) -> dict[Site, Position]:
        """Positions of the sites that are not known, but for those whose predicted error is too large."""
        located = self.locate(study, points_of(known))
        return (
            {} if located is None else {site: position for site, position in located.sure.items() if site not in known}
        )

    def see(self, study: Study, marked_N3: Array | None = None) -> tuple[Pose | None, list[Sighting], float]:
        """Where the spine lies roughly, every sighting of a site, and what a wrong count of levels may add to errors.

        No pose where there are no images with places; the last is in mm.
        """
        sagittal = sagittal_pictures(study)
        maps = self._maps(self.network.sagittal, sagittal)
        column = column_pose(sagittal, maps, self.prior)
        pose = column or self.atlas.find(study)
        if pose is None:
            return None, [], 0.0
        expected = self.fuse(pose, [], marked_N3)
        for _ in range(2):
            seen = sagittal_sightings(sagittal, maps, expected.place_N3)
            expected = self.fuse(pose, seen, marked_N3)
        axial = level_axial_pictures(study, expected.place_N3)
        axial_maps = self._maps(self.network.axial, axial)
        seen += axial_sightings(axial, axial_maps, expected.place_N3)
        is_marked = marked_N3 is not None and bool(np.isfinite(marked_N3).any())
        return pose, seen, 0.0 if is_marked else count_error_mm(sagittal, column is not None, expected.place_N3)

    def fuse(self, pose: Pose, seen: Sequence[Sighting], marked_N3: Array | None = None) -> Posterior:
        observations: list[Observation] = [sighting.observation(self.deviation_mm) for sighting in seen]
        if marked_N3 is not None:
            observations += mark_observations(marked_N3)
        return self.prior.posterior(pose, observations, POSE_SPREAD if observations else UNSEEN_SPREAD)

    def _maps(self, network: Any, pictures: Sequence[Picture]) -> list[Maps]:
        """(C, H, W) of each picture."""
        maps: list[Maps] = []
        network.eval()
        device = next(network.parameters()).device
        for first in range(0, len(pictures), BATCH):
            batch = torch.from_numpy(as_batch(pictures[first : first + BATCH])).to(device)
            maps += list(network.places(batch.float() / 255).cpu().numpy())
        return maps

    @cached_property
    def _scale_N(self) -> Array:
        return np.array([self.error_scale[site.condition] for site in SITES])

    def save(self, folder: Path, notes: Mapping[str, Any]) -> None:
        """Write ``final/``: locator.json last, by rename."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCATOR).unlink(missing_ok=True)
        with replacing(folder / WEIGHTS) as partial:
            save_network(self.network, partial)
        self.atlas.save(folder / ATLAS)
        content = {
            "schema_version": SCHEMA_VERSION,
            "weights_sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
            "prior": {
                "studies": self.prior.studies,
                "shape": self.prior.shape_N3.round(4).tolist(),
                "covariance": self.prior.covariance_DD.round(5).tolist(),
            },
            "deviation_mm": {kind: np.round(self.deviation_mm[kind], 4).tolist() for kind in KINDS},
            "error_scale": {condition.value: round(self.error_scale[condition], 4) for condition in Condition},
            "notes": dict(notes),
        }
        with replacing(folder / LOCATOR) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def count_error_mm(sagittal: Sequence[Picture], is_column_seen: bool, place_N3: Array) -> float:
    """What a count that is a level off may add to a site's error: levels are counted from the sacrum up."""
    if not is_column_seen:
        return UNCOUNTED_MM
    lowest = min(_lowest_mm(picture) for picture in sagittal)
    return 0.0 if place_N3[LAST_CANAL, 2] - lowest >= SACRUM_MM else NO_SACRUM_MM


def _lowest_mm(picture: Picture) -> float:
    """Patient z of the lowest row in which a picture shows something: what the network sees, not what the image has."""
    rows = np.flatnonzero((picture.grey_3HW[1] > DARK).any(axis=1))
    return float(picture.frame.to_patient(((picture.frame.shape[1] - 1) / 2, rows[-1]))[2]) if len(rows) else np.inf


def new_network() -> LocatorNetwork:
    pixels = [height * width for height, width in (SAGITTAL_SHAPE, AXIAL_SHAPE)]
    return to_channels_last(LocatorNetwork(*pixels))


def load_locator(folder: Path) -> Locator:
    """``final/`` -> Locator. Raises ValueError where it is missing, damaged, or of another version."""
    content = read_object(folder / LOCATOR, "train_locator.py", SCHEMA_VERSION)
    try:
        prior = content["prior"]
        shape, covariance = np.array(prior["shape"], dtype=float), np.array(prior["covariance"], dtype=float)
        if shape.shape != (25, 3) or covariance.shape != (75, 75):
            raise ValueError(f"a prior of {shape.shape} places and {covariance.shape} covariances")
        deviation = {kind: np.array(content["deviation_mm"][kind], dtype=float) for kind in KINDS}
        scale = {condition: float(content["error_scale"][condition.value]) for condition in Condition}
        learned = SpinePrior(shape, covariance, int(prior["studies"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / LOCATOR}: not a locator ({error}); train_locator.py writes it") from None
    network = new_network()
    load_weights(network, folder / WEIGHTS)
    return Locator(network.eval(), learned, load_atlas(folder / ATLAS), deviation, scale)


@lru_cache(maxsize=1)
def loaded_once(folder: Path) -> Locator:
    """The locator of this process, which computes with one thread: the processes are the parallelism."""
    torch.set_num_threads(1)
    return load_locator(folder)
