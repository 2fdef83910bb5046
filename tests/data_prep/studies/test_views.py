"""Tests of data_prep/studies/views.py: views are determined by plane, weighting and position along the patient."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from data_prep.faults import FaultKind
from data_prep.geometry import Frame
from data_prep.sites import View
from data_prep.studies.studies import Study, StudyFolder, read_study
from data_prep.studies.views import SeriesHeaders, extent_mm, of_one_station, stations, study_views
from tests.dicom_files import SAGITTAL, frame, write_slice

T1, T2, AX = View.SAGITTAL_T1, View.SAGITTAL_T2_STIR, View.AXIAL_T2
CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))


def sagittals(middle_z: float = 0.0, count: int = 5) -> tuple[Frame, ...]:
    """Frames of 280 x 280 mm."""
    return tuple(frame((x, -140, middle_z + 140), SAGITTAL, (4.0, 4.0), (71, 71)) for x in np.arange(count) * 4.0)


def axials(low: float = -80.0, high: float = 60.0, degrees: float = 0.0) -> tuple[Frame, ...]:
    angle = np.deg2rad(degrees)
    directions = ((1.0, 0.0, 0.0), (0.0, float(np.cos(angle)), float(np.sin(angle))))
    return tuple(frame((-80, -80, z), directions, (4.0, 4.0), (41, 41)) for z in np.arange(low, high + 1, 20.0))


def headers(series_id: int, described: View | None, frames: tuple[Frame, ...], weighting: str = "") -> SeriesHeaders:
    return SeriesHeaders(series_id, described, frames, frozenset({weighting}))


def decided(*series: SeriesHeaders) -> tuple[list[View | None], list[tuple[int, FaultKind, str]]]:
    views, faults = study_views(series)
    return [views[one.series_id] for one in series], [(fault.series_id, fault.kind, fault.action) for fault in faults]


def test_a_usual_study_has_the_described_views() -> None:
    usual = headers(1, T1, sagittals(), "t1"), headers(2, T2, sagittals(8), "t2"), headers(3, AX, axials(), "t2")
    assert decided(*usual) == ([T1, T2, AX], [])
    # Two axial series, one of the upper levels, one of the lower, do not overlap.
    parts = headers(1, T1, sagittals(), "t1"), headers(2, AX, axials(20, 60)), headers(3, AX, axials(-80, -40))
    assert decided(*parts) == ([T1, AX, AX], [])
    assert decided(*parts[1:]) == ([AX, AX], [])


@pytest.mark.parametrize(
    ("described", "frames", "weighting", "view", "action"),
    [
        (T2, axials(), "t2", AX, "repaired"),
        (T2, axials(), "", AX, "repaired"),
        (T1, axials(), "t1", None, "skipped"),  # an axial T1 has none of the three views
        (AX, sagittals(), "t1", T1, "repaired"),
        (AX, sagittals(), "t2", T2, "repaired"),
        (AX, sagittals(), "", None, "skipped"),  # it is unknown whether this is T1 or T2
        (AX, tuple(frame((0, y, 0), CORONAL) for y in (0, 4)), "t2", None, "skipped"),
        (AX, (*sagittals(), *axials(0, 0)), "t2", T2, "repaired"),  # a single axial slice is ignored
    ],
)
def test_images_override_the_described_view(
    described: View, frames: tuple[Frame, ...], weighting: str, view: View | None, action: str
) -> None:
    assert decided(headers(1, described, frames, weighting)) == ([view], [(1, FaultKind.VIEW_MISMATCH, action)])


def test_steep_blocks_are_still_axial() -> None:
    # By its largest component the normal of a block that leans 50 degrees along L5-S1 is coronal.
    steep = axials(-80, -60, degrees=50)
    assert {image.plane for image in steep} == {"coronal"}
    assert decided(headers(1, AX, (*axials(), *steep))) == ([AX], [])
    assert decided(headers(1, AX, steep)) == ([AX], [])


def test_slices_of_a_localiser_in_other_planes_are_noted() -> None:
    three_planes = (*sagittals(count=2), *axials(0, 20), *(frame((0, y, 0), CORONAL) for y in (0, 4)))
    assert decided(headers(1, T2, three_planes)) == ([T2], [(1, FaultKind.ODD_SLICES, "kept")])
    assert decided(headers(1, None, three_planes)) == ([None], [(1, FaultKind.UNKNOWN_VIEW, "kept")])
    assert decided(headers(1, T2, (*sagittals(), *axials(0, 0)))) == ([T2], [(1, FaultKind.ODD_SLICES, "kept")])


def test_a_series_without_geometry_has_the_described_view() -> None:
    assert decided(headers(1, AX, ())) == ([AX], [])
    assert decided(headers(1, None, (), "t1")) == ([None], [(1, FaultKind.UNKNOWN_VIEW, "kept")])


def test_exchanged_t1_and_t2_are_repaired_if_both_headers_contradict() -> None:
    views, faults = decided(
        headers(1, T2, sagittals(), "t1"), headers(2, T1, sagittals(), "t2"), headers(3, AX, axials())
    )
    assert views == [T1, T2, AX]
    assert faults == [(1, FaultKind.VIEW_MISMATCH, "repaired"), (2, FaultKind.VIEW_MISMATCH, "repaired")]
    # A single contradiction: a T1 with a long repetition time can be mistaken for a T2.
    views, faults = decided(headers(1, T2, sagittals(), "t2"), headers(2, T1, sagittals(), "t2"))
    assert views == [T2, T1] and faults == [(2, FaultKind.WEIGHTING_MISMATCH, "kept")]
    assert decided(headers(1, T1, sagittals()), headers(2, T2, sagittals())) == ([T1, T2], [])


@pytest.mark.parametrize(("middle", "aside"), [(0, False), (60, False), (250, True), (400, True), (-300, True)])
def test_a_cervical_or_thoracic_series_is_set_aside(middle: float, aside: bool) -> None:
    views, faults = decided(headers(1, T1, sagittals()), headers(2, T2, sagittals(middle)), headers(3, AX, axials()))
    assert views == [T1, None if aside else T2, AX]
    assert faults == ([(2, FaultKind.OTHER_STATION, "skipped")] if aside else [])


def test_of_two_equal_stations_the_lower_is_lumbar_and_of_two_series_neither() -> None:
    neck = headers(4, T1, sagittals(400)), headers(5, T2, sagittals(400))
    lumbar = headers(1, T1, sagittals()), headers(2, T2, sagittals())
    for order in ((*neck, *lumbar), (*lumbar, *neck)):
        views, faults = study_views(order)
        assert views == {1: T1, 2: T2, 4: None, 5: None}
        assert [(fault.series_id, fault.action) for fault in faults] == [(4, "guessed"), (5, "guessed")]
    views, faults = study_views([neck[0], lumbar[1]])
    assert views == {4: T1, 2: T2} and [fault.action for fault in faults] == ["kept"]


def test_extents_and_stations_against_a_slow_version() -> None:
    random = np.random.default_rng(0)
    image = Frame((3.0, -4.0, 100.0), (0.0, 0.8, 0.6), (0.0, 0.6, -0.8), (0.7, 0.4), (30, 50))
    corners = [image.to_patient((column, row))[2] for column in range(50) for row in range(30)]
    np.testing.assert_allclose(extent_mm([image]), (min(corners), max(corners)))
    for _ in range(200):
        low = random.uniform(-300, 300, 6)
        extents = {index: (float(z), float(z + random.uniform(10, 300))) for index, z in enumerate(low)}
        # The groups are the transitive closure of the relation, computed as a matrix power.
        meet = np.array([[of_one_station(extents[a], extents[b]) for b in extents] for a in extents])
        closure = np.linalg.matrix_power(meet.astype(int), 8) > 0
        groups = {frozenset(np.flatnonzero(row).tolist()) for row in closure}
        found = stations(extents)
        assert {frozenset(group) for group in found} == groups
        assert all(len(one) >= len(other) for one, other in pairwise(found))


def test_views_are_determined_from_the_headers_of_files(tmp_path: Path) -> None:
    """One series shows the neck, and an axial series is described as sagittal."""
    pixels = np.arange(71 * 71, dtype=np.uint16).reshape(71, 71)
    described = {10: T1, 20: T2, 30: T2, 40: T2}
    frames = {10: sagittals(), 20: sagittals(), 30: sagittals(400), 40: axials()}
    for series_id, images in frames.items():
        for number, image in enumerate(images, start=1):
            shape = pixels[: image.shape[0], : image.shape[1]]
            write_slice(tmp_path / "1" / str(series_id) / f"{number}.dcm", shape, image)
    folders = {series_id: tmp_path / "1" / str(series_id) for series_id in described}
    study, faults = read_study(StudyFolder(1, tmp_path, folders, described))
    assert isinstance(study, Study)
    assert {series.series_id: series.view for series in study.series} == {10: T1, 20: T2, 30: None, 40: AX}
    assert {(fault.path, fault.kind) for fault in faults} == {
        ("1/30", FaultKind.OTHER_STATION),
        ("1/40", FaultKind.VIEW_MISMATCH),
    }
    assert not study.series[2].frames and len(study.series[2].slices) == 5
