"""data_prep/conversion/crop_geometry.py: which geometries there are, in words, in JSON, and with its defaults."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from data_prep.conversion.crop_geometry import DEFAULT_CROPS, CropGeometry, crop_geometry
from data_prep.conversion.crops import open_crops, read_crop_geometry, write_crops
from workspace.setting_error import SettingError


def test_the_default_is_what_crops_were_before_there_was_a_choice(tmp_path: Path) -> None:
    assert (DEFAULT_CROPS.size, DEFAULT_CROPS.bytes_per_tile, DEFAULT_CROPS.changes) == (128, 3 * 128 * 128, {})
    assert crop_geometry({}) == DEFAULT_CROPS
    write_crops(tmp_path, [np.zeros((2, 3, 128, 128), dtype=np.uint8)], 2)
    description = json.loads((tmp_path / "crops.json").read_text())
    assert list(description) == ["schema_version", "shape", "field_mm", "pixel_mm", "fingerprint"]


@pytest.mark.parametrize(
    ("field_mm", "pixel_mm", "tiles", "setting", "words"),
    [
        (64.0, 0.0, 1, "pixel_mm", "0: must be greater than 0"),
        (64.0, -1.0, 1, "pixel_mm", "-1: must be greater than 0"),
        (64.0, float("nan"), 1, "pixel_mm", "nan: must be greater than 0"),
        (64.0, 0.01, 1, "pixel_mm", "0.01: makes crops of 6400 pixels"),
        (64.0, 4.0, 1, "pixel_mm", "4: makes crops of 16 pixels"),
        (10.0, 0.5, 1, "field_mm", "10: must be between 32 and 256"),
        (float("nan"), 0.5, 1, "field_mm", "nan: must be between 32 and 256"),
        (64.0, 0.3, 1, "field_mm", r"64: is no whole number of pixels of 0.3 mm (213.33); choose 63.9 or 64.2"),
        (64.0, 0.5, 0, "tiles_per_view", "0: must be an odd number"),
        (64.0, 0.5, 2, "tiles_per_view", "2: must be an odd number"),
        (64.0, 0.5, 99, "tiles_per_view", "99: must be an odd number from 1 to 15"),
    ],
)
def test_crops_that_cannot_be_are_refused(
    field_mm: float, pixel_mm: float, tiles: int, setting: str, words: str
) -> None:
    with pytest.raises(SettingError) as refusal:
        CropGeometry(field_mm, pixel_mm, tiles)
    assert refusal.value.setting == setting and words in str(refusal.value)


@pytest.mark.parametrize(("field_mm", "pixel_mm", "size"), [(63.9, 0.3, 213), (64.2, 0.3, 214), (100.0, 0.8, 125)])
def test_decimal_widths_are_whole_numbers_of_pixels(field_mm: float, pixel_mm: float, size: int) -> None:
    assert CropGeometry(field_mm, pixel_mm).size == size


def test_a_geometry_is_written_read_and_told_from_others(tmp_path: Path) -> None:
    geometry = CropGeometry(96.0, 0.75, 3)
    write_crops(tmp_path, [np.zeros((2, 3, 128, 128), dtype=np.uint8)], 2, geometry)
    assert read_crop_geometry(tmp_path) == geometry == crop_geometry(asdict(geometry))
    assert open_crops(tmp_path).shape == (2, 3, 128, 128)
    assert str(geometry) == "96 mm at 0.75 mm per pixel, 3 tiles per view"
    assert geometry.difference(geometry) == ""
    assert geometry.difference(DEFAULT_CROPS) == "pixels of 0.75 mm, not 0.5 mm"
    assert DEFAULT_CROPS.difference(CropGeometry(96.0)) == "a width of 64 mm, not 96 mm"
    assert DEFAULT_CROPS.difference(CropGeometry(tiles_per_view=3)) == "1 tile(s) per view, not 3"
    assert geometry.flags == "--field_mm 96 --pixel_mm 0.75 --tiles_per_view 3"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"field_mm": 96.0}, "describes crops of 96 mm at 0.5 mm per pixel, which have 192 pixels"),
        ({"pixel_mm": "fine"}, "pixel_mm 'fine': is no number"),
        ({"pixel_mm": True}, "pixel_mm True: is no number"),
        ({"tiles_per_view": 0}, "tiles_per_view 0: must be an odd number"),
    ],
)
def test_a_description_that_cannot_be_is_refused(tmp_path: Path, entry: dict[str, object], words: str) -> None:
    write_crops(tmp_path, [np.zeros((2, 3, 128, 128), dtype=np.uint8)], 2)
    description = json.loads((tmp_path / "crops.json").read_text())
    (tmp_path / "crops.json").write_text(json.dumps(description | entry))
    with pytest.raises(ValueError, match=r"run prepare_data\.py again") as refusal:
        open_crops(tmp_path)
    assert words in str(refusal.value)
