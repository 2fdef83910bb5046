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
        ({1: ["a", "b", "c"], 2: ["d"], 3: ["e", "f"], 4: ["g"]}, {1: 3, 2: 1, 3: 2, 4: 1}, []),
        ({1: ["a", "b", "c"], 2: ["d"] * 3, 3: ["d"] * 2}, {1: 3, 2: 3, 3: 2}, []),
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


def test_series_in_a_folder_that_no_table_names_belong_to_the_study_that_they_show(tmp_path: Path) -> None:
    images = tmp_path / "dataset" / "test_images"
    for where, uid in {"7/1": "1.1", "8/1": "1.2", "90/2": "1.1", "90/6": "1.9", "9/3": "1.2"}.items():
        write_slice(images / where / "1.dcm", PIXELS, frame((0, 0, 0)), StudyInstanceUID=uid)
    table = "study_id,series_id,series_description\n7,1,Axial T2\n8,1,Axial T2\n9,3,Axial T2\n"
    (tmp_path / "dataset" / "test_series_descriptions.csv").write_text(table)
    cohort = split_cohort(DataRoot(tmp_path), "test")
    found = {(folder.study_id, series) for folder in cohort.folders for series in folder.series}
    assert found == {(7, 1), (7, 2), (8, 1), (90, 6), (9, 3)}
    (moved,) = (fault for fault in cohort.faults if fault.kind is FaultKind.MISPLACED)
    assert (moved.path, moved.action, moved.study_id) == ("90/2", "repaired", 7)
    assert moved.message == "read as series 2 of study 7, by its StudyInstanceUID"

    convert_cohort(cohort, tmp_path / "out", atlas=None, caption=caption)
    rows = list(csv.DictReader((tmp_path / "out" / "faults.csv").open()))
    (split,) = (row for row in rows if row["kind"] == "split_study")
    assert (split["study_id"], split["action"]) == ("9", "kept") and "study 8" in split["message"]
