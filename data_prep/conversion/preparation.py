"""The preparation of one split, as prepare_data.py runs it: a dry run, or a conversion unless it is up to date."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.conversion.convert import (
    DiskFull,
    NothingReadable,
    convert_cohort,
    folds_of,
    input_key,
    read_inputs,
    studies_together,
    summary_if_current,
)
from data_prep.conversion.crop_geometry import DEFAULT_CROPS, CropGeometry
from data_prep.conversion.crops import read_crop_geometry
from data_prep.conversion.dry_run import check_cohort, describe, fault_table
from data_prep.conversion.executors import Pool, open_pool
from data_prep.conversion.merge import Caption, Summary
from data_prep.conversion.pairs import read_metadata
from data_prep.placement.atlas import Atlas, load_atlas
from data_prep.placement.placer import Placer
from data_prep.studies.cohorts import Cohort
from workspace.layout import DataRoot, Split

#: How to continue after an interruption, a full disk or a lost cluster.
HINT = "the same command continues from here"


@contextmanager
def conversion_pool(studies: int, workers: int, dask_scheduler: str | None) -> Iterator[Pool]:
    """Open the workers of a whole command, at most one per study.

    An interruption, a full disk and a lost cluster are reported with how to continue.
    """
    with open_pool(max(1, min(workers, studies)), dask_scheduler) as pool:
        try:
            yield pool
        except KeyboardInterrupt:
            raise KeyboardInterrupt(HINT) from None
        except BrokenPipeError:  # the reader of the output left: a ConnectionError too, but not the cluster's
            raise
        except (DiskFull, ChildProcessError, ConnectionError) as error:
            raise OSError(f"{error}; {HINT}") from error


def check_split(
    cohort: Cohort,
    placer: str,
    folds: int,
    seed: int,
    max_pixels: int,
    pool: Pool,
    geometry: CropGeometry = DEFAULT_CROPS,
) -> bool:
    """Print what converting a split would do, and every fault. Returns whether any of it can be used.

    Args:
        cohort: the split's studies.
        placer: what would place unannotated sites, in words.
        folds: the number of folds of the train split.
        seed: the seed of the folds.
        max_pixels: larger images are refused.
        pool: the workers that read the images.
        geometry: the geometry of the crops.
    """
    together = studies_together(cohort)
    fold_of = folds_of(cohort, folds, seed, together)
    findings = check_cohort(cohort, max_pixels=max_pixels, pool=pool, fold_of=fold_of)
    print(describe(cohort, findings, placer, geometry))
    _print_patients(cohort.split, together)
    _print_ungraded(cohort)
    if findings.faults:
        print(f"\n{fault_table(findings.faults)}\n")
    return findings.slices > 0


def prepare_split(
    root: DataRoot,
    split: Split,
    cohort: Cohort,
    pool: Pool,
    *,
    make_placer: Callable[[Atlas | None], Placer],
    placing: dict[str, Any],
    notice: str | None,
    caption: Caption,
    folds: int,
    seed: int,
    max_pixels: int,
    geometry: CropGeometry = DEFAULT_CROPS,
) -> bool:
    """Convert one split unless it is up to date, and print a summary. Returns whether any of it could be used.

    Args:
        root: the data root.
        split: its split.
        cohort: the split's studies.
        pool: the workers that convert them.
        make_placer: makes what places unannotated sites, from the atlas if there is one.
        placing: the settings and fingerprints that it depends on, to be recorded.
        notice: what to print if there is no atlas; None for nothing.
        caption: makes the caption of a site and severity.
        folds: the number of folds of the train split.
        seed: the seed of the folds, and of the atlas's sample of studies.
        max_pixels: larger images are refused.
        geometry: the geometry of the crops.
    """
    processed = root.processed(split)
    # What is left at its default is not recorded: roots of earlier versions, which had no choice, stay up to date.
    settings: dict[str, Any] = {"folds": folds, "seed": seed, "max_pixels": max_pixels}
    settings |= geometry.changes | placing
    atlas = _learned_atlas(root) if split == "test" else None
    inputs = read_inputs(cohort)
    key = input_key(cohort, inputs, settings, atlas, caption)
    summary = summary_if_current(processed, key)
    if summary is None:
        work: dict[str, Any] = {"inputs": inputs, "pool": pool, "max_pixels": max_pixels, "geometry": geometry}

        def announced_placer(atlas: Atlas | None) -> Placer:
            if notice is not None and atlas is None:
                print(f"{split}: {notice}")
            return make_placer(atlas)

        work |= {"atlas": atlas, "learn": split == "train", "make_placer": announced_placer}
        output: dict[str, Any] = {"caption": caption, "key": key, "settings": settings}
        if (present := _present_crops(processed)) not in (None, geometry):
            print(f"{split}: its crops are of {present}; it is converted again, with crops of {geometry}", flush=True)
        try:
            summary = convert_cohort(cohort, processed, folds=folds, seed=seed, **output, **work)
        except NothingReadable as refusal:
            print(refusal)
            return False
    _print_summary(split, processed, summary)
    _print_ungraded(cohort)
    return summary.slices > 0


def _present_crops(processed: Path) -> CropGeometry | None:
    """Return the geometry of the crops of an earlier conversion; None if there are none, or none that can be read."""
    try:
        return read_crop_geometry(processed)
    except ValueError:
        return None


def _learned_atlas(root: DataRoot) -> Atlas | None:
    """Return the atlas that was learned from the train split, if there is one."""
    path = root.processed("train") / "atlas.json"
    return load_atlas(path) if path.is_file() else None


def _print_patients(split: str, together: Sequence[Sequence[int]]) -> None:
    """Print how many studies have one fold, because they are of one patient; nothing if there are none."""
    if together:
        patients = f"{len(together)} patient{'s' if len(together) > 1 else ''}"
        print(f"{split}: {sum(map(len, together))} studies are of {patients}; those of one patient have one fold")


def _print_ungraded(cohort: Cohort) -> None:
    """Print how many studies of the train split have no grade, as those that a cut-off train.csv lacks."""
    ungraded = sum(not folder.severities for folder in cohort.folders)
    if cohort.split == "train" and ungraded:
        have = "has" if ungraded == 1 else "have"
        print(f"train: {ungraded} of {len(cohort.folders)} studies {have} no grade in train.csv: no run trains on them")


def _print_summary(split: Split, processed: Path, summary: Summary) -> None:
    state = "is up to date" if summary.up_to_date else "written"
    print(f"{split}: {summary.studies} studies, {summary.slices} slices, {summary.pairs} pairs; {processed} {state}")
    _print_patients(split, read_metadata(processed)["folds"].get("of_one_patient", ()))
    for kind, count in sorted(summary.faults.items(), key=lambda entry: -entry[1]):
        print(f"{split}: {count:6d} {kind}")
    if summary.faults:
        print(f"{split}: each fault is a row of {processed / 'faults.csv'}")
