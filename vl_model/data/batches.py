"""Sites of studies -> batches of tensors.

Everything random is a function of (seed, epoch, sample, turn), never of the number of processes or loader workers: N
processes see, together, the batches of one, and a resumed run sees those that the unbroken one would have seen. The
turn counts how often a sample came before in its epoch.

Dimensions: B sites, T tiles a site (padded with zeros to the largest), 3 slices, H and W pixels of a crop.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from runs.preemption import leave_signals_to_the_parent
from runs.random_streams import Stream, random_stream
from vl_model.data.augmentation import Augmentation
from vl_model.data.mixing import Mixture, Partners, draw_mix, mix_targets, mix_tiles, mixture_of
from vl_model.data.sampling import Draws, SeveritySampling
from vl_model.data.site_rows import SiteRow
from vl_model.data.targets import Targets, sure_targets
from vl_model.data.tiles import TileChanges, draw_changes, tiles_for_model

NO_CAPTION = -1


@dataclass(frozen=True)
class Batch:
    """Tiles as stored (uint8), the mask that is true where there is one, captions (-1: no label), and changes.

    `others` are the tiles that some sites are mixed with, as `mixture` says.
    """

    crops_BT3HW: Tensor
    mask_BT: Tensor
    caption_B: Tensor
    changes: TileChanges | None = None
    mixture: Mixture | None = None
    others: "Batch | None" = None

    def to(self, device: torch.device) -> "Batch":
        return Batch(
            self.crops_BT3HW.to(device),
            self.mask_BT.to(device),
            self.caption_B.to(device),
            None if self.changes is None else self.changes.to(device),
            None if self.mixture is None else self.mixture.to(device),
            None if self.others is None else self.others.to(device),
        )

    def tiles(self, image_size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        """tiles_BT3hw as the model takes them, changed and mixed."""
        tiles_BT3hw = tiles_for_model(self.crops_BT3HW, image_size, mean, std, changes=self.changes)
        if self.mixture is None or self.others is None:
            return tiles_BT3hw
        return mix_tiles(tiles_BT3hw, self.others.tiles(image_size, mean, std), self.mixture)

    def targets(self) -> Targets:
        """What the loss wants of each site; all are labelled."""
        targets = sure_targets(self.caption_B)
        return targets if self.mixture is None else mix_targets(targets, self.mixture)


def load_batch(rows: Sequence[SiteRow], crops_R3HW: np.ndarray, tiles: int | None = None) -> Batch:
    """The rows' tiles as stored, padded to `tiles` tiles a site (by default the largest number among them)."""
    tiles = tiles or max(len(row.crops) for row in rows)
    crops_BT3HW = np.zeros((len(rows), tiles, *crops_R3HW.shape[1:]), dtype=np.uint8)
    mask_BT = np.zeros((len(rows), tiles), dtype=bool)
    for b, row in enumerate(rows):
        crops_BT3HW[b, : len(row.crops)] = crops_R3HW[list(row.crops)]
        mask_BT[b, : len(row.crops)] = True
    captions = [NO_CAPTION if row.caption is None else row.caption for row in rows]
    return Batch(torch.from_numpy(crops_BT3HW), torch.from_numpy(mask_BT), torch.tensor(captions))


class TrainingBatches(Dataset[Batch]):
    """Item i is this process's share of the run's i-th global batch.

    An epoch is an order of draws by (seed, epoch), every row once or as `severity_sampling` says
    (`vl_model.data.sampling`), cut into whole global batches of `batch_size * processes` sites; what is left over waits
    for the next epoch. Process r takes the r-th slice. `log_ratio_K` is what the loss has to know of the sampling.

    Raises ValueError where the rows do not fill one global batch.
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
    ) -> None:
        self.global_batch_size = batch_size * processes
        if len(rows) < self.global_batch_size:
            raise ValueError(
                f"{len(rows)} labelled sites to train on, fewer than one batch of {self.global_batch_size} "
                f"({batch_size} x {processes} processes): lower per_device_train_batch_size"
            )
        self.rows = list(rows)
        self.crops_R3HW = crops_R3HW
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
        """Of global batch `index`: its epoch, and this process's draws of `rows`."""
        epoch, place = divmod(index, self.batches_per_epoch)
        if self._drawn is None or self._drawn[0] != epoch:  # once an epoch, not once a batch
            self._drawn = epoch, self._sampling.epoch(random_stream(self.seed, Stream.ORDER, epoch))
        draws = self._drawn[1]
        start = place * self.global_batch_size
        whole = slice(start, start + self.global_batch_size)
        return epoch, Draws(draws.row_R[whole][self.own], draws.turn_R[whole][self.own])

    def __getitem__(self, index: int) -> Batch:
        epoch, draws = self.samples(index)
        rows = [self.rows[sample] for sample in draws.row_R]
        batch = load_batch(rows, self.crops_R3HW, self.tiles)
        if self.augmentation is None:
            return batch
        generators = [
            random_stream(self.seed, Stream.SAMPLE, epoch, int(sample), int(turn))
            for sample, turn in zip(draws.row_R, draws.turn_R, strict=True)
        ]
        mask_BT = _with_some_dropped(batch.mask_BT, rows, self.augmentation, generators)
        batch = replace(batch, mask_BT=mask_BT, changes=draw_changes(self.augmentation, generators, self.tiles))
        return self._mixed(batch, draws, self.augmentation, generators)

    def _mixed(
        self, batch: Batch, draws: Draws, augmentation: Augmentation, generators: list[np.random.Generator]
    ) -> Batch:
        """The batch with the other tiles that some of its sites are mixed with."""
        mixes = [
            draw_mix(int(sample), self._partners, augmentation.mixup, augmentation.cutmix, generator)
            for sample, generator in zip(draws.row_R, generators, strict=True)
        ]
        mixed = [(mix, generator) for mix, generator in zip(mixes, generators, strict=True) if mix]
        if not mixed:
            return batch
        others = load_batch([self.rows[mix.partner] for mix, _ in mixed], self.crops_R3HW, self.tiles)
        changes = draw_changes(augmentation, [generator for _, generator in mixed], self.tiles)
        return replace(batch, mixture=mixture_of(mixes, self.rows), others=replace(others, changes=changes))


def training_loader(batches: TrainingBatches, start: int, stop: int, workers: int) -> Generator[Batch]:
    """Global batches `start` to `stop`, in order, whatever the number of workers, which end when it is closed."""
    yield from DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        worker_init_fn=leave_signals_to_the_parent,
        generator=torch.Generator(),  # its workers' seeds are not drawn from the generator that dropout draws from
    )


def _with_some_dropped(
    mask_BT: Tensor, rows: Sequence[SiteRow], augmentation: Augmentation, generators: list[np.random.Generator]
) -> Tensor:
    """The mask without the views and tiles that are dropped; one of each is left."""
    mask_BT = mask_BT.clone()
    for mask_T, row, generator in zip(mask_BT, rows, generators, strict=True):
        _drop_one(mask_T, [row.views.index(view) for view in row.views], augmentation.drop_view, generator)
        if augmentation.drop_tile:
            _drop_one(mask_T, list(range(len(row.views))), augmentation.drop_tile, generator)
    return mask_BT


def _drop_one(mask_T: Tensor, kind_T: list[int], probability: float, generator: np.random.Generator) -> None:
    """With this probability take the tiles of one kind away, where several kinds are still there."""
    draw, pick = generator.random(2)
    present = sorted({kind for tile, kind in enumerate(kind_T) if mask_T[tile]})
    if draw < probability and len(present) > 1:
        dropped = present[int(pick * len(present))]
        mask_T[[tile for tile, kind in enumerate(kind_T) if kind == dropped]] = False
