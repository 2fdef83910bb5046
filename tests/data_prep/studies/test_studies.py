"""Tests of data_prep/studies/studies.py, headers.py and cohorts.py: folders of files are read as studies and faults."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep.faults import FaultKind
from data_prep.geometry import Frame
from data_prep.series import grey_images, series_images
from data_prep.series.grey_images import GreyBudget, GreyOnDisk
from data_prep.sites import View
from data_prep.studies.cohorts import folder_cohort, split_cohort
from data_prep.studies.studies import StudyFolder, read_study
from tests.dicom_files import AXIAL, SAGITTAL, frame, write_slice
from workspace.layout import DataRoot

REPOSITORY = Path(__file__).parents[3]
PIXELS = np.random.default_rng(0).integers(0, 1000, size=(64, 64)).astype(np.uint16)


def write_series(folder: Path, frames: list[Frame], **elements) -> Path:  # type: ignore[no-untyped-def]
    for number, geometry in enumerate(frames, start=1):
        write_slice(folder / f"{number}.dcm", PIXELS, geometry, **elements)
    return folder


def read_one(folder: Path, view: View | None = None):  # type: ignore[no-untyped-def]
    views = None if view is None else {1: view}
    study, faults = read_study(StudyFolder(9, folder.parent, {1: folder}, views), max_pixels=10_000)
    return study, [fault.kind for fault in faults]


@pytest.mark.parametrize("xs", [[8.0, 4.0, 0.0, -4.0], [-4.0, 0.0, 4.0, 8.0]])
def test_slices_are_sorted_from_right_to_left_for_both_orders_of_numbers(tmp_path: Path, xs: list[float]) -> None:
    study, faults = read_one(write_series(tmp_path / "1", [frame((x, 0, 0)) for x in xs]), View.SAGITTAL_T1)
    (series,) = study.series
    assert [image.frame.position_mm[0] for image in series.slices if image.frame] == sorted(xs)
    assert [xs[image.instance_number - 1] for image in series.slices] == sorted(xs)
    assert series.stacks == ((0, 1, 2, 3),) and not faults


def test_only_the_bad_file_is_skipped(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "1", [frame((x, 0, 0)) for x in (0.0, 4.0)])
    (folder / "3.dcm").write_bytes(b"")
    (folder / "4.dcm").write_bytes((folder / "1.dcm").read_bytes()[:-100])
    write_slice(folder / "5.dcm", PIXELS)  # no geometry
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "inner").mkdir()
    (folder / "6.dcm").symlink_to(folder / "nowhere.dcm")
    os.mkfifo(folder / "7.dcm")  # opening it would wait forever
    write_slice(folder / "image", PIXELS, frame((4, 0, 0)), InstanceNumber="2")
    study, kinds = read_one(folder, View.SAGITTAL_T1)
    (series,) = study.series
    assert [image.instance_number for image in series.slices] == [1, 2, 5]
    assert series.slices[2].frame is None and sorted(series.frames) == [0, 1]
    assert sorted(kinds) == sorted(
        [
            FaultKind.NOT_DICOM,
            FaultKind.TRUNCATED,
            FaultKind.NO_GEOMETRY,
            FaultKind.NOT_DICOM,
            FaultKind.NOT_DICOM,
            FaultKind.NOT_DICOM,
            FaultKind.MISPLACED,
            FaultKind.DUPLICATE_INSTANCE,
        ]
    )


@pytest.mark.parametrize(
    ("directions", "elements", "view"),
    [
        (SAGITTAL, {"SeriesDescription": "T1"}, View.SAGITTAL_T1),
        (SAGITTAL, {"SeriesDescription": "Sag STIR"}, View.SAGITTAL_T2_STIR),
        (SAGITTAL, {"SeriesDescription": "T2 T12-S1"}, View.SAGITTAL_T2_STIR),
        (SAGITTAL, {"EchoTime": "9", "RepetitionTime": "500"}, View.SAGITTAL_T1),
        (SAGITTAL, {"EchoTime": "100", "RepetitionTime": "3000"}, View.SAGITTAL_T2_STIR),
        (SAGITTAL, {}, None),
        (AXIAL, {}, View.AXIAL_T2),
        (AXIAL, {"SeriesDescription": "ax T1"}, None),
        (((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)), {"SeriesDescription": "T2"}, None),
    ],
)
def test_the_view_without_a_table(tmp_path: Path, directions, elements: dict, view: View | None) -> None:  # type: ignore[no-untyped-def]
    study, kinds = read_one(write_series(tmp_path / "1", [frame((0, 0, 0), directions)], **elements))
    assert study.series[0].view is view
    assert kinds == [FaultKind.UNKNOWN_VIEW if view is None else FaultKind.VIEW_GUESSED]


def test_images_override_a_wrong_description(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "1", [frame((0, 0, 0), SAGITTAL)], SeriesDescription="T1")
    study, kinds = read_one(folder, View.AXIAL_T2)
    assert study.series[0].view is View.SAGITTAL_T1 and kinds == [FaultKind.VIEW_MISMATCH]


def test_any_description_of_coronal_images_is_a_mismatch(tmp_path: Path) -> None:
    coronal = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))
    folder = write_series(tmp_path / "1", [frame((0, 0, 0), coronal)], SeriesDescription="T2")
    for view in (View.AXIAL_T2, View.SAGITTAL_T2_STIR):
        study, kinds = read_one(folder, view)
        assert study.series[0].view is None and kinds == [FaultKind.VIEW_MISMATCH]


def test_no_personal_field_is_kept(tmp_path: Path) -> None:
    study, _ = read_one(write_series(tmp_path / "1", [frame((0, 0, 0))]), View.SAGITTAL_T1)
    assert "Secret" not in repr(study) and "1970" not in repr(study)


def test_differences_between_tables_and_folders_are_faults(tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    images = dataset / "test_images"
    for study, series in ((1, 10), (2, 20), (4, 40)):
        write_series(images / str(study) / str(series), [frame((0, 0, 0))])
    write_series(images / "notes" / "1", [frame((0, 0, 0))])
    (images / "5").mkdir()
    write_slice(images / "6.dcm", PIXELS)
    write_slice(images / "1" / "7.dcm", PIXELS)
    table = "study_id,series_id,series_description\n2,20,Sagittal T1\n1,10,Sagittal T1\n1,11,Axial T2\n3,30,Axial T2\n"
    (dataset / "test_series_descriptions.csv").write_text(table)
    cohort = split_cohort(DataRoot(tmp_path), "test")
    assert cohort.study_ids == (1, 2, 3)
    assert [folder.study_id for folder in cohort.folders] == [1, 2, 4]
    found = {(fault.kind, fault.path) for fault in cohort.faults}
    assert found == {
        (FaultKind.BAD_ID, "notes"),
        (FaultKind.MISPLACED, "6.dcm"),
        (FaultKind.MISPLACED, "1/7.dcm"),
        (FaultKind.MISSING_SERIES, "1/11"),
        (FaultKind.MISSING_STUDY, "3"),
        (FaultKind.NOT_IN_TABLE, "4"),
        (FaultKind.NOT_IN_TABLE, "5"),
        (FaultKind.EMPTY_FOLDER, "5"),
    }


def test_new_studies_need_no_table_and_no_numbers(tmp_path: Path) -> None:
    for study, series in (("7", "1"), ("anna", "T2 sag"), ("anna", "2")):
        write_series(tmp_path / study / series, [frame((0, 0, 0))])
    cohort = folder_cohort(tmp_path, None)
    anna = cohort.study_ids[1]
    assert cohort.study_ids == (7, anna) and anna >= 10**11 and cohort.folder_names == {7: "7", anna: "anna"}
    assert len(cohort.folders[1].series) == 2 and min(cohort.folders[1].series) == 2
    assert {fault.kind for fault in cohort.faults} == {FaultKind.ID_ASSIGNED}

    (tmp_path / "8").mkdir()  # it has no images, but is part of the submission
    cohort = folder_cohort(tmp_path, None)
    assert cohort.study_ids == (7, 8, anna) and len(cohort.folders) == 2
    assert FaultKind.EMPTY_FOLDER in {fault.kind for fault in cohort.faults}

    single = folder_cohort(tmp_path / "7", None)
    assert single.study_ids == (7,) and sorted(single.folders[0].series) == [1]


@pytest.mark.parametrize("make", [False, True])
def test_a_folder_without_studies_is_refused(tmp_path: Path, make: bool) -> None:
    folder = tmp_path / "new"
    if make:
        folder.mkdir()
    with pytest.raises(ValueError, match=r"new: (no such folder|holds no study)"):
        folder_cohort(folder, None)


@pytest.mark.parametrize("elements", [{}, {"RescaleSlope": "1.5", "RescaleIntercept": "7"}])
def test_a_study_beyond_the_memory_budget_gives_the_same_images(tmp_path: Path, monkeypatch, elements: dict) -> None:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(4)
    for series in ("1", "2"):
        for number in range(1, 12):
            pixels = random.integers(0, 100 * number, (64, 64)).astype(np.uint16)
            write_slice(tmp_path / series / f"{number}.dcm", pixels, frame((4.0 * number, 0, 0)), **elements)
    folder = StudyFolder(9, tmp_path, {1: tmp_path / "1", 2: tmp_path / "2"})
    kept, faults = read_study(folder)
    monkeypatch.setattr(series_images, "SIGNAL_BYTES", 8 * 64 * 64 * 2)
    monkeypatch.setattr(grey_images, "GREY_BYTES", 9 * 64 * 64)
    again, faults_again = read_study(folder)
    assert kept == again and faults == faults_again
    on_disk = [isinstance(image.source, GreyOnDisk) for series in again.series for image in series.slices]
    assert on_disk == [False] * 9 + [True] * 13
    for one, other in zip(kept.series, again.series, strict=True):
        assert one.window == other.window
        for image, same in zip(one.slices, other.slices, strict=True):
            np.testing.assert_array_equal(image.grey, same.grey)
            assert same.shape == image.shape == (64, 64) and image.grey is image.grey


def test_a_file_that_changes_between_two_reads_is_an_error(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "1" / "1.dcm", PIXELS)
    grey = GreyOnDisk(path, 0, 10_000, (64, 64), (0.0, 100.0), GreyBudget())
    path.write_bytes(b"")
    with pytest.raises(OSError, match=r"1\.dcm: the file changed while"):
        grey.read()
    write_slice(path, PIXELS[:32])
    with pytest.raises(OSError, match=r"1\.dcm: the file changed while"):
        grey.read()


def test_links_that_point_outside_the_image_folder_are_not_followed(tmp_path: Path) -> None:
    outside = write_slice(tmp_path / "elsewhere" / "1.dcm", PIXELS, frame((4, 0, 0)))
    root = tmp_path / "images"
    write_series(root / "1", [frame((x, 0, 0)) for x in (0.0, 4.0)])
    (root / "1" / "3.dcm").symlink_to(outside)
    (root / "1" / "4.dcm").symlink_to(root / "1" / "4.dcm")  # itself
    (root / "1" / "5.dcm").symlink_to(tmp_path / "elsewhere")
    (root / "1" / "6.dcm").symlink_to(root / "1" / "1.dcm")
    study, faults = read_study(StudyFolder(9, root, {1: root / "1"}, {1: View.SAGITTAL_T1}))
    assert [image.instance_number for image in study.series[0].slices] == [1, 6, 2]
    found = {fault.path: fault.kind for fault in faults}
    assert found["1/3.dcm"] is FaultKind.LINK_OUTSIDE and found["1/5.dcm"] is FaultKind.LINK_OUTSIDE
    assert found["1/4.dcm"] in (FaultKind.NOT_DICOM, FaultKind.CANNOT_OPEN)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_only_the_unreadable_file_is_skipped(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "1", [frame((x, 0, 0)) for x in (0.0, 4.0)])
    (folder / "1.dcm").chmod(stat.S_IWUSR)
    study, kinds = read_one(folder, View.SAGITTAL_T1)
    assert [image.instance_number for image in study.series[0].slices] == [2] and kinds == [FaultKind.CANNOT_OPEN]


def test_a_constant_image_is_kept_and_noted(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "1", [frame((0.0, 0, 0))])
    write_slice(folder / "2.dcm", np.full((64, 64), 7, np.uint16), frame((4.0, 0, 0)))
    study, kinds = read_one(folder, View.SAGITTAL_T1)
    assert len(study.series[0].slices) == 2 and kinds == [FaultKind.CONSTANT_IMAGE]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["1" * 30 + ".dcm", "-4.dcm", "four.dcm"])
def test_file_names_that_are_not_instance_numbers(tmp_path: Path, name: str) -> None:
    folder = write_series(tmp_path / "1", [frame((0.0, 0, 0))])
    write_slice(folder / name, PIXELS, frame((4.0, 0, 0)), InstanceNumber="77")
    study, kinds = read_one(folder, View.SAGITTAL_T1)
    numbers = [image.instance_number for image in study.series[0].slices]
    assert (numbers, kinds) == ([1, 77], [])


def test_a_series_of_192_large_slices_stays_below_400_mb(tmp_path: Path) -> None:
    first = tmp_path / "1" / "1.dcm"
    pixels = np.random.default_rng(5).integers(0, 4000, (1024, 1024)).astype(np.uint16)
    write_slice(first, pixels, frame((0, 0, 0), shape=pixels.shape))
    for number in range(2, 193):
        (first.parent / f"{number}.dcm").hardlink_to(first)
    program = f"""
from pathlib import Path
from data_prep.studies.studies import StudyFolder, read_study
root = Path({str(tmp_path)!r})
study, _ = read_study(StudyFolder(9, root, {{1: root / "1"}}))
assert len([image.grey for image in study.series[0].slices[::8]]) == 24 and len(study.series[0].slices) == 192
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])  # ru_maxrss would include the parent's
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert int(run.stdout) < 400 << 10  # kB


@pytest.mark.parametrize("degrees", [-59.0, -50.0, -44.0, 44.0, 46.0, 55.0, 59.0])
@pytest.mark.parametrize("view", [View.AXIAL_T2, View.SAGITTAL_T1])
@pytest.mark.parametrize("is_reversed", [False, True])
def test_oblique_slices_are_sorted_across_the_plane_of_their_view(
    tmp_path: Path, degrees: float, view: View, is_reversed: bool
) -> None:
    """A block along a steep L5-S1 disc is tilted by more than 45 degrees, and still sorted from caudal to cranial."""
    cosine, sine = float(np.cos(np.deg2rad(degrees))), float(np.sin(np.deg2rad(degrees)))
    axial, sagittal = ((1.0, 0.0, 0.0), (0.0, cosine, sine)), ((-sine, cosine, 0.0), (0.0, 0.0, -1.0))
    directions = sagittal if view.is_sagittal else axial
    normal = np.cross(*directions)
    places = np.outer(np.arange(-3, 4)[:: -1 if is_reversed else 1] * 4.4, normal)
    study, _ = read_one(write_series(tmp_path / "1", [frame(tuple(place), directions) for place in places]), view)
    (series,) = study.series
    across = 0 if view.is_sagittal else 2
    found = [image.frame.centre_mm[across] for image in series.slices if image.frame is not None]
    assert series.view is view and len(found) == 7 and found == sorted(found)
    assert series.stacks == (tuple(range(7)),)
