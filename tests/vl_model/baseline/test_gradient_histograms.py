"""Histograms of gradients against a slow version that votes pixel by pixel, and on images with known gradients."""

import math

import numpy as np
import pytest

from vl_model.baseline.gradient_histograms import gradient_histograms


def slow_histograms(image: np.ndarray, cell: int) -> np.ndarray:
    """One image, pixel by pixel, in Python's floats."""
    rows, columns = (image.shape[0] - 2) // cell, (image.shape[1] - 2) // cell
    votes = [[[0.0] * 9 for _ in range(columns)] for _ in range(rows)]
    for y in range(1, image.shape[0] - 1):
        for x in range(1, image.shape[1] - 1):
            across = math.sqrt(image[y, x + 1]) - math.sqrt(image[y, x - 1])
            down = math.sqrt(image[y + 1, x]) - math.sqrt(image[y - 1, x])
            place = math.degrees(math.atan2(down, across)) % 180.0 / 20.0  # nine orientations, 20 degrees apart
            histogram = votes[(y - 1) // cell][(x - 1) // cell]
            for orientation in range(9):
                distance = abs(place - orientation)
                nearness = max(0.0, 1.0 - min(distance, 9.0 - distance))
                histogram[orientation] += math.hypot(across, down) * nearness
    found: list[float] = []
    for row in range(rows - 1):
        for column in range(columns - 1):
            block = [
                *(votes[row][column] + votes[row][column + 1]),
                *(votes[row + 1][column] + votes[row + 1][column + 1]),
            ]
            norm = math.sqrt(sum(value**2 for value in block) + 1.0)
            clipped = [min(value / norm, 0.2) for value in block]
            norm = math.sqrt(sum(value**2 for value in clipped) + 1e-4)
            found += [value / norm for value in clipped]
    return np.array(found)


@pytest.mark.parametrize(("height", "width", "cell"), [(26, 26, 8), (14, 20, 6), (10, 10, 4), (50, 50, 8)])
def test_histograms_equal_a_slow_version(height: int, width: int, cell: int) -> None:
    rng = np.random.default_rng(height)
    noise = rng.integers(0, 256, (2, height, width), dtype=np.uint8)
    ramp = np.broadcast_to(np.linspace(0, 255, width), (1, height, width)).astype(np.uint8)
    dark = np.zeros((1, height, width), dtype=np.uint8)
    images = np.concatenate([noise, ramp, ramp[:, :, ::-1], dark])
    found = gradient_histograms(images, cell)
    assert found.dtype == np.float32
    for image, histograms in zip(images, found, strict=True):
        assert histograms == pytest.approx(slow_histograms(image, cell), abs=2e-5)


def test_an_edge_votes_for_its_orientation_whatever_its_sign() -> None:
    ramp = np.linspace(1, 200, 18).astype(np.uint8)
    across = np.broadcast_to(ramp, (18, 18))
    found = gradient_histograms(np.stack([across, across[:, ::-1], across.T]), 8).reshape(3, 4, 9)
    assert found[0].argmax(axis=1).tolist() == [0] * 4 == found[1].argmax(axis=1).tolist()
    assert (found[2][:, [4, 5]] > 0.35).all()  # 90 degrees lies between two orientations
    assert found[2].sum() == pytest.approx(found[2][:, [4, 5]].sum(), abs=1e-3)


def test_images_do_not_influence_one_another_and_cells_must_fit() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 26, 26), dtype=np.uint8)
    together = gradient_histograms(images, 8)
    assert all(np.array_equal(gradient_histograms(images[[i]], 8)[0], together[i]) for i in range(5))
    with pytest.raises(AssertionError, match="are not cells of 7"):
        gradient_histograms(images, 7)
