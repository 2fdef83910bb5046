"""The trainer's evaluation of held-out sites."""

import pytest
import torch
from torch import nn

from vl_model.data.targets import one_hot_targets
from vl_model.training.loss import contrastive_loss
from vl_model.training.trainer import held_out_sums


def test_held_out_terms_equal_those_of_the_loss() -> None:
    torch.manual_seed(0)
    image_BD = nn.functional.normalize(torch.randn(7, 5), dim=-1)
    text_KD = nn.functional.normalize(torch.randn(75, 5), dim=-1)
    caption_B, scale = torch.randint(0, 75, (7,)), torch.tensor(9.0)
    expected = contrastive_loss(image_BD, text_KD, scale, one_hot_targets(caption_B))
    sums = sum(held_out_sums(image_BD[part], text_KD, scale, caption_B[part]) for part in (slice(0, 3), slice(3, 7)))
    assert sums[2] == 7
    assert (sums[0] / 7).item() == pytest.approx(expected.caption.item(), rel=1e-5)
    assert (sums[1] / 7).item() == pytest.approx(expected.severity.item(), rel=1e-5)
