"""Tests of contrasts.py: of several pictures of one place, those that fit the view are used, each with its window."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.conversion.study_conversion import _write_images
from data_prep.conversion.study_records import SLICE_COLUMNS
from data_prep.faults import FaultKind
from data_prep.geometry import neighbours
from data_prep.placement.regions import marked_positions
from data_prep.series.windows import series_window
from data_prep.sites import SITES, View
from data_prep.studies.studies import Series, StudyFolder, read_study
from data_prep.studies.tables import Mark
from tests.dicom_files import frame, functional_group, write_enhanced, write_slice

COUNT = 6
T1, T2, AX = View.SAGITTAL_T1, View.SAGITTAL_T2_STIR, View.AXIAL_T2


def images_of(part: int) -> np.ndarray:
    """Images of a part, which is brighter than the parts before it."""
    return np.random.default_rng(part).integers(0, 300 * (part + 1), (COUNT, 64, 64)).astype(np.uint16)


def write(folder: Path, parts: list[dict[str, Any]], in_turn: bool = True) -> Path:
    """Write each slice once per part; number = slice * parts + part + 1, or part after part."""
    for part, elements in enumerate(parts):
        for index, pixels in enumerate(images_of(part)):
            number = index * len(parts) + part + 1 if in_turn else part * COUNT + index + 1
            own = {name: value(index) if callable(value) else value for name, value in elements.items()}
            write_slice(folder / f"{number}.dcm", pixels, frame((4.0 * index, 0, 0)), **own)
    return folder


def read(folder: Path, view: View, marks: tuple[Mark, ...] = ()):  # type: ignore[no-untyped-def]
    return read_study(StudyFolder(9, folder.parent, {1: folder}, {1: view}, {}, marks))


def shown_part(series: Series, parts: int) -> int:
    """The part whose images alone carry regions."""
    found = {(series.slices[index].instance_number - 1) % parts for index in series.frames}
    assert len(found) == 1 and len(series.frames) == COUNT
    in_stacks = {index for stack in series.stacks for index in stack}
    assert in_stacks == set(series.frames)
    return found.pop()


def typed(*terms: str) -> dict[str, list[str]]:
    return {"ImageType": list(terms)}


SE = {"RepetitionTime": "3000"}
FAST = {"RepetitionTime": "500", "EchoTime": "10"}
CASES: dict[str, tuple[View, list[dict[str, Any]], int]] = {
    "proton density and T2": (T2, [{**SE, "EchoTime": "13"}, {**SE, "EchoTime": "100"}], 1),
    "T2 and proton density": (T2, [{**SE, "EchoTime": "100"}, {**SE, "EchoTime": "13"}], 0),
    "echoes of a map": (T2, [{**SE, "EchoTime": str(te)} for te in (20, 40, 60, 80, 300)], 3),
    "T1 and T2 in one folder": (T1, [{**SE, "EchoTime": "100"}, FAST], 1),
    "T2 and T1 in one folder": (T2, [FAST, {**SE, "EchoTime": "100"}], 1),
    "before and after": (T1, [{**FAST, "ContrastBolusAgent": "GADOVIST"}, FAST], 1),
    "after, by description": (T1, [{**FAST, "SeriesDescription": "T1 +C"}, {**FAST, "SeriesDescription": "T1"}], 1),
    "Dixon": (T2, [typed("DERIVED", "PRIMARY", p) for p in ("FAT", "OPP_PHASE", "IN_PHASE", "WATER")], 2),
    "Dixon without in phase": (T1, [{"ImageType": ["ORIGINAL", "PRIMARY", p]} for p in ("F", "W")], 1),
    "phase map": (T2, [typed("ORIGINAL", "PRIMARY", "PHASE MAP", "P"), typed("ORIGINAL", "PRIMARY", "M")], 1),
    "derived": (T2, [{"ImageType": ["DERIVED", "PRIMARY", "M"]}, {"ImageType": ["ORIGINAL", "PRIMARY", "M"]}], 1),
    "diffusion": (AX, [{"DiffusionBValue": b} for b in (800.0, 0.0, 400.0)], 1),
    "diffusion by name": (AX, [{"SequenceName": f"*ep_b{b}"} for b in (1000, 50)], 1),
    "ADC": (AX, [{"ImageType": ["DERIVED", "PRIMARY", "ADC"]}, {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION"]}], 1),
    "inversion": (T2, [{"EchoTime": "60", "InversionTime": "150"}, {"EchoTime": "60", "InversionTime": "0"}], 1),
    "dynamics": (T1, [{**FAST, "TemporalPositionIdentifier": str(t)} for t in (3, 1, 2)], 1),
    "triggers": (T1, [{**FAST, "TriggerTime": lambda i, t=t: str(t + 37 * i)} for t in (900, 100)], 1),
    "acquisitions": (T2, [{**SE, "AcquisitionNumber": str(t)} for t in (1, 2)], 0),
    "fat suppression": (T1, [{**FAST, "ScanOptions": "FS"}, FAST], 1),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_contrast_of_the_view_alone_carries_regions(tmp_path: Path, name: str) -> None:
    view, parts, expected = CASES[name]
    folder = write(tmp_path / "1", parts)
    if view is AX:
        for path in folder.iterdir():
            index = (int(path.stem) - 1) // len(parts)
            part = (int(path.stem) - 1) % len(parts)
            geometry = frame((0, 0, 4.0 * index), ((1.0, 0, 0), (0, 1.0, 0)))
            write_slice(path, images_of(part)[index], geometry, **parts[part])
    study, faults = read(folder, view)
    (series,) = study.series
    assert series.view is view and shown_part(series, len(parts)) == expected
    assert len(series.slices) == COUNT * len(parts)
    assert [(fault.kind, fault.action) for fault in faults] == [(FaultKind.SEVERAL_CONTRASTS, "guessed")]


def test_each_contrast_has_its_own_window_and_only_one_the_view(tmp_path: Path) -> None:
    folder = write(tmp_path / "1", [{**SE, "EchoTime": "13"}, {**SE, "EchoTime": "100"}])
    study, _ = read(folder, T2)
    (series,) = study.series
    assert series.window == series_window(list(images_of(1)))
    windows = {image.instance_number: image.window for image in series.slices}
    assert {windows[number] for number in range(1, 2 * COUNT, 2)} == {series_window(list(images_of(0)))}
    assert {windows[number] for number in range(2, 2 * COUNT + 1, 2)} == {None}
    rows, _, _ = _write_images(study, tmp_path)
    views = {row[SLICE_COLUMNS.index("instance_number")]: row[SLICE_COLUMNS.index("view")] for row in rows}
    assert [views[number] for number in (1, 2, 3, 4)] == ["", T2, "", T2]
    for stack in series.stacks:
        for index in stack:
            assert all(not series.slices[other].other_contrast for other in neighbours(series.frames, stack, index))


def test_marks_decide_which_contrast_is_used(tmp_path: Path) -> None:
    folder = write(tmp_path / "1", [{**SE, "EchoTime": "13"}, {**SE, "EchoTime": "100"}])
    marks = (Mark(SITES[0], 1, 5, 30.0, 30.0), Mark(SITES[1], 1, 7, 30.0, 40.0), Mark(SITES[2], 1, 6, 30.0, 50.0))
    study, faults = read(folder, T2, marks)
    assert shown_part(study.series[0], 2) == 0
    assert [(fault.kind, fault.action) for fault in faults] == [(FaultKind.SEVERAL_CONTRASTS, "kept")]
    positions, _ = marked_positions(study)
    assert len(positions) == 3, "a mark on the other contrast still says where its site lies"


def test_echoes_in_one_multi_frame_file(tmp_path: Path) -> None:
    groups = [
        functional_group(frame((4.0 * i, 0, 0)), MREchoSequence={"EffectiveEchoTime": echo})
        for i in range(COUNT)
        for echo in (13.0, 100.0)
    ]
    pixels = np.stack([images_of(part)[i] for i in range(COUNT) for part in (0, 1)])
    write_enhanced(tmp_path / "1" / "0.dcm", pixels, groups)
    study, faults = read(tmp_path / "1", T2)
    assert shown_part(study.series[0], 2) == 1
    assert [fault.kind for fault in faults] == [FaultKind.SEVERAL_CONTRASTS]


SINGLE: dict[str, list[dict[str, Any]]] = {
    "rounded echoes": [{**SE, "EchoTime": lambda i: "97.9" if i % 2 else "98"}],
    "interleaved acquisitions": [{**SE, "AcquisitionNumber": lambda i: str(i % 2)}],
    "triggered slices": [{**SE, "TriggerTime": lambda i: str(100 * i)}],
    "times that differ between slices": [{"EchoTime": "100", "RepetitionTime": lambda i: str(2000 + 500 * (i // 2))}],
    "repetitions": [{**SE, "EchoTime": "98"}, {**SE, "EchoTime": "97.9"}],
}  # fmt: skip


@pytest.mark.parametrize("name", SINGLE)
def test_one_contrast_is_not_divided(tmp_path: Path, name: str) -> None:
    study, faults = read(write(tmp_path / "1", SINGLE[name]), T2)
    assert not faults and len(study.series[0].frames) == COUNT * len(SINGLE[name])


def test_one_slice_taken_again_with_another_time_costs_no_other_slice(tmp_path: Path) -> None:
    folder = write(tmp_path / "1", [{"EchoTime": "100", "RepetitionTime": lambda i: str(3000 + 400 * (i // 3))}])
    write_slice(folder / "7.dcm", images_of(1)[0], frame((4.0, 0, 0)), EchoTime="100", RepetitionTime="3400")
    study, _ = read(folder, T2)
    assert {frame.position_mm[0] for frame in study.series[0].frames.values()} == {4.0 * i for i in range(COUNT)}


def test_numbers_that_echoes_share_are_given_anew(tmp_path: Path) -> None:
    for part, echo in enumerate(("13", "100")):
        for index, pixels in enumerate(images_of(part)):
            elements = {"EchoTime": echo, "InstanceNumber": str(index + 1), **SE}
            write_slice(tmp_path / "1" / f"e{part}s{index}", pixels, frame((4.0 * index, 0, 0)), **elements)
    study, faults = read(tmp_path / "1", T2)
    (series,) = study.series
    assert len(series.slices) == 2 * COUNT and len(series.frames) == COUNT
    assert series.window == series_window(list(images_of(1)))
    assert {fault.kind for fault in faults} == {FaultKind.SEVERAL_CONTRASTS, FaultKind.NUMBER_ASSIGNED}


def test_a_contrast_beyond_the_memory_budget_gives_the_same_images(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    folder = write(tmp_path / "1", [{**SE, "EchoTime": "13"}, {**SE, "EchoTime": "100"}])
    kept, _ = read(folder, T2)
    monkeypatch.setattr("data_prep.series.series_images.SIGNAL_BYTES", 0)
    monkeypatch.setattr("data_prep.series.grey_images.GREY_BYTES", 0)
    again, _ = read(folder, T2)
    assert kept == again
    for one, other in zip(kept.series[0].slices, again.series[0].slices, strict=True):
        np.testing.assert_array_equal(one.grey, other.grey)
