"""Tests of outlier_images.py and series_images.py: a file that differs from the others does not spoil its series."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.faults import Fault, FaultKind
from data_prep.series import grey_images, series_images
from data_prep.series.outlier_images import ValueRange, foreign_images, outlier_ranges
from data_prep.series.windows import series_window, to_grey
from data_prep.sites import View
from data_prep.studies.studies import Study, StudyFolder, read_study
from tests.dicom_files import frame, functional_group, write_enhanced, write_slice

RANDOM = np.random.default_rng(0)
IMAGES = [RANDOM.integers(0, 1000, (64, 64)).astype(np.uint16) for _ in range(8)]


def write_series(folder: Path, changed: dict[int, dict] | None = None) -> Path:
    """Write files 1 to 8; `changed` gives other elements, or pixels, by the file's number."""
    for number, pixels in enumerate(IMAGES, start=1):
        elements = dict((changed or {}).get(number, {}))
        pixels = elements.pop("pixels", pixels)
        write_slice(folder / f"{number}.dcm", pixels, frame((4.0 * number, 0, 0)), **elements)
    return folder


def read_one(folder: Path) -> tuple[Study, list[Fault]]:
    return read_study(StudyFolder(9, folder.parent, {1: folder}, {1: View.SAGITTAL_T1}))


def greys(study: Study) -> dict[int, np.ndarray]:
    return {image.instance_number: image.grey for image in study.series[0].slices}


def test_an_ordinary_series_has_one_window(tmp_path: Path) -> None:
    study, faults = read_one(write_series(tmp_path / "1"))
    (series,) = study.series
    assert series.window == series_window(IMAGES) and not faults
    assert {image.window for image in series.slices} == {None}


@pytest.mark.parametrize("small_memory", [False, True])
@pytest.mark.parametrize(
    "outlier",
    [
        {"RescaleSlope": "1000"},
        {"RescaleSlope": "0.001"},
        {"RescaleIntercept": "-100000", "RescaleSlope": "1"},
        {"pixels": RANDOM.integers(0, 65536, (64, 64)).astype(np.uint16)},
        {"pixels": np.full((64, 64), 60_000, np.uint16)},
    ],
)
def test_one_outlier_does_not_change_the_other_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outlier: dict, small_memory: bool
) -> None:
    if small_memory:
        monkeypatch.setattr(series_images, "SIGNAL_BYTES", 0)
        monkeypatch.setattr(grey_images, "GREY_BYTES", 0)
    study, faults = read_one(write_series(tmp_path / "1", {5: outlier}))
    (series,) = study.series
    ordinary = [image for number, image in enumerate(IMAGES, start=1) if number != 5]
    assert series.window == series_window(ordinary)
    found = greys(study)
    for number, image in enumerate(IMAGES, start=1):
        if number != 5:
            np.testing.assert_array_equal(found[number], to_grey(image, series.window))
    (own,) = (image.window for image in series.slices if image.instance_number == 5)
    assert own is not None
    np.testing.assert_array_equal(
        found[5],
        to_grey(outlier.get("pixels", IMAGES[4]), series_window([outlier["pixels"]]))
        if "pixels" in outlier
        else to_grey(IMAGES[4], series_window([IMAGES[4]])),
    )
    assert [(fault.path, fault.action) for fault in faults if fault.kind is FaultKind.ODD_VALUES] == [
        ("1/5.dcm", "guessed")
    ]


def test_anatomy_is_no_outlier_in_a_series_that_is_mostly_air() -> None:
    air, edge, anatomy = ValueRange(0, 12, 1), ValueRange(0, 200, 1), ValueRange(3, 1500, 1)
    assert outlier_ranges([air] * 6 + [edge] * 2 + [anatomy] * 4) == []
    assert outlier_ranges([anatomy] * 20 + [air] * 5) == [], "dark images are no outliers"
    assert outlier_ranges([anatomy, ValueRange(0, 1e6, 1)]) == [], "with two images it is unknown which is the outlier"
    assert outlier_ranges([ValueRange(0, 0, 1)] * 9) == []
    scaled = [ValueRange(0, 1500 + 10 * i, 0.5 * 2**i) for i in range(12)]
    assert outlier_ranges(scaled) == [], "different slopes, similar values"


def test_padding_does_not_affect_the_window_and_is_black(tmp_path: Path) -> None:
    padded = [image + np.uint16(50) for image in IMAGES]
    for image in padded:
        image[:, :20] = 4000
    changed = {number: {"pixels": image, "PixelPaddingValue": 4000} for number, image in enumerate(padded, start=1)}
    blank = np.full((64, 64), 4000, np.uint16)
    changed[8] = {"pixels": blank, "PixelPaddingValue": 4000}
    study, faults = read_one(write_series(tmp_path / "1", changed))
    (series,) = study.series
    assert series.window == series_window([image[:, 20:] for image in padded[:7]])
    for number, grey in greys(study).items():
        assert not grey[:, :20].any() and (number == 8) == (not grey.any())
    assert [fault.kind for fault in faults] == [FaultKind.CONSTANT_IMAGE]


def test_a_series_of_padding_alone_is_black(tmp_path: Path) -> None:
    pixels = np.full((64, 64), 4000, np.uint16)
    write_slice(tmp_path / "1" / "1.dcm", pixels, frame((0, 0, 0)), PixelPaddingValue=4000)
    study, _ = read_one(tmp_path / "1")
    assert study.series[0].window == (0.0, 0.0) and not greys(study)[1].any()


def test_a_monochrome1_slice_among_others_fits_their_window(tmp_path: Path) -> None:
    twelve = {"BitsStored": 12, "HighBit": 11}
    changed: dict[int, dict] = {number: dict(twelve) for number in range(1, 9)}
    changed[3] = {**twelve, "pixels": 4095 - IMAGES[2], "PhotometricInterpretation": "MONOCHROME1"}
    study, faults = read_one(write_series(tmp_path / "1", changed))
    assert study.series[0].window == series_window(IMAGES) and not faults
    np.testing.assert_array_equal(greys(study)[3], to_grey(IMAGES[2], study.series[0].window))


def test_an_image_of_another_examination_is_skipped(tmp_path: Path) -> None:
    usual = {number: {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3"} for number in range(1, 9)}
    foreign = {2: {**usual[2], "StudyInstanceUID": "1.9", "RescaleSlope": "1000", "RescaleIntercept": "0"}}
    study, faults = read_one(write_series(tmp_path / "1", usual | foreign))
    assert sorted(greys(study)) == [1, 3, 4, 5, 6, 7, 8]
    assert study.series[0].window == series_window([image for index, image in enumerate(IMAGES) if index != 1])
    assert [(fault.kind, fault.action, fault.path) for fault in faults] == [
        (FaultKind.FOREIGN_IMAGE, "skipped", "1/2.dcm")
    ]


def test_an_image_of_another_series_is_kept_and_noted(tmp_path: Path) -> None:
    usual = {number: {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3"} for number in range(1, 9)}
    study, faults = read_one(write_series(tmp_path / "1", usual | {2: {**usual[2], "SeriesInstanceUID": "1.2.4"}}))
    assert len(greys(study)) == 8
    assert [(fault.kind, fault.action, fault.path) for fault in faults] == [
        (FaultKind.FOREIGN_IMAGE, "kept", "1/2.dcm")
    ]


def test_identifiers_are_foreign_only_beside_a_majority() -> None:
    assert foreign_images(["a", "a", "a", "b"]) == [3] and foreign_images(["a", "a", "b"]) == [] == foreign_images([])
    assert foreign_images(["", "a", "a", "a", "b", ""]) == [4] and foreign_images(["", ""]) == []


def test_a_file_takes_precedence_over_a_frame_with_the_same_number(tmp_path: Path) -> None:
    geometries = [frame((x, 0, 0)) for x in (0.0, 4.0, 8.0)]
    images = np.stack(IMAGES[:3])
    images[0] *= 9
    write_enhanced(tmp_path / "1" / "1.dcm", images, [functional_group(geometry) for geometry in geometries])
    write_slice(tmp_path / "1" / "1001.dcm", IMAGES[7], frame((30.0, 0, 0)))
    study, faults = read_one(tmp_path / "1")
    found = greys(study)
    window = series_window([IMAGES[7], *images[1:]])
    assert sorted(found) == [1001, 1002, 1003] and study.series[0].window == window
    np.testing.assert_array_equal(found[1001], to_grey(IMAGES[7], window))
    assert [(fault.kind, fault.action, fault.path) for fault in faults] == [
        (FaultKind.DUPLICATE_INSTANCE, "skipped", "1/1.dcm")
    ]


def test_the_same_instance_in_two_files_is_noted(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "1")
    (folder / "9.dcm").write_bytes((folder / "4.dcm").read_bytes())
    write_slice(folder / "10.dcm", IMAGES[0], frame((99.0, 0, 0)), InstanceNumber="4")  # another position
    study, faults = read_one(folder)
    assert sorted(greys(study)) == list(range(1, 11))
    assert [(fault.kind, fault.action, fault.path) for fault in faults] == [
        (FaultKind.DUPLICATE_INSTANCE, "kept", "1/9.dcm")
    ]


@pytest.mark.parametrize("slices", [2, 3, 4, 5, 20])
@pytest.mark.parametrize("view", [View.AXIAL_T2, View.SAGITTAL_T1])
def test_one_coronal_slice_carries_no_region(tmp_path: Path, slices: int, view: View) -> None:
    directions = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)) if view is View.AXIAL_T2 else ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
    coronal = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))
    for number in range(1, slices + 1):
        geometry = frame((4.0 * number, 0, 5.0 * number), coronal if number == 2 else directions)
        write_slice(tmp_path / "1" / f"{number}.dcm", IMAGES[0], geometry)
    study, faults = read_study(StudyFolder(9, tmp_path, {1: tmp_path / "1"}, {1: view}))
    (series,) = study.series
    assert series.view is view and len(series.slices) == slices and len(series.frames) == slices - 1
    assert [fault.kind for fault in faults] == [FaultKind.ODD_SLICES]
