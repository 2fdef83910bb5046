"""Tests of identity.py: images of another examination in a study folder answer for nobody."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from data_prep.conversion.convert import convert_cohort
from data_prep.faults import FaultKind
from data_prep.studies.cohorts import split_cohort
from data_prep.studies.studies import Study, StudyFolder, read_study
from prompts.render import caption
from tests.dicom_files import frame, write_slice
from workspace.layout import DataRoot

PIXELS = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)


def read(tmp_path: Path, series: Mapping[int, Sequence[str]]) -> tuple[Study, list[tuple[str, str]]]:
    """Read study 7, whose series have images with these StudyInstanceUIDs; return it and (path, action) of faults."""
    for series_id, uids in series.items():
        for number, uid in enumerate(uids, start=1):
            path = tmp_path / "7" / str(series_id) / f"{number}.dcm"
            write_slice(path, PIXELS, frame((4.0 * number, 0, 0)), **({"StudyInstanceUID": uid} if uid else {}))
    study, faults = read_study(StudyFolder(7, tmp_path, {number: tmp_path / "7" / str(number) for number in series}))
    return study, [(fault.path, fault.action) for fault in faults if fault.kind is FaultKind.FOREIGN_IMAGE]


def read_series(study: Study) -> dict[int, int]:
    return {series.series_id: len(series.slices) for series in study.series}


@pytest.mark.parametrize(
    ("series", "kept", "skipped"),
    [
        ({1: ["a"] * 3, 2: ["a"] * 3, 3: ["b"] * 9}, {1: 3, 2: 3}, ["7/3"]),
        ({1: ["b"] * 9, 2: ["a"] * 3, 3: ["a"] * 3}, {2: 3, 3: 3}, ["7/1"]),  # the first one that is read
        ({1: ["b"] * 9, 2: ["7"] * 2}, {2: 2}, ["7/1"]),  # the study's id is its identifier
        ({1: ["a"] * 3, 2: ["b"] * 9}, {}, ["7/1", "7/2"]),  # nothing tells which of the two it is
        ({1: ["a"] * 3, 2: ["b"] * 3, 3: ["c"] * 3}, {}, ["7/1", "7/2", "7/3"]),
        ({1: ["a"] * 3, 2: [""] * 3, 3: ["a"] * 2}, {1: 3, 2: 3, 3: 2}, []),
        ({1: ["a", "b", "c"], 2: ["d", "e", "f"]}, {1: 3, 2: 3}, []),  # another one in each file says nothing
        ({1: ["a", "b", "c", "e", "f"], 2: ["d"] * 9, 3: ["d"] * 9}, {1: 5, 2: 9, 3: 9}, []),
        ({1: ["a", "b", "c"], 2: ["d"], 3: ["e", "f"], 4: ["g"]}, {1: 3, 2: 1, 3: 2, 4: 1}, []),
        ({1: ["a", "a", "b"], 2: ["a"] * 3}, {1: 2, 2: 3}, ["7/1/3.dcm"]),
        ({1: ["b", "b", "a"], 2: ["a"] * 3, 3: ["a"] * 3}, {1: 1, 2: 3, 3: 3}, ["7/1/1.dcm", "7/1/2.dcm"]),
        ({1: ["a", "a", "a", "b", "b"]}, {1: 3}, ["7/1/4.dcm", "7/1/5.dcm"]),
        ({1: ["a", "a", "b", "b"]}, {}, ["7/1"]),
    ],
)
def test_images_of_another_examination_are_left_out(
    tmp_path: Path, series: dict[int, list[str]], kept: dict[int, int], skipped: list[str]
) -> None:
    digits = {"": "", "7": "7", **{letter: f"1.{number}" for number, letter in enumerate("abcdefg")}}
    given = {series_id: [digits[uid] for uid in uids] for series_id, uids in series.items()}
    study, faults = read(tmp_path, given)
    assert read_series(study) == kept
    assert sorted(faults) == [(path, "skipped") for path in skipped]


def test_studies_of_one_identifier_are_named_and_left_as_the_tables_have_them(tmp_path: Path) -> None:
    images = tmp_path / "dataset" / "test_images"
    for where, uid in {"7/1": "1.1", "8/1": "1.2", "90/2": "1.1", "9/3": "1.2", "10/4": "1.3"}.items():
        write_slice(images / where / "1.dcm", PIXELS, frame((0, 0, 0)), StudyInstanceUID=uid, PatientID="A")
    table = "study_id,series_id,series_description\n7,1,Axial T2\n8,1,Axial T2\n9,3,Axial T2\n10,4,Axial T2\n"
    (tmp_path / "dataset" / "test_series_descriptions.csv").write_text(table)
    cohort = split_cohort(DataRoot(tmp_path), "test")
    found = {(folder.study_id, series) for folder in cohort.folders for series in folder.series}
    assert found == {(7, 1), (8, 1), (9, 3), (10, 4), (90, 2)}
    convert_cohort(cohort, tmp_path / "out", atlas=None, caption=caption)
    rows = list(csv.DictReader((tmp_path / "out" / "faults.csv").open()))
    split = {(row["study_id"], row["action"]) for row in rows if row["kind"] == "split_study"}
    assert split == {(study, "kept") for study in ("7", "8", "9", "90")}


def test_the_pictures_of_another_study_of_the_folder_answer_for_nobody(tmp_path: Path) -> None:
    for where, uid in {"7/1": "8", "8/1": "8"}.items():
        write_slice(tmp_path / where / "1.dcm", PIXELS, frame((0, 0, 0)), StudyInstanceUID=uid)
    seven, eight = (read_study(StudyFolder(n, tmp_path, {1: tmp_path / str(n) / "1"}, {})) for n in (7, 8))
    assert not seven[0].series and len(eight[0].series) == 1
    assert [fault.kind for fault in seven[1]] == [FaultKind.FOREIGN_IMAGE]
    unnamed, _ = read_study(StudyFolder(7, tmp_path, {1: tmp_path / "7" / "1"}))
    assert len(unnamed.series) == 1, "no table asks for it: a copy"


def test_another_patient_is_foreign_whatever_the_study_is_called(tmp_path: Path) -> None:
    for series, patient in {1: "A", 2: "A", 3: "B"}.items():
        write_slice(tmp_path / "7" / str(series) / "1.dcm", PIXELS, frame((0, 0, 0)), PatientID=patient)
    study, faults = read_study(StudyFolder(7, tmp_path, {n: tmp_path / "7" / str(n) for n in (1, 2, 3)}))
    assert [series.series_id for series in study.series] == [1, 2]
    assert [fault.path for fault in faults if fault.kind is FaultKind.FOREIGN_IMAGE] == ["7/3"]


def test_identifiers_of_each_series_are_ignored_for_one_patient_only(tmp_path: Path) -> None:
    for study, patients in {"7": "AAA", "8": "AAB"}.items():
        for series, patient in enumerate(patients, start=1):
            uids = {"StudyInstanceUID": f"1.{study}.{series}", "PatientID": patient}
            write_slice(tmp_path / study / str(series) / "1.dcm", PIXELS, frame((0, 0, 0)), **uids)
    one, other = (
        read_study(StudyFolder(n, tmp_path, {m: tmp_path / str(n) / str(m) for m in (1, 2, 3)})) for n in (7, 8)
    )
    assert len(one[0].series) == 3 and [fault.kind for fault in one[1]].count(FaultKind.IDENTITY_IGNORED) == 1
    assert not other[0].series and FaultKind.IDENTITY_IGNORED not in {fault.kind for fault in other[1]}
