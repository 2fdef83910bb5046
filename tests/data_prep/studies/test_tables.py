"""Tests of data_prep/studies/tables.py and checked_csv.py: tolerant of the format, strict about the content."""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.faults import FaultKind
from data_prep.sites import SITES, Severity, View
from data_prep.studies import tables as tables_module
from data_prep.studies.tables import read_test_tables, read_train_tables

HEADING = ",".join(["study_id", *(site.key for site in SITES)])


def write_train(folder: Path, grades: str, descriptions: str, coordinates: str | None = None) -> Path:
    (folder / "train.csv").write_bytes(grades.encode("utf-8"))
    (folder / "train_series_descriptions.csv").write_bytes(descriptions.encode("utf-8"))
    if coordinates is not None:
        (folder / "train_label_coordinates.csv").write_bytes(coordinates.encode("utf-8"))
    return folder


def kinds(faults) -> list[FaultKind]:  # type: ignore[no-untyped-def]
    return [fault.kind for fault in faults]


def test_the_format_is_read_tolerantly(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("name", ["train.csv", "train_label_coordinates.csv"])
@pytest.mark.parametrize(("make", "found"), [(Path.mkdir, "is a folder"), (os.mkfifo, "is not a regular file")])
def test_a_folder_or_pipe_in_place_of_a_table_is_refused(
    tmp_path: Path, name: str, make: Callable[[Path], None], found: str
) -> None:
    write_train(tmp_path, f"{HEADING}\n", "study_id,series_id,series_description\n")
    (tmp_path / name).unlink(missing_ok=True)
    make(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=rf"{name}: {found}; it should be a CSV file"):
        read_train_tables(tmp_path)


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
    assert tables.study_ids == (8,) and tables.severities == {8: {}} and tables.views == {8: {}}
    assert not tables.marks
    assert [(fault.path, fault.kind) for fault in tables.faults] == [
        ("train.csv:2", FaultKind.BAD_ID),
        ("train.csv:3", FaultKind.BAD_ID),
        ("train.csv:4", FaultKind.BAD_LABEL),
        ("train.csv:5", FaultKind.CONTRADICTION),
        ("train_series_descriptions.csv:2", FaultKind.BAD_LABEL),
        ("train_series_descriptions.csv:4", FaultKind.CONTRADICTION),
        ("train_series_descriptions.csv:5", FaultKind.BAD_ID),
        ("train_label_coordinates.csv:2", FaultKind.BAD_LABEL),
        ("train_label_coordinates.csv:3", FaultKind.BAD_MARK),
    ]
    assert "../../evil" in tables.faults[0].message
    assert (tables.faults[4].study_id, tables.faults[4].series_id) == (8, 80)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "../../evil",
        "/etc/passwd",
        "7\0",
        "\u0661\u0662",
        "1e5",
        "-7",
        "+7",
        "007",
        "7.5",
        "0x7",
        "1_0",
        "9" * 19,
        "nan",
    ],
)
def test_an_id_must_be_a_plain_whole_number(tmp_path: Path, text: str) -> None:
    write_train(tmp_path, HEADING, f"study_id,series_id,series_description\n{text},70,Axial T2\n7.0,70.00,Axial T2\n")
    tables = read_train_tables(tmp_path)
    assert tables.views == {7: {70: View.AXIAL_T2}} and tables.study_ids == (7,)
    (bad,) = (fault for fault in tables.faults if fault.kind is FaultKind.BAD_ID)
    assert bad.path == "train_series_descriptions.csv:2" and repr(text) in bad.message


@pytest.mark.parametrize("text", ["", "nan", "inf", "1e999", "1,5", "1_0", "\u0661", "0x1", "- 1"])
def test_a_coordinate_must_be_a_finite_number(tmp_path: Path, text: str) -> None:
    rows = f'7,70,3,Spinal Canal Stenosis,L1/L2,"{text}",2\n7,70,3,Spinal Canal Stenosis,L1/L2,-1.5e1,.5\n'
    write_train(
        tmp_path,
        HEADING,
        "study_id,series_id,series_description\n",
        f"study_id,series_id,instance_number,condition,level,x,y\n{rows}",
    )
    tables = read_train_tables(tmp_path)
    assert [(mark.x, mark.y) for mark in tables.marks[7]] == [(-15.0, 0.5)] and tables.study_ids == (7,)
    assert kinds(tables.faults) == [FaultKind.BAD_MARK]


def test_only_grades_that_all_rows_of_a_study_share_are_used_in_any_order(tmp_path: Path) -> None:
    def row(*labels: str) -> str:
        return ",".join(["7", *labels, *[""] * (25 - len(labels))]) + "\n"

    rows = [row("Severe", "Moderate", "Mild"), row("Severe", "Severe", "Severe"), row("severe", "", "Severe")]
    for order in itertools.permutations(rows):
        write_train(tmp_path, f"{HEADING}\n{''.join(order)}", "study_id,series_id,series_description\n")
        tables = read_train_tables(tmp_path)
        assert tables.severities == {7: {SITES[0]: Severity.SEVERE}}
        assert sorted(kinds(tables.faults))[1:] == [FaultKind.CONTRADICTION, FaultKind.CONTRADICTION, "missing_table"]
    write_train(tmp_path, f"{HEADING}\n{rows[1]}{rows[1]}", "study_id,series_id,series_description\n")
    tables = read_train_tables(tmp_path)
    assert len(tables.severities[7]) == 3 and FaultKind.DUPLICATE_ROW in kinds(tables.faults)


def test_duplicate_rows_of_a_series_and_of_a_mark(tmp_path: Path) -> None:
    series = "7,70,Axial T2\n7,71,Sagittal T1\n7,70,axial t2\n7,71,Axial T2\n7,71,Sagittal T1\n8,71,Axial T2\n"
    mark = "7,70,3,Spinal Canal Stenosis,L1/L2,{},2\n"
    write_train(
        tmp_path,
        HEADING,
        f"study_id,series_id,series_description\n{series}",
        "study_id,series_id,instance_number,condition,level,x,y\n"
        + mark.format(1)
        + mark.format("1.0")
        + mark.format(9),
    )
    tables = read_train_tables(tmp_path)
    assert tables.views == {7: {70: View.AXIAL_T2}, 8: {71: View.AXIAL_T2}}
    assert [mark.x for mark in tables.marks[7]] == [1.0, 9.0], "the image decides later which of the two is used"
    assert [(fault.path.split(":")[1], fault.kind) for fault in tables.faults] == [
        ("4", FaultKind.DUPLICATE_ROW),
        ("5", FaultKind.CONTRADICTION),
        ("6", FaultKind.DUPLICATE_ROW),
        ("3", FaultKind.DUPLICATE_ROW),
    ]


def test_a_row_whose_cells_have_shifted_is_skipped(tmp_path: Path) -> None:
    write_train(
        tmp_path,
        f"{HEADING}\n7,Severe\n",  # spreadsheets drop empty cells at the end of a row
        "id,study_id,series_id,series_description,\n0,7,70,Axial T2,,\n1,7,71,Sagittal T2,STIR,1\n",
    )
    tables = read_train_tables(tmp_path)
    assert tables.severities == {7: {SITES[0]: Severity.SEVERE}} and tables.views == {7: {70: View.AXIAL_T2}}
    bad = next(fault for fault in tables.faults if fault.kind is FaultKind.BAD_ROW)
    assert bad.path == "train_series_descriptions.csv:3" and "6 cells, but the heading has 5" in bad.message


def test_tables_of_the_real_size_are_read_in_bounded_time(tmp_path: Path) -> None:
    levels = [site.level.words.replace("-", "/") for site in SITES]
    conditions = [site.condition_key.replace("_", " ").title() for site in SITES]
    rows = [
        f"{1000 + number // 25},{number // 8},{number % 30},{conditions[number % 25]},{levels[number % 25]},"
        f"{number * 0.37:.6f},{number * 0.73:.6f}"
        for number in range(48_692)
    ]
    heading = "study_id,series_id,instance_number,condition,level,x,y\n"
    write_train(tmp_path, HEADING, "study_id,series_id,series_description\n", heading + "\n".join(rows))
    started = time.process_time()
    tables = read_train_tables(tmp_path)
    assert sum(map(len, tables.marks.values())) == 48_692 and not tables.faults
    bad = heading + "\n".join(row.replace("Stenosis", "Stenose") for row in rows)
    (tmp_path / "train_label_coordinates.csv").write_text(bad)
    assert len(read_train_tables(tmp_path).faults) == sum("Stenosis" in row for row in rows)
    assert time.process_time() - started < 15, "expected one or two seconds, including the import of pandera"


def test_pandera_is_imported_only_to_read_a_table() -> None:
    code = "import sys, data_prep.conversion.convert, prepare_data; assert not {'pandas', 'pandera'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(tables_module.__file__).parents[2], check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no column 'study_id'; it has no columns"),
        ("study,b\n1,2\n", "no column 'study_id'; the nearest is 'study'"),
        ("studyid\n1\n", "no column 'study_id'; the nearest is 'studyid'"),
        ("study_id\n1\n", "no column 'spinal_canal_stenosis_l1_l2'; its columns are 'study_id'"),
        (HEADING.replace("l5_s1", "l5_s2"), "no column 'spinal_canal_stenosis_l5_s1'; the nearest is"),
        (f"{HEADING},study_id\n", "2 columns are named 'study_id'"),
        (HEADING.replace(",", ";"), "expected commas, not ';'"),
        (f'{HEADING}\n7,"Severe\n8,Mild\n', "not a CSV file .line 3: unexpected end of data"),
    ],
)
def test_a_malformed_table_is_refused(tmp_path: Path, content: str, message: str) -> None:
    write_train(tmp_path, content, "study_id,series_id,series_description\n")
    with pytest.raises(ValueError, match=message) as caught:
        read_train_tables(tmp_path)
    assert "\n" not in str(caught.value) and "train.csv" in str(caught.value)


def test_a_table_that_is_not_text_is_refused(tmp_path: Path) -> None:
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
def test_the_studies_of_the_test_tables_are_in_the_order_of_the_sample_if_it_has_all(
    tmp_path: Path, sample: list[int], order: tuple[int, ...]
) -> None:
    table = "study_id,series_id,series_description\n5,1,Axial T2\n3,1,Axial T2\n9,1,Axial T2\n"
    (tmp_path / "test_series_descriptions.csv").write_text(table)
    rows = "".join(f"{study}_{site.key},1,1,1\n" for study in sample for site in SITES)
    (tmp_path / "sample_submission.csv").write_text("row_id,normal_mild,moderate,severe\n" + rows)
    assert read_test_tables(tmp_path).study_ids == order


def test_the_sample_submission_alone_names_the_test_studies(tmp_path: Path) -> None:
    (tmp_path / "sample_submission.csv").write_text(
        "row_id,normal_mild\n9_{0},1\n9_{0},1\n3_a,1\n../x_a,1\n".format(SITES[0].key)
    )
    tables = read_test_tables(tmp_path)
    assert tables.study_ids == (9, 3) and tables.views == {}
    assert kinds(tables.faults) == [
        FaultKind.MISSING_TABLE,
        FaultKind.DUPLICATE_ROW,
        FaultKind.BAD_LABEL,
        FaultKind.BAD_ID,
    ]


def test_without_test_tables_no_study_is_named(tmp_path: Path) -> None:
    tables = read_test_tables(tmp_path)
    assert tables.study_ids == () and kinds(tables.faults) == [FaultKind.MISSING_TABLE]
