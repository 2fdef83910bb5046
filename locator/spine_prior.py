"""What is known of a spine before looking, and what it is after: 25 places that vary together.

The places of `SITES`, one after another (75 numbers, mm), are one normal distribution: a mean spine laid on the
patient by a `Pose`, the pose's own uncertainty, and how spines differ from the mean. An observation is a place of
one site with a covariance. The posterior is then closed form: every site gets a place and a covariance, also those
that nobody saw. Observations that neither prior nor others can explain lose their weight, as under Student's t.

Dimensions: N = 25 sites, D = 75.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.geometry import Array
from data_prep.placement.pose import Pose, fit_pose, tilt_matrix
from data_prep.sites import SITES

N, D = len(SITES), 3 * len(SITES)
#: Standard deviations of a pose that is only roughly known: mm, logarithm of the scale, radians.
POSE_SPREAD = np.array([15.0, 15.0, 20.0, 0.10, 0.12])
#: Readers' marks scatter by a millimetre in their slice, and lie up to half a gap beside it; deviation along x, y, z.
MARK_DEVIATION_MM = np.array([1.5, 1.2, 1.5])
#: Degrees of freedom of an observation's error: 3 leave outliers of 5 deviations a weight of 1/5.
FREEDOM = 3.0
ROUNDS = 6
#: The covariance of sites is shrunk towards independent ones, as if this many studies more said so.
SHRINKAGE_STUDIES = 10.0
#: How spines differ from the mean where nothing was learned yet, and at the least, mm.
FIRST_DEVIATION, LEAST_DEVIATION = 8.0, 0.5
LEARNING_ROUNDS = 4
#: What a study must have marked to teach: places over two levels at least.
LEAST_PLACES = 5


@dataclass(frozen=True)
class Observation:
    """A site seen at a place; covariance in mm^2. `kind` says how it was seen, for tables of how well that does."""

    index: int
    place_mm: Array
    covariance_33: Array
    kind: str


@dataclass(frozen=True)
class Posterior:
    """place_N3: mm; covariance_DD: mm^2; weight: of each observation, 1 where it is believed, near 0 where not."""

    place_N3: Array
    covariance_DD: Array
    weight: Array

    @property
    def deviation_N(self) -> Array:
        """Root of the expected squared distance of each site from its place, mm."""
        variance_N3 = np.diag(self.covariance_DD).reshape(N, 3)
        return np.sqrt(np.maximum(variance_N3.sum(axis=1), 0.0))

    def covariance_33(self, index: int) -> Array:
        own = slice(3 * index, 3 * index + 3)
        return self.covariance_DD[own, own]


@dataclass(frozen=True)
class SpinePrior:
    """shape_N3: the mean spine, mm from its own middle; covariance_DD: how spines differ from it, mm^2."""

    shape_N3: Array
    covariance_DD: Array
    studies: int

    def at(self, pose: Pose, spread: Array = POSE_SPREAD) -> tuple[Array, Array]:
        """Mean (D,) and covariance (D, D) in the patient, the pose's own uncertainty included."""
        turn = pose.scale * np.kron(np.eye(N), tilt_matrix(pose.tilt))
        ways = self._ways(pose) * spread
        return pose.apply(self.shape_N3).ravel(), turn @ self.covariance_DD @ turn.T + ways @ ways.T

    def _ways(self, pose: Pose) -> Array:
        """(D, 5): how all places move with a pose's shift (x, y, z), logarithm of scale, and tilt."""
        arms_N3 = pose.apply(self.shape_N3) - pose.origin_mm
        ways = np.zeros((N, 3, 5))
        ways[:, :, :3] = np.eye(3)
        ways[:, :, 3] = arms_N3
        ways[:, 1, 4], ways[:, 2, 4] = -arms_N3[:, 2], arms_N3[:, 1]
        return ways.reshape(D, 5)

    def posterior(self, pose: Pose, observations: Sequence[Observation], spread: Array = POSE_SPREAD) -> Posterior:
        """The places after all observations. `pose`: where the spine lies roughly; it is refined on the way."""
        weight = np.ones(len(observations))
        for _ in range(ROUNDS):
            mean, covariance = self.at(pose, spread)
            result = _condition(mean, covariance, observations, weight)
            if not len(observations):
                return result
            weight = _weights(result.place_N3, observations)
            refined = fit_pose(self.shape_N3, result.place_N3)
            pose = refined if refined.is_plausible else pose
        return result


def _condition(mean: Array, covariance: Array, observations: Sequence[Observation], weight: Array) -> Posterior:
    """The normal distribution given its noisy coordinates (a Kalman update)."""
    if not len(observations):
        return Posterior(mean.reshape(N, 3), covariance, weight)
    rows = np.concatenate([np.arange(3 * seen.index, 3 * seen.index + 3) for seen in observations])
    noise = np.zeros((len(rows), len(rows)))
    for number, (seen, share) in enumerate(zip(observations, weight, strict=True)):
        own = slice(3 * number, 3 * number + 3)
        noise[own, own] = seen.covariance_33 / max(share, 1e-3)
    place = np.concatenate([seen.place_mm for seen in observations])
    gain = np.linalg.solve(covariance[np.ix_(rows, rows)] + noise, covariance[rows]).T  # (D, rows)
    after = mean + gain @ (place - mean[rows])
    left = covariance - gain @ covariance[rows]
    return Posterior(after.reshape(N, 3), (left + left.T) / 2, weight)


def _weights(place_N3: Array, observations: Sequence[Observation]) -> Array:
    """Of Student's t in three dimensions (Lange, Little & Taylor 1989), at most 1."""
    weights = []
    for seen in observations:
        apart = seen.place_mm - place_N3[seen.index]
        squared = float(apart @ np.linalg.solve(seen.covariance_33, apart))
        weights.append(min(1.0, (FREEDOM + 3) / (FREEDOM + squared)))
    return np.array(weights)


def mark_observations(position_N3: Array) -> list[Observation]:
    """A reader's marks as observations."""
    covariance = np.diag(MARK_DEVIATION_MM**2)
    found = np.flatnonzero(np.isfinite(position_N3).all(axis=1))
    return [Observation(int(index), position_N3[index], covariance, "mark") for index in found]


def learn_prior(shape_N3: Array, positions: Sequence[Array]) -> SpinePrior:
    """The prior of marked studies, each (25, 3) mm with NaN where unmarked, by expectation maximisation.

    shape_N3: a mean spine to begin with (the atlas has one); unmarked sites of it are filled from their mirror images
    or levels. Raises ValueError where fewer than two studies have `LEAST_PLACES` marks.
    """
    taught = [place for place in positions if np.isfinite(place).all(axis=1).sum() >= LEAST_PLACES]
    if len(taught) < 2:
        raise ValueError(f"{len(taught)} studies have {LEAST_PLACES} marks or more: at least 2 are needed")
    prior = SpinePrior(_filled(shape_N3), FIRST_DEVIATION**2 * np.eye(D), 0)
    for _ in range(LEARNING_ROUNDS):
        inner, spread = [], np.zeros((D, D))
        for place in taught:
            pose = fit_pose(prior.shape_N3, place)
            if not pose.is_plausible:
                continue
            after = prior.posterior(pose, mark_observations(place))
            pose = fit_pose(prior.shape_N3, after.place_N3)
            inner.append(pose.invert(after.place_N3).ravel())
            back = np.kron(np.eye(N), tilt_matrix(pose.tilt)) / pose.scale
            spread += back.T @ after.covariance_DD @ back
        if len(inner) < 2:
            raise ValueError(f"the marks of {len(inner)} studies look like a spine: at least 2 are needed")
        prior = _maximised(np.array(inner), spread)
    return prior


def _maximised(inner_SD: Array, spread_DD: Array) -> SpinePrior:
    studies = len(inner_SD)
    mean = inner_SD.mean(axis=0)
    covariance = ((inner_SD - mean).T @ (inner_SD - mean) + spread_DD) / studies
    share = SHRINKAGE_STUDIES / (SHRINKAGE_STUDIES + studies)
    shrunk = (1 - share) * covariance + share * np.diag(np.diag(covariance)) + LEAST_DEVIATION**2 * np.eye(D)
    return SpinePrior(mean.reshape(N, 3), shrunk, studies)


def _filled(shape_N3: Array) -> Array:
    """A mean spine without gaps: an unmarked site lies at its mirror image's mirror image, or at its level's mean."""
    shape = shape_N3.copy()
    for index, site in enumerate(SITES):
        if np.isfinite(shape[index]).all():
            continue
        other = shape_N3[SITES.index(site.mirrored)]
        level = shape_N3[[number for number, one in enumerate(SITES) if one.level is site.level]]
        if np.isfinite(other).all():
            shape[index] = other * [-1.0, 1.0, 1.0]
        elif np.isfinite(level).all(axis=1).any():
            shape[index] = np.nanmean(level, axis=0)
    missing = ~np.isfinite(shape).all(axis=1)
    if missing.any():
        raise ValueError(f"no study marks any site of a level: {SITES[int(np.flatnonzero(missing)[0])].key} and others")
    return shape
