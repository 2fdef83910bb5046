"""The data of a training run: labelled sites, divided by fold, and their crops."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.conversion.crop_geometry import CropGeometry
from data_prep.conversion.crops import open_crops, read_crop_geometry
from data_prep.conversion.pairs import Dataset, read_dataset
from data_prep.conversion.twin_studies import check_twins
from runs.random_streams import Stream, random_stream
from vl_model.data.dropped_sites import DroppedSites, DropRequest
from vl_model.data.site_rows import SiteRow, group_sites
from workspace.setting_error import SettingError


@dataclass(frozen=True)
class TrainingSet:
    """The labelled sites that a run trains on, those that are held out, and their crops (memory-mapped).

    geometry: that of the crops.
    held_out_studies: the number of studies with a labelled held-out site; `held_out` may be a draw of these sites.
    dropped: the suspect labels that `training` lacks; None if none were to be left out.
    """

    dataset: Dataset
    crops_R3HW: np.ndarray
    geometry: CropGeometry
    training: tuple[SiteRow, ...]
    held_out: tuple[SiteRow, ...]
    held_out_studies: int
    dropped: DroppedSites | None = None

    @property
    def shortage(self) -> str | None:
        """What a later evaluation of the run needs and this division does not have, in words; None if all is there."""
        if self.held_out_studies != 1:
            return None  # none at all is a choice: the run is then trained on every study
        return (
            "1 graded study is held out, and eval_vl.py needs two (it fits its calibrators on one and tests them on "
            "the other): hold out more folds with --held_out_folds, or prepare more studies"
        )


def read_training_set(
    processed: Path,
    held_out_folds: Collection[int],
    held_out_sites: int,
    seed: int,
    drop: DropRequest | None = None,
) -> TrainingSet:
    """Read the labelled sites of `processed_data`, divided by fold.

    At most `held_out_sites` of the held-out sites are kept, drawn by `seed`. The sites of training studies that `drop`
    names are left out. Raises ValueError for unknown folds, if no site to train on is left, and if the table of
    suspect labels does not fit.
    """
    dataset = read_dataset(processed)
    crops_R3HW, geometry = open_crops(processed), read_crop_geometry(processed)
    labelled = [row for row in group_sites(dataset.pairs) if row.severity is not None]
    folds = {row.fold for row in labelled}
    if unknown := set(held_out_folds) - folds:
        raise SettingError(
            "held_out_folds", f"{sorted(unknown)}: the data set has no such folds; it has {sorted(folds, key=str)}"
        )
    check_twins(dataset.twins, dataset.fold_of, held_out_folds, "held_out_folds", str(sorted(held_out_folds)))
    dropped = None if drop is None else drop.choose(labelled, held_out_folds, dataset.fingerprint)
    training = [row for row in labelled if row.fold not in held_out_folds]
    training = training if dropped is None else dropped.kept(training)
    held_out = [row for row in labelled if row.fold in held_out_folds]
    if not training:
        raise SettingError(
            "held_out_folds", f"{list(held_out_folds)}: {processed} has no labelled site outside them; hold out fewer"
        )
    studies = len({row.study_id for row in held_out})
    if len(held_out) > held_out_sites:
        chosen = random_stream(seed, Stream.HELD_OUT).choice(len(held_out), held_out_sites, replace=False)
        held_out = [held_out[index] for index in sorted(chosen)]
    return TrainingSet(dataset, crops_R3HW, geometry, tuple(training), tuple(held_out), studies, dropped)
