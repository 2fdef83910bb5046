"""The cells of CSV tables: no text becomes a formula of a spreadsheet, or a row of its own."""

import csv
import io

import pytest

from vl_model.queries.reply import csv_cell


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("hello\r=1+1", "hello =1+1"),
        ("hello\n=1+1", "hello =1+1"),
        ("hello\r\n=1+1", "hello =1+1"),
        ("\r=1+1", "' =1+1"),
        ("\n=1+1", "' =1+1"),
        ("=1+1", "'=1+1"),
        ("L4-L5", "L4-L5"),
        (True, "true"),
        (0.12345678, "0.123457"),
        (-3, -3),
        (None, None),
    ],
)
def test_a_cell_is_one_line_and_no_formula(value: object, cell: object) -> None:
    assert csv_cell(value) == cell


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_a_row_stays_one_row(end: str) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(["a", csv_cell(f"hello{end}=1+1"), "b"])
    assert text.getvalue().splitlines() == ["a,hello =1+1,b"]
