"""What a conversion keeps of one study until all are merged: its crops, and a record of its rows of the tables.

A converted study's part is two files in ``processed_data/.parts``: ``<study_id>.npy`` with its crops, and
``<study_id>.json``, the record, written last, with its rows of the tables. The parts are merged when all
studies are converted; a resumed conversion keeps the existing ones. A record is valid while its key is that
of the study's input, and its images exist.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.conversion.crop_geometry import CROP_SLICES, DEFAULT_CROPS, CropGeometry
from data_prep.conversion.crops import Crop
from data_prep.conversion.study_input import StudyInput
from data_prep.dicom.decoders import available_decoders
from data_prep.faults import Fault, FaultKind
from data_prep.placement.placer import Placer
from data_prep.placement.regions import (
    Position,
    Region,
)
from data_prep.sites import SITE_COLUMNS, SITES, Source, View, parse_row_id_site
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
RECORD_VERSION = 8


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


def write_crops(path: Path, crops: list[Crop], geometry: CropGeometry) -> None:
    """Write the crops of a study's regions, by rename."""
    with replacing(path) as partial, partial.open("wb") as file:
        none = np.zeros((0, CROP_SLICES, geometry.size, geometry.size), dtype=np.uint8)
        data = np.ascontiguousarray(np.concatenate([none, *crops]))
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(data))
        file.write(data.data)  # the errors of np.save have no errno


def write_record(parts: Path, record: StudyRecord) -> None:
    """Write the record of a converted study, by rename."""
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
