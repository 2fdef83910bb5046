"""Sentences: their content, that no two captions share one, and the errors of faulty files."""

from itertools import zip_longest
from pathlib import Path

import pytest
import yaml

from data_prep.sites import SITES, Condition, Level, Severity, Side, Site
from prompts.render import CAPTIONS, ZERO_SHOT, caption, read_sentences, training_captions, zero_shot_prompts

LEFT_FORAMEN = Site(Condition.NEURAL_FORAMINAL_NARROWING, Side.LEFT, Level.L4_L5)
CANAL = Site(Condition.SPINAL_CANAL_STENOSIS, None, Level.L1_L2)
ALL_CAPTIONS = [(site, severity) for site in SITES for severity in Severity]


def test_caption_is_the_text_of_a_pair() -> None:
    assert caption(LEFT_FORAMEN, Severity.SEVERE) == "L4-L5 left neural foraminal narrowing: severe"
    assert caption(LEFT_FORAMEN, None) == "L4-L5 left neural foraminal narrowing"
    assert caption(CANAL, Severity.NORMAL_MILD) == "L1-L2 spinal canal stenosis: normal or mild"


def test_training_captions_start_with_the_pairs_text() -> None:
    for site, severity in ALL_CAPTIONS:
        wordings = training_captions(site, severity)
        assert wordings[0] == caption(site, severity)
        assert len(wordings) == len(set(wordings)) >= 3


def test_the_75_captions_are_distinct_in_every_wording() -> None:
    for wording in zip_longest(*(training_captions(site, severity) for site, severity in ALL_CAPTIONS)):
        texts = [text.casefold() for text in wording if text is not None]
        assert len(texts) == len(set(texts))
    everything = [text for site, severity in ALL_CAPTIONS for text in training_captions(site, severity)]
    assert len(everything) == len(set(everything))


@pytest.mark.parametrize("render", [training_captions, zero_shot_prompts])
def test_sentences_are_clean_and_name_their_site(render) -> None:  # type: ignore[no-untyped-def]
    for site, severity in ALL_CAPTIONS:
        for text in render(site, severity):
            assert text == " ".join(text.split()), text
            assert not set("{}") & set(text)
            assert site.level.words in text
            assert [side for side in Side if side in text.split()] == ([site.side] if site.side else [])
            # A word becomes at most two or three word pieces, far fewer together than the tower's context of 77.
            assert len(text.split()) <= 12


def shipped(path: Path) -> dict:
    tree: dict = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tree


def written(tmp_path: Path, tree: object) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


@pytest.mark.parametrize("path", [CAPTIONS, ZERO_SHOT])
def test_the_shipped_files_pass_their_own_check(path: Path, tmp_path: Path) -> None:
    assert read_sentences(path) == read_sentences(written(tmp_path, shipped(path)))


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("{severity} at {lvl}", r"sentence 2 '\{severity\} at \{lvl\}': unknown placeholder \{lvl\}"),
        ("severe {side} canal stenosis at {level}", "has no {side}"),
        ("severe canal stenosis", "is {level}, {side} or the severity missing"),
        ("severe canal stenosis at {level", "sentence 2"),
        ("severe canal stenosis at {level:d}", "write its name alone"),
        ("severe canal stenosis at {level!q}", "write its name alone"),
        ("severe canal stenosis at {}", r"unknown placeholder \{\}"),
        ("", "expected a sentence"),
        (7, "expected a sentence"),
    ],
)
def test_a_faulty_sentence_is_quoted_with_file_and_entry(tmp_path: Path, sentence: object, words: str) -> None:
    tree = shipped(CAPTIONS)
    tree["spinal_canal_stenosis"]["severe"] = ["severe canal stenosis at {level}", sentence]
    with pytest.raises(ValueError, match=rf"mine.yaml: spinal_canal_stenosis: severe: .*{words}"):
        read_sentences(written(tmp_path, tree))


def test_one_sentence_for_two_severities_is_refused(tmp_path: Path) -> None:
    tree = shipped(CAPTIONS)
    tree["subarticular_stenosis"]["moderate"].append("the {side} recess at {level}")
    tree["subarticular_stenosis"]["severe"].append("The {side} recess at {level}")
    with pytest.raises(ValueError, match=r"subarticular_stenosis: severe: .* becomes the same text"):
        read_sentences(written(tmp_path, tree))


def test_missing_unknown_and_empty_entries_are_refused(tmp_path: Path) -> None:
    tree = shipped(ZERO_SHOT)
    del tree["spinal_canal_stenosis"]["moderate"]
    with pytest.raises(ValueError, match=r"mine.yaml: spinal_canal_stenosis: 'moderate' is missing"):
        read_sentences(written(tmp_path, tree))
    tree = shipped(ZERO_SHOT)
    tree["spinal_canal_stenosis"]["severe"] = []
    with pytest.raises(ValueError, match=r"mine.yaml: spinal_canal_stenosis: severe: expected a list"):
        read_sentences(written(tmp_path, tree))
    with pytest.raises(ValueError, match=r"mine.yaml: unknown entry 'disc_herniation'"):
        read_sentences(written(tmp_path, {**shipped(ZERO_SHOT), "disc_herniation": {}}))
    with pytest.raises(ValueError, match=r"mine.yaml: expected a mapping"):
        read_sentences(written(tmp_path, ["severe"]))


def test_what_is_not_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("a: [", encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine.yaml: is not YAML"):
        read_sentences(path)
