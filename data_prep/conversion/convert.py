"""The whole conversion: a cohort of DICOM studies to ``processed_data``, many studies at a time.

A study is a unit of work (`records.convert_study`) for one of a pool's workers; its output does not
depend on how many there are, or where. What is done of each study is kept in ``processed_data/.parts``
until all are, so that an interrupted conversion goes on; then the parts are gathered. ``dataset.json``
is written last, and only it says that a conversion is complete: a second run on the same input finds it
and does nothing.
"""

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.conversion.crops import SCHEMA_VERSION as CROPS_VERSION
from data_prep.conversion.crops import open_crops
from data_prep.conversion.executors import HERE, Pool, open_pool
from data_prep.conversion.folds import assign_folds
from data_prep.conversion.merge import OUTPUTS, Caption, Summary, gather, summary_of, write_faults
from data_prep.conversion.pairs import read_metadata
from data_prep.conversion.study_records import (
    RECORD_VERSION,
    Done,
    StudyInput,
    convert_study,
    decoders_that_matter,
    find_done,
    read_input,
)
from data_prep.conversion.work_folder import clear_parts, output_sizes, parts_folder, put_back, set_aside, workplace
from data_prep.dicom.decoders import available_decoders
from data_prep.dicom.pixels import MAX_PIXELS
from data_prep.placement.atlas import Atlas, Example, example_of, learn_atlas, load_atlas
from data_prep.placement.placer import Placer
from data_prep.placement.regions import marked_positions
from data_prep.sites import SITES, Severity, Site
from data_prep.studies.cohorts import Cohort, folder_cohort
from data_prep.studies.studies import read_study

#: Marked studies that the atlas is learned from, where there are more: its mean does not gain by more.
ATLAS_STUDIES = 200
#: What says that a conversion is complete.
SEALS = ("dataset.json", "atlas.json")


class NothingReadable(ValueError):
    """No image of any training study can be read."""


class DiskFull(OSError):
    """No space is left, or a user's share of it is used up."""


def read_inputs(cohort: Cohort) -> list[StudyInput]:
    """Each study's input as it is now. One look at every file: on a cluster's disk this may take a minute."""
    return [read_input(folder) for folder in cohort.folders]


def input_key(
    cohort: Cohort, inputs: Sequence[StudyInput], settings: dict[str, Any], atlas: Atlas | None, caption: Caption
) -> str:
    """sha256 of all that a conversion's result depends on. `atlas`: None where it is learned from the cohort."""
    digest = hashlib.sha256(repr((RECORD_VERSION, CROPS_VERSION, cohort.split, cohort.study_ids)).encode())
    digest.update(repr(sorted(cohort.hashes.items())).encode())
    digest.update(json.dumps([settings, atlas.fingerprint if atlas else None], sort_keys=True).encode())
    digest.update(repr([caption(site, grade) for site in SITES for grade in (None, *Severity)]).encode())
    digest.update(repr(cohort.faults).encode())
    for study_input in inputs:
        digest.update(study_input.digest.encode())
    return digest.hexdigest()


def summary_if_current(processed: Path, key: str) -> Summary | None:
    """What an earlier conversion of the same input wrote; None where there is none, not all, or of another input.

    Of a conversion that was killed when it had written all, what it kept is cleared away.
    """
    try:
        metadata = read_metadata(processed)
        open_crops(processed)
        if metadata["atlas"] and load_atlas(processed / "atlas.json").fingerprint != metadata["atlas"]:
            return None
    except (KeyError, ValueError):
        return None
    if metadata["hashes"]["input"] != key:
        return None
    if metadata["decoders"] != decoders_that_matter(metadata["counts"]["faults"]):
        return None  # what was installed since may read what was set aside
    if metadata.get("sizes") != output_sizes(processed, OUTPUTS):
        return None
    if parts_folder(processed).exists():
        with workplace(processed):
            clear_parts(processed)
    return summary_of(metadata["counts"], up_to_date=True)


def learn_from(
    cohort: Cohort,
    *,
    seed: int = 0,
    pool: Pool = HERE,
    max_pixels: int = MAX_PIXELS,
    inputs: Sequence[StudyInput] | None = None,
    processed: Path | None = None,
) -> Atlas | None:
    """An atlas of (some of) a cohort's marked studies; None where there are too few marks.

    inputs: the cohort's, if they are known already; processed: where the atlas is kept, so that an interrupted
    conversion does not learn it again.
    """
    marked = [study for study in inputs or read_inputs(cohort) if study.folder.marks]
    if len(marked) > ATLAS_STUDIES:
        chosen = np.random.default_rng(seed).choice(len(marked), ATLAS_STUDIES, replace=False)
        marked = [marked[index] for index in sorted(chosen)]
    if processed is None:
        return _learned(marked, pool, max_pixels)
    made_from = (RECORD_VERSION, max_pixels, available_decoders(), [study.digest for study in marked])
    with workplace(processed) as parts:
        path = parts / f"atlas-{hashlib.sha256(repr(made_from).encode()).hexdigest()}.json"
        if not path.is_file():
            atlas = _learned(marked, pool, max_pixels)
            if atlas is None:
                return None
            atlas.save(path)
        return load_atlas(path)


def _learned(marked: Sequence[StudyInput], pool: Pool, max_pixels: int) -> Atlas | None:
    work = partial(_example, max_pixels=max_pixels)
    examples = pool.map(work, marked, description="learning the atlas", name=_name, weight=_files)
    return learn_atlas([example for example in examples if example is not None])


def _example(study_input: StudyInput, max_pixels: int) -> Example | None:
    study, _ = read_study(study_input.folder, max_pixels)
    return example_of(study, marked_positions(study)[0])


def convert_folder(
    images: Path,
    processed: Path,
    *,
    descriptions: Path | None,
    placer: Placer,
    caption: Caption,
    workers: int = 1,
    max_pixels: int = MAX_PIXELS,
) -> Summary:
    """New studies, ``<study>/<series>/*.dcm`` or one study's folder, to a ``processed_data`` of their own.

    Raises ValueError where there is no study's folder.
    """
    cohort = folder_cohort(images, descriptions)
    with open_pool(min(workers, len(cohort.folders) or 1)) as pool:
        work: dict[str, Any] = {"placer": placer, "pool": pool, "max_pixels": max_pixels}
        return convert_cohort(cohort, processed, atlas=None, caption=caption, **work)


def convert_cohort(
    cohort: Cohort,
    processed: Path,
    *,
    atlas: Atlas | None,
    placer: Placer | None = None,
    caption: Caption,
    folds: int = 5,
    seed: int = 0,
    pool: Pool = HERE,
    max_pixels: int = MAX_PIXELS,
    inputs: Sequence[StudyInput] | None = None,
    key: str = "",
    settings: dict[str, Any] | None = None,
) -> Summary:
    """Convert a cohort, whose `inputs` may be known already; `key` and `settings` are noted in the metadata.

    `placer`: what places sites that nobody marked, the atlas where there is none; the atlas is kept in any case.

    Where no image can be read, training studies raise NothingReadable: ``faults.csv`` says why, and the rest of an
    earlier conversion is kept; where there is no file at all, as on a disk that is gone, nothing is touched. Other
    splits are written with no pairs, because each of their studies is owed an answer all the same. Raises
    BlockingIOError where another process is converting into this folder, DiskFull with what is missing.
    """
    inputs = inputs or read_inputs(cohort)
    nothing = f"{cohort.split}: none of {len(cohort.study_ids)} studies has a readable image"
    if cohort.split == "train" and not any(study.files for study in inputs):
        raise NothingReadable(f"{nothing}; nothing is written")
    done: list[Done] = []
    with workplace(processed), _full_disk_told(processed, inputs, done):
        set_aside(processed, SEALS)
        done.extend(_convert_studies(cohort.split, inputs, processed, placer or atlas, pool, max_pixels))
        if cohort.split == "train" and not any(result.images for result in done):
            write_faults(cohort, processed)
            put_back(processed, SEALS)
            clear_parts(processed)
            raise NothingReadable(f"{nothing}; {processed / 'faults.csv'} says why, and nothing else is written")
        if atlas is not None:
            atlas.save(processed / "atlas.json")
        fold_of = assign_folds(_severities(cohort), folds, seed) if cohort.split == "train" else {}
        notes = {
            "settings": settings or {},
            "hashes": {**cohort.hashes, "input": key},
            "atlas": atlas.fingerprint if atlas else None,
            "folds": {"count": folds, "of_study": {str(study_id): fold for study_id, fold in fold_of.items()}},
        }
        summary = gather(cohort, processed, caption, fold_of, notes)
        clear_parts(processed)
    return summary


def _convert_studies(
    split: str, inputs: Sequence[StudyInput], processed: Path, placer: Placer | None, pool: Pool, max_pixels: int
) -> Iterator[Done]:
    """Every study's part: those that an interrupted conversion left, then the others."""
    todo = []
    for study in inputs:
        found = find_done(study, processed, placer, max_pixels)
        if found is None:
            todo.append(study)
        else:
            yield found
    work = partial(convert_study, processed=processed, placer=placer, max_pixels=max_pixels)
    there = len(inputs) - len(todo)
    yield from pool.map(work, todo, description=f"converting {split}", name=_name, weight=_files, done=there)


@contextmanager
def _full_disk_told(processed: Path, inputs: Sequence[StudyInput], done: Sequence[Done]) -> Iterator[None]:
    """Turn the failure of a full disk, or of a user's full share of it, into how much is missing.

    That is reckoned from the studies that are `done` by then; nothing is said where there are none.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = f"{processed}: {'no space is left' if error.errno == errno.ENOSPC else 'the quota is used up'}"
        images = sum(result.images for result in done)
        if images:
            copies = sum(result.tiles_size for result in done)
            an_image = (sum(result.size for result in done) + copies) / images
            missing = an_image * (sum(study.files for study in inputs) - images) + copies
            if error.errno == errno.ENOSPC:
                missing -= shutil.disk_usage(processed).free
            message += f"; about {max(missing, 1e6) / 1e6:,.0f} MB more are needed than there are"
        raise DiskFull(message) from None


def _severities(cohort: Cohort) -> dict[int, dict[Site, Severity]]:
    return {folder.study_id: folder.severities for folder in cohort.folders}


def _name(study_input: StudyInput) -> str:
    return study_input.name


def _files(study_input: StudyInput) -> int:
    return study_input.files
