"""Regions to tiles, and tiles to one memory-mapped array that training reads without decoding anything.

A tile is uint8 (3, 128, 128): three neighbouring slices, each `FIELD_MM` wide at `PIXEL_MM` a pixel,
centred on the site, in one orientation whatever the acquisition's was:

- sagittal: columns run to +y (posterior), rows to -z (caudal), channels to +x (the patient's left);
- axial: columns run to +x (the patient's left: a radiologist's view), rows to +y, channels to +z.

Right-sided sites are mirrored onto the left: axial tiles flip their columns, sagittal ones reverse
their channels. Tiles are cut in the plane of their slice, along its pixel axes. Off the image is 0.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.geometry import Array, Frame, Vector
from data_prep.sites import Side, View
from workspace.json_files import read_object
from workspace.whole_files import replacing

FIELD_MM = 64.0
#: Side of the square in the middle that the model sees; the margin is what augmentation draws from.
VIEW_MM = 48.0
PIXEL_MM = 0.5
CROP_SIZE = 128
TILE_SLICES = 3
SCHEMA_VERSION = 1

Tile = npt.NDArray[np.uint8]

#: Patient directions of a tile's columns and rows.
_CANONICAL = {True: ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)), False: ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))}


def cut_tile(
    images: Sequence[npt.NDArray[np.uint8]], frames: Sequence[Frame], centre_mm: Vector, view: View, side: Side | None
) -> Tile:
    """(3, 128, 128) from three slices in stack order (right to left, or caudal to cranial)."""
    tile = np.stack(
        [_cut_slice(image, frame, centre_mm, view) for image, frame in zip(images, frames, strict=True)]
    )  # CHW
    if side is Side.RIGHT:
        tile = tile[::-1] if view.is_sagittal else tile[:, :, ::-1]
    return np.ascontiguousarray(tile)


def _cut_slice(image: npt.NDArray[np.uint8], frame: Frame, centre_mm: Vector, view: View) -> npt.NDArray[np.uint8]:
    """(128, 128): bilinear along the pixel axes, which are those of the tile up to a swap and signs."""
    to_columns, to_rows = (np.array(direction) for direction in _CANONICAL[view.is_sagittal])
    row_direction, column_direction = np.array(frame.row_direction), np.array(frame.column_direction)
    upright = abs(row_direction @ to_columns) + abs(column_direction @ to_rows)
    turned = abs(row_direction @ to_rows) + abs(column_direction @ to_columns)
    if upright < turned:
        # The image lies on its side: read its columns as rows.
        to_columns, to_rows = to_rows, to_columns
    offset_mm = (np.arange(CROP_SIZE) - (CROP_SIZE - 1) / 2) * PIXEL_MM
    column, row = frame.to_pixel(centre_mm)
    columns = column + np.sign(row_direction @ to_columns) * offset_mm / frame.spacing_mm[1]
    rows = row + np.sign(column_direction @ to_rows) * offset_mm / frame.spacing_mm[0]
    # Only the columns that are needed, and the one after: the rest of the image would be interpolated for nothing.
    first = int(np.clip(np.floor(columns.min()), 0, image.shape[1] - 1))
    strip = image[:, first : max(int(np.floor(columns.max())) + 2, first + 1)]
    crop = _interpolate(_interpolate(strip, rows).T, columns - first).T
    return np.rint(crop if upright >= turned else crop.T).astype(np.uint8)


def _interpolate(image: npt.NDArray[np.uint8] | npt.NDArray[np.float32], places: Array) -> npt.NDArray[np.float32]:
    """Rows of `image` at fractional places, linearly between neighbours; 0 where a place is off the image."""
    last = len(image) - 1
    below = np.clip(np.floor(places).astype(int), 0, max(last - 1, 0))
    above = np.minimum(below + 1, last)
    weight = (places - below).astype(np.float32)[:, None]
    inside = ((places >= 0) & (places <= last)).astype(np.float32)[:, None]
    return ((1 - weight) * image[below] + weight * image[above]) * inside


def write_crops(processed: Path, tiles: Iterable[Tile], count: int) -> str:
    """Write `count` tiles, which come in batches (N, 3, 128, 128), as crops.npy and crops.json; their fingerprint.

    Both files appear by rename, crops.json last.
    """
    shape = (count, TILE_SLICES, CROP_SIZE, CROP_SIZE)
    digest = hashlib.sha256()
    written = 0
    (processed / "crops.json").unlink(missing_ok=True)
    with replacing(processed / "crops.npy") as partial, partial.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for batch in tiles:
            data = np.ascontiguousarray(batch).tobytes()
            digest.update(data)
            file.write(data)
            written += len(batch)
        assert written == count, (written, count)
    description = {
        "schema_version": SCHEMA_VERSION,
        "shape": shape,
        "field_mm": FIELD_MM,
        "pixel_mm": PIXEL_MM,
        "fingerprint": digest.hexdigest(),
    }
    with replacing(processed / "crops.json") as partial:
        partial.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return digest.hexdigest()


def open_crops(processed: Path) -> npt.NDArray[np.uint8]:
    """crops.npy, memory-mapped and read-only: (R, 3, 128, 128), one tile a pair.

    Raises ValueError where it is missing, of another version, or not what crops.json says it is.
    """
    description = read_object(processed / "crops.json", "prepare_data.py", SCHEMA_VERSION)
    try:
        crops: npt.NDArray[np.uint8] = np.load(processed / "crops.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{processed / 'crops.npy'}: cannot be read ({error}); run prepare_data.py again") from None
    if list(crops.shape) != description.get("shape") or crops.dtype != np.uint8:
        raise ValueError(
            f"{processed / 'crops.npy'}: {crops.dtype} {crops.shape}, but crops.json says {description.get('shape')}"
        )
    return crops
