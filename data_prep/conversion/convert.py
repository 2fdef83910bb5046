"""The conversion of a cohort of DICOM studies to ``processed_data``, many studies at a time.

A study is one unit of work (`study_conversion.convert_study`) for a worker of a pool; its output does not
depend on the number or the location of the workers. The part of each converted study is kept in
``processed_data/.parts`` until all studies are converted, so that an interrupted conversion can be
resumed; then the parts are merged. ``dataset.json`` is written last: its existence means that the
conversion is complete, and a second run on the same input does nothing.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.conversion.crop_geometry import DEFAULT_CROPS, CropGeometry
from data_prep.conversion.crops import SCHEMA_VERSION as CROPS_VERSION
from data_prep.conversion.crops import open_crops
from data_prep.conversion.executors import IN_PROCESS, Pool
from data_prep.conversion.folds import assign_folds
from data_prep.conversion.merge import OUTPUTS, Caption, Summary, merge_parts, summary_of, write_faults
from data_prep.conversion.pairs import read_metadata
from data_prep.conversion.study_conversion import ConvertedStudy, convert_study, find_converted, write_study
from data_prep.conversion.study_input import StudyInput, check_folders, read_input
from data_prep.conversion.study_records import RECORD_VERSION, is_marked_throughout, needed_decoders
from data_prep.conversion.work_folder import clear_parts, locked_folder, output_sizes, parts_folder, put_back, set_aside
from data_prep.dicom.decoders import available_decoders
from data_prep.dicom.pixels import MAX_PIXELS
from data_prep.placement.atlas import Atlas, Example, example_of, learn_atlas, load_atlas
from data_prep.placement.placer import Placer
from data_prep.placement.regions import marked_positions
from data_prep.placement.shipped_atlas import shipped_atlas
from data_prep.sites import SITES, Severity
from data_prep.studies.cohorts import Cohort
from data_prep.studies.patients import studies_of_one_patient
from data_prep.studies.studies import read_study

#: Largest number of marked studies that the atlas is learned from: more would not improve its means.
ATLAS_STUDIES = 200
#: The files that mark a conversion as complete.
FINAL_FILES = ("dataset.json", "atlas.json")


class NothingReadable(ValueError):
    """No image of any training study can be read."""


class DiskFull(OSError):
    """The disk is full, or the user's quota is used up."""


def read_inputs(cohort: Cohort) -> list[StudyInput]:
    """Return the present input of each study: on a cluster's disk, reading all files' status may take a minute."""
    return [read_input(folder) for folder in cohort.folders]


def input_key(
    cohort: Cohort, inputs: Sequence[StudyInput], settings: dict[str, Any], atlas: Atlas | None, caption: Caption
) -> str:
    """Return a sha256 of everything that the result depends on; `atlas` is None if it is learned from the cohort."""
    digest = hashlib.sha256(repr((RECORD_VERSION, CROPS_VERSION, cohort.split, cohort.study_ids)).encode())
    digest.update(repr(sorted(cohort.hashes.items())).encode())
    digest.update(json.dumps([settings, atlas.fingerprint if atlas else None], sort_keys=True).encode())
    digest.update(repr([caption(site, grade) for site in SITES for grade in (None, *Severity)]).encode())
    # Without their messages: new wording is no new input.
    faults = tuple((fault.kind.value, fault.path, fault.study_id, fault.series_id) for fault in cohort.faults)
    digest.update(repr(faults).encode())
    for study_input in inputs:
        digest.update(study_input.digest.encode())
    return digest.hexdigest()


def summary_if_current(processed: Path, key: str) -> Summary | None:
    """Return the summary of an earlier conversion if it is complete and of the same input; else None.

    The parts of a conversion that was killed after it had written everything are removed.
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
    if metadata["decoders"] != needed_decoders(metadata["counts"]["faults"]):
        return None  # a decoder that was installed since may read files that were set aside
    if metadata.get("sizes") != output_sizes(processed, OUTPUTS):
        return None
    if parts_folder(processed).exists() and os.access(processed, os.W_OK):  # they do no harm
        with locked_folder(processed):
            clear_parts(processed)
    return summary_of(metadata["counts"], up_to_date=True)


def learn_from(
    cohort: Cohort,
    *,
    seed: int = 0,
    pool: Pool = IN_PROCESS,
    max_pixels: int = MAX_PIXELS,
    inputs: Sequence[StudyInput] | None = None,
) -> Atlas | None:
    """Learn an atlas from a cohort's marked studies; return None if there are too few marks.

    Args:
        cohort: The cohort; of more than `ATLAS_STUDIES` marked studies, a random choice is used.
        seed: Seed of that choice.
        pool: The pool that reads the studies.
        max_pixels: Largest number of pixels of an image that is read.
        inputs: The cohort's inputs (`read_inputs`), if they are already known.
    """
    examples = _examples(_atlas_studies(inputs or read_inputs(cohort), seed), None, pool, max_pixels)
    return learn_atlas([example for example, _ in examples if example is not None], shipped_atlas().shape_N3)


def _atlas_studies(inputs: Sequence[StudyInput], seed: int) -> list[StudyInput]:
    """Return the studies to learn the atlas from."""
    marked = [study for study in inputs if study.folder.marks]
    if len(marked) > ATLAS_STUDIES:
        chosen = np.random.default_rng(seed).choice(len(marked), ATLAS_STUDIES, replace=False)
        marked = [marked[index] for index in sorted(chosen)]
    return marked


def _learn_converting(
    marked: Sequence[StudyInput],
    processed: Path,
    pool: Pool,
    max_pixels: int,
    geometry: CropGeometry,
    converted: list[ConvertedStudy],
) -> Atlas | None:
    """Learn the atlas, and convert the studies whose sites are all marked, because they have been read anyway.

    The atlas is kept until an interrupted conversion is resumed. The converted studies are added to `converted`.
    """
    made_from = (RECORD_VERSION, max_pixels, available_decoders(), [study.digest for study in marked])
    path = parts_folder(processed) / f"atlas-{hashlib.sha256(repr(made_from).encode()).hexdigest()}.json"
    if not path.is_file():
        examples: list[Example] = []
        for example, study in _examples(marked, processed, pool, max_pixels, geometry):
            examples += [] if example is None else [example]
            converted += [] if study is None else [study]
        atlas = learn_atlas(examples, shipped_atlas().shape_N3)
        if atlas is None:
            return None
        atlas.save(path)
    return load_atlas(path)


def _examples(
    marked: Sequence[StudyInput],
    processed: Path | None,
    pool: Pool,
    max_pixels: int,
    geometry: CropGeometry = DEFAULT_CROPS,
) -> Iterator[tuple[Example | None, ConvertedStudy | None]]:
    work = partial(_example, processed=processed, max_pixels=max_pixels, geometry=geometry)
    yield from pool.map(work, marked, description="learning the atlas", name=study_name, weight=number_of_files)


def _example(
    study_input: StudyInput, processed: Path | None, max_pixels: int, geometry: CropGeometry
) -> tuple[Example | None, ConvertedStudy | None]:
    """Return a study as an example for the atlas; convert it to `processed` too if all its sites are marked."""
    if processed is not None:
        check_folders(study_input, processed)
    study, faults = read_study(study_input.folder, max_pixels)
    positions, mark_faults = marked_positions(study)
    converted = None
    if processed is not None and is_marked_throughout(positions.values()):
        all_faults = [*faults, *mark_faults]
        converted = write_study(study_input, processed, study, positions, all_faults, None, max_pixels, geometry)
    return example_of(study, positions, shipped_atlas().shape_N3), converted


def convert_cohort(
    cohort: Cohort,
    processed: Path,
    *,
    atlas: Atlas | None,
    learn: bool = False,
    placer: Placer | None = None,
    make_placer: Callable[[Atlas | None], Placer] | None = None,
    caption: Caption,
    folds: int = 5,
    seed: int = 0,
    pool: Pool = IN_PROCESS,
    max_pixels: int = MAX_PIXELS,
    geometry: CropGeometry = DEFAULT_CROPS,
    inputs: Sequence[StudyInput] | None = None,
    key: str = "",
    settings: dict[str, Any] | None = None,
) -> Summary:
    """Convert a cohort to `processed`.

    If no image of a split other than train can be read, it is written without pairs, because each of its studies must
    still get its predictions.

    Args:
        cohort: The studies to convert.
        processed: The folder to write.
        atlas: The atlas that is written beside the data; None for none.
        learn: Whether to learn that atlas from the marked studies of the cohort first (`learn_from`).
        placer: The placer of unannotated sites; the atlas if None.
        make_placer: Makes that placer from the atlas, if it depends on the atlas.
        caption: Makes the caption of a site and severity.
        folds: Number of folds of a train split.
        seed: Seed of the folds, and of the choice of studies that the atlas is learned from.
        pool: The pool that converts the studies.
        max_pixels: Largest number of pixels of an image that is read.
        geometry: The geometry of the crops.
        inputs: The cohort's inputs (`read_inputs`), if they are already known.
        key: The digest of the input (`input_key`), written to the metadata.
        settings: The settings, written to the metadata.

    Raises:
        NothingReadable: No image of a train split can be read. ``faults.csv`` contains the reasons, and the other
            files of an earlier conversion are kept. If the studies have no files at all, as on a disk that is not
            mounted, nothing is written.
        BlockingIOError: Another process is converting into this folder.
        DiskFull: The disk is full; the message estimates how much space is missing.
    """
    inputs = inputs or read_inputs(cohort)
    nothing = f"{cohort.split}: none of {len(cohort.study_ids)} studies has a readable image"
    if cohort.split == "train" and not any(study.files for study in inputs):
        raise NothingReadable(f"{nothing}; nothing is written")
    converted: list[ConvertedStudy] = []
    with locked_folder(processed), disk_full_estimated(processed, inputs, converted):
        set_aside(processed, FINAL_FILES)
        if learn:
            atlas = _learn_converting(_atlas_studies(inputs, seed), processed, pool, max_pixels, geometry, converted)
            converted.clear()
        if make_placer is not None:
            placer = make_placer(atlas)
        converted.extend(_convert_studies(cohort.split, inputs, processed, placer or atlas, pool, max_pixels, geometry))
        if cohort.split == "train" and not any(study.images for study in converted):
            write_faults(cohort, processed)
            put_back(processed, FINAL_FILES)
            clear_parts(processed)
            raise NothingReadable(
                f"{nothing}; the reasons are in {processed / 'faults.csv'}, and nothing else is written"
            )
        if atlas is not None:
            atlas.save(processed / "atlas.json")
        together = studies_together(cohort)
        fold_of = folds_of(cohort, folds, seed, together)
        notes = {
            "settings": settings or {},
            "hashes": {**cohort.hashes, "input": key},
            "atlas": atlas.fingerprint if atlas else None,
            "folds": _folds_note(folds, fold_of, together),
        }
        summary = merge_parts(cohort, processed, caption, fold_of, notes, geometry)
        clear_parts(processed)
    return summary


def _convert_studies(
    split: str,
    inputs: Sequence[StudyInput],
    processed: Path,
    placer: Placer | None,
    pool: Pool,
    max_pixels: int,
    geometry: CropGeometry,
) -> Iterator[ConvertedStudy]:
    """Yield the studies that an interrupted conversion has converted, then convert and yield the others."""
    todo = []
    for study in inputs:
        found = find_converted(study, processed, placer, max_pixels, geometry)
        if found is None:
            todo.append(study)
        else:
            yield found
    work = partial(convert_study, processed=processed, placer=placer, max_pixels=max_pixels, geometry=geometry)
    found_before = len(inputs) - len(todo)
    yield from pool.map(
        work, todo, description=f"converting {split}", name=study_name, weight=number_of_files, done=found_before
    )


@contextmanager
def disk_full_estimated(
    processed: Path, inputs: Sequence[StudyInput], converted: Sequence[ConvertedStudy]
) -> Iterator[None]:
    """Turn the error of a full disk or an exceeded quota into `DiskFull`, with an estimate of the missing space.

    The estimate is extrapolated from the studies that are `converted` by then; without any, it is omitted.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = f"{processed}: {'the disk is full' if error.errno == errno.ENOSPC else 'the quota is used up'}"
        images = sum(study.images for study in converted)
        if images:
            copies = sum(study.crops_size for study in converted)
            per_image = (sum(study.size for study in converted) + copies) / images
            missing = per_image * (sum(study.files for study in inputs) - images) + copies
            if error.errno == errno.ENOSPC:
                missing -= shutil.disk_usage(processed).free
            message += f"; about {max(missing, 1e6) / 1e6:,.0f} MB more are needed"
        raise DiskFull(message) from None


def studies_together(cohort: Cohort) -> list[tuple[int, ...]]:
    """Return the groups of studies of one patient, which have one fold; none outside the train split."""
    return studies_of_one_patient(cohort.folders) if cohort.split == "train" else []


def folds_of(cohort: Cohort, folds: int, seed: int, together: Sequence[tuple[int, ...]]) -> dict[int, int]:
    """Return the fold of each study of a train split, empty for any other split; `together`: `studies_together`."""
    severities = {folder.study_id: folder.severities for folder in cohort.folders}
    return assign_folds(severities, folds, seed, together) if cohort.split == "train" else {}


def _folds_note(folds: int, fold_of: Mapping[int, int], together: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """Return the entry of the metadata about the folds; without groups it is as in earlier versions."""
    of_study = {str(study_id): fold for study_id, fold in fold_of.items()}
    return {"count": folds, **({"of_one_patient": together} if together else {}), "of_study": of_study}


def study_name(study_input: StudyInput) -> str:
    return study_input.name


def number_of_files(study_input: StudyInput) -> int:
    return study_input.files
