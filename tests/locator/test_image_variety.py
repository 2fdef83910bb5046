"""Random changes of images: they stay finite, and what lies beyond a dark border is absent."""

import numpy as np
import torch

from locator.image_variety import CROPPED, _coarsen, _void, crop, vary_grey_values


def test_grey_values_vary_and_stay_finite() -> None:
    image = torch.rand(3, 48, 40, generator=torch.Generator().manual_seed(1))
    changed = [vary_grey_values(image, np.random.default_rng(seed)) for seed in range(40)]
    assert all(one.shape == image.shape and one.isfinite().all() for one in changed)
    correlations = [float(np.corrcoef(one.ravel(), image.ravel())[0, 1]) for one in changed]
    assert max(correlations) > 0.8 and min(correlations) < 0.3  # some contrasts are another one, or reversed
    torch.testing.assert_close(changed[3], vary_grey_values(image, np.random.default_rng(3)))
    blank = vary_grey_values(torch.zeros(3, 48, 40), np.random.default_rng(0))
    assert blank.isfinite().all()


def test_landmarks_beyond_a_dark_border_are_absent() -> None:
    image = torch.ones(3, 60, 50)
    points = torch.stack(torch.meshgrid(torch.arange(50.0), torch.arange(60.0), indexing="xy"), dim=-1).reshape(-1, 2)
    presence = torch.full((len(points),), 0.7)
    cropped = 0
    for seed in range(60):
        dark, left = crop(image, points, presence, np.random.default_rng(seed))
        visible = dark[1].reshape(-1) > 0
        torch.testing.assert_close(left, torch.where(visible, presence, torch.zeros(())))
        assert visible.float().mean() > 0.15
        cropped += not visible.all()
    assert 0.4 * CROPPED < cropped / 60 < 1.5 * CROPPED


def test_coarse_pixels_keep_large_structures_and_lose_small_ones() -> None:
    stripes = torch.zeros(3, 60, 60)
    stripes[:, ::2] = 1.0
    halves = torch.zeros(3, 60, 60)
    halves[:, :30] = 1.0
    assert _coarsen(stripes, 2.2).std() < 0.25 * stripes.std()
    assert (_coarsen(halves, 2.2) - halves).abs().mean() < 0.05


def test_a_void_is_dark_and_local() -> None:
    factor = _void(torch.Size((60, 50)), np.random.default_rng(2))
    assert factor.min() == 0 and (factor == 1).float().mean() > 0.3
