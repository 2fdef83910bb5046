"""Convert DICOM files and the competition's tables into PNG images, dataset.json and train_dataset.csv.

    python prepare_data.py --root data/lumbarspine --check
    python prepare_data.py --root data/lumbarspine
    python prepare_data.py --root data/lumbarspine --split test --workers 8
    python prepare_data.py --root /scratch/me/lumbarspine --dask_scheduler tcp://10.0.0.1:8786

It reads <root>/dataset and writes <root>/train/processed_data and <root>/test/processed_data. Sites are placed at the
readers' marks. Unannotated sites are placed by the newest locator (train_locator.py), or the one that --locator names.
Without a locator, or if it is too unsure, they are placed by an atlas: one learned from the marked training studies, or
the one that ships with the program if no study is marked.

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

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workspace.cli import run_command, usable_cores
from workspace.layout import SPLITS, DataRoot, Split, data_root
from workspace.root_settings import RootSettings
from workspace.setting_types import FoldCount, NonNegativeInteger, PositiveInteger
from workspace.settings_parser import read_settings

if TYPE_CHECKING:
    from data_prep.conversion.executors import Pool
    from data_prep.conversion.merge import Summary
    from data_prep.placement.atlas import Atlas
    from data_prep.studies.cohorts import Cohort

PROG = "prepare_data.py"
#: Tables that name test studies: each study needs an answer, even if there are no images at all.
TEST_TABLES = ("test_series_descriptions.csv", "sample_submission.csv")


@dataclass(frozen=True)
class Settings(RootSettings):
    """Settings of prepare_data.py."""

    split: Literal["train", "test", "both"] = "both"
    """The studies to prepare. both: those of the splits that exist."""
    check: bool = False
    """Read everything, write nothing, and print every fault."""
    workers: PositiveInteger = field(default_factory=usable_cores)
    """Processes that convert studies. By default one per core."""
    dask_scheduler: str | None = None
    """The address of a Dask scheduler, whose workers then convert the studies."""
    folds: FoldCount = 5
    """The number of folds that the train studies are divided into."""
    seed: NonNegativeInteger = 0
    """The seed of the division into folds and of the atlas's sample of studies."""
    locator: str | None = None
    """The run of the locator to use, or none to use no locator. By default the newest one."""
    max_pixels: PositiveInteger = 4096 * 4096
    """Images with more pixels are refused before they are decoded."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    root = data_root(settings.root)

    from data_prep.studies.cohorts import split_cohort

    # All tables and folders are read before the first image, so that wrong input is reported at once.
    cohorts = {split: split_cohort(root, split) for split in splits_to_prepare(root, settings.split)}
    usable: dict[Split, bool] = {}
    with pool_for(cohorts.values(), settings) as pool:
        for split, cohort in cohorts.items():
            usable[split] = (check if settings.check else prepare)(root, split, cohort, settings, pool)
    if not any(usable.values()):
        folder = root.dataset if len(usable) > 1 else root.images(next(iter(usable)))
        raise ValueError(f"{folder}: none of its studies has a readable image; --check prints why, file by file")


def splits_to_prepare(root: DataRoot, wanted: str) -> list[Split]:
    """Return the requested splits; for "both", those that exist. Raises ValueError if there is nothing to read."""
    if not root.dataset.is_dir():
        raise ValueError(f"{root.dataset}: no such folder; it should contain the competition's tables and images")
    if wanted != "both":
        return [wanted]  # type: ignore[list-item]
    present = [split for split in SPLITS if root.images(split).is_dir()]
    if not present:
        raise ValueError(f"{root.dataset}: contains neither train_images nor test_images")
    for split in SPLITS:
        if split in present:
            continue
        if (
            split == "test"
            and not root.images(split).exists()
            and any(root.table(name).is_file() for name in TEST_TABLES)
        ):
            print(f"test: {root.images(split)} does not exist; the studies that the tables name have no images")
            present.append(split)
        else:
            print(f"{split}: {root.images(split)} does not exist, so this split is skipped")
    return present


@contextmanager
def pool_for(cohorts: Iterable["Cohort"], settings: Settings) -> Iterator["Pool"]:
    """Open the workers of the whole command, at most one per study.

    An interruption, a full disk and a lost cluster are reported with how to continue.
    """
    from data_prep.conversion.convert import DiskFull
    from data_prep.conversion.executors import open_pool

    studies = max(len(cohort.folders) for cohort in cohorts)
    hint = "the same command continues from here"
    with open_pool(max(1, min(settings.workers, studies)), settings.dask_scheduler) as pool:
        try:
            yield pool
        except KeyboardInterrupt:
            raise KeyboardInterrupt(hint) from None
        except BrokenPipeError:  # the reader of the output left: a ConnectionError too, but not the cluster's
            raise
        except (DiskFull, ChildProcessError, ConnectionError) as error:
            raise OSError(f"{error}; {hint}") from error


def check(root: DataRoot, split: Split, cohort: "Cohort", settings: Settings, pool: "Pool") -> bool:
    """Print what converting a split would do, and every fault. Returns whether any of it can be used.

    For the train split, also print the suspects: marks that a locator, which did not learn from their studies,
    contradicts.
    """
    from data_prep.conversion.dry_run import check_cohort, describe, fault_table
    from locator.files import find_locator
    from locator.suspects import MARKS, describe_suspect, read_suspects

    locator = find_locator(root, settings.locator)
    placer = f"the locator {locator.parent.name!r}" if locator else "an atlas"
    findings = check_cohort(cohort, max_pixels=settings.max_pixels, pool=pool)
    print(describe(cohort, findings, placer))
    if findings.faults:
        print(f"\n{fault_table(findings.faults)}\n")
    if split == "train":
        suspects, outdated = read_suspects(root, cohort.hashes.get(MARKS))
        for suspect in suspects:
            print(f"{split}: suspect: {describe_suspect(suspect)}")
        if outdated:
            print(f"{split}: {outdated} tables of suspects skipped: {MARKS} has changed; train the locators again")
    return findings.slices > 0


def prepare(root: DataRoot, split: Split, cohort: "Cohort", settings: Settings, pool: "Pool") -> bool:
    """Convert one split unless it is up to date, and print a summary. Returns whether any of it could be used."""
    from data_prep.conversion.convert import (
        NothingReadable,
        convert_cohort,
        input_key,
        learn_from,
        read_inputs,
        summary_if_current,
    )
    from data_prep.placement.shipped_atlas import NOTICE
    from locator.files import find_locator, locator_fingerprint
    from locator.site_placer import make_placer
    from prompts.render import caption

    processed = root.processed(split)
    noted: dict[str, Any] = {name: getattr(settings, name) for name in ("folds", "seed", "max_pixels")}
    atlas = learned_atlas(root) if split == "test" else None
    locator = find_locator(root, settings.locator)
    if locator is not None:
        noted["locator"] = {"run": locator.parent.name, "fingerprint": locator_fingerprint(locator)}
    inputs = read_inputs(cohort)
    key = input_key(cohort, inputs, noted, atlas, caption)
    summary = summary_if_current(processed, key)
    if summary is None:
        work: dict[str, Any] = {"inputs": inputs, "pool": pool, "max_pixels": settings.max_pixels}
        if split == "train":
            atlas = learn_from(cohort, seed=settings.seed, processed=processed, **work)
        placer = make_placer(locator, atlas)
        if locator is None and atlas is None:
            print(f"{split}: {NOTICE}")
        try:
            summary = convert_cohort(
                cohort,
                processed,
                atlas=atlas,
                placer=placer,
                caption=caption,
                folds=settings.folds,
                seed=settings.seed,
                key=key,
                settings=noted,
                **work,
            )
        except NothingReadable as refusal:
            print(refusal)
            return False
    report(split, processed, summary)
    return summary.slices > 0


def learned_atlas(root: DataRoot) -> "Atlas | None":
    """Return the atlas that was learned from the train split, if there is one."""
    from data_prep.placement.atlas import load_atlas

    path = root.processed("train") / "atlas.json"
    return load_atlas(path) if path.is_file() else None


def report(split: Split, processed: Path, summary: "Summary") -> None:
    state = "is up to date" if summary.up_to_date else "written"
    print(f"{split}: {summary.studies} studies, {summary.slices} slices, {summary.pairs} pairs; {processed} {state}")
    for kind, count in sorted(summary.faults.items(), key=lambda entry: -entry[1]):
        print(f"{split}: {count:6d} {kind}")
    if summary.faults:
        print(f"{split}: each fault is a row of {processed / 'faults.csv'}")


if __name__ == "__main__":
    run_command(PROG, main)
