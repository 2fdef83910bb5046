"""data_prep/conversion/crops.py against a slow version that computes each pixel's position in the patient."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_prep.conversion.crop_geometry import CropGeometry
from data_prep.conversion.crops import cut_crop, open_crops, write_crops
from data_prep.geometry import Frame
from data_prep.sites import Side, View
from tests.dicom_files import frame

STEP = 5
"""The slow version computes every fifth pixel of every fifth row."""


def brightness(x, y, z):  # type: ignore[no-untyped-def]
    """Return the brightness at a position: different in every direction, and smooth on the scale of a pixel."""
    return 100 + 40 * np.sin(x / 17 + 1) + 50 * np.sin(y / 23 + 2) + 60 * np.sin(z / 19)


def imaged(place: Frame) -> np.ndarray:
    rows, columns = np.mgrid[: place.shape[0], : place.shape[1]]
    along, down = (
        np.array(place.row_direction) * place.spacing_mm[1],
        np.array(place.column_direction) * place.spacing_mm[0],
    )
    points = np.array(place.position_mm) + columns[..., None] * along + rows[..., None] * down
    return np.clip(np.rint(brightness(*np.moveaxis(points, -1, 0))), 0, 255).astype(np.uint8)


def slow_slice(place: Frame, centre: tuple[float, float, float], view: View, size: int, pixel_mm: float) -> np.ndarray:
    """Sample from the site's projection on the plane along those axes of the plane nearest to the patient's."""
    foot = np.asarray(centre) - place.distance_mm(centre) * place.normal
    axes = [sign * np.array(axis) for axis in (place.row_direction, place.column_direction) for sign in (1, -1)]
    to_column = max(axes, key=lambda axis: axis[1] if view.is_sagittal else axis[0])
    to_row = max(axes, key=lambda axis: -axis[2] if view.is_sagittal else axis[1])
    crop = np.zeros((len(range(0, size, STEP)),) * 2)
    middle = (size - 1) / 2
    for i in range(0, size, STEP):
        for j in range(0, size, STEP):
            point = foot + (j - middle) * pixel_mm * to_column + (i - middle) * pixel_mm * to_row
            column, row = place.to_pixel(point)
            if 0 <= column <= place.shape[1] - 1 and 0 <= row <= place.shape[0] - 1:
                crop[i // STEP, j // STEP] = brightness(*point)
    return crop


def unit(*vector: float) -> tuple[float, float, float]:
    x, y, z = np.array(vector) / np.linalg.norm(vector)
    return float(x), float(y), float(z)


SAGITTALS = [
    ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
    ((0.0, -1.0, 0.0), (0.0, 0.0, -1.0)),
    ((0.0, 0.0, -1.0), (0.0, 1.0, 0.0)),  # rotated by a quarter turn
    (unit(0.1, 1.0, 0.0), (0.0, 0.0, -1.0)),
]
AXIALS = [
    ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),
    ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
    ((1.0, 0.0, 0.0), unit(0.0, 1.0, 0.3)),
]
CASES = [(View.SAGITTAL_T1, directions) for directions in SAGITTALS] + [(View.AXIAL_T2, d) for d in AXIALS]


@pytest.mark.parametrize("geometry", [CropGeometry(), CropGeometry(63.9, 0.3), CropGeometry(100.0, 0.8)], ids=str)
@pytest.mark.parametrize(("view", "directions"), CASES)
def test_crops_equal_the_slow_version(view: View, directions, geometry: CropGeometry) -> None:  # type: ignore[no-untyped-def]
    spacing, shape = (0.9, 0.7), (90, 70)
    corner = -(np.array(directions[0]) * 0.7 * 35 + np.array(directions[1]) * 0.9 * 45)
    across = np.cross(*directions) * np.sign(np.cross(*directions)[np.argmax(np.abs(np.cross(*directions)))])
    frames = [frame(tuple(corner + step * across), directions, spacing, shape) for step in (-4.0, 0.0, 4.0)]
    centre = (1.3, -2.1, 2.7)
    images = [imaged(place) for place in frames]
    crop = cut_crop(images, frames, centre, view, Side.LEFT, geometry)
    size = round(geometry.field_mm / geometry.pixel_mm)
    assert crop.shape == (3, size, size) and crop.dtype == np.uint8
    for channel, place in zip(crop, frames, strict=True):
        expected = slow_slice(place, centre, view, size, geometry.pixel_mm)
        found = channel[::STEP, ::STEP].astype(float)
        inside = expected > 0
        assert inside.any() and not inside.all()
        assert np.abs(found[inside] - expected[inside]).max() < 1.6  # rounding and the curvature of the brightness
        assert not found[~inside].any()
    # For the right side, an axial crop flips its columns, and a sagittal one reverses its channels.
    right = cut_crop(images, frames, centre, view, Side.RIGHT, geometry)
    np.testing.assert_array_equal(right, crop[::-1] if view.is_sagittal else crop[:, :, ::-1])
    np.testing.assert_array_equal(cut_crop(images, frames, centre, view, None, geometry), crop)


def test_crops_do_not_depend_on_the_orientation_of_the_image() -> None:
    """Two orientations of a slice of one patient give equal crops."""
    frames = [
        frame((-40, -35, 0), AXIALS[0], (0.8, 0.8), (90, 110)),
        frame((40, 35, 0), AXIALS[1], (0.7, 0.9), (100, 90)),
        frame((-40, -35, 0), AXIALS[2], (0.8, 0.8), (110, 90)),
    ]
    crops = [cut_crop([imaged(place)] * 3, [place] * 3, (0, 0, 0), View.AXIAL_T2, None).astype(int) for place in frames]
    assert np.abs(crops[0] - crops[1]).max() <= 2 and np.abs(crops[0] - crops[2]).max() <= 2


def test_far_off_the_image_is_black() -> None:
    place = frame((0, 0, 0), AXIALS[0], (1.0, 1.0), (20, 20))
    assert not cut_crop([imaged(place)] * 3, [place] * 3, (500, 500, 0), View.AXIAL_T2, None).any()


@pytest.mark.parametrize("counts", [[2, 0, 3], [0]])
def test_crops_are_written_and_read_back(tmp_path: Path, counts: list[int]) -> None:
    random = np.random.default_rng(0)
    batches = [random.integers(0, 255, (n, 3, 128, 128)).astype(np.uint8) for n in counts]
    fingerprint = write_crops(tmp_path, batches, sum(counts))
    crops = open_crops(tmp_path)
    np.testing.assert_array_equal(crops, np.concatenate(batches))
    assert not crops.flags.writeable
    assert json.loads((tmp_path / "crops.json").read_text())["fingerprint"] == fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["crops.json", "crops.npy"]


def test_crops_that_do_not_match_their_description_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"crops\.json: no such file"):
        open_crops(tmp_path)
    write_crops(tmp_path, [np.zeros((2, 3, 128, 128), dtype=np.uint8)], 2)
    np.save(tmp_path / "crops.npy", np.zeros((1, 3, 128, 128), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"the shape in crops\.json is"):
        open_crops(tmp_path)
    for content in (b"junk", b""):
        (tmp_path / "crops.npy").write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read"):
            open_crops(tmp_path)
    (tmp_path / "crops.json").write_text('{"schema_version": 99}')
    with pytest.raises(ValueError, match="schema version 99"):
        open_crops(tmp_path)
