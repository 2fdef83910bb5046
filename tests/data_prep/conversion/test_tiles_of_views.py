"""The tiles of a view: in the order of the patient's millimetres, whatever the order of the stack and the side."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.conversion.convert import convert_cohort
from data_prep.conversion.crop_geometry import CropGeometry
from data_prep.conversion.crops import cut_crop, open_crops, read_crop_geometry
from data_prep.conversion.pairs import Dataset, Pair, read_dataset
from data_prep.conversion.study_regions import crop_of
from data_prep.geometry import Frame, stacks
from data_prep.phantom import write_cohort
from data_prep.placement.regions import Position, Region, region
from data_prep.sites import SITES, Side, Site, Source, View
from data_prep.studies.cohorts import split_cohort
from data_prep.studies.studies import Series, Slice, Study
from prompts.render import caption
from tests.dicom_files import AXIAL, SAGITTAL, frame
from workspace.layout import DataRoot

GEOMETRY = CropGeometry(32.0, 1.0, 5)


def stack(series_id: int, view: View, heights_mm: list[float]) -> Series:
    """Return a series whose slices have the brightness of their place: that in millimetres, plus 100.

    The instance numbers count from 1 in the order given, that of the acquisition.
    """
    frames = [
        frame((height, -60, 60), SAGITTAL, (1.0, 1.0), (120, 120))
        if view.is_sagittal
        else frame((-60, -60, height), AXIAL, (1.0, 1.0), (120, 120))
        for height in heights_mm
    ]
    order = stacks(frames)[0]
    slices = tuple(
        Slice(index + 1, frames[index], np.full((120, 120), 100 + heights_mm[index], dtype=np.uint8)) for index in order
    )
    return Series(series_id, view, slices, (tuple(range(len(order))),), (0.0, 1.0))


def expected_heights(heights_mm: list[float], height: float, tiles: int, mirrored: bool) -> list[list[float]]:
    """Return, slowly, the heights of the slices of each tile: from the sorted places in the patient alone."""
    places = sorted(heights_mm)
    own = min(range(len(places)), key=lambda index: abs(places[index] - height))
    found = []
    for step in range(-(tiles // 2), tiles // 2 + 1):
        middle = own + 3 * step
        if 0 <= middle < len(places):
            around = [index if 0 <= index < len(places) else middle for index in (middle - 1, middle, middle + 1)]
            found.append([places[index] for index in around])
    return [tile[::-1] for tile in found[::-1]] if mirrored else found


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("view", [View.SAGITTAL_T1, View.AXIAL_T2])
def test_tiles_follow_the_patient_not_the_stack(view: View, is_reversed: bool) -> None:
    random = np.random.default_rng(0)
    counts = set()
    for _ in range(40):
        first, number = int(random.integers(-40, 0)), int(random.integers(1, 22))
        heights = [float(first + 4 * index) for index in range(number)]
        acquired = heights[::-1] if is_reversed else heights
        site = next(site for site in SITES if site.side is (Side.LEFT if random.random() < 0.5 else Side.RIGHT))
        height = float(random.choice(heights)) + float(random.uniform(-1.9, 1.9))
        point = (height, 0.0, 0.0) if view.is_sagittal else (0.0, 0.0, height)
        whole = Study(1, (stack(3, view, acquired),), {}, ())
        found = region(whole, Position(site, point, Source.ATLAS), view, GEOMETRY.tiles_per_view)
        assert isinstance(found, Region)
        mirrored = site.side is Side.RIGHT and view.is_sagittal
        expected = expected_heights(heights, height, GEOMETRY.tiles_per_view, mirrored)
        crops = crop_of(whole, found, GEOMETRY)
        assert crops.shape == (len(expected), 3, 32, 32) and found.tiles == len(expected)
        np.testing.assert_array_equal(crops[:, :, 16, 16].astype(float) - 100, expected)
        pair = pair_of(found, crop=70)
        nearest = min(heights, key=lambda place: abs(place - height))
        assert [expected[row - pair.crops[0]][1] for row in (pair.crop,)] == [nearest]
        assert pair.crops[pair.offsets.index(0)] == pair.crop
        assert np.diff(pair.offsets).tolist() == [1] * (len(expected) - 1) == np.diff(pair.crops).tolist()
        counts.add(len(expected))
    assert counts >= {1, 2, 3, 4, 5}


def pair_of(found: Region, crop: int) -> Pair:
    return Pair(
        1,
        found.site,
        found.view,
        found.series_id,
        found.instance_number,
        found.instance_numbers,
        "images/1/3/1.png",
        found.box,
        "",
        None,
        found.source,
        None,
        crop,
    )


def test_one_tile_is_the_triple_that_it_was() -> None:
    whole = Study(1, (stack(3, View.SAGITTAL_T1, [0.0, 4.0, 8.0]),), {}, ())
    site = Site.from_columns({"condition": "neural_foraminal_narrowing", "side": "left", "level": "L4-L5"})
    found = region(whole, Position(site, (8.0, 0.0, 0.0), Source.ATLAS), View.SAGITTAL_T1)
    assert isinstance(found, Region) and found.instance_numbers == (2, 3, 3) and found.instance_number == 3
    assert pair_of(found, 4).crops == (4,)


@pytest.fixture(scope="module")
def processed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom study, converted with three tiles per view."""
    root = DataRoot(tmp_path_factory.mktemp("tiles"))
    write_cohort(root.path, train=1, test=0, seed=8, size="small")
    out = root.path / "out"
    cohort = split_cohort(root, "train")
    convert_cohort(cohort, out, atlas=None, caption=caption, folds=2, geometry=CropGeometry(48.0, 0.6, 3))
    return out


def slices_of(processed: Path) -> dict[int, list[tuple[int, Frame, np.ndarray]]]:
    """Return series -> its (instance number, frame, pixels), from slices.csv and the PNGs."""
    found: dict[int, list[tuple[int, Frame, np.ndarray]]] = {}
    with (processed / "slices.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            place = Frame(
                tuple(float(row[f"position_{axis}_mm"]) for axis in "xyz"),  # type: ignore[arg-type]
                tuple(float(row[f"row_{axis}"]) for axis in "xyz"),  # type: ignore[arg-type]
                tuple(float(row[f"column_{axis}"]) for axis in "xyz"),  # type: ignore[arg-type]
                (float(row["spacing_row_mm"]), float(row["spacing_column_mm"])),
                (int(row["rows"]), int(row["columns"])),
            )
            pixels = np.asarray(Image.open(processed / row["image"]))
            found.setdefault(int(row["series_id"]), []).append((int(row["instance_number"]), place, pixels))
    return found


def test_a_converted_study_has_its_tiles_in_the_order_of_the_patient(processed: Path) -> None:
    """Each slice of each crop is cut again from the PNG that lies where it should lie in the patient."""
    dataset, crops, geometry = read_dataset(processed), open_crops(processed), read_crop_geometry(processed)
    assert geometry == CropGeometry(48.0, 0.6, 3)
    series = slices_of(processed)
    centre_of = centres(processed)
    assert sorted(row for pair in dataset.pairs for row in pair.crops) == list(range(len(crops)))
    assert {len(pair.crops) for pair in dataset.pairs} >= {2, 3}
    for pair in dataset.pairs:
        centre = centre_of[pair.site.key]
        normal = next(place.normal for number, place, _ in series[pair.series_id] if number == pair.instance_number)
        normal = normal * np.sign(normal[np.argmax(np.abs(normal))])
        own = next(entry for entry in series[pair.series_id] if entry[0] == pair.instance_number)
        parallel = [entry for entry in series[pair.series_id] if abs(entry[1].normal @ own[1].normal) > 0.999]
        parallel.sort(key=lambda entry: float(entry[1].centre_mm @ normal))
        here = parallel.index(own)
        for row, offset in zip(pair.crops, pair.offsets, strict=True):
            sign = -1 if pair.site.side is Side.RIGHT and pair.view.is_sagittal else 1
            for channel, step in enumerate((-1, 0, 1)):
                middle = here + sign * 3 * offset
                index = middle + sign * step
                if not 0 <= index < len(parallel) or far(parallel[index], parallel[middle]):
                    index = middle
                _, place, pixels = parallel[index]
                cut = cut_crop([pixels], [place], centre, pair.view, None, geometry)[0]
                if pair.site.side is Side.RIGHT and not pair.view.is_sagittal:
                    cut = cut[:, ::-1]
                difference = np.abs(cut.astype(int) - crops[row, channel].astype(int))
                assert difference.max() <= 1, (pair.site.key, pair.view, offset, step)


def far(one: tuple[int, Frame, np.ndarray], other: tuple[int, Frame, np.ndarray]) -> bool:
    """Whether two slices lie in different blocks of a stack."""
    return abs(float(one[1].distance_mm(other[1].centre_mm))) > 10


def centres(processed: Path) -> dict[str, tuple[float, float, float]]:
    with (processed / "sites.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {Site.from_columns(row).key: (float(row["x_mm"]), float(row["y_mm"]), float(row["z_mm"])) for row in rows}


def test_the_pairs_of_several_tiles_are_still_one_per_site_and_view(processed: Path) -> None:
    dataset: Dataset = read_dataset(processed)
    keys = [(pair.site, pair.view) for pair in dataset.pairs]
    assert len(keys) == len(set(keys))
    assert all(len(pair.instance_numbers) == 3 * len(pair.crops) for pair in dataset.pairs)
