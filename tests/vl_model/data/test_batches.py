"""Training batches: order, augmentation and dropped views do not depend on processes or workers."""

from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from data_prep.conversion.crop_geometry import DEFAULT_CROPS, FIELD_MM, PIXEL_MM, VIEW_MM, CropGeometry
from data_prep.conversion.crops import open_crops
from data_prep.conversion.pairs import read_dataset
from data_prep.sites import SITES, Severity, Side, View
from tests.tiny_dataset import graded_rows
from vl_model.data.augmentation import Augmentation
from vl_model.data.batches import Batch, TrainingBatches, load_batch, training_loader
from vl_model.data.site_rows import SiteRow, caption_index, group_sites
from vl_model.data.tiles import TileChanges, draw_changes, tiles_for_model

GREY = ((0.0,) * 3, (1.0,) * 3)  # mean and std that leave grey values as they are


@pytest.fixture(scope="module")
def rows(tiny_root: Path) -> list[SiteRow]:
    return graded_rows(tiny_root)


@pytest.fixture(scope="module")
def crops(tiny_root: Path) -> np.ndarray:
    return open_crops(tiny_root / "train" / "processed_data")


def test_tiles_are_moved_to_a_neighbouring_slice(rows: list[SiteRow], crops: np.ndarray) -> None:
    """Half of them either way, each tile for itself; beyond the stored slices the last one is repeated."""
    still = {"drop_view": 0.0, "jitter_mm": 0.0}
    plain, moved, sometimes = (
        TrainingBatches(rows, crops, 20, 5, Augmentation(**still, jitter_slice=share)) for share in (0.0, 1.0, 0.3)
    )
    counts, kinds_of_site = Counter[str](), defaultdict[tuple[int, int], set[str]](set)
    for index in range(min(4, plain.batches_per_epoch)):
        own_BT3HW, mask_BT = plain[index].crops_BT3HW, plain[index].mask_BT
        kinds = {"before": own_BT3HW[:, :, [0, 0, 1]], "after": own_BT3HW[:, :, [1, 2, 2]], "own": own_BT3HW}
        for share, batches in (("all", moved), ("some", sometimes)):
            found_BT3HW = batches[index].crops_BT3HW
            for b, t in mask_BT.nonzero().tolist():
                [kind] = [kind for kind, crops in kinds.items() if torch.equal(found_BT3HW[b, t], crops[b, t])]
                counts[f"{share} {kind}"] += 1
                kinds_of_site[index, b].add(kind)
    total = counts["all before"] + counts["all after"]
    assert counts["all own"] == 0 and total > 100
    assert counts["all before"] / total == pytest.approx(0.5, abs=0.15)
    assert counts["some own"] / total == pytest.approx(0.7, abs=0.12)
    assert max(map(len, kinds_of_site.values())) == 3
    mixed = TrainingBatches(rows, crops, 20, 5, Augmentation(**still, jitter_slice=1.0, mixup=1.0))[0]
    assert mixed.others is not None
    for before, own, after in mixed.others.crops_BT3HW[mixed.others.mask_BT]:
        assert torch.equal(before, own) != torch.equal(own, after)


def batches_of(rows: list[SiteRow], crops: np.ndarray, process: int = 0, processes: int = 1) -> TrainingBatches:
    return TrainingBatches(rows, crops, 12 // processes, 5, Augmentation(jitter_slice=0.4), process, processes)


def same(one: Batch, other: Batch) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("crops_BT3HW", "mask_BT", "caption_B")
    ) and all(torch.equal(getattr(one.changes, name), getattr(other.changes, name)) for name in vars(one.changes))


def test_rows_gather_the_views_of_a_site(tiny_root: Path) -> None:
    pairs = read_dataset(tiny_root / "train" / "processed_data").pairs
    rows = group_sites(reversed(pairs))
    assert sum(len(row.crops) for row in rows) == len(pairs) and len(rows) == 6 * 25
    assert [row.site for row in rows[:25]] == list(SITES) and rows[0].study_id == 1
    by_crop = {pair.crop: pair for pair in pairs}
    for row in rows:
        mine = [by_crop[crop] for crop in row.crops]
        assert {(p.study_id, p.site, p.severity, p.fold) for p in mine} == {
            (row.study_id, row.site, row.severity, row.fold)
        }
        assert tuple(p.view for p in mine) == row.views == row.site.views[: len(row.views)]
    assert any(len(row.views) == 1 for row in rows) and rows[0].views[0] is View.SAGITTAL_T2_STIR


def test_captions_are_numbered_site_by_site() -> None:
    numbers = [caption_index(site, severity) for site in SITES for severity in Severity]
    assert numbers == list(range(75))


def test_loaded_tiles_are_those_of_the_rows(rows: list[SiteRow], crops: np.ndarray) -> None:
    batch = load_batch(rows[:9], crops)
    for b, row in enumerate(rows[:9]):
        assert batch.mask_BT[b].sum() == len(row.crops) and batch.caption_B[b] == row.caption
        for t, crop in enumerate(row.crops):
            assert np.array_equal(batch.crops_BT3HW[b, t], crops[crop])


def test_an_epoch_is_a_permutation_and_the_next_another(rows: list[SiteRow], crops: np.ndarray) -> None:
    batches = batches_of(rows, crops)
    per_epoch = len(rows) // 12
    epochs = [
        np.concatenate([batches.samples(epoch * per_epoch + i)[1].row_R for i in range(per_epoch)])
        for epoch in range(2)
    ]
    for order in epochs:
        assert len(order) == per_epoch * 12 and max(Counter(order.tolist()).values()) == 1
    assert not np.array_equal(*epochs)
    assert batches.samples(per_epoch)[0] == 1


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("power", [0.0, 0.7])
def test_several_processes_share_the_batch_of_one(
    rows: list[SiteRow], crops: np.ndarray, processes: int, power: float
) -> None:
    def batch(process: int, processes: int) -> Batch:
        mixing = Augmentation(mixup=0.4, cutmix=0.3, jitter_slice=0.5)
        return TrainingBatches(rows, crops, 12 // processes, 5, mixing, process, processes, power)[17]

    single, parts = batch(0, 1), [batch(process, processes) for process in range(processes)]
    assert torch.equal(torch.cat([part.crops_BT3HW for part in parts]), single.crops_BT3HW)
    assert torch.equal(torch.cat([part.mask_BT for part in parts]), single.mask_BT)
    for name in vars(single.changes):
        together = torch.cat([getattr(part.changes, name) for part in parts])
        assert torch.equal(together, getattr(single.changes, name))
    tiles = [one.tiles(20, *GREY) for one in (*parts, single)]
    assert torch.allclose(torch.cat(tiles[:-1]), tiles[-1], atol=1e-6)
    grades = [one.targets().grade_B3 for one in (*parts, single)]
    assert torch.equal(torch.cat(grades[:-1]), grades[-1]) and (grades[-1].max(dim=1).values < 1).any()


def test_a_repeat_of_zero_does_not_change_the_random_stream() -> None:
    """A row's first draw in an epoch has the generator of (seed, epoch, row), as before rows could repeat."""
    assert np.random.default_rng((5, 1, 9, 0)).random() == np.random.default_rng((5, 1, 9)).random()


def test_loader_starts_anywhere_with_any_workers(rows: list[SiteRow], crops: np.ndarray) -> None:
    batches = batches_of(rows, crops)
    for workers in (0, 2):
        loaded = list(training_loader(batches, 9, 13, workers))
        assert len(loaded) == 4
        assert all(same(batch, batches[9 + i]) for i, batch in enumerate(loaded))


def test_dropping_views_leaves_one(rows: list[SiteRow], crops: np.ndarray) -> None:
    batches = TrainingBatches(rows, crops, 24, 5, Augmentation(drop_view=1.0))
    batch = batches[0]
    row_R = batches.samples(0)[1].row_R
    assert torch.equal(batch.mask_BT.sum(dim=1), torch.ones(24, dtype=torch.long))
    assert any(len(batches.rows[row].crops) == 2 for row in row_R)


def test_a_dropped_view_takes_all_its_tiles(rows: list[SiteRow], crops: np.ndarray) -> None:
    pair = next(row for row in rows if len(row.crops) == 2)
    first, second = pair.views
    many = [replace(pair, crops=(0, 1, 2, 3), views=(first, first, first, second)) for _ in range(40)]
    found = TrainingBatches(many, crops, 40, 5, Augmentation(drop_view=1.0))[0].mask_BT
    assert {tuple(mask) for mask in found.tolist()} == {(True, True, True, False), (False, False, False, True)}
    found = TrainingBatches(many, crops, 40, 5, Augmentation(drop_view=0.0, drop_tile=1.0))[0].mask_BT
    assert set(found.sum(dim=1).tolist()) == {3} and set(found.sum(dim=0).tolist()) != {0}


def test_crops_of_another_geometry_are_not_taken_for_the_default(rows: list[SiteRow], crops: np.ndarray) -> None:
    wide = CropGeometry(96.0, 0.5)
    for load in (
        lambda: load_batch(rows[:2], crops, geometry=wide),
        lambda: TrainingBatches(rows, crops, 12, 0, None, geometry=wide),
    ):
        with pytest.raises(
            ValueError, match=r"crops of \(128, 128\) pixels are not those of 96 mm at 0.5 mm per pixel"
        ):
            load()
    same_size = CropGeometry(96.0, 0.75)
    assert load_batch(rows[:2], crops, geometry=same_size).field_mm == 96.0
    assert TrainingBatches(rows, crops, 12, 0, Augmentation(mixup=1.0), geometry=same_size)[0].others.field_mm == 96.0


def test_rows_have_the_tiles_of_their_pairs_view_by_view(tiny_root: Path) -> None:
    pairs = read_dataset(tiny_root / "train" / "processed_data").pairs
    first = next(pair for pair in pairs if pair.site.side is Side.RIGHT and pair.view.is_sagittal)
    second = replace(first, view=View.AXIAL_T2, crop=20)
    # Of the sagittal pair the middle tile lies first in the stack, and so last in the mirrored one.
    first = replace(first, instance_numbers=(1, 1, 2, 3, 4, 5), instance_number=1, crop=11)
    second = replace(second, instance_numbers=(1, 2, 3, 4, 5, 6, 7, 8, 9), instance_number=5)
    (row,) = group_sites([second, first])
    order = sorted([(first.site.views.index(pair.view), pair.crops) for pair in (first, second)])
    assert first.crops == (10, 11) and second.crops == (19, 20, 21) and first.offsets == (-1, 0)
    assert row.crops == sum((crops for _, crops in order), ())
    assert dict(zip(row.crops, row.offsets, strict=True)) == {10: -1, 11: 0, 19: -1, 20: 0, 21: 1}
    assert {crop for crop, here in zip(row.crops, row.lies_at_site, strict=True) if here} == {11, 20}
    assert group_sites(pairs)[0].offsets == ()


def test_too_few_sites_for_a_batch_are_refused(rows: list[SiteRow], crops: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"per_device_train_batch_size 6: 10 labelled sites .* \(6 x 2 processes\)"):
        TrainingBatches(rows[:10], crops, 6, 0, None, 0, 2)


def test_tiles_without_changes_are_the_middle_of_the_crop(crops: np.ndarray) -> None:
    crops_BT3HW = torch.tensor(crops[:6]).unflatten(0, (3, 2))
    size = round(VIEW_MM / PIXEL_MM)
    margin = (DEFAULT_CROPS.size - size) // 2
    tiles = tiles_for_model(crops_BT3HW, size, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    middle = crops_BT3HW[..., margin : margin + size, margin : margin + size].float() / 255
    expected = (middle - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    assert torch.allclose(tiles, expected, atol=1e-4)


@pytest.mark.parametrize(("view_mm", "field_mm"), [(VIEW_MM, FIELD_MM), (32.0, 64.0), (72.0, 96.0), (51.2, 51.2)])
def test_changed_tiles_are_those_of_a_pixel_by_pixel_resampling(
    crops: np.ndarray, view_mm: float, field_mm: float
) -> None:
    shift, angle, scale = (3.0, -2.0), 0.3, 1.1  # mm right, mm up, radians
    one = torch.ones(1, 1)
    changes = TileChanges(
        torch.tensor([[shift]]), angle * one, scale * one, gain=1.2 * one, bias=-0.05 * one, gamma=0.8 * one
    )
    size = 40
    one_crop = torch.tensor(crops[None, None, 4])
    batch = Batch(one_crop, torch.ones(1, 1, dtype=torch.bool), torch.zeros(1), changes, field_mm=field_mm)
    tile = batch.tiles(size, *GREY, view_mm)[0, 0, 1]

    offsets_mm = (np.arange(size) + 0.5) / size * view_mm - view_mm / 2
    down, across = np.meshgrid(offsets_mm, offsets_mm, indexing="ij")
    column_mm = scale * (np.cos(angle) * across - np.sin(angle) * down) + shift[0]
    row_mm = scale * (np.sin(angle) * across + np.cos(angle) * down) + shift[1]
    centre = (DEFAULT_CROPS.size - 1) / 2
    position_2hw = np.stack([row_mm, column_mm]) / (field_mm / DEFAULT_CROPS.size) + centre
    grey = map_coordinates(crops[4, 1].astype(float) / 255, position_2hw, order=1, mode="grid-constant")
    expected = np.clip(1.2 * np.clip(grey, 1e-6, None) ** 0.8 - 0.05, 0, 1)
    assert np.abs(tile.numpy() - expected).max() < 1e-3


def test_changes_have_the_standard_deviations_of_the_settings() -> None:
    generators = [np.random.default_rng(seed) for seed in range(4000)]
    changes = draw_changes(Augmentation(jitter_mm=2.0, angle_degrees=5.0, log_scale=0.1), generators, 2)
    assert changes.shift_mm.std().item() == pytest.approx(2.0, rel=0.05)
    assert changes.angle.rad2deg().std().item() == pytest.approx(5.0, rel=0.05)
    assert changes.scale.log().std().item() == pytest.approx(0.1, rel=0.05)
    assert changes.shift_mm.mean().abs().item() < 0.1
