"""The spine prior and its posterior, compared with slow independent implementations."""

import numpy as np
import pytest

from data_prep.placement.pose import Pose, fit_pose
from data_prep.sites import SITES, Condition, Level, Side
from locator.spine_prior import D, N, Observation, SpinePrior, learn_prior

OFF_MIDLINE = dict(zip(Condition, (0.0, 17.0, 9.0), strict=True))
RANDOM = np.random.default_rng(3)


def a_shape() -> np.ndarray:
    """Return a straight spine: levels 35 mm apart, foramina and recesses beside the canal."""
    positions = []
    for site in SITES:
        sign = -1 if site.side is Side.RIGHT else 1
        positions.append((sign * OFF_MIDLINE[site.condition], 0.0, 35.0 * (2 - list(Level).index(site.level))))
    return np.array(positions)


def a_prior() -> SpinePrior:
    root = RANDOM.normal(0, 0.3, (D, D))
    return SpinePrior(a_shape(), root @ root.T / 10 + np.eye(D), 50)


def observe(index: int, position: np.ndarray, deviation: float = 1.0) -> Observation:
    return Observation(index, position, deviation**2 * np.eye(3), "mark")


def test_the_posterior_is_the_normal_distribution_given_noisy_coordinates() -> None:
    """Compare the Kalman form with the information form, which inverts covariances instead."""
    prior, pose = a_prior(), Pose(np.array([5.0, 2.0, -7.0]))
    mean, covariance = prior.in_patient(pose)
    observations = [observe(index, mean.reshape(N, 3)[index]) for index in (0, 3, 12)]
    result = prior.posterior(pose, observations)
    pick = np.zeros((9, D))
    for row, index in enumerate((0, 3, 12)):
        pick[3 * row : 3 * row + 3, 3 * index : 3 * index + 3] = np.eye(3)
    slow = np.linalg.inv(np.linalg.inv(covariance) + pick.T @ pick)
    np.testing.assert_allclose(result.covariance_DD, slow, atol=1e-6)
    np.testing.assert_allclose(result.position_N3.ravel(), mean, atol=1e-6)


def test_the_pose_jacobian_is_the_derivative_by_the_pose() -> None:
    prior = a_prior()
    pose = Pose(np.array([1.0, -4.0, 9.0]), 1.1, 0.2)
    step = 1e-6
    changed = [
        Pose(pose.origin_mm + np.array([step, 0, 0]), 1.1, 0.2),
        Pose(pose.origin_mm + np.array([0, step, 0]), 1.1, 0.2),
        Pose(pose.origin_mm + np.array([0, 0, step]), 1.1, 0.2),
        Pose(pose.origin_mm, 1.1 * np.exp(step), 0.2),
        Pose(pose.origin_mm, 1.1, 0.2 + step),
    ]
    slow = [(other.apply(prior.shape_N3) - pose.apply(prior.shape_N3)).ravel() / step for other in changed]
    np.testing.assert_allclose(prior._pose_jacobian(pose), np.array(slow).T, atol=1e-4)


def test_an_impossible_observation_loses_its_weight() -> None:
    prior = a_prior()
    truth = Pose(np.array([0.0, 30.0, 12.0]), 1.05, 0.1).apply(prior.shape_N3)
    observations = [observe(index, truth[index]) for index in range(N)]
    observations[7] = observe(7, truth[7] + [0, 0, 35.0])
    result = prior.posterior(fit_pose(prior.shape_N3, truth), observations)
    assert result.weight[7] < 0.05 < 0.9 < np.delete(result.weight, 7).min()
    assert np.linalg.norm(result.position_N3 - truth, axis=1).max() < 3


def test_unobserved_sites_have_a_larger_deviation() -> None:
    prior = a_prior()
    truth = Pose(np.zeros(3)).apply(prior.shape_N3)
    some = prior.posterior(Pose(np.zeros(3)), [observe(index, truth[index]) for index in range(3)])
    none = prior.posterior(Pose(np.zeros(3)), [])
    assert np.isfinite(some.position_N3).all()
    assert some.deviation_N[:3].max() < some.deviation_N[3:].min() < none.deviation_N.min()


def test_learning_recovers_the_shape_also_of_sites_that_are_rarely_marked() -> None:
    shape = a_shape()
    studies = []
    for number in range(30):
        pose = Pose(RANDOM.normal(0, 20, 3), np.exp(RANDOM.normal(0, 0.05)), RANDOM.normal(0, 0.1))
        position = pose.apply(shape + RANDOM.normal(0, 1.0, shape.shape))
        position[RANDOM.random(N) < 0.2] = np.nan
        position[24] = position[24] if number < 3 else np.nan
        studies.append(position)
    prior = learn_prior(np.where(np.arange(N)[:, None] == 9, np.nan, shape), studies)
    pose = fit_pose(prior.shape_N3, shape)
    assert abs(pose.apply(prior.shape_N3) - shape).max() < 3
    assert np.linalg.eigvalsh(prior.covariance_DD).min() > 0
    with pytest.raises(ValueError, match="1 studies have 5 marks"):
        learn_prior(shape, studies[:1])
