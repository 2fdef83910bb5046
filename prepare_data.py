"""Convert DICOM files and the competition's tables into PNG images, dataset.json and train_dataset.csv.

    python prepare_data.py --root data/lumbarspine --check
    python prepare_data.py --root data/lumbarspine
    python prepare_data.py --root data/lumbarspine --split test --workers 8
    python prepare_data.py --root /scratch/me/lumbarspine --dask_scheduler tcp://10.0.0.1:8786

It reads <root>/dataset and writes <root>/train/processed_data and <root>/test/processed_data. Sites are placed at the
readers' marks. Unannotated sites are placed by the newest locator (train_locator.py), or the one that --locator names.
Without a locator, or if it is too unsure, they are placed by an atlas that is learned from the marked training studies.
If no study is marked, the locator and the atlas that ship with the program place them.

A second run on the same input does nothing. After an interruption the same command continues where it stopped. With
--dask_scheduler a Dask cluster's workers do the work; they must see the root under the same path
(recipes/prepare_on_slurm.py starts such a cluster). With --check everything is read and nothing is written: what would
be done is printed, with every fault.

The exit status is 2 if no image of any split can be read. A test split without images is written all the same, because
each of its studies needs an answer. A train split without a readable image is left as it was.
"""

if __name__ == "__main__":
    from workspace.interrupts import end_at_ctrl_c

    end_at_ctrl_c()  # until run_command takes over: the imports take a while

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from data_prep.conversion.crop_geometry import FIELD_MM, PIXEL_MM, CropGeometry
from workspace.cli import run_command, usable_cores
from workspace.layout import Split, data_root
from workspace.root_settings import RootSettings
from workspace.setting_types import FoldCount, NonNegativeInteger, PositiveInteger, PositiveNumber
from workspace.settings_parser import read_settings

PROG = "prepare_data.py"


@dataclass(frozen=True)
class Settings(RootSettings):
    """Settings of prepare_data.py."""

    split: Literal["train", "test", "both"] = "both"
    """The studies to prepare. both: the studies of all splits that exist."""
    check: bool = False
    """Read everything, write nothing, and print every fault."""
    workers: PositiveInteger = field(default_factory=usable_cores)
    """The number of processes that convert studies. By default one per core."""
    dask_scheduler: str | None = None
    """The address of a Dask scheduler, whose workers then convert the studies."""
    folds: FoldCount = 5
    """The number of folds that the train studies are divided into."""
    seed: NonNegativeInteger = 0
    """The seed of the division into folds and of the atlas's sample of studies."""
    locator: str | None = None
    """The run of the locator to use, shipped for the one that ships with the program, or none to use no locator. By
    default the newest one, and without marks the shipped one."""
    max_pixels: PositiveInteger = 4096 * 4096
    """The largest number of pixels of an image. Larger images are skipped without being decoded."""
    field_mm: PositiveNumber = FIELD_MM
    """The width of the stored crops in millimetres, a whole number of pixels. The model's tile (--view_mm of
    train_vl.py) lies within; the margin is for augmentation."""
    pixel_mm: PositiveNumber = PIXEL_MM
    """The width of the crops' pixels in millimetres."""
    tiles_per_view: PositiveInteger = 1
    """The largest number of tiles of a site in each view, an odd number: the slice of the site with its neighbours, and
    the triples of slices before and after it."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    root = data_root(settings.root)
    geometry = CropGeometry(settings.field_mm, settings.pixel_mm, settings.tiles_per_view)

    # Half a second of imports, which --help does without.
    from data_prep.conversion.preparation import check_split, conversion_pool, prepare_split
    from data_prep.studies.cohorts import split_cohort
    from data_prep.studies.splits import splits_to_prepare
    from locator.files import NO_LOCATOR, find_locator
    from locator.site_placer import make_placer
    from locator.suspects import print_suspects
    from locator.used_locator import UsedLocator
    from prompts.render import caption

    # All tables and folders are read before the first image, so that wrong input is reported at once.
    cohorts = {split: split_cohort(root, split) for split in splits_to_prepare(root, settings.split)}
    studies = max(len(cohort.folders) for cohort in cohorts.values())
    usable: dict[Split, bool] = {}
    with conversion_pool(studies, settings.workers, settings.dask_scheduler) as pool:
        locator = UsedLocator(find_locator(root, settings.locator), may_ship=settings.locator != NO_LOCATOR)
        for split, cohort in cohorts.items():
            if settings.check:
                folds, seed = settings.folds, settings.seed
                usable[split] = check_split(cohort, locator.words, folds, seed, settings.max_pixels, pool, geometry)
                if split == "train":
                    print_suspects(root, cohort.hashes)
                continue
            usable[split] = prepare_split(
                root,
                split,
                cohort,
                pool,
                make_placer=partial(make_placer, locator.folder, may_ship=locator.may_ship),
                placing=locator.record,
                notice=locator.notice_without_marks,
                caption=caption,
                folds=settings.folds,
                seed=settings.seed,
                max_pixels=settings.max_pixels,
                geometry=geometry,
            )
    if not any(usable.values()):
        folder = root.dataset if len(usable) > 1 else root.images(next(iter(usable)))
        raise ValueError(f"{folder}: none of its studies has a readable image; --check prints why, file by file")


if __name__ == "__main__":
    run_command(PROG, main)
