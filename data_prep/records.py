"""One study converted: its PNGs, its tiles, and a record of everything else, so that any process can do it.

A study's work is a pair of files in ``processed_data/.parts``: ``<study_id>.npy`` with its tiles, and
``<study_id>.json``, written last, with the rows that it adds to the tables. They are gathered when all
studies are done; an interrupted conversion finds those that are done already.
"""

import hashlib
import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.atlas import Atlas
from data_prep.crops import CROP_SIZE, TILE_SLICES, Tile, cut_tile
from data_prep.faults import Fault, FaultKind
from data_prep.png import write_png
from data_prep.regions import Missing, Position, Region, marked_positions, region
from data_prep.sites import SITES, Site, Source, View, parse_row_id_site
from data_prep.studies import Series, Study, StudyFolder, read_study

SLICE_COLUMNS = (
    "study_id", "series_id", "instance_number", "image", "view", "stack", "rows", "columns",
    "spacing_row_mm", "spacing_column_mm", "position_x_mm", "position_y_mm", "position_z_mm",
    "row_x", "row_y", "row_z", "column_x", "column_y", "column_z", "window_low", "window_high",
)  # fmt: skip
"""Columns of ``slices.csv``; view and geometry are empty where unknown."""

SITE_COLUMNS = ("study_id", "condition", "side", "level", "x_mm", "y_mm", "z_mm", "source")
"""Columns of ``sites.csv``."""

#: What a record looks like, and how its images come about: a record of another version is made again.
RECORD_VERSION = 2


@dataclass(frozen=True)
class StudyRecord:
    """What one study adds to the tables. `key` names the input it was made from."""

    study_id: int
    key: str
    slices: list[list[Any]]
    positions: list[Position]
    regions: list[Region]
    not_imaged: dict[str, int]
    faults: list[Fault]


def image_path(study_id: int, series_id: int, instance_number: int) -> str:
    """A PNG's place in ``processed_data/``."""
    return f"images/{study_id}/{series_id}/{instance_number}.png"


def convert_study(folder: StudyFolder, processed: Path, atlas: Atlas | None, max_pixels: int) -> int:
    """Write one study's PNGs and its part, unless the part is there already; its number of images."""
    parts = processed / ".parts"
    made_from = (RECORD_VERSION, study_key(folder), atlas.fingerprint if atlas else None, max_pixels)
    key = hashlib.sha256(repr(made_from).encode()).hexdigest()
    done = _read_if_current(parts, folder.study_id, key)
    if done is not None:
        return len(done.slices)
    study, faults = read_study(folder, max_pixels)
    rows = [row for series in study.series for row in _write_images(study.study_id, series, processed)]
    positions, mark_faults = marked_positions(study)
    if atlas is not None:
        positions |= atlas.place(study, positions)
    regions, not_imaged = _regions(study, positions)
    _write_tiles(parts / f"{study.study_id}.npy", [_tile(study, found) for found in regions])
    ordered = [positions[site] for site in SITES if site in positions]
    _write_record(parts, StudyRecord(study.study_id, key, rows, ordered, regions, not_imaged, [*faults, *mark_faults]))
    return len(rows)


def study_key(folder: StudyFolder) -> str:
    """sha256 of a study's input: what the tables say of it, and its files' names, sizes and times."""
    digest = hashlib.sha256(repr((folder.study_id, folder.views, folder.marks)).encode())
    digest.update(repr([(site.key, int(grade)) for site, grade in sorted(folder.severities.items())]).encode())
    for series_id, path in sorted(folder.series.items()):
        try:
            with os.scandir(path) as entries:
                found = sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in entries)
        except OSError as error:
            found = [(str(error), 0, 0)]
        digest.update(repr((series_id, found)).encode())
    return digest.hexdigest()


def site_row(study_id: int, position: Position) -> tuple[Any, ...]:
    """A row of ``sites.csv``."""
    site = position.site
    return (study_id, site.condition, site.side or "", site.level, *position.point_mm, position.source)


def _write_images(study_id: int, series: Series, processed: Path) -> list[list[Any]]:
    """PNGs of one series; its rows of ``slices.csv``."""
    stack_of = {place: number for number, stack in enumerate(series.stacks) for place in stack}
    rows = []
    (processed / "images" / str(study_id) / str(series.series_id)).mkdir(parents=True, exist_ok=True)
    for place, image in enumerate(series.slices):
        name = image_path(study_id, series.series_id, image.instance_number)
        write_png(processed / name, image.grey)
        row: list[Any] = [study_id, series.series_id, image.instance_number, name, series.view or ""]
        row += [stack_of.get(place, ""), *image.grey.shape]
        frame = image.frame
        if frame is None:
            row += [""] * 11
        else:
            numbers = (*frame.spacing_mm, *frame.position_mm, *frame.row_direction, *frame.column_direction)
            row += [float(f"{number:.9g}") for number in numbers]
        rows.append([*row, *series.window])
    return rows


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
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.save(file, np.array(tiles, dtype=np.uint8).reshape(-1, TILE_SLICES, CROP_SIZE, CROP_SIZE))
    partial.replace(path)


def _write_record(parts: Path, record: StudyRecord) -> None:
    partial = parts / f".{record.study_id}.json.partial"
    content = {
        "key": record.key,
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
    }
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(parts / f"{record.study_id}.json")


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
    return StudyRecord(study_id, content["key"], content["slices"], positions, regions, content["not_imaged"], faults)


def read_tiles(parts: Path, study_id: int) -> Tile:
    """(regions, 3, 128, 128) of one study, in the order of its record's regions."""
    tiles: Tile = np.load(parts / f"{study_id}.npy", allow_pickle=False)
    return tiles


def _read_if_current(parts: Path, study_id: int, key: str) -> StudyRecord | None:
    if not (parts / f"{study_id}.json").is_file() or not (parts / f"{study_id}.npy").is_file():
        return None
    record = read_record(parts, study_id)
    return record if record.key == key else None
