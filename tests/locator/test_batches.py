"""Augmented images: landmarks move with their pixels, and sides are exchanged when an image is mirrored."""

import numpy as np
import torch

from locator.batches import ImageBatches, LabelledImages, _draw_transform, mirror, transform_images
from locator.network import AXIAL_CHANNELS, heatmap_loss, target_heatmaps
from locator.training_data import CachedImages


def spots(points: np.ndarray, height: int = 96, width: int = 80) -> LabelledImages:
    """Return one image per row of points (B, C, 2), with a bright 3 x 3 spot at each point."""
    image = torch.zeros(len(points), 3, height, width)
    for number, row in enumerate(points):
        for x, y in row.astype(int):
            image[number, :, y - 1 : y + 2, x - 1 : x + 2] = 1.0
    presence = torch.rand(points.shape[:2])
    return LabelledImages(image, torch.from_numpy(points).float(), presence, presence > 0.5)


def centre_of(image_HW: torch.Tensor) -> tuple[float, float]:
    rows, columns = torch.meshgrid(*(torch.arange(size) for size in image_HW.shape), indexing="ij")
    mass = image_HW.sum()
    return float((image_HW * columns).sum() / mass), float((image_HW * rows).sum() / mass)


def test_landmarks_move_with_their_images() -> None:
    random = np.random.default_rng(5)
    points = random.integers(34, 46, (12, 1, 2)).astype(float)
    labelled = spots(points)
    transforms = np.stack([_draw_transform(random, (8.0, 8.0)) for _ in points])
    image, point = transform_images(labelled.image_B3HW, labelled.point_BC2, transforms)
    for number in range(len(points)):
        np.testing.assert_allclose(centre_of(image[number, 1]), point[number, 0], atol=0.2)


def test_a_mirrored_axial_image_has_left_and_right_exchanged() -> None:
    labelled = spots(np.array([[[40, 48], [60, 40], [22, 41], [50, 44], [31, 45]]] * 2, dtype=float))
    mirrored = mirror(labelled, np.array([True, False]), "axial")
    torch.testing.assert_close(mirrored.image_B3HW[1], labelled.image_B3HW[1])
    torch.testing.assert_close(mirrored.point_BC2[1], labelled.point_BC2[1])
    for channel, (condition, side) in enumerate(AXIAL_CHANNELS):
        other = AXIAL_CHANNELS.index((condition, side.other if side else None))
        x, y = labelled.point_BC2[0, other]
        torch.testing.assert_close(mirrored.point_BC2[0, channel], torch.stack([79 - x, y]))
        assert mirrored.presence_BC[0, channel] == labelled.presence_BC[0, other]
        assert mirrored.known_BC[0, channel] == labelled.known_BC[0, other]
        column, row = mirrored.point_BC2[0, channel].int().tolist()
        assert mirrored.image_B3HW[0, 0, row, column] == 1.0


def test_a_mirrored_sagittal_image_has_its_slices_reversed() -> None:
    labelled = LabelledImages(torch.rand(2, 3, 8, 8), torch.rand(2, 10, 2), torch.rand(2, 10), torch.ones(2, 10))
    mirrored = mirror(labelled, np.array([True, True]), "sagittal")
    torch.testing.assert_close(mirrored.image_B3HW, labelled.image_B3HW[:, [2, 1, 0]])
    torch.testing.assert_close(mirrored.point_BC2, labelled.point_BC2)


def test_targets_are_one_distribution_over_pixels_and_absence() -> None:
    point = torch.tensor([[[3.0, 5.0], [90.0, 2.0], [3.0, 5.0]]])
    presence = torch.tensor([[0.7, 0.9, 0.0]])
    target = target_heatmaps(point, presence, (12, 10), 1.3)
    torch.testing.assert_close(target.sum(dim=2), torch.ones(1, 3))
    torch.testing.assert_close(target[0, :, -1], torch.tensor([0.3, 1.0, 1.0]), atol=1e-6, rtol=0)
    assert target[0, 0, :-1].argmax() == 5 * 10 + 3
    logits = torch.randn(1, 3, 121)
    slow = -(target[0, 1] * logits[0, 1].log_softmax(0)).sum()
    torch.testing.assert_close(heatmap_loss(logits, target, torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor(1.0)), slow)


def test_two_processes_together_draw_the_batch_of_one() -> None:
    random = np.random.default_rng(0)
    size = 20
    cache = CachedImages(
        random.integers(0, 255, (size, 3, 32, 32), dtype=np.uint8),
        np.arange(size),
        random.uniform(4, 28, (size, 5, 2)).astype(np.float32),
        random.random((size, 5)).astype(np.float32),
        np.ones((size, 5), dtype=bool),
    )
    row_N = np.arange(0, size, 2)
    one = ImageBatches("axial", cache, row_N, 4, 7).draw(3)
    halves = [ImageBatches("axial", cache, row_N, 2, 7, process, 2).draw(3) for process in range(2)]
    torch.testing.assert_close(one.image_B3HW, torch.cat([half.image_B3HW for half in halves]))
    torch.testing.assert_close(one.target_BCP, torch.cat([half.target_BCP for half in halves]))
