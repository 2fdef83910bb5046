"""Anyone's predictions: what is read, and what is refused with the row quoted."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.sites import SITES
from vl_model.scoring.prediction_table import read_prediction_table

HEADING = "row_id,normal_mild,moderate,severe\n"
ROW = "7_spinal_canal_stenosis_l1_l2"


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "predictions.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_rows_and_columns_have_any_order(tmp_path: Path) -> None:
    table = read_prediction_table(
        written(
            tmp_path,
            "\ufeffsevere, Moderate ,note,row_id,normal_mild\r\n"
            "0.1,0.2,x,7.0_left_subarticular_stenosis_l5_s1,0.7\r\n\r\n"
            f"0,0,,{ROW},1\r\n",
        )
    )
    assert table.study_N.tolist() == [7, 7]
    assert [SITES[site].key for site in table.site_N] == [
        "left_subarticular_stenosis_l5_s1",
        "spinal_canal_stenosis_l1_l2",
    ]
    assert table.prob_N3 == pytest.approx(np.array([[0.7, 0.2, 0.1], [1, 0, 0]]))
    columns = "study_id,condition,side,level,normal_mild,moderate,severe\n"
    rows = "7,subarticular_stenosis,left,L5/S1,0.7,0.2,0.1\n7,spinal_canal_stenosis,nan,l1_l2,1,0,0\n"
    same = read_prediction_table(written(tmp_path, columns + rows))
    assert same.by_site() == table.by_site()


def test_sums_near_one_are_normalised_and_others_only_on_request(tmp_path: Path) -> None:
    near = read_prediction_table(written(tmp_path, f"{HEADING}{ROW},0.7,0.2,0.1009\n"))
    assert near.prob_N3.sum() == pytest.approx(1, abs=1e-15) and np.array_equal(near.given_N3, near.prob_N3)
    assert near.largest_deviation == pytest.approx(9e-4)
    # As the competition's code: values are cut to one and then divided; any severe reads them before.
    path = written(tmp_path, f"{HEADING}{ROW},1,1,1\n8{ROW[1:]},97,2,1\n9{ROW[1:]},0,0,0\n5{ROW[1:]},0.2,0.2,0\n")
    taken = read_prediction_table(path, normalise=True)
    expected = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 1], [1.5, 1.5, 0]]) / 3
    assert taken.prob_N3 == pytest.approx(expected, abs=1e-14)
    assert taken.given_N3[:, 2].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column 'study_id' (the columns are none, it is empty); expected row_id, normal_mild, "),
        (HEADING, "contains no prediction"),
        (bytes(range(256)), "not a CSV file in UTF-8"),
        ("row_id,normal_mild,severe\n", "no column 'moderate' (the columns are row_id, normal_mild, severe)"),
        ("row_id,severe,normal_mild,moderate,severe\n", "2 columns are named 'severe'"),
        (f"{HEADING}{ROW},1,1,1\n", f"line 2: row '{ROW}': 1, 1, 1 sum to 3, not to 1; --normalise takes such rows"),
        (f"{HEADING}{ROW},0.5,0.3,0.1\n", "0.5, 0.3, 0.1 sum to 0.9, not to 1"),
        (f"{HEADING}{ROW},97,2,1\n", "97, 2, 1 sum to 100, not to 1; divide percentages by 100"),
        (f"{HEADING}{ROW},97%,2%,1%\n", "'97%' is a percentage; expected a probability from 0 to 1"),
        (f"{HEADING}{ROW},nan,0.5,0.5\n", "'nan' is not finite; expected a probability from 0 to 1"),
        (f"{HEADING}{ROW},inf,0.5,0.5\n", "'inf' is not finite"),
        (f"{HEADING}{ROW},,0.5,0.5\n", "'' is no number"),
        (f"{HEADING}{ROW},1.2,-0.1,-0.1\n", "1.2, -0.1, -0.1: a probability is negative"),
        (
            f"{HEADING}{ROW},1,0\n",
            f"line 2: row '{ROW}': has 3 cells, but the heading has 4; a row should have as many",
        ),
        (f"{HEADING}{ROW},0,1,0,2,0,7\n", "has 7 cells, but the heading has 4; a row should have as many, with points"),
        (f"{HEADING}{ROW},1,0,0\n{ROW},0,1,0\n", f"line 3: row '{ROW}': appears twice, first in line 2"),
        (f"{HEADING}{ROW},1,0,0\n7.0{ROW[1:]},1,0,0\n", "appears twice, first in line 2"),
        (f"{HEADING}x{ROW},1,0,0\n", "study_id 'x7': not a whole number"),
        (f"{HEADING}{'9' * 30}{ROW[1:]},1,0,0\n", "not a whole number"),
        (f"{HEADING}7_spinal_canal_stenosis_l6_s1,1,0,0\n", "'spinal_canal_stenosis_l6_s1' is not a site"),
        (
            "study_id,condition,side,level,normal_mild,moderate,severe\n7,stenosis,,l1_l2,1,0,0\n",
            "row '7, stenosis, , l1_l2': 'stenosis' is not a condition",
        ),
    ],
)
def test_what_is_no_distribution_of_a_site_is_refused(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(ValueError, match=r"predictions\.csv: ") as error:
        read_prediction_table(written(tmp_path, text))
    assert said in str(error.value)


def test_negative_values_are_refused_even_if_sums_are_free(tmp_path: Path) -> None:
    """The competition's code refuses them too, and what is not finite."""
    for values in ("-1,1,1", "nan,1,1", "inf,1,1"):
        with pytest.raises(ValueError, match=r"negative|not finite"):
            read_prediction_table(written(tmp_path, f"{HEADING}{ROW},{values}\n"), normalise=True)
