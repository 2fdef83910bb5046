"""Batches of tensors from the sites of studies.

Every random choice is a function of (seed, epoch, row, repeat), never of the number of processes or loader workers.
Therefore N processes together get the batches that one process gets, and a resumed run gets those of an uninterrupted
one. `repeat` counts how often the row was drawn before in the same epoch.

Dimensions: B sites, T tiles per site (padded with zeros to the largest number), 3 slices, H and W pixels of a crop.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from data_prep.conversion.crop_geometry import DEFAULT_CROPS, FIELD_MM, VIEW_MM, CropGeometry
from data_prep.conversion.crops import check_size
from runs.loading import load_in_order
from runs.random_streams import Stream, random_stream
from vl_model.data.augmentation import Augmentation
from vl_model.data.mixing import Mixture, Partners, draw_mix, mix_targets, mix_tiles, mixture_of
from vl_model.data.sampling import Draws, SeveritySampling
from vl_model.data.site_rows import SiteRow
from vl_model.data.targets import Targets, one_hot_targets
from vl_model.data.tiles import TileChanges, draw_changes, tiles_for_model
from workspace.setting_error import SettingError

NO_CAPTION = -1


@dataclass(frozen=True)
class Batch:
    """The sites of one batch: their stored crops (uint8), a mask of the tiles that exist, captions, changes,
    and the width of the crops.

    `caption_B` is -1 for unlabelled sites. `others` holds the sites that some sites are mixed with, and `mixture` how.
    """

    crops_BT3HW: Tensor
    mask_BT: Tensor
    caption_B: Tensor
    changes: TileChanges | None = None
    mixture: Mixture | None = None
    others: "Batch | None" = None
    field_mm: float = FIELD_MM

    def to(self, device: torch.device) -> "Batch":
        return Batch(
            self.crops_BT3HW.to(device),
            self.mask_BT.to(device),
            self.caption_B.to(device),
            None if self.changes is None else self.changes.to(device),
            None if self.mixture is None else self.mixture.to(device),
            None if self.others is None else self.others.to(device),
            self.field_mm,
        )

    def tiles(
        self, image_size: int, mean: tuple[float, ...], std: tuple[float, ...], view_mm: float = VIEW_MM
    ) -> Tensor:
        """Return tiles_BT3hw for the model, augmented and mixed, each `view_mm` wide."""
        tiles_BT3hw = tiles_for_model(self.crops_BT3HW, image_size, mean, std, view_mm, self.changes, self.field_mm)
        if self.mixture is None or self.others is None:
            return tiles_BT3hw
        return mix_tiles(tiles_BT3hw, self.others.tiles(image_size, mean, std, view_mm), self.mixture)

    def targets(self) -> Targets:
        """Return the targets of the loss; all sites must be labelled."""
        targets = one_hot_targets(self.caption_B)
        return targets if self.mixture is None else mix_targets(targets, self.mixture)


def load_batch(
    rows: Sequence[SiteRow],
    crops_R3HW: np.ndarray,
    tiles: int | None = None,
    geometry: CropGeometry = DEFAULT_CROPS,
) -> Batch:
    """Load the stored crops of `rows`, padded to `tiles` tiles per site (by default their largest number).

    Raises ValueError if the crops cannot have this geometry.
    """
    check_size(crops_R3HW, geometry)
    tiles = tiles or max(len(row.crops) for row in rows)
    crops_BT3HW = np.zeros((len(rows), tiles, *crops_R3HW.shape[1:]), dtype=np.uint8)
    mask_BT = np.zeros((len(rows), tiles), dtype=bool)
    for b, row in enumerate(rows):
        crops_BT3HW[b, : len(row.crops)] = crops_R3HW[list(row.crops)]
        mask_BT[b, : len(row.crops)] = True
    captions = [NO_CAPTION if row.caption is None else row.caption for row in rows]
    crops, mask, caption_B = torch.from_numpy(crops_BT3HW), torch.from_numpy(mask_BT), torch.tensor(captions)
    return Batch(crops, mask, caption_B, field_mm=geometry.field_mm)


class TrainingBatches:
    """The batches of a training run: item i is this process's share of the i-th global batch.

    In each epoch the rows are drawn in an order that (seed, epoch) determines: each row once, or at the rates of
    `severity_sampling` (`vl_model.data.sampling`). The draws are cut into complete global batches of
    `batch_size * processes` sites; remaining draws are dropped. Process r takes the r-th part of each global batch.
    `log_ratio_K` is the correction that the loss needs for the sampling, None if there is none.

    Args:
        rows: labelled sites.
        crops_R3HW: the crops that the rows refer to.
        batch_size: sites per process.
        seed: determines order, augmentation and mixing.
        augmentation: how tiles vary; None: they do not.
        process: rank of this process.
        processes: number of processes.
        severity_sampling: power of `SeveritySampling`, 0 to 1.
        geometry: the geometry of the crops.

    Raises ValueError if the rows do not fill one global batch.
    """

    def __init__(
        self,
        rows: Sequence[SiteRow],
        crops_R3HW: np.ndarray,
        batch_size: int,
        seed: int,
        augmentation: Augmentation | None,
        process: int = 0,
        processes: int = 1,
        severity_sampling: float = 0.0,
        geometry: CropGeometry = DEFAULT_CROPS,
    ) -> None:
        check_size(crops_R3HW, geometry)
        self.global_batch_size = batch_size * processes
        if len(rows) < self.global_batch_size:
            raise SettingError(
                "per_device_train_batch_size",
                f"{batch_size}: {len(rows)} labelled sites do not fill one batch of "
                f"{self.global_batch_size} ({batch_size} x {processes} processes); lower it",
            )
        self.rows = list(rows)
        self.crops_R3HW = crops_R3HW
        self.geometry = geometry
        self.seed = seed
        self.augmentation = augmentation if augmentation is not None and augmentation.augment else None
        self.batches_per_epoch = len(rows) // self.global_batch_size
        self.own = slice(process * batch_size, (process + 1) * batch_size)
        self.tiles = max(len(row.crops) for row in rows)
        self._sampling = SeveritySampling(rows, severity_sampling)
        self.log_ratio_K = None if self._sampling.is_natural else self._sampling.log_ratio_K
        self._drawn: tuple[int, Draws] | None = None
        self._partners = Partners(rows, self._sampling.rate_R)

    def samples(self, index: int) -> tuple[int, Draws]:
        """Return the epoch of global batch `index`, and this process's draws of `rows` in it."""
        epoch, batch = divmod(index, self.batches_per_epoch)
        if self._drawn is None or self._drawn[0] != epoch:  # once per epoch, not once per batch
            self._drawn = epoch, self._sampling.epoch(random_stream(self.seed, Stream.ORDER, epoch))
        draws = self._drawn[1]
        start = batch * self.global_batch_size
        in_batch = slice(start, start + self.global_batch_size)
        return epoch, Draws(draws.row_R[in_batch][self.own], draws.repeat_R[in_batch][self.own])

    def __getitem__(self, index: int) -> Batch:
        epoch, draws = self.samples(index)
        rows = [self.rows[row] for row in draws.row_R]
        batch = load_batch(rows, self.crops_R3HW, self.tiles, self.geometry)
        if self.augmentation is None:
            return batch
        generators = [
            random_stream(self.seed, Stream.SAMPLE, epoch, int(row), int(repeat))
            for row, repeat in zip(draws.row_R, draws.repeat_R, strict=True)
        ]
        batch = replace(batch, mask_BT=_drop_tiles(batch.mask_BT, rows, self.augmentation, generators))
        batch = _moved(batch, self.augmentation, generators)
        return self._mixed(batch, draws, self.augmentation, generators)

    def _mixed(
        self, batch: Batch, draws: Draws, augmentation: Augmentation, generators: list[np.random.Generator]
    ) -> Batch:
        """Return the batch together with the sites that some of its sites are mixed with."""
        mixes = [
            draw_mix(int(row), self._partners, augmentation.mixup, augmentation.cutmix, generator)
            for row, generator in zip(draws.row_R, generators, strict=True)
        ]
        mixed = [(mix, generator) for mix, generator in zip(mixes, generators, strict=True) if mix]
        if not mixed:
            return batch
        partners = [self.rows[mix.partner] for mix, _ in mixed]
        others = load_batch(partners, self.crops_R3HW, self.tiles, self.geometry)
        others = _moved(others, augmentation, [generator for _, generator in mixed])
        return replace(batch, mixture=mixture_of(mixes, self.rows), others=others)


def training_loader(batches: TrainingBatches, start: int, stop: int, workers: int) -> Generator[Batch]:
    """Yield the batches `start` to `stop`, in order, for any number of workers; closing it ends the workers."""
    return load_in_order(batches, range(start, stop), workers)


def step_loader(
    batches: TrainingBatches, start: int, stop: int, parts: int, workers: int, should_end: Callable[[], bool]
) -> Generator[list[Batch]]:
    """Yield for each of the steps `start` + 1 to `stop` its `parts` batches, in order; closing it ends the workers.

    A step begins when all its batches are there: no wait for a batch can interrupt a step. Raises as `load_in_order`.
    """
    indices = range(start * parts, stop * parts)
    with closing(load_in_order(batches, indices, workers, ahead=2 * parts, should_end=should_end)) as loaded:
        for _ in range(start, stop):
            yield [next(loaded) for _ in range(parts)]


def _moved(batch: Batch, augmentation: Augmentation, generators: list[np.random.Generator]) -> Batch:
    """Return the batch with its tiles on neighbouring slices, and with their changes within the slice."""
    crops_BT3HW = _move_slices(batch.crops_BT3HW, augmentation.jitter_slice, generators)
    changes = draw_changes(augmentation, generators, batch.mask_BT.shape[1])
    return replace(batch, crops_BT3HW=crops_BT3HW, changes=changes)


def _move_slices(crops_BT3HW: Tensor, probability: float, generators: list[np.random.Generator]) -> Tensor:
    """Return the crops, some of them moved along their stack by one slice, either way.

    What is beyond the three slices of a crop is not stored: the last of them is repeated, as at an end of a stack.
    """
    if not probability:
        return crops_BT3HW
    slices_BT3 = torch.arange(3).expand(*crops_BT3HW.shape[:2], 3).clone()
    for b, generator in enumerate(generators):
        draw_T = torch.from_numpy(generator.random(crops_BT3HW.shape[1]))
        slices_BT3[b] += (draw_T < probability)[:, None] * torch.where(draw_T < probability / 2, -1, 1)[:, None]
    index_BT3HW = slices_BT3.clamp(0, 2)[..., None, None].expand_as(crops_BT3HW)
    return crops_BT3HW.gather(2, index_BT3HW)


def _drop_tiles(
    mask_BT: Tensor, rows: Sequence[SiteRow], augmentation: Augmentation, generators: list[np.random.Generator]
) -> Tensor:
    """Return the mask without randomly dropped views and tiles; each site keeps at least one."""
    mask_BT = mask_BT.clone()
    for mask_T, row, generator in zip(mask_BT, rows, generators, strict=True):
        _drop_one(mask_T, [row.views.index(view) for view in row.views], augmentation.drop_view, generator)
        if augmentation.drop_tile:
            _drop_one(mask_T, list(range(len(row.views))), augmentation.drop_tile, generator)
    return mask_BT


def _drop_one(mask_T: Tensor, kind_T: list[int], probability: float, generator: np.random.Generator) -> None:
    """With this probability drop all tiles of one kind, if tiles of several kinds remain."""
    draw, pick = generator.random(2)
    present = sorted({kind for tile, kind in enumerate(kind_T) if mask_T[tile]})
    if draw < probability and len(present) > 1:
        dropped = present[int(pick * len(present))]
        mask_T[[tile for tile, kind in enumerate(kind_T) if kind == dropped]] = False
