"""Tests of cohorts.py, folders.py and misplaced_series.py: which folders belong to which study."""

import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.faults import FaultKind
from data_prep.folders import fault_path, is_id, list_folder
from data_prep.sites import SITES
from data_prep.studies.cohorts import split_cohort
from data_prep.studies.studies import StudyFolder, read_study
from workspace.layout import DataRoot

HEADING = "study_id,series_id,series_description\n"


def dataset(root: Path, files: list[str], described: list[tuple[int, int]]) -> DataRoot:
    """Write a test split whose images are empty files, and its table of descriptions."""
    images = root / "dataset" / "test_images"
    images.mkdir(parents=True)
    for name in files:
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).write_bytes(b"")
    rows = "".join(f"{study},{series},Axial T2\n" for study, series in described)
    (root / "dataset" / "test_series_descriptions.csv").write_text(HEADING + rows)
    return DataRoot(root)


def found(root: DataRoot) -> dict[tuple[int, int], str]:
    """Return (study, series) -> the folder that it is read from."""
    images = root.images("test")
    folders = split_cohort(root, "test").folders
    return {(f.study_id, series): p.relative_to(images).as_posix() for f in folders for series, p in f.series.items()}


@pytest.mark.parametrize(
    "where",
    ["70/1.dcm", "7/70/70/1.dcm", "7/7/70/1.dcm", "7/x/70/1.dcm", "x/7/70/1.dcm", "x/70/1.dcm"],
)
def test_a_misplaced_series_is_read(tmp_path: Path, where: str) -> None:
    root = dataset(tmp_path, ["7/71/1.dcm", where], [(7, 70), (7, 71)])
    folder = where.rpartition("/")[0]
    series = found(root)
    assert series[7, 70] == folder and series[7, 71] == "7/71"
    faults = split_cohort(root, "test").faults
    (moved,) = (fault for fault in faults if fault.action == "repaired")
    assert (moved.kind, moved.path, moved.study_id, moved.series_id) == (FaultKind.MISPLACED, folder, 7, 70)
    assert not {fault.kind for fault in faults} & {FaultKind.MISSING_SERIES, FaultKind.MISSING_STUDY}


def test_a_series_in_another_studys_folder_is_assigned_to_its_owner(tmp_path: Path) -> None:
    root = dataset(tmp_path, ["7/71/1.dcm", "8/70/1.dcm", "8/80/1.dcm"], [(7, 70), (7, 71), (8, 80)])
    assert found(root) == {(7, 71): "7/71", (7, 70): "8/70", (8, 80): "8/80"}
    faults = {(fault.study_id, fault.kind, fault.path, fault.action) for fault in split_cohort(root, "test").faults}
    assert (7, FaultKind.MISPLACED, "8/70", "repaired") in faults
    assert FaultKind.MISSING_SERIES not in {kind for _, kind, _, _ in faults}


@pytest.mark.parametrize(
    ("files", "described"),
    [
        (["7/70/1.dcm"], []),  # the owner has images of the series in the right folder
        (["9/70/1.dcm"], []),  # two misplaced folders have this name
        ([], [(7, 80)]),  # a series id occurs in two studies, so ids do not identify the owner
    ],
)
def test_a_series_of_another_study_is_skipped_if_it_is_not_certainly_misplaced(
    tmp_path: Path, files: list[str], described: list[tuple[int, int]]
) -> None:
    root = dataset(
        tmp_path,
        ["7/71/1.dcm", "8/70/1.dcm", "8/80/1.dcm", *files],
        [(7, 70), (7, 71), (8, 80), (9, 90), *described],
    )
    assert (8, 70) not in found(root)
    assert found(root).get((7, 70), "7/70") == "7/70"
    faults = {(fault.kind, fault.path, fault.action) for fault in split_cohort(root, "test").faults}
    assert (FaultKind.MISPLACED, "8/70", "skipped") in faults


def test_a_misplaced_series_is_read_once(tmp_path: Path) -> None:
    root = dataset(tmp_path, ["7/71/1.dcm", "9/70/1.dcm", "9/90/1.dcm"], [(7, 70), (7, 71)])
    assert found(root) == {(7, 70): "9/70", (7, 71): "7/71", (9, 90): "9/90"}


@pytest.mark.parametrize(
    ("files", "described"),
    [
        (["70/1.dcm"], [(7, 70), (8, 70)]),  # two studies have a series with this id
        (["70/1.dcm", "x/70/1.dcm"], [(7, 70)]),  # two misplaced folders have this name
        (["70/1.dcm", "7/70/1.dcm"], [(7, 70)]),  # the series is also in the right folder
        (["71/1.dcm"], [(7, 70)]),  # no study has this series
        (["70/readme/1.dcm"], [(7, 70)]),  # the folder holds no files
        (["a/b/7/70/1.dcm"], [(7, 70)]),  # the folder lies too deep
    ],
)
def test_a_series_folder_without_a_certain_owner_is_not_read(
    tmp_path: Path, files: list[str], described: list[tuple[int, int]]
) -> None:
    root = dataset(tmp_path, [*files, "9/90/1.dcm"], [*described, (9, 90)])
    faults = split_cohort(root, "test").faults
    assert not [fault for fault in faults if fault.action == "repaired"]
    assert found(root).get((7, 70), "7/70") == "7/70"


def test_links_are_followed_within_the_image_folder_only(tmp_path: Path) -> None:
    root = dataset(tmp_path / "root", ["7/70/1.dcm"], [(7, 70)])
    images, outside = root.images("test"), tmp_path / "outside" / "70"
    outside.mkdir(parents=True)
    (outside / "secret.dcm").write_bytes(b"")
    (images / "8").symlink_to(outside.parent)
    (images / "9").mkdir()
    (images / "9" / "70").symlink_to(outside)
    (images / "7" / "71").symlink_to(images / "7" / "70")
    (images / "7" / "70" / "2.dcm").symlink_to(outside / "secret.dcm")
    (images / "7" / "70" / "3.dcm").symlink_to("1.dcm")
    assert found(root) == {(7, 70): "7/70", (7, 71): "7/71"}
    outward = [fault.path for fault in split_cohort(root, "test").faults if fault.kind is FaultKind.LINK_OUTSIDE]
    assert outward == ["8", "9/70"]
    listing = list_folder(images / "7" / "70", images, 7, 70)
    assert [path.name for path in listing.files] == ["1.dcm", "3.dcm"]
    assert [(fault.path, fault.kind) for fault in listing.faults] == [("7/70/2.dcm", FaultKind.LINK_OUTSIDE)]


def test_a_study_is_read_once_whatever_links_lead_to_it(tmp_path: Path) -> None:
    root = dataset(tmp_path, ["7/70/1.dcm", ".store/x/80/1.dcm"], [(7, 70), (8, 80)])
    images = root.images("test")
    for name, target in {"6": "7", "8": ".store/x", "9": ".store/x"}.items():
        (images / name).symlink_to(target)
    assert found(root) == {(7, 70): "7/70", (8, 80): "8/80"}
    twice = [fault for fault in split_cohort(root, "test").faults if fault.kind is FaultKind.SECOND_NAME]
    assert [(fault.path, fault.message) for fault in twice] == [
        ("6", "a second name of folder 7"),
        ("9", "a second name of folder .store/x"),
    ]


def test_a_misplaced_folder_and_a_link_to_it_count_once(tmp_path: Path) -> None:
    root = dataset(tmp_path, ["7/71/1.dcm", "x/70/1.dcm"], [(7, 70), (7, 71)])
    (root.images("test") / "70").symlink_to("x/70")
    assert found(root) == {(7, 70): "x/70", (7, 71): "7/71"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_a_folder_that_can_be_listed_but_not_entered_is_a_fault(tmp_path: Path) -> None:
    root = dataset(tmp_path, ["7/70/1.dcm"], [(7, 70)])
    series = root.images("test") / "7" / "70"
    series.chmod(0o400)
    try:
        listing = list_folder(series, root.images("test"), 7, 70)
    finally:
        series.chmod(0o700)
    assert not listing.files
    assert [(fault.path, fault.kind) for fault in listing.faults] == [("7/70", FaultKind.CANNOT_OPEN)]


def test_the_image_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    elsewhere = dataset(tmp_path / "elsewhere", ["7/70/1.dcm"], [(7, 70)])
    root = tmp_path / "root"
    root.mkdir()
    (root / "dataset").symlink_to(elsewhere.dataset)
    assert found(DataRoot(root)) == {(7, 70): "7/70"}
    assert not [fault for fault in split_cohort(DataRoot(root), "test").faults if fault.kind is FaultKind.LINK_OUTSIDE]


def test_names_that_cannot_be_written_to_a_table_are_escaped(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"a\xff\nb")).mkdir()
    listing = list_folder(tmp_path, tmp_path)
    assert fault_path(listing.folders[0], tmp_path) == "a\\udcff\\nb"


@pytest.mark.parametrize(("name", "good"), [("0", True), ("7", True), ("07", False), ("\u0667", False), ("", False)])
def test_ids(name: str, good: bool) -> None:
    assert is_id(name) is good


def test_a_study_that_only_marks_name_belongs_to_the_cohort(tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    (root / "train_images" / "7" / "70").mkdir(parents=True)
    (root / "train.csv").write_text(",".join(["study_id", *(site.key for site in SITES)]) + "\n")
    (root / "train_series_descriptions.csv").write_text(HEADING)
    coordinates = "study_id,series_id,instance_number,condition,level,x,y\n8,1,1,Spinal Canal Stenosis,L1/L2,1,1\n"
    (root / "train_label_coordinates.csv").write_text(coordinates)
    cohort = split_cohort(DataRoot(tmp_path), "train")
    assert cohort.study_ids == (8,)
    assert {(fault.kind, fault.path) for fault in cohort.faults} == {
        (FaultKind.MISSING_STUDY, "8"),
        (FaultKind.NOT_IN_TABLE, "7"),
    }


def as_another_user(work: Callable[[], Any]) -> Any:
    """Return the result of `work` in a process of an unprivileged user: root can read every file."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            os.write(writer, pickle.dumps(work()))
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        content = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return pickle.loads(content)


def test_only_the_files_and_folders_that_cannot_be_opened_are_skipped() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # other users cannot enter pytest's own folders
        images = Path(name) / "dataset" / "test_images"
        root = dataset(Path(name), ["7/70/1.dcm", "7/70/2.dcm", "7/71/1.dcm", "8/80/1.dcm"], [])
        for path in (Path(name), *Path(name).rglob("*")):
            path.chmod(0o755)
        for closed in ("7/70/2.dcm", "7/71", "8"):
            (images / closed).chmod(0)

        def work() -> Any:
            cohort = split_cohort(root, "test")
            faults = list(cohort.faults)
            for folder in cohort.folders:
                faults += read_study(folder)[1]
            return [(fault.kind, fault.path) for fault in faults]

        kinds = as_another_user(work) if os.geteuid() == 0 else work()
    assert {path for kind, path in kinds if kind is FaultKind.CANNOT_OPEN} == {"7/70/2.dcm", "7/71", "8"}
    assert (FaultKind.NOT_DICOM, "7/70/1.dcm") in kinds


def test_a_deleted_folder_is_a_fault_of_its_series(tmp_path: Path) -> None:
    _, faults = read_study(StudyFolder(7, tmp_path, {70: tmp_path / "70"}))
    assert [fault.kind for fault in faults] == [FaultKind.CANNOT_OPEN, FaultKind.EMPTY_FOLDER]
