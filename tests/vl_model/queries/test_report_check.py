"""The sentences of a report, and the levels that they are about."""

from pathlib import Path

import pytest

from vl_model.queries.report_check import MAX_REPORT_CHARACTERS, read_report_text, sentences


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (
            "L3-L4 and L4-L5: severe canal stenosis. Mild foraminal narrowing.",
            ["L3-L4 and L4-L5: severe canal stenosis.", "L3-L4 and L4-L5: Mild foraminal narrowing."],
        ),
        (
            "L2-L3 to L4-L5 are normal. The recesses are clear.",
            ["L2-L3 to L4-L5 are normal.", "L2-L3 to L4-L5: The recesses are clear."],
        ),
        (
            "Worse at L4-L5 than the canal of L3-L4. Foramina clear.",
            ["Worse at L4-L5 than the canal of L3-L4.", "L3-L4: Foramina clear."],
        ),
        ("L4-L5: normal.\nSevere recess stenosis.", ["L4-L5: normal.", "Severe recess stenosis."]),
        ("Normal canal. L5-S1: mild.", ["Normal canal.", "L5-S1: mild."]),
    ],
)
def test_a_sentence_without_a_level_is_about_all_levels_before_it(report: str, expected: list[str]) -> None:
    assert list(sentences(report)) == expected


def test_an_enormous_report_is_refused_without_reading_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    path.write_text("x" * (MAX_REPORT_CHARACTERS + 1))
    with pytest.raises(ValueError, match="has more than 20000 characters"):
        read_report_text(path)
