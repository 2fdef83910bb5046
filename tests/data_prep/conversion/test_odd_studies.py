"""Unusual studies: the positions of sites do not depend on how the same anatomy is stored, and no site is lost."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom import Dataset, dcmread

import prepare_data
from data_prep.phantom import write_cohort
from data_prep.placement.shipped_atlas import shipped_atlas
from data_prep.sites import SITES
from locator.locator import Locator
from locator.network import new_network
from locator.saved_locator import save_locator
from locator.spine_prior import SpinePrior
from tests.locator.test_locator import run_script
from workspace.layout import DataRoot

Edit = Callable[[Path], None]
AXIAL_NORMAL = 2  # patient z


def orientation(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    values = np.array(dataset.ImageOrientationPatient, dtype=float)
    return values[:3], values[3:]


def is_axial(dataset: Dataset) -> bool:
    return bool(np.argmax(np.abs(np.cross(*orientation(dataset)))) == AXIAL_NORMAL)


def each_file(study: Path, change: Callable[[Dataset], None], *, axial: bool | None = None) -> None:
    for path in sorted(study.rglob("*.dcm")):
        dataset = dcmread(path)
        if axial is None or is_axial(dataset) == axial:
            change(dataset)
            dataset.save_as(path)


def set_pixels(dataset: Dataset, pixels: np.ndarray) -> None:
    dataset.set_pixel_data(np.ascontiguousarray(pixels), "MONOCHROME2", dataset.BitsStored, generate_instance_uid=False)


def turned_upside_down(dataset: Dataset) -> None:
    """Store the same slice with its rows from the last to the first."""
    across, down = orientation(dataset)
    last = (dataset.Rows - 1) * float(dataset.PixelSpacing[0])
    dataset.ImagePositionPatient = [*(np.array(dataset.ImagePositionPatient, dtype=float) + last * down)]
    dataset.ImageOrientationPatient = [*across, *-down]
    set_pixels(dataset, dataset.pixel_array[::-1])


def mirrored(dataset: Dataset) -> None:
    """Store the same slice with its columns from the last to the first."""
    across, down = orientation(dataset)
    last = (dataset.Columns - 1) * float(dataset.PixelSpacing[1])
    dataset.ImagePositionPatient = [*(np.array(dataset.ImagePositionPatient, dtype=float) + last * across)]
    dataset.ImageOrientationPatient = [*-across, *down]
    set_pixels(dataset, dataset.pixel_array[:, ::-1])


def of_oblong_pixels(dataset: Dataset) -> None:
    """Keep every second column and double the column spacing; the centres of columns do not move."""
    rows, columns = dataset.PixelSpacing
    dataset.PixelSpacing = [rows, 2 * float(columns)]
    set_pixels(dataset, dataset.pixel_array[:, ::2])


def in_reverse(study: Path) -> None:
    """Reverse the instance numbers, and with them the files' names."""
    for series in study.iterdir():
        files = sorted(series.glob("*.dcm"), key=lambda path: int(path.stem))
        numbers = [int(path.stem) for path in files]
        for path, number in zip(files, reversed(numbers), strict=True):
            dataset = dcmread(path)
            dataset.InstanceNumber = number
            dataset.save_as(series / f"{number}.turned")
        for path in files:
            path.unlink()
        for path in series.glob("*.turned"):
            path.rename(path.with_suffix(".dcm"))


def of_the_upper_half(dataset: Dataset) -> None:
    """Keep the upper half of a sagittal slice."""
    set_pixels(dataset, dataset.pixel_array[: dataset.Rows // 3])


def with_one_slice_each(study: Path) -> None:
    for series in study.iterdir():
        for path in sorted(series.glob("*.dcm"))[1:]:
            path.unlink()


def with_one_series(study: Path) -> None:
    for series in sorted(study.iterdir())[1:]:
        shutil.rmtree(series)


#: Changes of the storage of the same anatomy.
ALIKE: dict[str, Edit] = {
    "axial upside down": lambda study: each_file(study, turned_upside_down, axial=True),
    "axial mirrored": lambda study: each_file(study, mirrored, axial=True),
    "sagittal upside down": lambda study: each_file(study, turned_upside_down, axial=False),
    "in reverse": in_reverse,
}
#: Changes that remove a part of the anatomy.
LESS: dict[str, Edit] = {
    "oblong pixels": lambda study: each_file(study, of_oblong_pixels),
    "thoracic end": lambda study: each_file(study, of_the_upper_half, axial=False),
    "one slice a series": with_one_slice_each,
    "one series": with_one_series,
}
IDS = {name: 500 + number for number, name in enumerate(("as it is", *ALIKE, *LESS))}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, str]]]:
    """The rows of ``sites.csv`` by study; all sites are placed by a locator with untrained networks."""
    root = DataRoot(write_cohort(tmp_path_factory.mktemp("odd"), train=0, test=1, seed=12))
    images = root.images("test")
    (whole,) = images.iterdir()
    for name, number in IDS.items():
        shutil.copytree(whole, images / str(number))
        if edit := {**ALIKE, **LESS}.get(name):
            edit(images / str(number))
    shutil.rmtree(whole)
    for table in ("test_series_descriptions.csv", "sample_submission.csv"):
        root.table(table).unlink()
    save_untrained_locator(root.run("locator") / "final")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("locator.locator.MAX_EXPECTED_ERROR_MM", 1000.0)  # also use uncertain positions
        assert run_script(patch, prepare_data, "--root", str(root.path), "--workers", "1") == 0
    rows: dict[int, list[dict[str, str]]] = {}
    with (root.processed("test") / "sites.csv").open() as file:
        for row in csv.DictReader(file):
            rows.setdefault(int(row["study_id"]), []).append(row)
    return rows


def save_untrained_locator(folder: Path) -> None:
    torch.manual_seed(0)
    atlas = shipped_atlas()
    prior = SpinePrior(atlas.shape_N3, 9.0 * np.eye(3 * len(SITES)), 2)
    save_locator(Locator(new_network(), prior, atlas), folder, {})


def positions(rows: list[dict[str, str]]) -> np.ndarray:
    """Return the positions of the rows, (25, 3) in mm."""
    return np.array([[float(row[name]) for name in ("x_mm", "y_mm", "z_mm")] for row in rows])


@pytest.mark.parametrize("name", ALIKE)
def test_positions_do_not_depend_on_how_the_anatomy_is_stored(rows: dict[int, list[dict[str, str]]], name: str) -> None:
    as_it_is, other = positions(rows[IDS["as it is"]]), positions(rows[IDS[name]])
    assert as_it_is.shape == other.shape == (25, 3)
    assert np.linalg.norm(as_it_is - other, axis=1).max() < 0.5
    assert {row["source"] for row in rows[IDS[name]]} == {"located"}


@pytest.mark.parametrize("name", LESS)
def test_all_sites_are_placed_if_a_part_of_the_anatomy_is_missing(
    rows: dict[int, list[dict[str, str]]], name: str
) -> None:
    found = rows[IDS[name]]
    assert positions(found).shape == (25, 3) and np.isfinite(positions(found)).all()
    assert {row["source"] for row in found} == {"located"}
