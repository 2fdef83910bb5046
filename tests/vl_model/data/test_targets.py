"""Targets of the loss: smoothing and distributions over captions."""

import torch

from vl_model.data.targets import CAPTIONS, Targets, one_hot_targets


def test_smoothing_moves_mass_to_neighbouring_grades_only() -> None:
    smoothed = one_hot_targets(torch.tensor([0, 7, 74])).smoothed(0.2).grade_B3
    expected = torch.tensor([[0.8, 0.2, 0.0], [0.1, 0.8, 0.1], [0.0, 0.2, 0.8]])
    assert torch.allclose(smoothed, expected)
    assert one_hot_targets(torch.tensor([2])).smoothed(0.0).grade_B3.tolist() == [[0.0, 0.0, 1.0]]


def test_shares_are_at_the_captions_of_the_own_site() -> None:
    targets = Targets(torch.tensor([4, 74]), torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.4, 0.6]]), torch.zeros(2))
    expected_2K = torch.zeros(2, CAPTIONS)
    expected_2K[0, 3:6] = torch.tensor([0.2, 0.5, 0.3])
    expected_2K[1, 72:75] = torch.tensor([0.0, 0.4, 0.6])
    assert torch.equal(targets.target_BK, expected_2K)
