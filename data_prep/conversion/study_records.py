"""One study converted: its PNGs, its tiles, and a record of everything else, so that any process can do it.

A study's work is a pair of files in ``processed_data/.parts``: ``<study_id>.npy`` with its tiles, and
``<study_id>.json``, written last, with the rows that it adds to the tables. They are gathered when all
studies are done; an interrupted conversion finds those that are done already. A record counts while its
key is that of its input, and its images are there.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.conversion.crops import CROP_SIZE, TILE_SLICES, Tile, cut_tile
from data_prep.conversion.png import write_png
from data_prep.conversion.work_folder import parts_folder
from data_prep.dicom.decoders import available_decoders
from data_prep.faults import Fault, FaultKind
from data_prep.geometry import Frame
from data_prep.placement.placer import Placer
from data_prep.placement.regions import Missing, Position, Region, marked_positions, not_found, region
from data_prep.sites import SITE_COLUMNS, SITES, Site, Source, View, parse_row_id_site
from data_prep.studies.studies import Study, StudyFolder, read_study
from workspace.whole_files import replacing

SLICE_COLUMNS = (
    "study_id", "series_id", "instance_number", "image", "view", "stack", "rows", "columns",
    "spacing_row_mm", "spacing_column_mm", "position_x_mm", "position_y_mm", "position_z_mm",
    "row_x", "row_y", "row_z", "column_x", "column_y", "column_z", "window_low", "window_high",
)  # fmt: skip
"""Columns of ``slices.csv``; view and geometry are empty where unknown."""

SITES_CSV_COLUMNS = ("study_id", *SITE_COLUMNS, "x_mm", "y_mm", "z_mm", "source")
"""Columns of ``sites.csv``."""

#: What a record looks like, and how its images come about: a record of another version is made again.
RECORD_VERSION = 4


@dataclass(frozen=True)
class StudyRecord:
    """What one study adds to the tables. `key` names the input it was made from; image_bytes: its PNGs, together.

    decoders: what was installed, where a file lacked its decoder; it is another record once that is there.
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

    @property
    def images(self) -> set[str]:
        """Its PNGs' paths within ``processed_data``."""
        return {row[SLICE_COLUMNS.index("image")] for row in self.slices}


@dataclass(frozen=True)
class StudyInput:
    """A study to convert, a digest of all that its tables and files say, and the number of its files."""

    folder: StudyFolder
    digest: str
    files: int

    @property
    def name(self) -> str:
        return f"study {self.folder.study_id}"


@dataclass(frozen=True)
class Done:
    """A converted study: its images, the bytes of images and tiles, and those of tiles, which will be copied once."""

    images: int
    size: int
    tiles_size: int


def image_path(study_id: int, series_id: int, instance_number: int) -> str:
    """A PNG's place in ``processed_data/``."""
    return f"images/{study_id}/{series_id}/{instance_number}.png"


def convert_study(study_input: StudyInput, processed: Path, placer: Placer | None, max_pixels: int) -> Done:
    """Write one study's PNGs and its part.

    Raises FileNotFoundError where this process does not see the folders, as on a cluster's machine that has them not:
    the study's images would seem to be missing.
    """
    folder, parts = study_input.folder, parts_folder(processed)
    for path in (folder.root, parts):
        if not path.is_dir():
            raise FileNotFoundError(f"{path}: the process that converts {study_input.name} does not see this folder")
    # From here on the images may be new ones, so an older record is none of theirs.
    (parts / f"{folder.study_id}.json").unlink(missing_ok=True)
    study, faults = read_study(folder, max_pixels)
    rows, image_bytes = _write_images(study, processed)
    positions, mark_faults = marked_positions(study)
    if placer is not None:
        positions |= placer.place(study, positions)
    regions, not_imaged = _regions(study, positions)
    _write_tiles(parts / f"{study.study_id}.npy", [_tile(study, found) for found in regions])
    ordered = [positions[site] for site in SITES if site in positions]
    key = record_key(study_input, placer, max_pixels)
    faults = [*faults, *mark_faults, *not_found(study, positions)]
    decoders = decoders_that_matter(fault.kind for fault in faults)
    record = StudyRecord(study.study_id, key, image_bytes, rows, ordered, regions, not_imaged, faults, decoders)
    _write_record(parts, record)
    return _done(record)


def find_done(study_input: StudyInput, processed: Path, placer: Placer | None, max_pixels: int) -> Done | None:
    """What an interrupted conversion made of the same input; None where it made nothing, or not all is there."""
    study_id, parts = study_input.folder.study_id, parts_folder(processed)
    try:
        record = read_record(parts, study_id)
        if record.key != record_key(study_input, placer, max_pixels):
            return None
        if record.decoders != decoders_that_matter(fault.kind for fault in record.faults):
            return None
        sizes = [(processed / name).stat().st_size for name in record.images]
        tiles = np.load(parts / f"{study_id}.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
    whole = sum(sizes) == record.image_bytes and len(tiles) == len(record.regions)
    return _done(record) if whole else None


def _done(record: StudyRecord) -> Done:
    tiles_size = len(record.regions) * TILE_SLICES * CROP_SIZE**2
    return Done(len(record.slices), record.image_bytes + tiles_size, tiles_size)


def read_input(folder: StudyFolder) -> StudyInput:
    """A study's input as it is now: what the tables say of it, and its files' names, sizes and times."""
    digest = hashlib.sha256(repr((folder.study_id, folder.views, folder.marks)).encode())
    digest.update(repr([(site.key, int(grade)) for site, grade in sorted(folder.severities.items())]).encode())
    files = 0
    for series_id, path in sorted(folder.series.items()):
        try:
            with os.scandir(path) as entries:
                found = sorted(map(_stamp, entries))
        except OSError as error:
            found = [(str(error), 0, 0, False)]
        digest.update(repr((series_id, found)).encode())
        files += len(found)
    return StudyInput(folder, digest.hexdigest(), files)


def _stamp(entry: "os.DirEntry[str]") -> tuple[str, int, int, bool]:
    """A file's name, size, time and whether it may be read; a link's own where it leads nowhere."""
    try:
        status = entry.stat()
    except OSError:
        status = entry.stat(follow_symlinks=False)
    return entry.name, status.st_size, status.st_mtime_ns, os.access(entry.path, os.R_OK)


def record_key(study_input: StudyInput, placer: Placer | None, max_pixels: int) -> str:
    """sha256 of all that a study's record and images depend on."""
    made_from = (RECORD_VERSION, study_input.digest, placer.fingerprint if placer else None, max_pixels)
    return hashlib.sha256(repr(made_from).encode()).hexdigest()


def decoders_that_matter(kinds: Iterable[str]) -> str:
    """What is installed, where one of the faults is a lack of it; else nothing."""
    return available_decoders() if FaultKind.NO_DECODER in kinds else ""


def site_row(study_id: int, position: Position) -> tuple[Any, ...]:
    """Return a row of ``sites.csv``; the side of the canal is None, which `csv` writes as empty."""
    return (study_id, *position.site.columns.values(), *position.point_mm, position.source)


def _write_images(study: Study, processed: Path) -> tuple[list[list[Any]], int]:
    """A study's PNGs; their rows of ``slices.csv``, and their bytes."""
    rows: list[list[Any]] = []
    size = 0
    for series in study.series:
        (processed / "images" / str(study.study_id) / str(series.series_id)).mkdir(parents=True, exist_ok=True)
        stack_of = {place: number for number, stack in enumerate(series.stacks) for place in stack}
        for place, image in enumerate(series.slices):
            name = image_path(study.study_id, series.series_id, image.instance_number)
            grey = image.grey
            size += write_png(processed / name, grey)
            rows.append([study.study_id, series.series_id, image.instance_number, name, series.view or ""])
            rows[-1] += [stack_of.get(place, ""), *grey.shape, *_frame_cells(image.frame)]
            rows[-1] += image.window or series.window
    return rows, size


def _frame_cells(frame: Frame | None) -> list[Any]:
    """Spacing, position and directions, with nine digits: more than a header has."""
    if frame is None:
        return [""] * 11
    numbers = (*frame.spacing_mm, *frame.position_mm, *frame.row_direction, *frame.column_direction)
    return [float(f"{number:.9g}") for number in numbers]


def _regions(study: Study, positions: dict[Site, Position]) -> tuple[list[Region], dict[str, int]]:
    """Every site in each view that shows it, in the order of `SITES`; and why others are missing."""
    found, missing = [], Counter[str]()
    for site in SITES:
        for view in site.views:
            result = region(study, positions[site], view) if site in positions else Missing(site, view, "no_position")
            if isinstance(result, Missing):
                missing[result.reason] += 1
            else:
                found.append(result)
    return found, dict(missing)


def _tile(study: Study, found: Region) -> Tile:
    series = next(series for series in study.series if series.series_id == found.series_id)
    slices = [image for number in found.instance_numbers for image in series.slices if image.instance_number == number]
    frames = [image.frame for image in slices if image.frame is not None]
    return cut_tile([image.grey for image in slices], frames, found.centre_mm, found.view, found.site.side)


def _write_tiles(path: Path, tiles: list[Tile]) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        data = np.array(tiles, dtype=np.uint8).reshape(-1, TILE_SLICES, CROP_SIZE, CROP_SIZE)
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(data))
        file.write(data.data)  # np.save does not say why a write fails


def _write_record(parts: Path, record: StudyRecord) -> None:
    content = {
        "key": record.key,
        "image_bytes": record.image_bytes,
        "slices": record.slices,
        "positions": [[position.site.key, position.point_mm, position.source] for position in record.positions],
        "regions": [
            [
                found.site.key,
                found.view,
                found.series_id,
                found.instance_numbers,
                found.centre_mm,
                found.box,
                found.source,
            ]
            for found in record.regions
        ],
        "not_imaged": record.not_imaged,
        "faults": [asdict(fault) for fault in record.faults],
        "decoders": record.decoders,
    }
    with replacing(parts / f"{record.study_id}.json") as partial:
        partial.write_text(json.dumps(content), encoding="utf-8")


def read_record(parts: Path, study_id: int) -> StudyRecord:
    content = json.loads((parts / f"{study_id}.json").read_text(encoding="utf-8"))
    positions = [
        Position(parse_row_id_site(key), tuple(point), Source(source)) for key, point, source in content["positions"]
    ]
    regions = [
        Region(parse_row_id_site(key), View(view), series_id, tuple(numbers), tuple(centre), tuple(box), Source(source))
        for key, view, series_id, numbers, centre, box, source in content["regions"]
    ]
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
    )


def read_tiles(parts: Path, study_id: int) -> Tile:
    """(regions, 3, 128, 128) of one study, in the order of its record's regions."""
    tiles: Tile = np.load(parts / f"{study_id}.npy", allow_pickle=False)
    return tiles
