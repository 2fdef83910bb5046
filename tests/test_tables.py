"""data_prep/tables.py: tolerant of form, strict about content."""

from pathlib import Path

import pytest

from data_prep.faults import FaultKind
from data_prep.sites import SITES, Severity, View
from data_prep.tables import read_test_tables, read_train_tables

HEADING = ",".join(["study_id", *(site.key for site in SITES)])


def write_train(folder: Path, grades: str, descriptions: str, coordinates: str | None = None) -> Path:
    (folder / "train.csv").write_bytes(grades.encode("utf-8"))
    (folder / "train_series_descriptions.csv").write_bytes(descriptions.encode("utf-8"))
    if coordinates is not None:
        (folder / "train_label_coordinates.csv").write_bytes(coordinates.encode("utf-8"))
    return folder


def kinds(faults) -> list[FaultKind]:  # type: ignore[no-untyped-def]
    return [fault.kind for fault in faults]


def test_form_is_forgiven(tmp_path: Path) -> None:
    labels = ",".join([" severe", "NORMAL/MILD ", "", *["Moderate"] * 22])
    write_train(
        tmp_path,
        f"\ufeff{HEADING.upper()}\r\n\r\n 7 ,{labels}\r\n,,,\r\n",
        "study_id, series_id ,series_description\r\n7,70,sagittal t2/stir \r\n",
        'study_id,series_id,instance_number,condition,level,x,y\n7,70,3.0,spinal  canal stenosis, l1/l2,1.5,"2"\n',
    )
    tables = read_train_tables(tmp_path)
    assert not tables.faults and tables.study_ids == (7,)
    assert tables.views == {7: {70: View.SAGITTAL_T2_STIR}}
    severities = tables.severities[7]
    assert severities[SITES[0]] is Severity.SEVERE and severities[SITES[1]] is Severity.NORMAL_MILD
    assert SITES[2] not in severities and severities[SITES[24]] is Severity.MODERATE
    (mark,) = tables.marks[7]
    assert (mark.site, mark.series_id, mark.instance_number, mark.x, mark.y) == (SITES[0], 70, 3, 1.5, 2.0)
    assert set(tables.hashes) == {"train.csv", "train_series_descriptions.csv", "train_label_coordinates.csv"}


def test_content_is_not_guessed(tmp_path: Path) -> None:
    blank = "," * 25
    mark = "study_id,series_id,instance_number,condition,level,x,y\n"
    write_train(
        tmp_path,
        f"{HEADING}\n../../evil{blank}\n1e3{blank}\n8,Mild{',' * 24}\n8,Severe{',' * 24}\n",
        "study_id,series_id,series_description\n8,80,Axial T9\n8,81,Axial T2\n8,81,Sagittal T1\n8,/etc,Axial T2\n",
        mark + "8,81,1,Left Elbow,L1/L2,1,1\n8,81,1,Spinal Canal Stenosis,L1/L2,nan,1\n",
    )
    tables = read_train_tables(tmp_path)
    assert tables.study_ids == (8,) and tables.severities == {8: {}} and tables.views == {8: {81: View.AXIAL_T2}}
    assert not tables.marks
    assert kinds(tables.faults) == [
        FaultKind.BAD_ID,
        FaultKind.BAD_ID,
        FaultKind.BAD_LABEL,
        FaultKind.DUPLICATE_ROW,
        FaultKind.BAD_LABEL,
        FaultKind.DUPLICATE_ROW,
        FaultKind.BAD_ID,
        FaultKind.BAD_LABEL,
        FaultKind.BAD_MARK,
    ]
    assert tables.faults[0].path == "train.csv:2" and "../../evil" in tables.faults[0].message


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "no column 'study_id'"), ("study,b\n1,2\n", "no column 'study_id'"), ("study_id\n1\n", "no column 'spinal")],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, content: str, message: str) -> None:
    write_train(tmp_path, content, "study_id,series_id,series_description\n")
    with pytest.raises(ValueError, match=message):
        read_train_tables(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    write_train(tmp_path, HEADING, "study_id,series_id,series_description\n")
    (tmp_path / "train.csv").write_bytes(b"study_id\n\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"train\.csv: not a CSV file"):
        read_train_tables(tmp_path)
    (tmp_path / "train.csv").unlink()
    with pytest.raises(OSError, match=r"train\.csv"):
        read_train_tables(tmp_path)


@pytest.mark.parametrize(
    ("sample", "order"),
    [
        ([9, 3, 5], (9, 3, 5)),
        ([9, 3], (3, 5, 9)),
        ([], (3, 5, 9)),
        ([9, 7, 3, 5], (9, 7, 3, 5)),
        ([9, 7], (3, 5, 7, 9)),
    ],
)
def test_every_study_that_a_test_table_names_comes_in_the_samples_order_where_that_has_all(
    tmp_path: Path, sample: list[int], order: tuple[int, ...]
) -> None:
    table = "study_id,series_id,series_description\n5,1,Axial T2\n3,1,Axial T2\n9,1,Axial T2\n"
    (tmp_path / "test_series_descriptions.csv").write_text(table)
    rows = "".join(f"{study}_{site.key},1,1,1\n" for study in sample for site in SITES)
    (tmp_path / "sample_submission.csv").write_text("row_id,normal_mild,moderate,severe\n" + rows)
    assert read_test_tables(tmp_path).study_ids == order


def test_the_sample_alone_names_the_test_studies_too(tmp_path: Path) -> None:
    (tmp_path / "sample_submission.csv").write_text("row_id,normal_mild\n9_a,1\n9_b,1\n3_a,1\n../x_a,1\n")
    tables = read_test_tables(tmp_path)
    assert tables.study_ids == (9, 3) and tables.views == {}
    assert kinds(tables.faults) == [FaultKind.MISSING_TABLE, FaultKind.BAD_ID]


def test_without_test_tables_the_folder_speaks(tmp_path: Path) -> None:
    tables = read_test_tables(tmp_path)
    assert tables.study_ids == () and kinds(tables.faults) == [FaultKind.MISSING_TABLE]
