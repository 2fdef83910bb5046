"""What a training is made on: labelled sites, parted by fold, and their crops."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.conversion.crops import open_crops
from data_prep.conversion.pairs import Dataset, read_dataset
from runs.random_streams import Stream, random_stream
from vl_model.data.site_rows import SiteRow, group_sites
from workspace.setting_error import SettingError


@dataclass(frozen=True)
class Material:
    """What is trained on and evaluated, checked; `crops_R3HW` is memory-mapped."""

    dataset: Dataset
    crops_R3HW: np.ndarray
    training: tuple[SiteRow, ...]
    held_out: tuple[SiteRow, ...]


def read_material(processed: Path, held_out_folds: Collection[int], held_out_sites: int, seed: int) -> Material:
    """Labelled sites, parted by fold; at most `held_out_sites` of those held out, drawn by `seed`.

    Raises ValueError where there is nothing to train on.
    """
    dataset = read_dataset(processed)
    crops_R3HW = open_crops(processed)
    labelled = [row for row in group_sites(dataset.pairs) if row.severity is not None]
    folds = {row.fold for row in labelled}
    if strange := set(held_out_folds) - folds:
        raise SettingError("held_out_folds", f"{sorted(strange)}: this data set's folds are {sorted(map(str, folds))}")
    training = [row for row in labelled if row.fold not in held_out_folds]
    held_out = [row for row in labelled if row.fold in held_out_folds]
    if not training:
        raise ValueError(f"{processed}: no labelled site outside held_out_folds {list(held_out_folds)}")
    if len(held_out) > held_out_sites:
        chosen = random_stream(seed, Stream.HELD_OUT).choice(len(held_out), held_out_sites, replace=False)
        held_out = [held_out[place] for place in sorted(chosen)]
    return Material(dataset, crops_R3HW, tuple(training), tuple(held_out))
