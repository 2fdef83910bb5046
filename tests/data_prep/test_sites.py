"""data_prep/sites.py: the spellings of the tables, in both directions."""

import doctest

import pytest

from data_prep import sites
from data_prep.sites import (
    SITE_COLUMNS,
    SITES,
    SUBMISSION_SITES,
    Condition,
    Level,
    Severity,
    Side,
    Site,
    View,
    parse_condition,
    parse_level,
    parse_row_id_site,
    parse_severity,
    parse_view,
)


def test_sites_are_25_in_the_tables_order() -> None:
    assert len(set(SITES)) == 25
    keys = [site.key for site in SITES]
    assert keys[:5] == [f"spinal_canal_stenosis_{level}" for level in Level]
    assert keys[5] == "left_neural_foraminal_narrowing_l1_l2"
    assert keys[-1] == "right_subarticular_stenosis_l5_s1"


def test_submission_order_is_alphabetical_by_condition_then_level() -> None:
    conditions = list(dict.fromkeys(site.condition_key for site in SUBMISSION_SITES))
    assert conditions == sorted(conditions) and conditions[-1] == "spinal_canal_stenosis"
    assert [site.level for site in SUBMISSION_SITES[:5]] == list(Level)


@pytest.mark.parametrize("site", SITES)
def test_keys_parse_back(site: Site) -> None:
    assert parse_row_id_site(site.key) == site
    assert site.mirrored.mirrored == site
    words = site.condition_key.replace("_", " ").title()
    assert parse_condition(words) == (site.condition, site.side)


@pytest.mark.parametrize(
    ("text", "expected"), [("Normal/Mild", 0), (" moderate ", 1), ("SEVERE", 2), ("normal_mild", 0)]
)
def test_severity_spellings(text: str, expected: int) -> None:
    assert parse_severity(text) is Severity(expected)


def test_levels_and_views() -> None:
    assert parse_level("L4/L5") is parse_level("l4_l5") is parse_level(" L4-L5 ") is Level.L4_L5
    assert parse_view("Sagittal T2/STIR") is View.SAGITTAL_T2_STIR
    assert all(parse_view(view.words) is view is parse_view(view.value) for view in View)


@pytest.mark.parametrize("parse", [parse_severity, parse_level, parse_view, parse_condition, parse_row_id_site])
@pytest.mark.parametrize("text", ["", "Mild", "L6/S1", "../etc", "Severe?"])
def test_misspellings_are_refused_and_quoted(parse, text: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"is not a .*; expected "):
        parse(text)


@pytest.mark.parametrize("site", SITES)
def test_a_site_reads_its_own_columns(site: Site) -> None:
    assert tuple(site.columns) == SITE_COLUMNS
    assert Site.from_columns(site.columns) == site
    in_csv = {name: cell or "" for name, cell in site.columns.items()}
    assert Site.from_columns({"study_id": "1", **in_csv, "level": site.level.words}) == site


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"condition": "stenosis"}, "'stenosis' is not a condition; expected one of spinal_canal_stenosis, "),
        ({"side": "Left"}, "'Left' is not a side; expected one of left, right"),
        ({"level": None}, "'' is not a level; expected one of L1-L2, "),
        ({"side": ""}, "subarticular_stenosis with no side: the canal has no side"),
        ({"condition": "spinal_canal_stenosis"}, "spinal_canal_stenosis with side 'left': the canal has no side"),
    ],
)
def test_invalid_columns_are_quoted(wrong: dict[str, str | None], message: str) -> None:
    row = {"condition": "subarticular_stenosis", "side": "left", "level": "l1_l2"} | wrong
    with pytest.raises(ValueError, match=message):
        Site.from_columns(row)


def test_a_severity_reads_its_own_column() -> None:
    for severity in (*Severity, None):
        assert Severity.from_column(Severity.to_column(severity)) is severity
    assert Severity.from_column("") is None
    assert all(parse_severity(severity.label) is severity for severity in Severity)
    with pytest.raises(ValueError, match="'mild' is not a severity; expected one of Normal/Mild, Moderate, Severe"):
        Severity.from_column("mild")


def test_examples_in_docstrings() -> None:
    assert doctest.testmod(sites).failed == 0


def test_a_canal_has_no_side_and_others_have_one() -> None:
    with pytest.raises(ValueError, match="side"):
        Site(Condition.SPINAL_CANAL_STENOSIS, Side.LEFT, Level.L1_L2)
    with pytest.raises(ValueError, match="side"):
        Site(Condition.SUBARTICULAR_STENOSIS, None, Level.L1_L2)
