"""Left stays left: disease on one side only is followed through sites.csv, the crops and dataset.json.

The same patients are made twice, once healthy and once with severe disease on one side; whatever
differs between the two is the disease. Sagittal series of both slice orders are among them.
"""

import csv
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from data_prep.conversion.convert import convert_cohort, learn_from
from data_prep.conversion.crops import cut_crop, open_crops
from data_prep.conversion.pairs import Dataset, read_dataset
from data_prep.geometry import Frame
from data_prep.phantom import write_cohort
from data_prep.placement.regions import Missing, Region, marked_positions, region
from data_prep.sites import SITES, Condition, Level, Severity, Side, Site, View
from data_prep.studies.cohorts import split_cohort
from data_prep.studies.studies import Study, StudyFolder, read_study
from data_prep.studies.tables import Mark
from prompts.render import caption
from tests.dicom_files import SAGITTAL, frame, write_slice
from workspace.layout import DataRoot

STUDIES, SEED = 2, 2


def prepared(folder: Path, side: Side | None) -> Path:
    """Prepare a cohort whose sites on `side` are severe, while all others are not."""
    severities = {site: Severity.SEVERE for site in SITES if side is not None and site.side is side}
    cohort = split_cohort(DataRoot(write_cohort(folder, STUDIES, 0, SEED, severities=severities)), "train")
    processed = folder / "train" / "processed_data"
    convert_cohort(cohort, processed, atlas=learn_from(cohort), caption=caption, folds=2)
    return processed


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("healthy"), None)


@pytest.fixture(scope="module", params=[Side.LEFT, Side.RIGHT])
def diseased(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Side, Path]:
    return request.param, prepared(tmp_path_factory.mktemp(request.param.value), request.param)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_both_slice_orders_are_among_the_studies(healthy: Path) -> None:
    series: dict[str, list[tuple[int, float]]] = {}
    for row in rows(healthy / "slices.csv"):
        if row["view"] == View.SAGITTAL_T1:
            place = (int(row["instance_number"]), float(row["position_x_mm"]))
            series.setdefault(row["series_id"], []).append(place)
    grows = [sorted(places)[0][1] < sorted(places)[-1][1] for places in series.values()]
    assert set(grows) == {True, False}


def test_the_left_lies_at_greater_x(diseased: tuple[Side, Path]) -> None:
    places = {
        (row["study_id"], row["condition"], row["level"], row["side"]): float(row["x_mm"])
        for row in rows(diseased[1] / "sites.csv")
    }
    lefts = [key for key in places if key[3] == "left"]
    assert len(lefts) == STUDIES * 10
    for key in lefts:
        assert places[key] > places[(*key[:3], "right")] + 5


def test_labels_and_texts_name_the_diseased_side(diseased: tuple[Side, Path]) -> None:
    side, processed = diseased
    pairs = read_dataset(processed).pairs
    assert len(pairs) > 40 * STUDIES
    for pair in pairs:
        severe = pair.site.side is side
        assert pair.severity is (Severity.SEVERE if severe else Severity.NORMAL_MILD)
        assert pair.text.endswith("severe" if severe else "normal or mild")
        assert pair.site.side is None or f" {pair.site.side} " in pair.text


def test_the_disease_is_visible_in_that_sides_crops(healthy: Path, diseased: tuple[Side, Path]) -> None:
    side, processed = diseased

    def crops(folder: Path) -> tuple[Dataset, np.ndarray]:
        return read_dataset(folder), open_crops(folder)[:, :, 44:84, 44:84].astype(float)  # the middle 20 mm

    (before, calm), (after, ill) = crops(healthy), crops(processed)
    assert [(p.study_id, p.site, p.view) for p in before.pairs] == [(p.study_id, p.site, p.view) for p in after.pairs]
    changes: dict[Side, list[float]] = {Side.LEFT: [], Side.RIGHT: []}
    for pair, change in zip(before.pairs, np.abs(calm - ill).mean(axis=(1, 2, 3)), strict=True):
        if pair.site.side is not None and pair.view is pair.site.views[0]:
            changes[pair.site.side].append(float(change))
    assert np.median(changes[side]) > 2 * np.median(changes[side.other])


# A patient whose brightness encodes x, in files of every order and orientation.

XS = np.arange(-24.0, 25.0, 4.0)
AXIALS = {20: (0.0, 8.0), 30: (4.0, 12.0)}
T1_ID = 10
FORAMINA = {side: Site(Condition.NEURAL_FORAMINAL_NARROWING, side, Level.L4_L5) for side in Side}
RECESSES = {side: Site(Condition.SUBARTICULAR_STENOSIS, side, Level.L4_L5) for side in Side}
TRUE_X = {**{FORAMINA[side]: 16.0 for side in Side}, **{RECESSES[side]: 9.0 for side in Side}}


def signed(site: Site) -> float:
    return TRUE_X[site] * (1 if site.side is Side.LEFT else -1)


def brightness(x_mm: np.ndarray) -> np.ndarray:
    """Return the brightness at x: 0 at the patient's right, 4,000 at the left."""
    return np.clip(np.rint(2000 + x_mm * 40), 0, 4000).astype(np.uint16)


def axial_frame(z: float, mirrored: bool) -> Frame:
    """Return an axial frame, head first supine; `mirrored`: with the patient's left on the image's left."""
    if mirrored:
        return frame((49.5, -40, z), ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), (1.0, 1.0), (90, 100))
    return frame((-49.5, -40, z), ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), (1.0, 1.0), (90, 100))


def striped_study(folder: Path, right_first: bool, mirrored: bool, swapped: bool) -> Study:
    """Make a study with correct marks; `swapped`: the names of the left and right axial marks are exchanged."""
    places: dict[int, list[Frame]] = {
        T1_ID: [frame((x, -40, 50), SAGITTAL, (1.0, 1.0), (100, 90)) for x in (XS if right_first else XS[::-1])]
    }
    places |= {series_id: [axial_frame(z, mirrored) for z in zs] for series_id, zs in AXIALS.items()}
    for series_id, frames in places.items():
        for number, image in enumerate(frames, start=1):
            x = image.to_patient((0, 0))[0] + np.arange(image.shape[1]) * image.row_direction[0]
            pixels = np.tile(brightness(x), (image.shape[0], 1))
            write_slice(folder / "1" / str(series_id) / f"{number}.dcm", pixels, image)
    marks = []
    for site, series_id in {FORAMINA[s]: T1_ID for s in Side}.items():
        number = int(np.argmin([abs(image.position_mm[0] - signed(site)) for image in places[series_id]]))
        column, row = places[series_id][number].to_pixel((signed(site), 0.0, 6.0))
        marks.append(Mark(site, series_id, number + 1, float(column), float(row)))
    for side, series_id in zip(Side, AXIALS, strict=True):
        site = RECESSES[side]
        image = places[series_id][0]
        column, row = image.to_pixel((signed(site), 0.0, image.position_mm[2]))
        marks.append(Mark(site.mirrored if swapped else site, series_id, 1, float(column), float(row)))
    views = {T1_ID: View.SAGITTAL_T1, **dict.fromkeys(AXIALS, View.AXIAL_T2)}
    folders = {series_id: folder / "1" / str(series_id) for series_id in views}
    return read_study(StudyFolder(1, folder, folders, views, {}, tuple(marks)))[0]


@pytest.mark.parametrize(("right_first", "mirrored", "swapped"), product([False, True], repeat=3))
def test_left_is_bright_whatever_the_order_the_storage_and_the_names(
    tmp_path: Path, right_first: bool, mirrored: bool, swapped: bool
) -> None:
    study = striped_study(tmp_path, right_first, mirrored, swapped)
    positions, faults = marked_positions(study)
    assert len(faults) == (2 if swapped else 0)
    by_id = {series.series_id: series for series in study.series}
    middles = {}
    for site in TRUE_X:
        assert positions[site].point_mm[0] == pytest.approx(signed(site))
        for view in (View.SAGITTAL_T1, View.AXIAL_T2):
            found = region(study, positions[site], view)
            assert isinstance(found, Region)
            series = by_id[found.series_id]
            picture = {image.instance_number: image for image in series.slices}
            middle = picture[found.instance_number]
            assert middle.frame is not None
            column, row = np.rint(middle.frame.to_pixel(found.centre_mm)).astype(int)
            # The brightness at the site is that of its x after the series' windowing: left is brighter.
            middles[site, view] = float(middle.grey[row, column])
            slices = [picture[number] for number in found.instance_numbers]
            frames = [image.frame for image in slices if image.frame is not None]
            crop = cut_crop([image.grey for image in slices], frames, found.centre_mm, view, site.side)
            # Right-sided crops are mirrored: in every crop, lateral is towards the last channel or column.
            lateral = 1 if site.side is Side.LEFT else -1
            ahead, behind = (crop[2], crop[0]) if view.is_sagittal else (crop[1, :, 80], crop[1, :, 48])
            assert lateral * (float(np.mean(ahead)) - float(np.mean(behind))) > 0
    for sites in (FORAMINA, RECESSES):
        for view in (View.SAGITTAL_T1, View.AXIAL_T2):
            assert middles[sites[Side.LEFT], view] > middles[sites[Side.RIGHT], view] + 30
    # The recesses were marked in different series, and each keeps the slice of its mark.
    chosen = [region(study, positions[RECESSES[side]], View.AXIAL_T2) for side in Side]
    assert not any(isinstance(one, Missing) for one in chosen)
    assert [one.series_id for one in chosen if isinstance(one, Region)] == list(AXIALS)
