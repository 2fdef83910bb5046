"""Targets of the loss: smoothing and distributions over captions."""

import pytest
import torch

from vl_model.data.targets import CAPTIONS, Targets, joined, one_hot_targets


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


@pytest.mark.parametrize("smoothing", [0.1, 0.4])
def test_a_certain_image_is_smoothed_alike_however_often_its_severity_is_drawn(smoothing: float) -> None:
    """What a softmax with the logarithm of the rates added learns from these targets is the smoothed grade."""
    log_ratio_K = torch.randn(CAPTIONS, generator=torch.Generator().manual_seed(0))
    caption_B = torch.tensor([0, 1, 2, 30, 31, 32])
    natural = one_hot_targets(caption_B).smoothed(smoothing).grade_B3
    drawn = one_hot_targets(caption_B).smoothed(smoothing, log_ratio_K).grade_B3
    assert torch.allclose(drawn.sum(dim=1), torch.ones(6)) and not torch.allclose(drawn, natural, atol=0.02)
    learned = (drawn.log() - log_ratio_K.view(-1, 3)[caption_B // 3]).softmax(dim=1)
    assert torch.allclose(learned, natural, atol=1e-6)
    unsmoothed = one_hot_targets(caption_B)
    assert torch.equal(unsmoothed.smoothed(0.0, log_ratio_K).grade_B3, unsmoothed.grade_B3)


def test_targets_of_several_batches_are_joined_in_order() -> None:
    random = torch.Generator().manual_seed(0)
    parts = [
        Targets(torch.arange(n), torch.rand(n, 3, generator=random), torch.rand(n, generator=random)) for n in (2, 3)
    ]
    whole = joined(parts)
    for name in ("caption_B", "grade_B3", "partner_log_rate_B"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))
