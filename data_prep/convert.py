"""The whole conversion: a cohort of DICOM studies to ``processed_data``, many studies at a time.

A study is a unit of work (`records.convert_study`) for one of `workers` processes; its output does
not depend on how many there are. ``dataset.json`` is written last, and only it says that a
conversion is complete: a second run on the same input finds it and does nothing.
"""

import csv
import hashlib
import json
import multiprocessing
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from data_prep.atlas import Atlas, Example, example_of, learn_atlas
from data_prep.cohorts import Cohort, folder_cohort
from data_prep.crops import open_crops, write_crops
from data_prep.folds import assign_folds
from data_prep.pairs import (
    TRAIN_COLUMNS,
    Pair,
    count_sites,
    read_dataset,
    train_row,
    write_dataset,
    write_dataset_card,
)
from data_prep.pixels import MAX_PIXELS
from data_prep.records import (
    SITE_COLUMNS,
    SLICE_COLUMNS,
    StudyRecord,
    convert_study,
    image_path,
    read_record,
    read_tiles,
    site_row,
    study_key,
)
from data_prep.regions import marked_positions
from data_prep.sites import SITES, Severity, Site
from data_prep.studies import StudyFolder, read_study

#: Marked studies that the atlas is learned from, where there are more: its mean does not gain by more.
ATLAS_STUDIES = 200
#: Studies given to each process beforehand: enough that none waits, few enough that none is held in memory.
QUEUE_PER_WORKER = 3

Caption = Callable[[Site, Severity | None], str]
"""Words of a pair, for a site and what it was graded."""

TABLES = ("slices.csv", "sites.csv", "faults.csv", "train_dataset.csv")
FAULT_COLUMNS = ("study_id", "series_id", "path", "kind", "action", "message")

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Summary:
    """What a conversion wrote; faults by kind. `studies` are those with at least one image."""

    studies: int
    slices: int
    pairs: int
    faults: dict[str, int]
    up_to_date: bool = False


def learn_from(cohort: Cohort, *, seed: int = 0, workers: int = 1, max_pixels: int = MAX_PIXELS) -> Atlas | None:
    """An atlas of (some of) a cohort's marked studies; None where there are too few marks."""
    marked = [folder for folder in cohort.folders if folder.marks]
    if len(marked) > ATLAS_STUDIES:
        chosen = np.random.default_rng(seed).choice(len(marked), ATLAS_STUDIES, replace=False)
        marked = [marked[index] for index in sorted(chosen)]
    examples = _in_processes(partial(_example, max_pixels=max_pixels), marked, workers, "learning the atlas")
    return learn_atlas([example for example in examples if example is not None])


def _example(folder: StudyFolder, max_pixels: int) -> Example | None:
    study, _ = read_study(folder, max_pixels)
    return example_of(study, marked_positions(study)[0])


def convert_folder(
    images: Path,
    processed: Path,
    *,
    descriptions: Path | None,
    atlas: Atlas,
    caption: Caption,
    workers: int = 1,
    max_pixels: int = MAX_PIXELS,
) -> Summary:
    """New studies, ``<study>/<series>/*.dcm`` or one study's folder, to a ``processed_data`` of their own.

    Raises ValueError where there is no study's folder.
    """
    cohort = folder_cohort(images, descriptions)
    return convert_cohort(cohort, processed, atlas=atlas, caption=caption, workers=workers, max_pixels=max_pixels)


def convert_cohort(
    cohort: Cohort,
    processed: Path,
    *,
    atlas: Atlas | None,
    caption: Caption,
    folds: int = 5,
    seed: int = 0,
    workers: int = 1,
    max_pixels: int = MAX_PIXELS,
    key: str = "",
    settings: dict[str, Any] | None = None,
) -> Summary:
    """Convert a cohort; `key` and `settings` are noted in the metadata.

    Where no image can be read, training studies raise ValueError and nothing is left behind; other splits are
    written with no pairs, because each of their studies is owed an answer all the same.
    """
    existed = processed.exists()
    (processed / ".parts").mkdir(parents=True, exist_ok=True)
    (processed / "dataset.json").unlink(missing_ok=True)
    work = partial(convert_study, processed=processed, atlas=atlas, max_pixels=max_pixels)
    images = sum(_in_processes(work, cohort.folders, workers, f"converting {cohort.split}"))
    if not images and cohort.split == "train":
        shutil.rmtree(processed / ".parts" if existed else processed)
        raise ValueError(f"{cohort.split}: none of {len(cohort.study_ids)} studies has a readable image")
    (processed / "atlas.json").unlink(missing_ok=True)  # of an earlier conversion: nobody may take it for this one's
    if atlas is not None:
        atlas.save(processed / "atlas.json")
    fold_of = assign_folds(_severities(cohort), folds, seed) if cohort.split == "train" else {}
    notes = {
        "settings": settings or {},
        "hashes": {**cohort.hashes, "input": key},
        "folds": {"count": folds, "of_study": {str(study_id): fold for study_id, fold in fold_of.items()}},
    }
    summary = _gather(cohort, processed, caption, fold_of, notes)
    shutil.rmtree(processed / ".parts")
    return summary


def input_key(cohort: Cohort, settings: dict[str, Any], atlas: Atlas | None, caption: Caption) -> str:
    """sha256 of all that a conversion's result depends on. `atlas`: None where it is learned from the cohort."""
    digest = hashlib.sha256(repr((cohort.split, cohort.study_ids, sorted(cohort.hashes.items()))).encode())
    digest.update(json.dumps([settings, atlas.fingerprint if atlas else None], sort_keys=True).encode())
    digest.update(repr([caption(site, grade) for site in SITES for grade in (None, *Severity)]).encode())
    for folder in cohort.folders:
        digest.update(study_key(folder).encode())
    return digest.hexdigest()


def summary_if_current(processed: Path, key: str) -> Summary | None:
    """What an earlier conversion of the same input wrote; None where there is none, not all, or of another input."""
    try:
        metadata = read_dataset(processed).metadata
        open_crops(processed)
    except ValueError:
        return None
    if metadata["hashes"]["input"] != key or not all((processed / name).is_file() for name in TABLES):
        return None
    counts = metadata["counts"]
    return Summary(counts["studies"], counts["slices"], counts["pairs"], counts["faults"], up_to_date=True)


def _severities(cohort: Cohort) -> dict[int, dict[Site, Severity]]:
    return {folder.study_id: folder.severities for folder in cohort.folders}


def _gather(
    cohort: Cohort, processed: Path, caption: Caption, fold_of: Mapping[int, int], notes: dict[str, Any]
) -> Summary:
    """The parts of all studies, in the cohort's order, to the tables, the crops and ``dataset.json``."""
    pairs: list[Pair] = []
    faults = list(cohort.faults)
    counts: Counter[str] = Counter()
    not_imaged: Counter[str] = Counter()
    with (
        _table(processed / "slices.csv", SLICE_COLUMNS) as slice_table,
        _table(processed / "sites.csv", SITE_COLUMNS) as site_table,
    ):
        for folder in cohort.folders:
            record = read_record(processed / ".parts", folder.study_id)
            slice_table.writerows(record.slices)
            site_table.writerows(site_row(record.study_id, position) for position in record.positions)
            pairs += _pairs(folder, record, caption, fold_of.get(folder.study_id), first_crop=len(pairs))
            faults += record.faults
            not_imaged.update(record.not_imaged)
            counts["studies"] += bool(record.slices)
            counts["slices"] += len(record.slices)
    with _table(processed / "faults.csv", FAULT_COLUMNS) as fault_table:
        fault_table.writerows([getattr(fault, name) for name in FAULT_COLUMNS] for fault in faults)
    with _table(processed / "train_dataset.csv", TRAIN_COLUMNS) as train_table:
        train_table.writerows(train_row(pair) for pair in pairs)
    write_dataset_card(processed, cohort.split, pairs)
    tiles = (read_tiles(processed / ".parts", folder.study_id) for folder in cohort.folders)
    crops_fingerprint = write_crops(processed, tiles, len(pairs))

    fault_counts = dict(sorted(Counter(fault.kind.value for fault in faults).items()))
    metadata = {
        "split": cohort.split,
        "counts": {
            **counts,
            "pairs": len(pairs),
            "faults": fault_counts,
            "not_imaged": dict(not_imaged),
            "sites": count_sites(pairs),
        },
        "sources": dict(Counter(pair.source.value for pair in pairs)),
        **notes,
        "study_ids": list(cohort.study_ids),
    }
    write_dataset(processed, metadata, pairs, crops_fingerprint)
    return Summary(counts["studies"], counts["slices"], len(pairs), fault_counts)


def _pairs(
    folder: StudyFolder, record: StudyRecord, caption: Caption, fold: int | None, first_crop: int
) -> Iterator[Pair]:
    for crop, found in enumerate(record.regions, start=first_crop):
        severity = folder.severities.get(found.site)
        yield Pair(
            study_id=folder.study_id,
            site=found.site,
            view=found.view,
            series_id=found.series_id,
            instance_number=found.instance_number,
            instance_numbers=found.instance_numbers,
            image=image_path(folder.study_id, found.series_id, found.instance_number),
            box=found.box,
            text=caption(found.site, severity),
            severity=severity,
            source=found.source,
            fold=fold,
            crop=crop,
        )


@contextmanager
def _table(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    """A CSV writer on a new table that appears by rename."""
    partial_path = path.with_name(f".{path.name}.partial")
    with partial_path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        yield table
    partial_path.replace(path)


def _in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int, description: str
) -> Iterator[Result]:
    """Results in the order of `items`, from `workers` processes with a bounded queue; one bar of progress."""
    with tqdm(total=len(items), desc=description, unit="study") as bar:
        if min(workers, len(items)) <= 1:
            for item in items:
                yield work(item)
                bar.update()
            return
        # spawn, because forking a process that has threads (tqdm's, BLAS's) may hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(items)), mp_context=context) as pool:
            waiting: deque[Future[Result]] = deque()
            try:
                for item in items:
                    if len(waiting) >= QUEUE_PER_WORKER * workers:
                        yield waiting.popleft().result()
                        bar.update()
                    waiting.append(pool.submit(work, item))
                while waiting:
                    yield waiting.popleft().result()
                    bar.update()
            finally:
                pool.shutdown(cancel_futures=True)
