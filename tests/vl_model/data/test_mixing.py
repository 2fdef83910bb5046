"""Mixup and cutmix: frequencies, partners, pixels, grades and sides."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.conversion.crop_geometry import DEFAULT_CROPS
from data_prep.conversion.crops import open_crops
from data_prep.sites import Severity, Side
from prompts.render import caption
from tests.tiny_dataset import graded_rows
from vl_model.data.augmentation import Augmentation
from vl_model.data.batches import Batch, TrainingBatches, load_batch
from vl_model.data.mixing import MixDraw, Partners, draw_mix, mix_targets, mix_tiles, mixture_of
from vl_model.data.sampling import SeveritySampling
from vl_model.data.site_rows import SiteRow
from vl_model.data.targets import one_hot_targets

STILL = {"jitter_mm": 0.0, "angle_degrees": 0.0, "log_scale": 0.0, "log_gain": 0.0, "bias": 0.0, "log_gamma": 0.0}
GREY = ((0.0,) * 3, (1.0,) * 3)


@pytest.fixture(scope="module")
def rows(tiny_root: Path) -> list[SiteRow]:
    return graded_rows(tiny_root)


@pytest.fixture(scope="module")
def crops(tiny_root: Path) -> np.ndarray:
    return open_crops(tiny_root / "train" / "processed_data")


def draws_of(rows: list[SiteRow], mixup: float, cutmix: float, count: int = 3000) -> list[tuple[int, MixDraw | None]]:
    partners = Partners(rows, np.ones(len(rows)))
    samples = [seed % len(rows) for seed in range(count)]
    return [
        (sample, draw_mix(sample, partners, mixup, cutmix, np.random.default_rng((7, seed))))
        for seed, sample in enumerate(samples)
    ]


def test_sites_are_mixed_with_the_set_probabilities(rows: list[SiteRow]) -> None:
    draws = [draw for _, draw in draws_of(rows, 0.3, 0.5)]
    blends = sum(draw is not None and draw.box is None for draw in draws)
    boxes = sum(draw is not None and draw.box is not None for draw in draws)
    assert blends / 3000 == pytest.approx(0.3, abs=0.03) and boxes / 3000 == pytest.approx(0.5, abs=0.03)
    assert not any(draw for _, draw in draws_of(rows, 0.0, 0.0, 50))


def test_a_partner_is_the_same_site_in_the_same_views(rows: list[SiteRow]) -> None:
    partners_of: dict[int, set[int]] = {}
    for sample, draw in draws_of(rows, 0.5, 0.5):
        assert draw is not None
        own, other = rows[sample], rows[draw.partner]
        assert own.site == other.site and own.views == other.views  # so the text remains true but for the severity
        partners_of.setdefault(sample, set()).add(draw.partner)
    assert max(map(len, partners_of.values())) > 1


def test_partners_are_drawn_at_their_own_sampling_rate(rows: list[SiteRow]) -> None:
    site, views = rows[0].site, rows[0].views
    group = [number for number, row in enumerate(rows) if (row.site, row.views) == (site, views)]
    rate_R = np.ones(len(rows))
    rate_R[group[0]] = 3.0
    partners, generator = Partners(rows, rate_R), np.random.default_rng(0)
    drawn, log_rates = zip(*(partners.draw(group[-1], generator) for _ in range(4000)), strict=True)
    assert drawn.count(group[0]) / 4000 == pytest.approx(3 / (len(group) + 2), abs=0.03)
    assert set(drawn) == set(group)
    # The inverse of the rate makes all partners count alike.
    weight_of = {row: np.exp(-log_rate) for row, log_rate in zip(drawn, log_rates, strict=True)}
    expected = {row: (len(group) + 2) / len(group) / rate_R[row] for row in group}
    assert weight_of == pytest.approx(expected)


@pytest.mark.parametrize(("mixup", "cutmix"), [(1.0, 0.0), (0.0, 1.0)])
def test_weighted_by_both_rates_mixed_images_have_the_natural_severities(
    rows: list[SiteRow], mixup: float, cutmix: float
) -> None:
    """So that L_image counts none of them more often than it occurs, as without mixtures."""
    random = np.random.default_rng(0)
    grades = random.choice(list(Severity), p=(0.9, 0.07, 0.03), size=1000)
    drawn_rows = [replace(rows[0], severity=Severity(grade)) for grade in grades]
    sampling = SeveritySampling(drawn_rows, 1.0)
    partners, mass_3 = Partners(drawn_rows, sampling.rate_R), np.zeros(3)
    for _ in range(30):
        for number in sampling.epoch(random).row_R:
            draw = draw_mix(int(number), partners, mixup, cutmix, random)
            assert draw is not None
            weight = np.exp(-draw.log_rate) / sampling.rate_R[number]
            mass_3[grades[number]] += weight * draw.share
            mass_3[grades[draw.partner]] += weight * (1 - draw.share)
    natural_3 = np.bincount(grades, minlength=3) / len(grades)
    np.testing.assert_allclose(mass_3 / mass_3.sum(), natural_3, atol=0.01)


def test_mixed_tiles_and_grades_are_those_of_a_pixel_by_pixel_sum(rows: list[SiteRow]) -> None:
    generator = torch.Generator().manual_seed(0)
    tiles_BT3hw, other_MT3hw = (torch.rand(count, 2, 3, 10, 8, generator=generator) for count in (4, 2))
    box = (0.25, 0.1, 0.8, 0.55)  # ends within pixels
    share = 1 - (box[2] - box[0]) * (box[3] - box[1])
    draws = [None, MixDraw(5, 0.3, None, 0.7), None, MixDraw(6, share, box, -0.4)]
    mixture = mixture_of(draws, rows)
    found = mix_tiles(tiles_BT3hw, other_MT3hw, mixture)

    assert torch.equal(found[[0, 2]], tiles_BT3hw[[0, 2]])
    assert torch.allclose(found[1], 0.3 * tiles_BT3hw[1] + 0.7 * other_MT3hw[0], atol=1e-6)
    fine = 40  # points per pixel and axis: the covered share of each pixel is found by counting
    across, down = (np.arange(size * fine) / fine / size + 0.5 / fine / size for size in (8, 10))
    inside = np.outer((down > box[1]) & (down < box[3]), (across > box[0]) & (across < box[2])).astype(float)
    covered = torch.tensor(inside.reshape(10, fine, 8, fine).mean(axis=(1, 3))).float()
    expected = (1 - covered) * tiles_BT3hw[3] + covered * other_MT3hw[1]
    assert torch.allclose(found[3], expected, atol=0.02)
    assert 1 - covered.mean().item() == pytest.approx(share, abs=0.01)

    caption_B = torch.tensor([row.caption for row in rows[:4]])
    targets = mix_targets(one_hot_targets(caption_B), mixture)
    grade_B3 = targets.grade_B3
    assert targets.partner_log_rate_B.tolist() == pytest.approx([0.0, 0.7, 0.0, -0.4])
    for index, draw in enumerate(draws):
        one = torch.eye(3)[caption_B[index] % 3]
        if draw is not None:
            other = rows[draw.partner].severity
            assert other is not None
            one = draw.share * one + (1 - draw.share) * torch.eye(3)[int(other)]
        assert torch.allclose(grade_B3[index], one)


@pytest.mark.parametrize("mixing", [{"mixup": 1.0}, {"cutmix": 1.0}], ids=str)
def test_mixed_batches_lie_between_two_rows(rows: list[SiteRow], crops: np.ndarray, mixing: dict[str, float]) -> None:
    """Without augmentation each mixed tile lies between its own and that of the same site in another study."""
    size = 24
    batches = TrainingBatches(rows, crops, 20, 3, Augmentation(**STILL, drop_view=0.0, **mixing))
    batch, samples = batches[4], batches.samples(4)[1].row_R
    own = load_batch([rows[sample] for sample in samples], crops, 2).tiles(size, *GREY)
    tiles, grades = batch.tiles(size, *GREY), batch.targets().grade_B3
    differing = 0
    for b, sample in enumerate(samples):
        row = rows[sample]
        group = [other for other in rows if other.site == row.site and other.views == row.views]
        fits = [fit(tiles[b], own[b], load_batch([other], crops, 2).tiles(size, *GREY)[0]) for other in group]
        best = int(np.argmin([error for error, _ in fits]))
        error, kept = fits[best]
        assert error < 1e-4
        if group[best] != row:
            severity = group[best].severity
            assert row.severity is not None and severity is not None
            expected = kept * torch.eye(3)[int(row.severity)] + (1 - kept) * torch.eye(3)[int(severity)]
            assert torch.allclose(grades[b], expected, atol=0.1)
            differing += 1
    assert differing > 5


def fit(found: torch.Tensor, own: torch.Tensor, other: torch.Tensor) -> tuple[float, float]:
    """Return the distance of `found` to the nearest mixture of the two, and the share of `own` in it."""
    gap = own - other
    share = ((found - other) * gap).sum() / gap.square().sum().clamp(min=1e-9)
    blend = (found - torch.lerp(other, own, share)).abs().max().item()
    nearer = torch.minimum((found - own).abs(), (found - other).abs())
    boxed = nearer.flatten().quantile(0.85).item()  # the box's edges may cut through pixels
    is_own = ((found - own).abs() <= (found - other).abs())[gap.abs() > 0.02].float().mean().item()
    return (blend, share.item()) if blend <= boxed else (boxed, is_own)


# Left and right under augmentation: images whose lateral half is bright, for either side.


def sided_batch(rows: list[SiteRow], side: Side, augmentation: Augmentation | None) -> Batch:
    """Return a batch of foramina and recesses of one side, whose stored crops are brighter laterally."""
    sided = [row for row in rows if row.site.side is side]
    ramp = np.linspace(20, 220, DEFAULT_CROPS.size).astype(np.uint8)
    crops = np.zeros((max(max(row.crops) for row in rows) + 1, 3, DEFAULT_CROPS.size, DEFAULT_CROPS.size), np.uint8)
    for row in sided:
        for crop, view in zip(row.crops, row.views, strict=True):
            # Stored tiles are mirrored: the last column of axial ones, the last slice of sagittal ones, is lateral.
            crops[crop] = np.array([60, 120, 200], np.uint8)[:, None, None] if view.is_sagittal else ramp
    return TrainingBatches(sided, crops, 20, 1, augmentation)[0]


@pytest.mark.parametrize("side", list(Side))
def test_augmentation_never_swaps_sides(rows: list[SiteRow], side: Side) -> None:
    """With all augmentation, lateral stays lateral in every tile, and captions name the right side."""
    batch = sided_batch(rows, side, Augmentation(mixup=0.5, cutmix=0.5, drop_view=0.3))
    tiles_BT3hw = batch.tiles(64, *GREY)
    for b, caption_number in enumerate(batch.caption_B.tolist()):
        row = next(row for row in rows if row.site.side is side and row.caption == caption_number)
        assert row.severity is not None and f" {side} " in caption(row.site, row.severity)
        assert batch.targets().site_B[b] == caption_number // 3
        for tile, is_shown in zip(tiles_BT3hw[b], batch.mask_BT[b], strict=True):
            if is_shown:
                by_slice = tile[2].mean() - tile[0].mean()
                by_column = tile[..., 40:].mean() - tile[..., :24].mean()
                assert max(by_slice, by_column) > 0.1 and min(by_slice, by_column) > -0.1
