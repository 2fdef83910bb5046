"""Sites of studies -> batches of tensors.

Everything random is a function of (seed, epoch, sample), never of the number of processes or loader workers: N
processes see, together, the batches of one, and a resumed run sees those that the unbroken one would have seen.

Dimensions: B sites, T tiles a site (padded with zeros to the largest), 3 slices, H and W pixels of a crop.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vl_model.rows import SiteRow
from vl_model.tiles import Augmentation, TileChanges, draw_changes

NO_CAPTION = -1


@dataclass(frozen=True)
class Batch:
    """Tiles as stored (uint8), the mask that is true where there is one, captions (-1: no label), and changes."""

    crops_BT3HW: Tensor
    mask_BT: Tensor
    caption_B: Tensor
    changes: TileChanges | None = None

    def to(self, device: torch.device) -> "Batch":
        changes = None if self.changes is None else self.changes.to(device)
        return Batch(self.crops_BT3HW.to(device), self.mask_BT.to(device), self.caption_B.to(device), changes)


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

    An epoch is a permutation of the rows by (seed, epoch), cut into whole global batches of
    `batch_size * processes` sites; what is left over waits for the next epoch. Process r takes the r-th slice.

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
    ) -> None:
        self.global_batch_size = batch_size * processes
        if len(rows) < self.global_batch_size:
            raise ValueError(
                f"{len(rows)} labelled sites to train on, fewer than one batch of {self.global_batch_size} "
                f"({batch_size} x {processes} processes): lower --per_device_train_batch_size"
            )
        self.rows = list(rows)
        self.crops_R3HW = crops_R3HW
        self.seed = seed
        self.augmentation = augmentation
        self.batches_per_epoch = len(rows) // self.global_batch_size
        self.own = slice(process * batch_size, (process + 1) * batch_size)
        self.tiles = max(len(row.crops) for row in rows)

    def samples(self, index: int) -> tuple[int, np.ndarray]:
        """Of global batch `index`: its epoch, and this process's samples as indices into `rows`."""
        epoch, place = divmod(index, self.batches_per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.rows))
        start = place * self.global_batch_size
        return epoch, order[start : start + self.global_batch_size][self.own]

    def __getitem__(self, index: int) -> Batch:
        epoch, samples = self.samples(index)
        batch = load_batch([self.rows[sample] for sample in samples], self.crops_R3HW, self.tiles)
        if self.augmentation is None:
            return batch
        generators = [np.random.default_rng((self.seed, epoch, int(sample))) for sample in samples]
        mask_BT = _drop_tiles(batch.mask_BT, self.augmentation.drop_tile, generators)
        return Batch(
            batch.crops_BT3HW, mask_BT, batch.caption_B, draw_changes(self.augmentation, generators, self.tiles)
        )


def training_loader(batches: TrainingBatches, start: int, stop: int, workers: int) -> DataLoader[Batch]:
    """Global batches `start` to `stop`, in order, whatever the number of workers."""
    return DataLoader(batches, batch_size=None, sampler=range(start, stop), num_workers=workers)


def _drop_tiles(mask_BT: Tensor, probability: float, generators: list[np.random.Generator]) -> Tensor:
    """Take one tile from a site that has several, with this probability."""
    mask_BT = mask_BT.clone()
    for mask_T, generator in zip(mask_BT, generators, strict=True):
        draw, pick = generator.random(2)
        present = mask_T.nonzero().flatten()
        if draw < probability and len(present) > 1:
            mask_T[present[int(pick * len(present))]] = False
    return mask_BT
