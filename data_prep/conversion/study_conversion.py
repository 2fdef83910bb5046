"""The conversion of one study: its PNGs, its crops, and a record of its rows, made by any process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.conversion.crop_geometry import DEFAULT_CROPS, CropGeometry
from data_prep.conversion.pairs import png_path
from data_prep.conversion.png import write_png
from data_prep.conversion.study_input import StudyInput, check_folders
from data_prep.conversion.study_records import (
    StudyRecord,
    is_marked_throughout,
    needed_decoders,
    read_record,
    record_key,
    write_crops,
    write_record,
)
from data_prep.conversion.study_regions import crop_of, find_regions
from data_prep.conversion.twin_studies import pixel_digest
from data_prep.conversion.work_folder import parts_folder
from data_prep.faults import Fault
from data_prep.geometry import Frame
from data_prep.placement.placer import Placer
from data_prep.placement.regions import Position, doubtful_levels, marked_positions, not_found
from data_prep.sites import SITES, Site
from data_prep.studies.studies import Study, read_study


@dataclass(frozen=True)
class ConvertedStudy:
    """The sizes of a converted study: number of images, bytes of images and crops, and bytes of the crops alone.

    The crops need their space twice, because merging copies them.
    """

    images: int
    size: int
    crops_size: int


def convert_study(
    study_input: StudyInput,
    processed: Path,
    placer: Placer | None,
    max_pixels: int,
    geometry: CropGeometry = DEFAULT_CROPS,
) -> ConvertedStudy:
    """Convert a study: write its PNGs and its part.

    Raises FileNotFoundError if the folders do not exist for this process, as on a machine of a cluster that has not
    mounted them: the study's images would be recorded as missing.
    """
    check_folders(study_input, processed)
    study, faults = read_study(study_input.folder, max_pixels)
    positions, mark_faults = marked_positions(study)
    if placer is not None and not is_marked_throughout(positions.values()):
        positions |= placer.place(study, positions)
    return write_study(study_input, processed, study, positions, [*faults, *mark_faults], placer, max_pixels, geometry)


def write_study(
    study_input: StudyInput,
    processed: Path,
    study: Study,
    positions: Mapping[Site, Position],
    faults: Sequence[Fault],
    placer: Placer | None,
    max_pixels: int,
    geometry: CropGeometry = DEFAULT_CROPS,
) -> ConvertedStudy:
    """Write a study's PNGs and its part.

    Args:
        study_input: The study's input.
        processed: The folder to write to.
        study: The study, as it was read.
        positions: Positions of its sites.
        faults: The faults of its images and marks.
        placer: The placer of its unannotated sites.
        max_pixels: Largest number of pixels of an image that was read.
        geometry: The geometry of its crops.
    """
    parts = parts_folder(processed)
    # The images are overwritten from here on, so an older record would be wrong.
    (parts / f"{study.study_id}.json").unlink(missing_ok=True)
    rows, image_bytes, digests = _write_images(study, processed)
    regions, not_imaged = find_regions(study, positions, geometry.tiles_per_view)
    write_crops(parts / f"{study.study_id}.npy", [crop_of(study, found, geometry) for found in regions], geometry)
    ordered = [positions[site] for site in SITES if site in positions]
    key = record_key(study_input, None if is_marked_throughout(ordered) else placer, max_pixels, geometry)
    faults = [*faults, *not_found(study, positions), *doubtful_levels(study, positions)]
    decoders = needed_decoders(fault.kind for fault in faults)
    record = StudyRecord(
        study.study_id, key, image_bytes, rows, ordered, regions, not_imaged, faults, decoders, study.identity, digests
    )
    write_record(parts, record)
    return _converted(record, geometry)


def find_converted(
    study_input: StudyInput,
    processed: Path,
    placer: Placer | None,
    max_pixels: int,
    geometry: CropGeometry = DEFAULT_CROPS,
) -> ConvertedStudy | None:
    """Return a study that an interrupted conversion has converted from the same input; None if it is not complete."""
    study_id, parts = study_input.folder.study_id, parts_folder(processed)
    try:
        record = read_record(parts, study_id)
        needed = None if is_marked_throughout(record.positions) else placer
        if record.key != record_key(study_input, needed, max_pixels, geometry):
            return None
        if record.decoders != needed_decoders(fault.kind for fault in record.faults):
            return None
        sizes = [(processed / name).stat().st_size for name in record.images]
        crops = np.load(parts / f"{study_id}.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
    complete = sum(sizes) == record.image_bytes and len(crops) == sum(found.tiles for found in record.regions)
    return _converted(record, geometry) if complete else None


def _converted(record: StudyRecord, geometry: CropGeometry) -> ConvertedStudy:
    crops_size = sum(found.tiles for found in record.regions) * geometry.bytes_per_tile
    return ConvertedStudy(len(record.slices), record.image_bytes + crops_size, crops_size)


def _write_images(study: Study, processed: Path) -> tuple[list[list[Any]], int, tuple[str, ...]]:
    """Write a study's PNGs; return their rows of ``slices.csv``, their total size in bytes, and their digests."""
    rows: list[list[Any]] = []
    digests: list[str] = []
    size = 0
    for series in study.series:
        (processed / "images" / str(study.study_id) / str(series.series_id)).mkdir(parents=True, exist_ok=True)
        stack_of = {index: number for number, stack in enumerate(series.stacks) for index in stack}
        for index, image in enumerate(series.slices):
            name = png_path(study.study_id, series.series_id, image.instance_number)
            grey = image.grey
            size += write_png(processed / name, grey)
            digests.append(pixel_digest(grey))
            view = "" if image.other_contrast or series.view is None else series.view
            rows.append([study.study_id, series.series_id, image.instance_number, name, view])
            rows[-1] += [stack_of.get(index, ""), *grey.shape, *_frame_cells(image.frame)]
            rows[-1] += image.window or series.window
    return rows, size, tuple(digests)


def _frame_cells(frame: Frame | None) -> list[Any]:
    """Return the cells of spacing, position and directions, with nine digits: more than headers have."""
    if frame is None:
        return [""] * 11
    numbers = (*frame.spacing_mm, *frame.position_mm, *frame.row_direction, *frame.column_direction)
    return [float(f"{number:.9g}") for number in numbers]
