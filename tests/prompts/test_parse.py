"""Parsing: every caption parses back to its own site and severity, and a negation never asks for what it negates."""

from itertools import product
from pathlib import Path

import pytest
import yaml

from data_prep.sites import SITES, Condition, Level, Severity, Side
from prompts.parse import MAX_CHARACTERS, Query, parse_query
from prompts.render import caption, training_captions, zero_shot_prompts
from prompts.scan import QUERIES, read_vocabulary

CANAL, FORAMEN, RECESS = Condition
MILD, MODERATE, SEVERE = Severity
L1_L2, L2_L3, L3_L4, L4_L5, L5_S1 = Level


def test_every_caption_parses_back_to_its_own_site_and_severity() -> None:
    for site, severity in product(SITES, Severity):
        for text in [*training_captions(site, severity), *zero_shot_prompts(site, severity)]:
            for written in (text, text.upper(), text.replace(" ", "  "), f"find {text}?"):
                query = parse_query(written)
                assert query.sites == (site,), written
                assert query.severities == {severity}, written
                assert query.rest == "" and query.notes == (), written


def test_a_site_alone_and_its_key_parse_back() -> None:
    for site in SITES:
        for text in (caption(site, None), site.key):
            assert parse_query(text).sites == (site,)
            assert parse_query(text).severities == frozenset()


def test_the_words_of_a_query_parse_back() -> None:
    for severity, side, condition, level in product(Severity, Side, (FORAMEN, RECESS), Level):
        words = Query("", *(frozenset({x}) for x in (level, side, condition, severity))).words  # type: ignore[arg-type]
        again = parse_query(words)
        assert (again.levels, again.sides, again.conditions, again.severities) == (
            {level},
            {side},
            {condition},
            {severity},
        )


@pytest.mark.parametrize(
    ("text", "conditions"),
    [
        ("central stenosis", {CANAL}),
        ("canal stenosis", {CANAL}),
        ("spinal stenosis", {CANAL}),
        ("spinal canal narrowing", {CANAL}),
        ("foraminal narrowing", {FORAMEN}),
        ("foraminal stenosis", {FORAMEN}),
        ("neuroforaminal encroachment", {FORAMEN}),
        ("neuro-foraminal stenosis", {FORAMEN}),
        ("lateral recess stenosis", {RECESS}),
        ("lateral-recess stenosis", {RECESS}),
        ("subarticular zone narrowing", {RECESS}),
        ("canal and foraminal stenosis", {CANAL, FORAMEN}),
        ("severe stenosis", set()),
    ],
)
def test_conditions(text: str, conditions: set[Condition]) -> None:
    assert parse_query(text).conditions == conditions
    assert parse_query(text).rest == ""


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("L4-L5", {L4_L5}),
        ("l4/5", {L4_L5}),
        ("L4/L5", {L4_L5}),
        ("L4-5", {L4_L5}),
        ("L4 - L5", {L4_L5}),
        ("L4\u2013L5", {L4_L5}),
        ("L4\u20145", {L4_L5}),
        ("L45", {L4_L5}),
        ("L4L5", {L4_L5}),
        ("l4_l5", {L4_L5}),
        ("L5 S1", {L5_S1}),
        ("L5S1", {L5_S1}),
        ("L5-1", {L5_S1}),
        ("L5/S1", {L5_S1}),
        ("L3 to L5", {L3_L4, L4_L5}),
        ("L3 through S1", {L3_L4, L4_L5, L5_S1}),
        ("L3-S1", {L3_L4, L4_L5, L5_S1}),
        ("S1 to L4", {L4_L5, L5_S1}),
        ("L2-L3 to L4-L5", {L2_L3, L3_L4, L4_L5}),
        ("L1-L2 and L4-L5", {L1_L2, L4_L5}),
        ("L3-4, L5-S1", {L3_L4, L5_S1}),
        ("L4", {L3_L4, L4_L5}),
        ("S1", {L5_S1}),
        ("all levels", set()),
    ],
)
def test_levels(text: str, levels: set[Level]) -> None:
    assert parse_query(f"severe canal stenosis {text}").levels == levels
    assert parse_query(f"{text}: severe canal stenosis").levels == levels
    assert parse_query(f"severe canal stenosis at {text}").rest == ""


def test_levels_that_are_not_graded_are_noted_and_kept() -> None:
    for level in ("T12-L1", "S1-S2", "L6"):
        query = parse_query(f"severe canal stenosis {level}")
        assert query.levels == frozenset()
        assert query.rest == level
        assert level in query.notes[0]


def test_a_lone_vertebra_is_noted() -> None:
    assert parse_query("severe stenosis at L4").notes == (
        "'L4' names one vertebra: it was interpreted as L3-L4 and L4-L5",
    )


@pytest.mark.parametrize(
    ("text", "severities"),
    [
        ("severe canal stenosis", {SEVERE}),
        ("severely narrowed canal", {SEVERE}),
        ("high-grade canal stenosis", {SEVERE}),
        ("mild canal stenosis", {MILD}),
        ("Normal/Mild", {MILD}),
        ("moderate or severe canal stenosis", {MODERATE, SEVERE}),
        ("moderate to severe canal stenosis", {MODERATE, SEVERE}),
        ("moderate-to-severe canal stenosis", {MODERATE, SEVERE}),
        ("moderate/severe canal stenosis", {MODERATE, SEVERE}),
        ("mild to severe canal stenosis", {MILD, MODERATE, SEVERE}),
        ("mild or severe canal stenosis", {MILD, SEVERE}),
        ("at least moderate canal stenosis", {MODERATE, SEVERE}),
        (">= moderate canal stenosis", {MODERATE, SEVERE}),
        ("moderate or worse canal stenosis", {MODERATE, SEVERE}),
        ("canal stenosis, moderate+", {MODERATE, SEVERE}),
        ("worse than mild canal stenosis", {MODERATE, SEVERE}),
        ("worse than moderate canal stenosis", {SEVERE}),
        ("more than moderate canal stenosis", {SEVERE}),
        ("less than severe canal stenosis", {MILD, MODERATE}),
        ("at most moderate canal stenosis", {MILD, MODERATE}),
        ("no more than mild canal stenosis", {MILD}),
        ("no worse than moderate canal stenosis", {MILD, MODERATE}),
        ("moderate but not severe canal stenosis", {MODERATE}),
        ("canal stenosis", set()),
    ],
)
def test_severities(text: str, severities: set[Severity]) -> None:
    assert parse_query(text).severities == severities
    assert parse_query(f"{text} at L4-L5").severities == severities
    assert parse_query(text).rest == ""


@pytest.mark.parametrize(
    ("text", "severities"),
    [
        ("no canal stenosis", {MILD}),
        ("no L4-L5 central canal stenosis", {MILD}),
        ("no obvious canal stenosis", {MILD}),
        ("no evidence of canal stenosis", {MILD}),
        ("without canal stenosis", {MILD}),
        ("canal without stenosis", {MILD}),
        ("normal canal", {MILD}),
        ("canal not stenotic", {MILD}),
        ("canal stenosis is not present", {MILD}),
        ("no left or right foraminal narrowing", {MILD}),
        ("no canal or foraminal stenosis", {MILD}),
        ("no disc herniation or canal stenosis", {MILD}),
        ("not severe canal stenosis", {MILD, MODERATE}),
        ("non-severe canal stenosis", {MILD, MODERATE}),
        ("canal stenosis that is not severe", {MILD, MODERATE}),
        ("no moderate or severe canal stenosis", {MILD}),
        ("canal not normal", {MODERATE, SEVERE}),
    ],
)
def test_a_negation_never_asks_for_what_it_negates(text: str, severities: set[Severity]) -> None:
    assert parse_query(text).severities == severities


def test_a_negation_of_something_else_leaves_the_severity_alone() -> None:
    for text in ("no disc herniation, severe canal stenosis", "severe canal stenosis with no disc herniation"):
        query = parse_query(text)
        assert query.severities == {SEVERE}
        assert query.rest.endswith("no disc herniation")


def test_a_negated_finding_beside_another_is_not_a_filter() -> None:
    for text in (
        "severe left foraminal narrowing at L5-S1 without canal stenosis at L4-L5",
        "no canal stenosis at L4-L5 but severe left foraminal narrowing at L5-S1",
    ):
        query = parse_query(text)
        assert query.words == "severe, left, neural foraminal narrowing, L5-S1"
        assert "canal stenosis at L4-L5" in query.rest
        assert "cannot exclude studies" in query.notes[0]


def test_sides() -> None:
    assert parse_query("left foraminal stenosis").sides == {Side.LEFT}
    assert parse_query("right-sided foraminal stenosis").sides == {Side.RIGHT}
    either = parse_query("left or right foraminal stenosis")
    assert (either.sides, either.both_sides) == (set(Side), False)
    for text in (
        "bilateral foraminal stenosis",
        "left and right foraminal stenosis",
        "foraminal stenosis on both sides",
    ):
        assert (parse_query(text).sides, parse_query(text).both_sides) == (set(Side), True)


def test_the_canal_has_no_side() -> None:
    query = parse_query("L2-L3 left canal stenosis")
    assert [site.key for site in query.sites] == ["spinal_canal_stenosis_l2_l3"]
    assert query.notes == ("the spinal canal has no side, so the side was ignored",)
    # Named beside a condition with sides, the canal remains; unnamed, it is excluded by a side.
    assert CANAL in {site.condition for site in parse_query("left foraminal and canal stenosis").sites}
    assert CANAL not in {site.condition for site in parse_query("severe left stenosis").sites}


def test_what_is_not_understood_is_kept() -> None:
    assert parse_query("severe L4-L5 canal stenosis with a disc herniation").rest == "with a disc herniation"
    assert parse_query("  facet   arthropathy of the spine ").rest == "facet arthropathy of the spine"
    assert parse_query("show me patients with scoliosis") == Query(
        "show me patients with scoliosis", rest="show me patients with scoliosis"
    )
    assert parse_query("狭窄 ÉÈ ß").rest == "狭窄 ÉÈ ß"


def test_stenosis_alone_is_understood() -> None:
    assert parse_query("stenosis").rest == ""
    assert len(parse_query("stenosis").sites) == len(SITES)


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_empty_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is empty"):
        parse_query(text)


def test_long_text_is_refused() -> None:
    with pytest.raises(ValueError, match=f"at most {MAX_CHARACTERS}"):
        parse_query("severe " * MAX_CHARACTERS)


def test_nothing_crashes_the_parser() -> None:
    words = [
        "no",
        "severe",
        "left",
        "canal",
        "L4",
        "L4-L5",
        "to",
        "or",
        "at least",
        "or worse",
        ",",
        "disc",
        "-",
        "not",
    ]
    for words_of_text in product(words, repeat=4):
        query = parse_query(" ".join(words_of_text))
        assert query.sites
        assert ("disc" in query.rest) == ("disc" in words_of_text)


def test_vocabulary_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    tree = yaml.load(QUERIES.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)

    def error(change: dict) -> str:
        path.write_text(yaml.safe_dump({**tree, **change}), encoding="utf-8")
        with pytest.raises(ValueError) as caught:
            read_vocabulary(path)
        return str(caught.value)

    assert "mine.yaml: findings: expected a list" in error({"findings": []})
    assert "mine.yaml: findings: 'severe' occurs twice" in error({"findings": ["severe"]})
    assert "mine.yaml: unknown entry 'colours'" in error({"colours": ["red"]})
    assert "mine.yaml: sides: 'right' is missing" in error({"sides": {"left": ["left"]}})
    assert "is not a word or phrase" in error({"breaks": [" "]})


@pytest.mark.parametrize("text", ["severe stenosis not at L4-L5", "severe stenosis, but not on the left"])
def test_a_negated_level_or_side_is_noted(text: str) -> None:
    [note] = parse_query(text).notes
    assert "cannot be excluded" in note


@pytest.mark.parametrize("text", ["no left L4-L5 stenosis", "no stenosis at L4-L5 on the left", "non-severe at L4-L5"])
def test_a_negated_finding_at_a_level_is_not_noted(text: str) -> None:
    assert parse_query(text).notes == ()


@pytest.mark.parametrize(
    ("text", "sites"),
    [
        ("left foraminal and right recess stenosis at L4-L5", 4),
        ("severe L3-L4 canal and L4-L5 foraminal stenosis", 6),
    ],
)
def test_alternating_sides_and_levels_are_noted(text: str, sites: int) -> None:
    query = parse_query(text)
    assert len(query.sites) == sites and query.rest == ""
    assert query.notes == ("sides, conditions and levels are combined freely: each named one with all named others",)


@pytest.mark.parametrize(
    "text", ["canal or foraminal stenosis at L4-L5 and L5-S1", "left foramen L4-5, left foramen L4/L5"]
)
def test_lists_and_repetitions_are_not_noted(text: str) -> None:
    assert parse_query(text).notes == ()
