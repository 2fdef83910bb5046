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
