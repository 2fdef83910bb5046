"""The conversion of new studies a few at a time, so that those that are converted can be graded while others are not.

The studies become a ``processed_data`` of their own. It is complete when all batches have been taken.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from data_prep.conversion.convert import disk_full_estimated, number_of_files, read_inputs, study_name
from data_prep.conversion.crop_geometry import CROP_SLICES, DEFAULT_CROPS, CropGeometry
from data_prep.conversion.crops import Crop
from data_prep.conversion.executors import open_pool
from data_prep.conversion.merge import Caption, merge_parts, region_pairs
from data_prep.conversion.pairs import Pair
from data_prep.conversion.study_conversion import ConvertedStudy, convert_study
from data_prep.conversion.study_records import read_crops, read_record
from data_prep.conversion.work_folder import clear_parts, locked_folder, remove_stale_images
from data_prep.dicom.pixels import MAX_PIXELS
from data_prep.placement.placer import Placer
from data_prep.studies.cohorts import Cohort


@dataclass(frozen=True)
class StudyBatch:
    """Some converted studies.

    pairs: of these studies; their crops are rows of `crop_N3HW`, the studies' tiles.
    """

    study_ids: tuple[int, ...]
    pairs: tuple[Pair, ...]
    crop_N3HW: Crop


def convert_in_batches(
    cohort: Cohort,
    processed: Path,
    *,
    placer: Placer,
    caption: Caption,
    workers: int = 1,
    studies_per_batch: int,
    keeps_images: bool = True,
    may_go_on: Callable[[], bool] = lambda: True,
    max_pixels: int = MAX_PIXELS,
    geometry: CropGeometry = DEFAULT_CROPS,
) -> Iterator[StudyBatch]:
    """Convert the studies to `processed`, and yield them in batches, in the order of the cohort.

    Further studies are converted while the caller is busy with a batch, if there are several workers. After the last
    batch the files of ``processed_data`` are written. If they were not to be converted any more, they hold what was
    converted until then.

    Args:
        cohort: The studies.
        processed: The folder to write.
        placer: The placer of the sites.
        caption: Makes the caption of a site and severity.
        workers: Processes that read DICOM files.
        studies_per_batch: Largest number of studies in a batch.
        keeps_images: Whether the PNGs remain; else those of each batch are removed when the caller is done with it, so
            that the space of one batch is enough.
        may_go_on: Asked before each batch whether it is still to be converted.
        max_pixels: Largest number of pixels of an image that is read.
        geometry: The geometry of the crops.

    Raises:
        DiskFull: The disk is full; the message estimates how much space is missing.
        ChildProcessError: A worker was killed, or memory ran out.
    """
    inputs = read_inputs(cohort)
    converted: list[ConvertedStudy] = []
    with locked_folder(processed) as parts, disk_full_estimated(processed, inputs, converted):
        with open_pool(min(workers, len(cohort.folders) or 1)) as pool:
            work = partial(convert_study, processed=processed, placer=placer, max_pixels=max_pixels, geometry=geometry)
            results = pool.map(work, inputs, description="converting new", name=study_name, weight=number_of_files)
            while may_go_on():
                first = len(converted)
                converted.extend(islice(results, studies_per_batch))
                study_ids = [study.folder.study_id for study in inputs[first : len(converted)]]
                yield _batch(parts, study_ids, caption, geometry)  # a batch of no study if there is none
                for study in [] if keeps_images else study_ids:
                    remove_stale_images(processed, study, set())
                if len(converted) == len(inputs):
                    break
            results.close()  # type: ignore[attr-defined]
        done = replace(cohort, folders=cohort.folders[: len(converted)])
        notes = {
            "settings": {},
            "hashes": {**cohort.hashes, "input": ""},
            "atlas": None,
            "folds": {"count": 0, "of_study": {}},
        }
        merge_parts(done, processed, caption, {}, notes, geometry)
        clear_parts(processed)


def _batch(parts: Path, study_ids: Sequence[int], caption: Caption, geometry: CropGeometry) -> StudyBatch:
    """Return converted studies from their parts."""
    pairs: list[Pair] = []
    crops: list[Crop] = [np.zeros((0, CROP_SLICES, geometry.size, geometry.size), dtype=np.uint8)]
    first_crop = 0
    for study in study_ids:
        record = read_record(parts, study)
        pairs += region_pairs(study, record.regions, caption, {}, None, first_crop)
        crops.append(read_crops(parts, study))
        first_crop += len(crops[-1])
    return StudyBatch(tuple(study_ids), tuple(pairs), np.concatenate(crops))
