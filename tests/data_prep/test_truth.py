"""data_prep/truth.py: tables of known grades, in both formats, read and checked."""

from pathlib import Path

import pytest

from data_prep.sites import SITES, Severity
from data_prep.truth import TrueSite, read_grades, read_truth


def test_grades_are_read_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    path.write_text(
        "study_id,condition,side,level,severity,grade\n"
        "7,spinal_canal_stenosis,,l4_l5,severe,2.5\n"
        "7,subarticular_stenosis,left,l1_l2,normal_mild,0.1\n"
        "7,subarticular_stenosis,right,l1_l2,,0.1\n"
    )
    truth = read_grades(path)
    assert {(study, site.key): severity for (study, site), severity in truth.items()} == {
        (7, "spinal_canal_stenosis_l4_l5"): Severity.SEVERE,
        (7, "left_subarticular_stenosis_l1_l2"): Severity.NORMAL_MILD,
    }
    path.write_text("study_id,condition,side,level,severity\n7,spinal_canal_stenosis,left,l4_l5,severe\n")
    with pytest.raises(ValueError, match=r"line 2: .*the canal has no side"):
        read_grades(path)
    path.write_text("\ufeffseverity,study_id,condition,side,level\nsevere,7,spinal_canal_stenosis\n")
    with pytest.raises(ValueError, match=r"line 2: has 3 cells, but the heading has 5"):
        read_grades(path)
    path.write_text("study_id,condition,side,level,severity\n7,spinal_canal_stenosis,,,severe\n")
    with pytest.raises(ValueError, match=r"line 2: '' is not a level"):
        read_grades(path)
    path.write_bytes(b"study_id,condition,side,level,severity\n" + b"x" * 200_000)
    with pytest.raises(ValueError, match=r"truth\.csv: not a CSV file"):
        read_grades(path)
    path.write_bytes(b"study_id,condition,side,level,severity\n\xe9")
    with pytest.raises(ValueError, match=r"truth\.csv: not a CSV file"):
        read_grades(path)
    with pytest.raises(ValueError, match="no table: cannot be read"):
        read_grades(tmp_path / "no table")
    path.write_text("study_id,condition,level,severity\n")
    with pytest.raises(ValueError, match="no column 'side'"):
        read_grades(path)


def test_both_formats_give_the_same_sites(tmp_path: Path) -> None:
    grade_of = {site: list(Severity)[number % 3] for number, site in enumerate(SITES) if number % 7}
    long = [
        f"9,{','.join(cell or '' for cell in site.columns.values())},{Severity.to_column(grade_of.get(site)) or ''}"
        for site in SITES
    ]
    (tmp_path / "truth.csv").write_text("\n".join(["study_id,condition,side,level,severity", *long, ""]))
    labels = [grade_of[site].label if site in grade_of else "" for site in SITES]
    heading = ["study_id", *(site.key for site in SITES)]
    (tmp_path / "train.csv").write_text("\n".join([",".join(heading), ",".join(["9", *labels]), ""]))

    expected = [TrueSite(9, site, grade_of.get(site)) for site in SITES]
    assert read_truth(tmp_path / "truth.csv") == read_truth(tmp_path / "train.csv") == expected
    assert read_grades(tmp_path / "train.csv") == {(9, site): grade for site, grade in grade_of.items()}


def test_splits_are_chosen_and_positions_read(tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    path.write_text(
        "study_id,split,condition,side,level,severity,x_mm,y_mm,z_mm\n"
        "1,train,spinal_canal_stenosis,,l1_l2,severe,1.5,-2,3e1\n"
        "2,test,spinal_canal_stenosis,,l5_s1,,,,\n"
    )
    train, test = TrueSite(1, SITES[0], Severity.SEVERE, (1.5, -2.0, 30.0)), TrueSite(2, SITES[4], None)
    assert read_truth(path) == [train, test]
    assert read_truth(path, "train") == [train]
    assert read_truth(path, "test") == [test]
    path.write_text(path.read_text().replace("3e1", "high"))
    with pytest.raises(ValueError, match=r"truth\.csv: line 2: .*'high'"):
        read_truth(path)


def test_tables_that_pandas_wrote_are_read_as_what_they_were(tmp_path: Path) -> None:
    path, heading = tmp_path / "train.csv", ["study_id", *(site.key for site in SITES if site.side is None)]
    path.write_bytes(("\ufeff" + ",".join(heading) + "\r\n9.0,Severe,nan, NA ,<NA>,None\r\n").encode())
    severe, *ungraded = read_truth(path)
    assert severe == TrueSite(9, SITES[0], Severity.SEVERE)
    assert [one.severity for one in ungraded] == [None] * 4
    for text in ("9.5", "1e3", "-9", "9" * 19, "", "nan"):
        path.write_text(f"{','.join(heading)}\n{text},,,,,\n")
        with pytest.raises(ValueError, match=r"line 2: study_id .*: not a whole number"):
            read_truth(path)
    path.write_text(f"{','.join(heading[:-1])}\n9,,,,\n")
    with pytest.raises(ValueError, match=r"no column 'spinal_canal_stenosis_l5_s1' beside 'spinal_canal_stenosis_l1"):
        read_truth(path)
    path.write_text(f"{','.join(heading)},study_id\n9,,,,,,9\n")
    with pytest.raises(ValueError, match="2 columns are named 'study_id'"):
        read_truth(path)


def test_a_site_that_appears_twice_counts_once_or_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    row = "1,spinal_canal_stenosis,,l1_l2,severe,1,2,3\n"
    text = f"study_id,condition,side,level,severity,x_mm,y_mm,z_mm\n{row}{row}"
    path.write_text(text)
    assert read_truth(path) == [TrueSite(1, SITES[0], Severity.SEVERE, (1.0, 2.0, 3.0))]
    for other, said in (
        (row.replace("severe", ""), "appears twice, with Severe and no grade for L1-L2 spinal canal stenosis"),
        (row.replace("severe", "moderate"), "appears twice, with Severe and Moderate for L1-L2"),
        (row.replace(",3", ",4"), "appears twice, with two positions for L1-L2"),
    ):
        path.write_text(text + other)
        with pytest.raises(ValueError, match=f"line 4: study 1: {said}"):
            read_truth(path)


def test_a_row_that_is_cut_off_or_too_long_is_refused(tmp_path: Path) -> None:
    """Cells that are missing at the end of a file would pass for unknown grades."""
    heading, row = ",".join(["study_id", *(site.key for site in SITES)]), f"9{',Severe' * 25}"
    path = tmp_path / "train.csv"
    path.write_text(f"{heading}\n{row}\n")
    assert len(read_truth(path)) == 25
    for other, cells in (("8,Severe,Sev", 3), (f"8{',Severe' * 26}", 27)):
        path.write_text(f"{heading}\n{row}\n{other}\n")
        with pytest.raises(ValueError, match=rf"train\.csv: line 3: has {cells} cells, but the heading has 26"):
            read_truth(path)
