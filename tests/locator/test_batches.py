"""Varied pictures: a point stays where its bright pixel goes, and sides are exchanged where pictures are mirrored."""

import numpy as np
import torch

from locator.batches import Loaded, PictureBatches, _draw_move, mirrored, moved
from locator.network import AXIAL_CHANNELS, place_loss, target_places
from locator.training_data import Cut


def spots(points: np.ndarray, height: int = 96, width: int = 80) -> Loaded:
    """A picture for each row of points (B, C, 2), with a bright 3 x 3 spot at each point."""
    picture = torch.zeros(len(points), 3, height, width)
    for number, row in enumerate(points):
        for x, y in row.astype(int):
            picture[number, :, y - 1 : y + 2, x - 1 : x + 2] = 1.0
    share = torch.rand(points.shape[:2])
    return Loaded(picture, torch.from_numpy(points).float(), share, share > 0.5)


def centre_of(picture_HW: torch.Tensor) -> tuple[float, float]:
    rows, columns = torch.meshgrid(*(torch.arange(size) for size in picture_HW.shape), indexing="ij")
    mass = picture_HW.sum()
    return float((picture_HW * columns).sum() / mass), float((picture_HW * rows).sum() / mass)


def test_points_move_with_their_pictures() -> None:
    random = np.random.default_rng(5)
    points = random.integers(34, 46, (12, 1, 2)).astype(float)
    loaded = spots(points)
    moves = np.stack([_draw_move(random, (8.0, 8.0)) for _ in points])
    picture, point = moved(loaded.picture_B3HW, loaded.point_BC2, moves)
    for number in range(len(points)):
        np.testing.assert_allclose(centre_of(picture[number, 1]), point[number, 0], atol=0.2)


def test_a_mirrored_axial_picture_exchanges_left_and_right() -> None:
    loaded = spots(np.array([[[40, 48], [60, 40], [22, 41], [50, 44], [31, 45]]] * 2, dtype=float))
    turned = mirrored(loaded, np.array([True, False]), "axial")
    torch.testing.assert_close(turned.picture_B3HW[1], loaded.picture_B3HW[1])
    torch.testing.assert_close(turned.point_BC2[1], loaded.point_BC2[1])
    for channel, (condition, side) in enumerate(AXIAL_CHANNELS):
        other = AXIAL_CHANNELS.index((condition, side.other if side else None))
        x, y = loaded.point_BC2[0, other]
        torch.testing.assert_close(turned.point_BC2[0, channel], torch.stack([79 - x, y]))
        assert turned.share_BC[0, channel] == loaded.share_BC[0, other]
        assert turned.known_BC[0, channel] == loaded.known_BC[0, other]
        column, row = turned.point_BC2[0, channel].int().tolist()
        assert turned.picture_B3HW[0, 0, row, column] == 1.0


def test_a_mirrored_sagittal_picture_runs_the_other_way() -> None:
    loaded = Loaded(torch.rand(2, 3, 8, 8), torch.rand(2, 10, 2), torch.rand(2, 10), torch.ones(2, 10))
    turned = mirrored(loaded, np.array([True, True]), "sagittal")
    torch.testing.assert_close(turned.picture_B3HW, loaded.picture_B3HW[:, [2, 1, 0]])
    torch.testing.assert_close(turned.point_BC2, loaded.point_BC2)


def test_targets_are_one_probability_over_pixels_and_absence() -> None:
    point = torch.tensor([[[3.0, 5.0], [90.0, 2.0], [3.0, 5.0]]])
    share = torch.tensor([[0.7, 0.9, 0.0]])
    target = target_places(point, share, (12, 10), 1.3)
    torch.testing.assert_close(target.sum(dim=2), torch.ones(1, 3))
    torch.testing.assert_close(target[0, :, -1], torch.tensor([0.3, 1.0, 1.0]), atol=1e-6, rtol=0)
    assert target[0, 0, :-1].argmax() == 5 * 10 + 3
    logits = torch.randn(1, 3, 121)
    slow = -(target[0, 1] * logits[0, 1].log_softmax(0)).sum()
    torch.testing.assert_close(place_loss(logits, target, torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor(1.0)), slow)


def test_two_processes_see_together_what_one_sees() -> None:
    random = np.random.default_rng(0)
    size = 20
    cut = Cut(
        random.integers(0, 255, (size, 3, 32, 32), dtype=np.uint8),
        np.arange(size),
        random.uniform(4, 28, (size, 5, 2)).astype(np.float32),
        random.random((size, 5)).astype(np.float32),
        np.ones((size, 5), dtype=bool),
    )
    row_N = np.arange(0, size, 2)
    one = PictureBatches("axial", cut, row_N, 4, 7).draw(3)
    halves = [PictureBatches("axial", cut, row_N, 2, 7, process, 2).draw(3) for process in range(2)]
    torch.testing.assert_close(one.picture_B3HW, torch.cat([half.picture_B3HW for half in halves]))
    torch.testing.assert_close(one.target_BCP, torch.cat([half.target_BCP for half in halves]))
