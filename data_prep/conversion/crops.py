"""Crops: the pixels of the regions, in one memory-mapped array that training reads without decoding files.

A crop is uint8 (3, size, size): the three neighbouring slices of a tile, each as wide as its `CropGeometry` says (by
default 64 mm in 128 pixels), centred on the site, in one orientation whatever that of the acquisition was:

- sagittal: columns run to +y (posterior), rows to -z (caudal), channels to +x (the patient's left);
- axial: columns run to +x (the patient's left: a radiologist's view), rows to +y, channels to +z.

Crops of right-sided sites are mirrored onto the left: axial ones flip their columns, sagittal ones reverse
their slices. Crops are cut in the plane of their slice, along its pixel axes. Pixels off the image are 0.
If a site has several tiles in a view, they follow each other in ``crops.npy`` as their slices do in the mirrored crop.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.conversion.crop_geometry import CROP_SLICES, DEFAULT_CROPS, CropGeometry, crop_geometry
from data_prep.geometry import Array, Frame, Vector
from data_prep.sites import Side, View
from workspace.json_files import read_object
from workspace.whole_files import replacing

SCHEMA_VERSION = 1

Crop = npt.NDArray[np.uint8]

#: Patient directions of a crop's columns and rows, for sagittal views and for axial ones.
_CANONICAL = {True: ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)), False: ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))}


def cut_crop(
    images: Sequence[npt.NDArray[np.uint8]],
    frames: Sequence[Frame],
    centre_mm: Vector,
    view: View,
    side: Side | None,
    geometry: CropGeometry = DEFAULT_CROPS,
) -> Crop:
    """Return the crop (S, size, size) of S slices in stack order (right to left, or caudal to cranial).

    Args:
        images: The slices: the three of a tile, or those of several tiles.
        frames: Their geometry.
        centre_mm: The site's position.
        view: The view of the slices.
        side: The site's side; crops of the right are mirrored.
        geometry: The width and the pixels of the crop.
    """
    crop = np.stack(
        [_cut_slice(image, frame, centre_mm, view, geometry) for image, frame in zip(images, frames, strict=True)]
    )  # SHW
    if side is Side.RIGHT:
        crop = crop[::-1] if view.is_sagittal else crop[:, :, ::-1]
    return np.ascontiguousarray(crop)


def _cut_slice(
    image: npt.NDArray[np.uint8], frame: Frame, centre_mm: Vector, view: View, geometry: CropGeometry
) -> npt.NDArray[np.uint8]:
    """Return one slice of a crop, (size, size), by bilinear interpolation.

    The image's pixel axes are those of the crop up to their order and signs.
    """
    to_columns, to_rows = (np.array(direction) for direction in _CANONICAL[view.is_sagittal])
    row_direction, column_direction = np.array(frame.row_direction), np.array(frame.column_direction)
    upright = abs(row_direction @ to_columns) + abs(column_direction @ to_rows)
    turned = abs(row_direction @ to_rows) + abs(column_direction @ to_columns)
    if upright < turned:
        # The image is rotated by a quarter turn: its columns are the crop's rows.
        to_columns, to_rows = to_rows, to_columns
    offset_mm = (np.arange(geometry.size) - (geometry.size - 1) / 2) * geometry.pixel_mm
    column, row = frame.to_pixel(centre_mm)
    columns = column + np.sign(row_direction @ to_columns) * offset_mm / frame.spacing_mm[1]
    rows = row + np.sign(column_direction @ to_rows) * offset_mm / frame.spacing_mm[0]
    # Only the columns that the crop needs are interpolated, and the one after them.
    first = int(np.clip(np.floor(columns.min()), 0, image.shape[1] - 1))
    strip = image[:, first : max(int(np.floor(columns.max())) + 2, first + 1)]
    crop = _interpolate(_interpolate(strip, rows, axis=0), columns - first, axis=1)
    return np.rint(crop if upright >= turned else crop.T).astype(np.uint8)


def _interpolate(
    image: npt.NDArray[np.uint8] | npt.NDArray[np.float32], positions: Array, axis: int
) -> npt.NDArray[np.float32]:
    """Interpolate the rows (axis 0) or columns of `image` linearly at fractional positions; 0 off the image."""
    last = image.shape[axis] - 1
    below = np.clip(np.floor(positions).astype(int), 0, max(last - 1, 0))
    weight, across = (positions - below).astype(np.float32), (slice(None), None) if axis == 0 else (None, slice(None))
    crop: npt.NDArray[np.float32] = (1 - weight)[across] * image.take(below, axis)
    crop += weight[across] * image.take(np.minimum(below + 1, last), axis)
    inside = (positions >= 0) & (positions <= last)
    if not inside.all():
        crop *= inside.astype(np.float32)[across]
    return crop


def write_crops(processed: Path, batches: Iterable[Crop], count: int, geometry: CropGeometry = DEFAULT_CROPS) -> str:
    """Write crops.npy and crops.json, both by rename, crops.json last; return the fingerprint of the crops.

    The crops come in batches (N, 3, size, size); `count` is their total number.
    """
    shape = (count, CROP_SLICES, geometry.size, geometry.size)
    digest = hashlib.sha256()
    written = 0
    (processed / "crops.json").unlink(missing_ok=True)
    with replacing(processed / "crops.npy") as partial, partial.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for batch in batches:
            data = np.ascontiguousarray(batch).tobytes()
            digest.update(data)
            file.write(data)
            written += len(batch)
        assert written == count, (written, count)
    description = {
        "schema_version": SCHEMA_VERSION,
        "shape": shape,
        "field_mm": geometry.field_mm,
        "pixel_mm": geometry.pixel_mm,
        **({"tiles_per_view": geometry.tiles_per_view} if geometry.tiles_per_view > 1 else {}),
        "fingerprint": digest.hexdigest(),
    }
    with replacing(processed / "crops.json") as partial:
        partial.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return digest.hexdigest()


def open_crops(processed: Path) -> npt.NDArray[np.uint8]:
    """Open crops.npy memory-mapped and read-only: (R, 3, size, size), the tiles of all pairs.

    Raises ValueError if it does not exist, has another version, or does not match crops.json.
    """
    description = _read_description(processed)
    geometry = _geometry_of(processed, description)
    try:
        crops: npt.NDArray[np.uint8] = np.load(processed / "crops.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{processed / 'crops.npy'}: cannot be read ({error}); run prepare_data.py again") from None
    if list(crops.shape) != description.get("shape") or crops.dtype != np.uint8:
        raise ValueError(
            f"{processed / 'crops.npy'}: {crops.dtype} {crops.shape}, but the shape in crops.json is "
            f"{description.get('shape')}; run prepare_data.py again"
        )
    if crops.ndim != 4 or crops.shape[1:] != (CROP_SLICES, geometry.size, geometry.size):
        raise ValueError(
            f"{processed / 'crops.npy'}: {crops.shape}, but crops.json describes crops of {geometry}, which have "
            f"{geometry.size} pixels; run prepare_data.py again"
        )
    return crops


def read_crop_geometry(processed: Path) -> CropGeometry:
    """Return the geometry of the crops. Raises ValueError if crops.json does not exist or is damaged."""
    return _geometry_of(processed, _read_description(processed))


def check_size(crops_R3HW: npt.NDArray[np.uint8], geometry: CropGeometry) -> None:
    """Raise ValueError if crops cannot have this geometry, because they have another number of pixels."""
    if crops_R3HW.shape[2:] != (geometry.size, geometry.size):
        raise ValueError(f"crops of {crops_R3HW.shape[2:]} pixels are not those of {geometry} ({geometry.size} pixels)")


def _read_description(processed: Path) -> dict[str, Any]:
    return read_object(processed / "crops.json", "prepare_data.py", SCHEMA_VERSION)


def _geometry_of(processed: Path, description: dict[str, Any]) -> CropGeometry:
    try:
        return crop_geometry(description)
    except ValueError as error:
        raise ValueError(f"{processed / 'crops.json'}: {error}; run prepare_data.py again") from None
