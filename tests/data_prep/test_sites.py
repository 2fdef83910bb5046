"""data_prep/sites.py: the competition's spellings, both ways."""

import pytest

from data_prep.sites import (
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
    with pytest.raises(ValueError, match=r"is no "):
        parse(text)


def test_a_canal_has_no_side_and_others_have_one() -> None:
    with pytest.raises(ValueError, match="side"):
        Site(Condition.SPINAL_CANAL_STENOSIS, Side.LEFT, Level.L1_L2)
    with pytest.raises(ValueError, match="side"):
        Site(Condition.SUBARTICULAR_STENOSIS, None, Level.L1_L2)
