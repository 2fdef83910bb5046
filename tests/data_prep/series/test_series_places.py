"""Tests of series_places.py: places that are impossible together are no places, and unusual ones are kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.faults import Fault, FaultKind
from data_prep.geometry import Frame
from data_prep.sites import View
from data_prep.studies.studies import Study, StudyFolder, read_study
from tests.dicom_files import AXIAL, frame, functional_group, write_enhanced, write_slice

COUNT = 10
IMAGES = np.random.default_rng(2).integers(0, 900, (40, 64, 64)).astype(np.uint16)


def read(folder: Path, view: View = View.SAGITTAL_T2_STIR) -> tuple[Study, list[Fault]]:
    return read_study(StudyFolder(9, folder.parent, {1: folder}, {1: view}))


def write(folder: Path, frames: list[Frame], **elements: Any) -> Path:
    for index, geometry in enumerate(frames):
        own = {name: value(index) if callable(value) else value for name, value in elements.items()}
        write_slice(folder / f"{index + 1}.dcm", IMAGES[index], geometry, **own)
    return folder


def sagittal(xs: Any) -> list[Frame]:
    return [frame((float(x), -30.0, 40.0)) for x in xs]


def lost(study: Study) -> list[int]:
    return sorted(image.instance_number for image in study.series[0].slices if image.frame is None)


STEPS = 4.4 * np.arange(COUNT)
IMPOSSIBLE: dict[str, Callable[[Path], Path]] = {
    "one position": lambda path: write(path, sagittal([5] * COUNT)),
    "all zeros": lambda path: write(path, [frame((0, 0, 0))] * COUNT),
    "two positions": lambda path: write(path, sagittal([0] * 5 + [4.4] * 5)),
    "one position, other locations": lambda path: write(path, sagittal([5, 5]), SliceLocation=lambda i: str(4.4 * i)),
    "steps of a thousandth": lambda path: write(path, sagittal(STEPS / 4400)),
    "steps of a tenth": lambda path: write(path, sagittal(STEPS / 10), SliceThickness="4"),
    "steps tenfold": lambda path: write(path, sagittal(10 * STEPS), SpacingBetweenSlices="4.4"),
    "steps of metres": lambda path: write(path, sagittal(100 * STEPS)),
    "within the plane": lambda path: write(path, [frame((0.0, 4.4 * i, 0.0)) for i in range(COUNT)]),
    "almost within the plane": lambda path: write(path, [frame((0.3 * i, 4.4 * i, 0.0)) for i in range(COUNT)]),
    "sagittal places, axial orientation": lambda path: write(
        path, [frame((4.4 * i, 3.0, 0.0), AXIAL) for i in range(COUNT)]
    ),
    "default geometry": lambda path: write(path, [frame((0.0, 0.0, 4.4 * i), AXIAL) for i in range(COUNT)]),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_no_place_is_believed_if_all_are_impossible_together(tmp_path: Path, name: str) -> None:
    study, faults = read(IMPOSSIBLE[name](tmp_path / "1"))
    (series,) = study.series
    assert len(lost(study)) == len(series.slices) and not series.frames and series.stacks == ()
    assert [(fault.kind, fault.action, fault.path) for fault in faults] == [(FaultKind.NO_GEOMETRY, "kept", "1")]


@pytest.mark.parametrize(
    ("positions", "without"),
    [
        ({4: (500.0, -30.0, 40.0)}, [5]),
        ({4: (17.6, -30.0, 400.0)}, [5]),
        ({4: (37.0, -30.0, 40.0)}, [5]),
        ({4: (22.0, -30.0, 40.0)}, [5]),
        ({9: (900.0, -30.0, 40.0)}, [10]),
        ({2: (0.0, 0.0, 0.0)}, [3]),
        ({2: (0.0, -30.0, 40.0), 3: (0.0, -30.0, 40.0)}, [1, 3, 4]),
    ],
)
def test_only_images_out_of_place_lose_it(
    tmp_path: Path, positions: dict[int, tuple[float, float, float]], without: list[int]
) -> None:
    frames = sagittal(STEPS)
    for index, position in positions.items():
        frames[index] = frame(position)
    study, faults = read(write(tmp_path / "1", frames, SliceThickness="4"))
    assert lost(study) == without and len(study.series[0].frames) == COUNT - len(without)
    assert {fault.kind for fault in faults} == {FaultKind.NO_GEOMETRY}


TILTED = [np.deg2rad(angle) for angle in (-12, -6, 0, 10, 25)]
FINE: dict[str, list[Frame]] = {
    "a single slice": sagittal([3]),
    "a single slice twice": sagittal([3, 3]),
    "one slice again": sagittal([*STEPS, STEPS[3]]),
    "all slices twice": sagittal([*STEPS, *STEPS]),
    "all slices twice in turn": sagittal(np.repeat(STEPS, 2)),
    "all slices thrice": sagittal([*STEPS, *STEPS, *STEPS]),
    "a missing slice": sagittal(np.delete(STEPS, 4)),
    "even slices, then odd": sagittal([*STEPS[::2], *STEPS[1::2]]),
    "two series in each other": sagittal([*STEPS, *(STEPS + 0.5)]),
    "four series in each other": sagittal([*STEPS, *(STEPS + 0.3), *(STEPS + 0.6), *(STEPS + 0.9)]),
    "all slices four times": sagittal([*STEPS] * 4),
    "two stations": [frame((x, -30.0, z)) for z in (40.0, 90.0) for x in STEPS],
    "three dimensions": sagittal(0.5 * np.arange(30)),
}
AXIAL_BLOCKS = [
    frame((-30.0, -30.0 - 5 * block, 35.0 * block + 4 * step), ((1.0, 0, 0), (0.0, np.cos(angle), np.sin(angle))))
    for block, angle in enumerate(TILTED)
    for step in range(4)
]
DISCS = [frame((-30.0, -30.0 - 8 * disc, 35.0 * disc), AXIAL) for disc in range(5)]


@pytest.mark.parametrize("name", FINE)
def test_unusual_sagittal_series_keep_their_places(tmp_path: Path, name: str) -> None:
    thickness = "0.9" if name == "three dimensions" else "4"
    study, faults = read(write(tmp_path / "1", FINE[name], SliceThickness=thickness))
    assert not lost(study) and not faults and len(study.series[0].frames) == len(FINE[name])


@pytest.mark.parametrize("thickness", ["1", "6", "15"])
def test_a_fine_volume_keeps_its_places_whatever_its_thickness_says(tmp_path: Path, thickness: str) -> None:
    study, faults = read(write(tmp_path / "1", sagittal(0.85 * np.arange(40)), SliceThickness=thickness))
    assert not lost(study) and not faults


@pytest.mark.parametrize(
    "location",
    [
        lambda index: str(index),
        lambda index: str(2 * (index % COUNT) + index // COUNT),
        lambda index: f"{0.1 * index:.1f}",
        lambda index: str(10 * (index % COUNT) + 5 * (index // COUNT)),
        lambda _: "0",
        lambda index: f"{100 - 4.4 * (index % COUNT):.1f}",
        lambda index: "" if index % 3 else "7",
    ],
)
def test_slice_locations_that_are_no_places_contradict_none(tmp_path: Path, location: Callable[[int], str]) -> None:
    study, faults = read(write(tmp_path / "1", sagittal([*STEPS, *STEPS]), SliceLocation=location))
    assert not lost(study) and not faults


@pytest.mark.parametrize("positions", [[0, 0, 4.4, 8.8, 13.2], [0, 0, 8.8, 8.8, 17.6, 17.6], [0, 0]])
def test_slice_locations_that_are_places_contradict_equal_positions(tmp_path: Path, positions: list[float]) -> None:
    study, faults = read(write(tmp_path / "1", sagittal(positions), SliceLocation=lambda index: f"{4.4 * index:.1f}"))
    assert lost(study) == [index + 1 for index, x in enumerate(positions) if positions.count(x) > 1]
    assert {fault.kind for fault in faults} == {FaultKind.NO_GEOMETRY}


@pytest.mark.parametrize("rows", [20, 40, 63])
def test_a_slice_of_another_size_keeps_its_place(tmp_path: Path, rows: int) -> None:
    folder = write(tmp_path / "1", sagittal(STEPS))
    write_slice(folder / "5.dcm", IMAGES[4][:rows], frame((STEPS[4], -30.0, 40.0), shape=(rows, 64)))
    study, faults = read(folder)
    assert not lost(study) and not faults


@pytest.mark.parametrize("frames", [AXIAL_BLOCKS, DISCS])
def test_axial_blocks_keep_their_places(tmp_path: Path, frames: list[Frame]) -> None:
    study, faults = read(write(tmp_path / "1", frames, SliceThickness="4"), View.AXIAL_T2)
    assert not lost(study) and not faults and len(study.series[0].frames) == len(frames)


def test_packages_of_one_file_out_of_order(tmp_path: Path) -> None:
    order = [8, 2, 5, 0, 9, 3, 6, 1, 7, 4]
    groups = [functional_group(geometry) for geometry in sagittal(STEPS[order])]
    write_enhanced(tmp_path / "1" / "1.dcm", IMAGES[:COUNT], groups)
    study, faults = read(tmp_path / "1")
    assert not faults and study.series[0].stacks == (tuple(range(COUNT)),)
    assert [image.frame.position_mm[0] for image in study.series[0].slices if image.frame] == STEPS.tolist()


def test_one_series_identifier_and_one_slope_per_slice(tmp_path: Path) -> None:
    slopes = {"RescaleSlope": lambda i: f"{1 + 0.1 * i:g}", "RescaleIntercept": "0"}
    folder = write(tmp_path / "1", sagittal([*STEPS, *STEPS]), SeriesInstanceUID=lambda i: f"1.2.{i + 1}", **slopes)
    study, faults = read(folder)
    assert not faults and len(study.series[0].frames) == 2 * COUNT
