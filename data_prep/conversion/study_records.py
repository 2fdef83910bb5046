"""The conversion of one study: its PNGs, its crops, and a record of its rows, made by any process.

A converted study's part is two files in ``processed_data/.parts``: ``<study_id>.npy`` with its crops, and
``<study_id>.json``, the record, written last, with its rows of the tables. The parts are merged when all
studies are converted; a resumed conversion keeps the existing ones. A record is valid while its key is that
of the study's input, and its images exist.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.conversion.crop_geometry import CROP_SLICES, DEFAULT_CROPS, CropGeometry
from data_prep.conversion.crops import Crop, cut_crop
from data_prep.conversion.pairs import png_path
from data_prep.conversion.png import write_png
from data_prep.conversion.twin_studies import pixel_digest
from data_prep.conversion.work_folder import parts_folder
from data_prep.dicom.decoders import available_decoders
from data_prep.faults import Fault, FaultKind
from data_prep.geometry import Frame
from data_prep.placement.placer import Placer
from data_prep.placement.regions import (
    Missing,
    Position,
    Region,
    doubtful_levels,
    marked_positions,
    not_found,
    region,
)
from data_prep.sites import SITE_COLUMNS, SITES, Site, Source, View, parse_row_id_site
from data_prep.studies.studies import Study, StudyFolder, read_study
from workspace.whole_files import replacing

SLICE_COLUMNS = (
    "study_id", "series_id", "instance_number", "image", "view", "stack", "rows", "columns",
    "spacing_row_mm", "spacing_column_mm", "position_x_mm", "position_y_mm", "position_z_mm",
    "row_x", "row_y", "row_z", "column_x", "column_y", "column_z", "window_low", "window_high",
)  # fmt: skip
"""Columns of ``slices.csv``; an unknown view or geometry is empty."""

CERTAINTY_COLUMNS = ("expected_error_mm", "level_confidence")
"""Columns of ``sites.csv`` that are empty for an annotated position."""

SITES_CSV_COLUMNS = ("study_id", *SITE_COLUMNS, "x_mm", "y_mm", "z_mm", "source", *CERTAINTY_COLUMNS)
"""Columns of ``sites.csv``."""

#: Version of the record's content and of the images: studies with a record of another version are converted again.
RECORD_VERSION = 7


@dataclass(frozen=True)
class StudyRecord:
    """A converted study's rows of the tables.

    Attributes:
        study_id: The study.
        key: Digest of the input (`record_key`).
        image_bytes: Total size of its PNGs.
        slices: Rows of ``slices.csv``.
        positions: Positions of its sites.
        regions: Its regions, in the order of its crops.
        not_imaged: Number of missing regions by reason.
        faults: Its faults.
        decoders: If a file's decoder is missing, the installed decoders; otherwise empty. The study is converted again
            when they change.
        identity: Digest of its StudyInstanceUID (`Study.identity`).
        digests: Digests of the pixels of its images (`pixel_digest`), in the order of `slices`.
    """

    study_id: int
    key: str
    image_bytes: int
    slices: list[list[Any]]
    positions: list[Position]
    regions: list[Region]
    not_imaged: dict[str, int]
    faults: list[Fault]
    decoders: str = ""
    identity: str = ""
    digests: tuple[str, ...] = ()

    @property
    def images(self) -> set[str]:
        """The paths of its PNGs within ``processed_data``."""
        return {row[SLICE_COLUMNS.index("image")] for row in self.slices}


@dataclass(frozen=True)
class StudyInput:
    """A study to convert, a digest of its entries in the tables and its files, and the number of its files."""

    folder: StudyFolder
    digest: str
    files: int

    @property
    def name(self) -> str:
        """The study's name in messages."""
        return f"study {self.folder.study_id}"


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


def check_folders(study_input: StudyInput, processed: Path) -> None:
    """Raise FileNotFoundError if the images or the folder of parts do not exist for this process."""
    for path in (study_input.folder.root, parts_folder(processed)):
        if not path.is_dir():
            raise FileNotFoundError(
                f"{path}: this folder does not exist for the process that converts {study_input.name}"
            )


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
    _write_crops(parts / f"{study.study_id}.npy", [crop_of(study, found, geometry) for found in regions], geometry)
    ordered = [positions[site] for site in SITES if site in positions]
    key = record_key(study_input, None if is_marked_throughout(ordered) else placer, max_pixels, geometry)
    faults = [*faults, *not_found(study, positions), *doubtful_levels(study, positions)]
    decoders = needed_decoders(fault.kind for fault in faults)
    record = StudyRecord(
        study.study_id, key, image_bytes, rows, ordered, regions, not_imaged, faults, decoders, study.identity, digests
    )
    _write_record(parts, record)
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


def read_input(folder: StudyFolder) -> StudyInput:
    """Return a study's present input: its entries in the tables, and the names, sizes and times of its files."""
    digest = hashlib.sha256(repr((folder.study_id, folder.views, folder.marks)).encode())
    digest.update(repr([(site.key, int(grade)) for site, grade in sorted(folder.severities.items())]).encode())
    files = 0
    for series_id, path in sorted(folder.series.items()):
        chosen = {file.name for file in folder.files.get(series_id, ())}
        try:
            with os.scandir(path) as entries:
                found = sorted(_stamp(entry) for entry in entries if not chosen or entry.name in chosen)
        except OSError as error:
            found = [(str(error), 0, 0, False)]
        digest.update(repr((series_id, found)).encode())
        files += len(found)
    return StudyInput(folder, digest.hexdigest(), files)


def _stamp(entry: "os.DirEntry[str]") -> tuple[str, int, int, bool]:
    """Return a file's name, size, time of change, and whether it is readable; a broken link's own if it is one."""
    try:
        status = entry.stat()
    except OSError:
        status = entry.stat(follow_symlinks=False)
    return entry.name, status.st_size, status.st_mtime_ns, os.access(entry.path, os.R_OK)


def is_marked_throughout(positions: Iterable[Position]) -> bool:
    """Return whether readers marked all sites, so that a study depends on no placer."""
    return sum(position.source is Source.ANNOTATED for position in positions) == len(SITES)


def record_key(
    study_input: StudyInput, placer: Placer | None, max_pixels: int, geometry: CropGeometry = DEFAULT_CROPS
) -> str:
    """Return a sha256 of everything that a study's record and images depend on; `placer` is None if it needs none."""
    made_from: tuple[Any, ...] = (
        RECORD_VERSION,
        study_input.digest,
        placer.fingerprint if placer else None,
        max_pixels,
    )
    if geometry.changes:  # the keys of earlier versions had no geometry
        made_from = (*made_from, geometry)
    return hashlib.sha256(repr(made_from).encode()).hexdigest()


def needed_decoders(kinds: Iterable[str]) -> str:
    """Return the installed decoders if one of the faults is a missing decoder, else an empty text."""
    return available_decoders() if FaultKind.NO_DECODER in kinds else ""


def site_row(study_id: int, position: Position) -> tuple[Any, ...]:
    """Return a row of ``sites.csv``; the side of the canal is None, which `csv` writes as empty."""
    return (
        study_id,
        *position.site.columns.values(),
        *position.point_mm,
        position.source,
        position.expected_error_mm,
        position.level_confidence,
    )


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


def find_regions(
    study: Study, positions: Mapping[Site, Position], tiles: int = 1
) -> tuple[list[Region], dict[str, int]]:
    """Return the regions of all sites in all their views, in the order of `SITES`, and the missing ones by reason.

    tiles: the largest number of tiles of a region.
    """
    found, missing = [], Counter[str]()
    for site in SITES:
        for view in site.views:
            result = (
                region(study, positions[site], view, tiles) if site in positions else Missing(site, view, "no_position")
            )
            if isinstance(result, Missing):
                missing[result.reason] += 1
            else:
                found.append(result)
    return found, dict(missing)


def crop_of(study: Study, found: Region, geometry: CropGeometry = DEFAULT_CROPS) -> Crop:
    """Return the crops of a region, (tiles, 3, size, size)."""
    series = next(series for series in study.series if series.series_id == found.series_id)
    indices = [series.index(number) for number in found.instance_numbers]
    slices = [series.slices[index] for index in indices if index is not None]
    frames = [image.frame for image in slices if image.frame is not None]
    crop_SHW = cut_crop(
        [image.grey for image in slices], frames, found.centre_mm, found.view, found.site.side, geometry
    )
    return crop_SHW.reshape(-1, CROP_SLICES, geometry.size, geometry.size)


def _write_crops(path: Path, crops: list[Crop], geometry: CropGeometry) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        none = np.zeros((0, CROP_SLICES, geometry.size, geometry.size), dtype=np.uint8)
        data = np.ascontiguousarray(np.concatenate([none, *crops]))
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(data))
        file.write(data.data)  # the errors of np.save have no errno


def _write_record(parts: Path, record: StudyRecord) -> None:
    content = {
        "key": record.key,
        "image_bytes": record.image_bytes,
        "slices": record.slices,
        "positions": [
            [
                position.site.key,
                position.point_mm,
                position.source,
                position.expected_error_mm,
                position.level_confidence,
            ]
            for position in record.positions
        ],
        "regions": [
            [
                found.site.key,
                found.view,
                found.series_id,
                found.instance_numbers,
                found.centre_mm,
                found.box,
                found.source,
                # Only several tiles leave open which of them lies at the site.
                *([found.instance_number] if found.tiles > 1 else []),
            ]
            for found in record.regions
        ],
        "not_imaged": record.not_imaged,
        "faults": [asdict(fault) for fault in record.faults],
        "decoders": record.decoders,
        "identity": record.identity,
        "digests": record.digests,
    }
    with replacing(parts / f"{record.study_id}.json") as partial:
        partial.write_text(json.dumps(content), encoding="utf-8")


def read_record(parts: Path, study_id: int) -> StudyRecord:
    """Read the record of a converted study. Raises OSError, ValueError, KeyError or TypeError if it is damaged."""
    content = json.loads((parts / f"{study_id}.json").read_text(encoding="utf-8"))
    positions = [
        Position(parse_row_id_site(key), tuple(point), Source(source), None, error, confidence)
        for key, point, source, error, confidence in content["positions"]
    ]
    regions = [_region(*cells) for cells in content["regions"]]
    faults = [Fault(**{**fault, "kind": FaultKind(fault["kind"])}) for fault in content["faults"]]
    return StudyRecord(
        study_id,
        content["key"],
        content["image_bytes"],
        content["slices"],
        positions,
        regions,
        content["not_imaged"],
        faults,
        content["decoders"],
        content["identity"],
        tuple(content["digests"]),
    )


def _region(
    key: str,
    view: str,
    series_id: int,
    numbers: list[int],
    centre: Sequence[float],
    box: Sequence[float],
    source: str,
    middle: int | None = None,
) -> Region:
    (x, y, z), (x0, y0, x1, y1) = centre, box
    middle = numbers[1] if middle is None else middle
    site = parse_row_id_site(key)
    return Region(site, View(view), series_id, tuple(numbers), middle, (x, y, z), (x0, y0, x1, y1), Source(source))


def read_crops(parts: Path, study_id: int) -> Crop:
    """Read the crops of a converted study, (tiles, 3, size, size), in the order of its record's regions."""
    crops: Crop = np.load(parts / f"{study_id}.npy", allow_pickle=False)
    return crops
