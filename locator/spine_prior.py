"""The spine prior: a joint normal distribution of the 25 sites' positions, and its posterior given observations.

The positions of `SITES`, one after another (75 coordinates, mm), are normally distributed. The mean is a mean spine,
aligned with the patient by a `Pose`; the covariance has two parts, the uncertainty of the pose and the variation of
spines around the mean. An observation is a position of one site with a covariance. The posterior has a closed form and
gives every site a position and a covariance, also the sites without an observation. Observations that contradict the
prior and the other observations lose weight, as under Student's t distribution.

Dimensions: N = 25 sites, D = 75 coordinates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.geometry import Array
from data_prep.placement.pose import Pose, fit_pose, tilt_matrix
from data_prep.sites import SITES

N, D = len(SITES), 3 * len(SITES)
#: Standard deviations of an approximately known pose: x, y, z in mm, logarithm of the scale, tilt in radians.
POSE_DEVIATION = np.array([15.0, 15.0, 20.0, 0.10, 0.12])
#: Standard deviation of a reader's mark along x, y and z, in mm: about a millimetre within the slice, and up to half of
#: the gap between slices across it.
MARK_DEVIATION_MM = np.array([1.5, 1.2, 1.5])
#: Degrees of freedom of an observation's error: with 3, an outlier of 5 standard deviations has a weight of 1/5.
DEGREES_OF_FREEDOM = 3.0
POSTERIOR_ROUNDS = 6
#: The covariance is shrunk towards independent coordinates, as if by this number of additional studies.
SHRINKAGE_STUDIES = 10.0
#: Standard deviation of spines around the mean, in mm: before learning, and its lower bound.
INITIAL_DEVIATION_MM, MIN_DEVIATION_MM = 8.0, 0.5
LEARNING_ROUNDS = 4
#: Marks that a study needs to contribute to the prior: they span at least two levels.
MIN_MARKS = 5


@dataclass(frozen=True)
class Observation:
    """An observed position of a site, with its covariance in mm^2; `kind` names how it was observed."""

    index: int
    position_mm: Array
    covariance_33: Array
    kind: str


@dataclass(frozen=True)
class Posterior:
    """The distribution of the positions, given observations.

    Attributes:
        position_N3: Mean positions, mm.
        covariance_DD: Their covariance, mm^2.
        weight: The weight of each observation: at most 1, near 0 for an outlier.
    """

    position_N3: Array
    covariance_DD: Array
    weight: Array

    @property
    def deviation_N(self) -> Array:
        """Root of the expected squared distance of each site from its mean position, mm."""
        variance_N3 = np.diag(self.covariance_DD).reshape(N, 3)
        return np.sqrt(np.maximum(variance_N3.sum(axis=1), 0.0))

    def covariance_33(self, index: int) -> Array:
        own = slice(3 * index, 3 * index + 3)
        return self.covariance_DD[own, own]


@dataclass(frozen=True)
class SpinePrior:
    """The mean spine and the variation around it.

    Attributes:
        shape_N3: Mean positions of `SITES` in mm, from the middle of the mean spine.
        covariance_DD: Covariance of spines around it, mm^2.
        studies: Number of studies that it was learned from.
    """

    shape_N3: Array
    covariance_DD: Array
    studies: int

    def in_patient(self, pose: Pose, pose_deviation: Array = POSE_DEVIATION) -> tuple[Array, Array]:
        """Return the mean (D,) and covariance (D, D) in the patient, including the uncertainty of the pose."""
        turn = pose.scale * np.kron(np.eye(N), tilt_matrix(pose.tilt))
        by_pose = self._pose_jacobian(pose) * pose_deviation
        return pose.apply(self.shape_N3).ravel(), turn @ self.covariance_DD @ turn.T + by_pose @ by_pose.T

    def _pose_jacobian(self, pose: Pose) -> Array:
        """Return the derivatives, (D, 5), of the positions by the pose's x, y, z, logarithm of scale, and tilt."""
        arms_N3 = pose.apply(self.shape_N3) - pose.origin_mm
        jacobian = np.zeros((N, 3, 5))
        jacobian[:, :, :3] = np.eye(3)
        jacobian[:, :, 3] = arms_N3
        jacobian[:, 1, 4], jacobian[:, 2, 4] = -arms_N3[:, 2], arms_N3[:, 1]
        return jacobian.reshape(D, 5)

    def posterior(
        self, pose: Pose, observations: Sequence[Observation], pose_deviation: Array = POSE_DEVIATION
    ) -> Posterior:
        """Return the distribution of the positions, given observations.

        Args:
            pose: The approximate pose; it is refined by the observations.
            observations: Any number of observations per site.
            pose_deviation: Standard deviations of the pose, as `POSE_DEVIATION`.
        """
        weight = np.ones(len(observations))
        for _ in range(POSTERIOR_ROUNDS):
            mean, covariance = self.in_patient(pose, pose_deviation)
            result = _condition_on(observations, weight, mean, covariance)
            if not len(observations):
                return result
            weight = _student_t_weights(result.position_N3, observations)
            refined = fit_pose(self.shape_N3, result.position_N3)
            pose = refined if refined.is_plausible else pose
        return result


def _condition_on(observations: Sequence[Observation], weight: Array, mean: Array, covariance: Array) -> Posterior:
    """Condition a normal distribution on noisy observations of some coordinates (a Kalman update)."""
    if not len(observations):
        return Posterior(mean.reshape(N, 3), covariance, weight)
    rows = np.concatenate([np.arange(3 * observed.index, 3 * observed.index + 3) for observed in observations])
    noise = np.zeros((len(rows), len(rows)))
    for number, (observed, own_weight) in enumerate(zip(observations, weight, strict=True)):
        own = slice(3 * number, 3 * number + 3)
        noise[own, own] = observed.covariance_33 / max(own_weight, 1e-3)
    position = np.concatenate([observed.position_mm for observed in observations])
    gain = np.linalg.solve(covariance[np.ix_(rows, rows)] + noise, covariance[rows]).T  # (D, rows)
    updated = mean + gain @ (position - mean[rows])
    remaining = covariance - gain @ covariance[rows]
    return Posterior(updated.reshape(N, 3), (remaining + remaining.T) / 2, weight)


def _student_t_weights(position_N3: Array, observations: Sequence[Observation]) -> Array:
    """Return the weights under Student's t in three dimensions (Lange, Little & Taylor 1989), at most 1."""
    weights = []
    for observed in observations:
        residual = observed.position_mm - position_N3[observed.index]
        squared = float(residual @ np.linalg.solve(observed.covariance_33, residual))
        weights.append(min(1.0, (DEGREES_OF_FREEDOM + 3) / (DEGREES_OF_FREEDOM + squared)))
    return np.array(weights)


def mark_observations(position_N3: Array) -> list[Observation]:
    """Return the observations that a study's marks are; position_N3 is NaN for unmarked sites."""
    covariance = np.diag(MARK_DEVIATION_MM**2)
    marked = np.flatnonzero(np.isfinite(position_N3).all(axis=1))
    return [Observation(int(index), position_N3[index], covariance, "mark") for index in marked]


def read_prior(content: Mapping[str, Any]) -> SpinePrior:
    """Read the prior of a locator.json.

    Raises:
        KeyError, TypeError, ValueError: It is not a prior.
    """
    shape, covariance = np.array(content["shape"], dtype=float), np.array(content["covariance"], dtype=float)
    if shape.shape != (N, 3) or covariance.shape != (D, D):
        raise ValueError(
            f"the prior's shape and covariance are arrays of {shape.shape} and {covariance.shape}, not of "
            "(25, 3) and (75, 75)"
        )
    return SpinePrior(shape, covariance, int(content["studies"]))


def learn_prior(shape_N3: Array, positions: Sequence[Array], initial: SpinePrior | None = None) -> SpinePrior:
    """Learn the prior from marked studies by expectation maximisation.

    Args:
        shape_N3: The mean spine to start from, for example an atlas's. A site without a position there is given one
            from its counterpart on the other side or from its level.
        positions: The marks of each study, (25, 3) in mm, NaN where unmarked.
        initial: A prior to start from instead. The sites that no study marks keep their places relative to the others
            as it has them; without it, nothing is known of how these vary together.

    Raises:
        ValueError: Fewer than two studies have `MIN_MARKS` marks, or fit a plausible pose.
    """
    usable = [position_N3 for position_N3 in positions if np.isfinite(position_N3).all(axis=1).sum() >= MIN_MARKS]
    if len(usable) < 2:
        raise ValueError(f"{len(usable)} studies have {MIN_MARKS} marks or more; a spine prior needs at least 2")
    prior = initial or SpinePrior(_fill_unmarked(shape_N3), INITIAL_DEVIATION_MM**2 * np.eye(D), 0)
    for _ in range(LEARNING_ROUNDS):
        aligned, uncertainty_DD = [], np.zeros((D, D))
        for position_N3 in usable:
            pose = fit_pose(prior.shape_N3, position_N3)
            if not pose.is_plausible:
                continue
            posterior = prior.posterior(pose, mark_observations(position_N3))
            pose = fit_pose(prior.shape_N3, posterior.position_N3)
            aligned.append(pose.invert(posterior.position_N3).ravel())
            back = np.kron(np.eye(N), tilt_matrix(pose.tilt)) / pose.scale
            uncertainty_DD += back.T @ posterior.covariance_DD @ back
        if len(aligned) < 2:
            raise ValueError(
                f"the marks of {len(aligned)} of {len(usable)} studies have the shape of a spine; a spine prior needs "
                "at least 2"
            )
        prior = _maximise(np.array(aligned), uncertainty_DD)
    return prior


def _maximise(aligned_SD: Array, uncertainty_DD: Array) -> SpinePrior:
    """Return the prior that maximises the likelihood of the aligned spines (the M step)."""
    studies = len(aligned_SD)
    mean = aligned_SD.mean(axis=0)
    covariance = ((aligned_SD - mean).T @ (aligned_SD - mean) + uncertainty_DD) / studies
    share = SHRINKAGE_STUDIES / (SHRINKAGE_STUDIES + studies)
    shrunk = (1 - share) * covariance + share * np.diag(np.diag(covariance)) + MIN_DEVIATION_MM**2 * np.eye(D)
    return SpinePrior(mean.reshape(N, 3), shrunk, studies)


def _fill_unmarked(shape_N3: Array) -> Array:
    """Give unmarked sites of a mean spine the mirrored position of their counterpart, or the mean of their level."""
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
        first = SITES[int(np.flatnonzero(missing)[0])].key
        raise ValueError(f"site {first}: no study has a mark on its level; a spine prior needs marks on every level")
    return shape
