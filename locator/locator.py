"""A study's series -> the positions of its 25 sites in millimetres, each with its expected error.

Sites are first detected in sagittal slices; axial slices are then resampled around the positions found. The detections,
the readers' marks if there are any, and the spine prior give one posterior. A site whose expected error is too large is
left to the atlas; how probable it is that the levels are counted rightly is told by the level confidence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from data_prep.geometry import Array
from data_prep.placement.atlas import Atlas
from data_prep.placement.pose import Pose, fit_pose
from data_prep.placement.regions import Position, points_of, vector
from data_prep.sites import SITES, Condition, Site, Source
from data_prep.studies.studies import Study
from locator.detections import (
    DEFAULT_DEVIATIONS_MM,
    Detection,
    Heatmaps,
    axial_detections,
    sagittal_detections,
    spine_pose,
)
from locator.field_height import FieldHeight, heights
from locator.knowledge import EVERYTHING, Knowledge
from locator.level_count import (
    LEVEL_MM,
    LOWEST_CANAL,
    MARKED_CONFIDENCE,
    UNSEEN_SPINE_CONFIDENCE,
    UNSEEN_SPINE_ERROR_MM,
    LevelCount,
    level_count_error_mm,
)
from locator.level_evidence import (
    DEFAULT_RULE,
    NO_PRIOR_S,
    SHIFTS,
    UNCALIBRATED,
    UNSHIFTED,
    LevelCalibration,
    ScoreRule,
    alternatives,
    level_scores,
    shifted,
)
from locator.network import LocatorNetwork
from locator.slices import SliceImage, sagittal_images, stack_images
from locator.spine_prior import POSE_DEVIATION, Observation, Posterior, SpinePrior, mark_observations
from locator.training_data import level_axial_images

#: Images per forward pass: so few that the activations stay in the processor's cache.
BATCH_SIZE = 8
#: A site with a larger expected error (root of the mean squared distance) is left to the atlas.
MAX_EXPECTED_ERROR_MM = 15.0
#: Standard deviations of the pose, as `POSE_DEVIATION`, if no image shows the spine: the pose is then almost unknown.
UNKNOWN_POSE_DEVIATION = np.array([10.0, 15.0, 25.0, 0.10, 0.12])


@dataclass(frozen=True)
class _Chain:
    """The sites as they are found in sagittal images, from a pose; `expected` is the posterior of their positions."""

    pose: Pose
    detections: tuple[Detection, ...]
    expected: Posterior


@dataclass(frozen=True)
class LocatedStudy:
    """The located sites of a study.

    Attributes:
        position_N3: Positions in mm, in the order of `SITES`.
        expected_error_N: Expected errors, mm, without what the level confidence tells.
        detections: The detections that the positions are based on.
        level_confidence: The probability that all these positions lie on their own levels; None if it is unknown.
    """

    position_N3: Array
    expected_error_N: Array
    detections: tuple[Detection, ...]
    level_confidence: float | None = None

    @property
    def reliable_positions(self) -> dict[Site, Position]:
        """Positions of the sites whose expected error is at most `MAX_EXPECTED_ERROR_MM`."""
        return {
            site: Position(
                site,
                vector(position),
                Source.LOCATED,
                expected_error_mm=round(float(total), 2),
                level_confidence=None if self.level_confidence is None else round(self.level_confidence, 4),
            )
            for site, position, error, total in zip(
                SITES, self.position_N3, self.expected_error_N, self.total_error_N, strict=True
            )
            if error <= MAX_EXPECTED_ERROR_MM
        }

    @property
    def total_error_N(self) -> Array:
        """The expected errors, mm, with what a wrong count of levels adds; no site is left to the atlas for that."""
        if self.level_confidence is None:
            return self.expected_error_N
        return np.hypot(self.expected_error_N, LEVEL_MM * np.sqrt(1 - self.level_confidence))

    def reliable_except(self, known: Mapping[Site, Position]) -> dict[Site, Position]:
        """Reliable positions of the sites that are not known."""
        return {site: position for site, position in self.reliable_positions.items() if site not in known}


@dataclass(frozen=True)
class Locator:
    """The two networks, the spine prior and their calibration.

    Attributes:
        network: The networks.
        prior: The spine prior.
        atlas: Gives the pose of a study whose images do not show the spine, and positions of unreliable sites.
        deviation_mm: Standard deviations (3,) of each kind of detection.
        error_scale: For each condition, the factor from the posterior's deviation to the expected error.
        level_calibration: Makes the level confidence; None if no study was held out, and for a locator that was trained
            before level confidences were known: its positions have none.
        knowledge: What the networks were trained to find; the rest of their output is not used.
        score_rule: How heatmaps become scores of the count of levels. The level calibration belongs to it.
        field_height: How high spines lie in the field of view; None if it is unknown.
    """

    network: LocatorNetwork
    prior: SpinePrior
    atlas: Atlas
    deviation_mm: Mapping[str, Array] = field(default_factory=lambda: DEFAULT_DEVIATIONS_MM)
    error_scale: Mapping[Condition, float] = field(default_factory=lambda: dict.fromkeys(Condition, 1.0))
    level_calibration: LevelCalibration | None = None
    knowledge: Knowledge = EVERYTHING
    score_rule: ScoreRule = DEFAULT_RULE
    field_height: FieldHeight | None = None

    def locate(self, study: Study, marked_N3: Array | None = None) -> LocatedStudy | None:
        """Locate all 25 sites; None if no series of the study has geometry.

        marked_N3: marked positions in mm, NaN where unmarked.
        """
        pose, detections, count = self.detect(study, marked_N3)
        if pose is None:
            return None
        return self.with_expected_errors(self.fuse(pose, detections, marked_N3), detections, count)

    def with_expected_errors(
        self, posterior: Posterior, detections: Sequence[Detection], count: LevelCount
    ) -> LocatedStudy:
        """Combine the posterior's calibrated deviation with the error from miscounted levels."""
        untold_mm = count.untold_error_mm(self.level_calibration)
        expected_error_N = np.hypot(posterior.deviation_N * self._error_scale_N, untold_mm)
        confidence = count.confidence(self.level_calibration)
        return LocatedStudy(posterior.position_N3, expected_error_N, tuple(detections), confidence)

    def place(self, study: Study, known: Mapping[Site, Position]) -> dict[Site, Position]:
        """Return positions of the sites that are not known and whose expected error is not too large."""
        located = self.locate(study, points_of(known))
        return {} if located is None else located.reliable_except(known)

    def detect(self, study: Study, marked_N3: Array | None = None) -> tuple[Pose | None, list[Detection], LevelCount]:
        """Run the networks on a study.

        Returns:
            The approximate pose of the spine, None if no image has geometry; the detections in all series; and what
            the study shows of the count of its levels.
        """
        sagittal = sagittal_images(study) if "sagittal" in self.knowledge.channels else []
        heatmaps = self._heatmaps("sagittal", sagittal)
        detected_pose = spine_pose(sagittal, heatmaps, self.prior)
        pose = detected_pose or self.atlas.find(study)
        if pose is None:
            return None, [], LevelCount(0.0)
        is_marked = marked_N3 is not None and bool(np.isfinite(marked_N3).any())
        chain = self._search(pose, sagittal, heatmaps, marked_N3)
        count = LevelCount(UNSEEN_SPINE_ERROR_MM, fixed_confidence=UNSEEN_SPINE_CONFIDENCE)
        if is_marked:
            count = LevelCount(0.0, fixed_confidence=MARKED_CONFIDENCE)
        elif detected_pose is not None:
            chain, count = self._count_levels(chain, sagittal, heatmaps)
        position_N3 = chain.expected.position_N3
        axial = level_axial_images(study, position_N3) if "axial" in self.knowledge.channels else []
        detections = axial_detections(axial, self._heatmaps("axial", axial), position_N3)
        return chain.pose, [*chain.detections, *detections], count

    def _count_levels(
        self, chain: _Chain, sagittal: Sequence[SliceImage], heatmaps: Sequence[Heatmaps]
    ) -> tuple[_Chain, LevelCount]:
        """Move the chain by whole levels where all slices and its height support that; return it, and what they show.

        A pose is chosen by peaks, and a level without one speaks neither for it nor against it. Here every site counts.
        """

        known_C = self.knowledge.channels["sagittal"]

        def evidence_of(chain: _Chain) -> tuple[Array, Array]:
            position_N3 = chain.expected.position_N3
            score_S = level_scores(sagittal, heatmaps, position_N3, known_C, self.score_rule)
            return score_S, self._prior_of_shifts(sagittal, position_N3)

        (score_S, prior_S), chosen = evidence_of(chain), UNSHIFTED
        likely = UNCALIBRATED.best(score_S, prior_S)
        if (moved := self._moved(chain, likely, sagittal, heatmaps)) is not None:
            chain, (score_S, prior_S) = moved, evidence_of(moved)
        before = chain
        if self.level_calibration is not None:
            best = self.level_calibration.best(score_S, prior_S)
            if (moved := self._moved(chain, best, sagittal, heatmaps)) is not None:
                chain, chosen = moved, best
        # A chain a level too high takes the lowest vertebra for the sacrum: the lower one is to have it below.
        lower = min(before, chain, key=lambda one: float(one.expected.position_N3[LOWEST_CANAL, 2]))
        error_mm = level_count_error_mm(sagittal, lower.expected.position_N3)
        return chain, LevelCount(error_mm, score_S, prior_S=prior_S, chosen=chosen)

    def _prior_of_shifts(self, sagittal: Sequence[SliceImage], position_N3: Array) -> Array:
        """Return the logarithm of the prior probability of each shift of a chain, (S,)."""
        if self.field_height is None:
            return NO_PRIOR_S
        series = {image.slices.series.series_id: image.slices.series for image in sagittal}
        frames = [one.frames.values() for one in series.values()]
        height_S = heights(frames, alternatives(position_N3))
        return self.score_rule.height_weight * self.field_height.log_density(height_S)

    def _moved(
        self, chain: _Chain, shift: int, sagittal: Sequence[SliceImage], heatmaps: Sequence[Heatmaps]
    ) -> _Chain | None:
        """Return the chain, moved by a shift and searched for again; None without a shift or a plausible pose."""
        if shift == UNSHIFTED:
            return None
        pose = fit_pose(self.prior.shape_N3, shifted(chain.expected.position_N3, SHIFTS[shift]))
        return self._search(pose, sagittal, heatmaps) if pose.is_plausible else None

    def _search(
        self,
        pose: Pose,
        sagittal: Sequence[SliceImage],
        heatmaps: Sequence[Heatmaps],
        marked_N3: Array | None = None,
    ) -> _Chain:
        """Search for the sites around their expected positions, twice."""
        detections: list[Detection] = []
        expected = self.fuse(pose, detections, marked_N3)
        for _ in range(2):
            detections = sagittal_detections(sagittal, heatmaps, expected.position_N3)
            expected = self.fuse(pose, detections, marked_N3)
        return _Chain(pose, tuple(detections), expected)

    def fuse(self, pose: Pose, detections: Sequence[Detection], marked_N3: Array | None = None) -> Posterior:
        """Return the posterior of the spine prior, given detections and marks."""
        observations: list[Observation] = [detection.to_observation(self.deviation_mm) for detection in detections]
        if marked_N3 is not None:
            observations += mark_observations(marked_N3)
        return self.prior.posterior(pose, observations, POSE_DEVIATION if observations else UNKNOWN_POSE_DEVIATION)

    def _heatmaps(self, orientation: str, images: Sequence[SliceImage]) -> list[Heatmaps]:
        """Return the heatmaps, (C, H, W), of each image; those of landmarks that are not known are 0."""
        heatmaps: list[Heatmaps] = []
        if not images:
            return heatmaps
        network = self.network.of(orientation).eval()
        known_C11 = self.knowledge.channels[orientation][:, None, None]
        device = next(network.parameters()).device
        for first in range(0, len(images), BATCH_SIZE):
            batch = torch.from_numpy(stack_images(images[first : first + BATCH_SIZE])).to(device)
            heatmaps += list(network.heatmaps(batch.float() / 255).cpu().numpy() * known_C11)
        return heatmaps

    @cached_property
    def _error_scale_N(self) -> Array:
        return np.array([self.error_scale[site.condition] for site in SITES])
