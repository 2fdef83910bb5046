"""Tests of instance_numbers.py: no image is lost for want of a number, and no number depends on the folder's order."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.faults import Fault, FaultKind
from data_prep.sites import View
from data_prep.studies.studies import Study, StudyFolder, read_study
from tests.dicom_files import frame, functional_group, write_enhanced, write_slice

COUNT = 6
IMAGES = np.random.default_rng(1).integers(0, 900, (12, 64, 64)).astype(np.uint16)
#: The order in which the slices lie, which is not the order of the files.
XS = [8.0, 0.0, 20.0, 4.0, 16.0, 12.0]


def read(folder: Path) -> tuple[Study, list[Fault]]:
    return read_study(StudyFolder(9, folder.parent, {1: folder}, {1: View.SAGITTAL_T1}))


def xs_by_number(study: Study) -> dict[int, float]:
    return {image.instance_number: image.frame.position_mm[0] for image in study.series[0].slices if image.frame}


def write(folder: Path, name: Callable[[int], str], number: Callable[[int], str | None]) -> Path:
    for index, x in enumerate(XS):
        elements = {"InstanceNumber": number(index), "SOPInstanceUID": f"1.2.{index + 90}"}
        write_slice(folder / name(index), IMAGES[index], frame((x, 0, 0)), **elements)
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "number"),
    [
        (lambda i: f"1.2.840.{10**20 + i}.dcm", lambda _: ""),
        (lambda i: f"IM{i}", lambda _: None),
        (lambda i: f"MR{i:04d}", lambda _: "1"),
        (lambda i: f"401.{i}", lambda _: None),
        (lambda i: f"2024013112131{i}.dcm", lambda _: "-3"),
        (lambda i: f"scan {i}.ima", lambda i: str(10**13 + i)),
        (lambda i: "9" * 30 + f"{i}.dcm", lambda _: ""),
    ],
)
def test_images_without_numbers_of_their_own_are_numbered_by_place(
    tmp_path: Path, name: Callable[[int], str], number: Callable[[int], str | None]
) -> None:
    study, faults = read(write(tmp_path / "1", name, number))
    assert xs_by_number(study) == {1: 0.0, 2: 4.0, 3: 8.0, 4: 12.0, 5: 16.0, 6: 20.0}
    assert [(fault.kind, fault.action, fault.path) for fault in faults] == [
        (FaultKind.NUMBER_ASSIGNED, "repaired", "1")
    ]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["401.{}", "1.3.12.2.1107.{}", "2024013112131{}.dcm", "IM{}.dcm"])
def test_the_headers_numbers_are_used_where_names_are_none(tmp_path: Path, name: str) -> None:
    study, faults = read(write(tmp_path / "1", lambda i: name.format(i), lambda i: str(30 + i)))
    assert xs_by_number(study) == {30 + index: x for index, x in enumerate(XS)} and not faults


def test_names_that_are_numbers_stay_the_numbers_whatever_the_headers_say(tmp_path: Path) -> None:
    study, faults = read(write(tmp_path / "1", lambda i: f"{i + 7}.dcm", lambda _: "3"))
    assert xs_by_number(study) == {7 + index: x for index, x in enumerate(XS)} and not faults


def test_new_numbers_do_not_depend_on_the_names_order(tmp_path: Path) -> None:
    one, _ = read(write(tmp_path / "a" / "1", lambda i: f"z{i}", lambda _: ""))
    other, _ = read(write(tmp_path / "b" / "1", lambda i: f"z{9 - i}", lambda _: ""))
    assert xs_by_number(one) == xs_by_number(other)


def test_new_numbers_follow_those_that_files_and_marks_name(tmp_path: Path) -> None:
    folder = write(tmp_path / "1", lambda i: f"{i + 1}.dcm" if i else "first", lambda _: "2")
    (folder / "40.dcm").write_bytes(b"")
    study, faults = read(folder)
    assert sorted(xs_by_number(study)) == [2, 3, 4, 5, 6, 41] and xs_by_number(study)[41] == XS[0]
    assert FaultKind.NUMBER_ASSIGNED in {fault.kind for fault in faults}


def test_names_of_one_number_are_two_images(tmp_path: Path) -> None:
    folder = write(tmp_path / "1", lambda i: f"{i + 1}.dcm", lambda i: str(i + 1))
    write_slice(folder / "003.dcm", IMAGES[8], frame((24.0, 0, 0)))
    study, _ = read(folder)
    assert xs_by_number(study) == {index + 1: x for index, x in enumerate(XS)} | {7: 24.0}


def test_a_copied_file_is_one_image(tmp_path: Path) -> None:
    folder = write(tmp_path / "1", lambda i: f"IM{i}", lambda _: "")
    for name in ("IM3 (copy)", "zz"):
        (folder / name).write_bytes((folder / "IM3").read_bytes())
    study, faults = read(folder)
    assert len(study.series[0].slices) == COUNT
    skipped = [fault.path for fault in faults if fault.kind is FaultKind.DUPLICATE_INSTANCE]
    assert skipped == ["1/IM3 (copy)", "1/zz"]


def test_images_without_any_place_are_numbered_by_identifier_and_name(tmp_path: Path) -> None:
    for index, name in enumerate(["IM10", "IM9", "IM100"]):
        write_slice(tmp_path / "1" / name, IMAGES[index], InstanceNumber="", SOPInstanceUID="1.2")
    study, _ = read(tmp_path / "1")
    greys = {image.instance_number: image.grey for image in study.series[0].slices}
    window = study.series[0].window
    assert sorted(greys) == [1, 2, 3] and window[1] > window[0]
    for number, index in ((1, 1), (2, 0), (3, 2)):
        assert np.corrcoef(greys[number].ravel(), IMAGES[index].ravel())[0, 1] > 0.99


def test_two_multi_frame_files_of_one_number_keep_all_frames(tmp_path: Path) -> None:
    for part, name in enumerate(("a", "b")):
        groups = [functional_group(frame((4.0 * i + 12 * part, 0, 0))) for i in range(3)]
        write_enhanced(tmp_path / "1" / name, IMAGES[3 * part : 3 * part + 3], groups, InstanceNumber="1")
    study, _ = read(tmp_path / "1")
    assert xs_by_number(study) == {number: 4.0 * (number - 1) for number in range(1, 7)}
