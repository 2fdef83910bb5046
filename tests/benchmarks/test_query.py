"""The benchmarks of queries: drawn prompts, measures of rankings against slow ones, what is told, timed segments."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import query, told_worth
from benchmarks.drawn_prompts import KINDS, draw_prompts
from benchmarks.query_quality import is_read, matches_of, of_studies, promised_precisions, ranked_by_cosine
from benchmarks.random_index import random_segment
from benchmarks.ranking_quality import compare, measures
from benchmarks.told_worth import Told
from data_prep.sites import SITES, Condition, Severity
from prompts.canonical import canonical_line
from tests.query_trees import holds
from vl_model.queries.estimates import Estimate


def test_prompts_are_of_all_kinds_and_repeat_under_one_seed() -> None:
    prompts = draw_prompts(3, 130)
    assert prompts == draw_prompts(3, 130) != draw_prompts(4, 130)
    assert {prompt.kind for prompt in prompts} == set(KINDS)
    assert len({(prompt.kind, prompt.text) for prompt in prompts}) == len(prompts) == 130
    assert sum(map(is_read, prompts)) >= 115


def test_prompts_about_foramina_alone() -> None:
    prompts = draw_prompts(3, 130, [Condition.NEURAL_FORAMINAL_NARROWING])
    assert {prompt.kind for prompt in prompts} == set(KINDS)
    assert all("canal" not in (line := canonical_line(p.meaning)) and "recess" not in line for p in prompts)


def slow_measures(matches: list[bool]) -> dict[str, float]:
    """The measures of one ranking by their definitions."""
    total, first = sum(matches), matches[:10]
    discounts = [1 / math.log2(place + 2) for place in range(10)]
    precisions = [sum(matches[: place + 1]) / (place + 1) for place, match in enumerate(matches) if match]
    return {
        "precision": sum(first) / min(10, total),
        "average precision": sum(precisions) / total,
        "nDCG": sum(d for d, match in zip(discounts, first, strict=False) if match) / sum(discounts[: min(10, total)]),
    }


def test_measures_of_rankings() -> None:
    match_PN = np.random.default_rng(0).random((5, 40)) < [[0.05], [0.1], [0.3], [0.8], [0.0]]
    found = measures(match_PN, np.ones(match_PN.shape, dtype=np.int64))
    for row, matches in enumerate(match_PN.tolist()):
        if any(matches):
            assert {name: of[row] for name, of in found.items()} == pytest.approx(slow_measures(matches))
        else:
            assert all(math.isnan(of[row]) for of in found.values())


def test_a_study_that_is_drawn_twice_stands_there_twice() -> None:
    match_PN = np.array([[True, False, True, False, False]])
    count_PN = np.array([[2, 1, 0, 9, 1]])
    whole = measures(np.repeat(match_PN, count_PN[0], axis=1), np.ones((1, 13), dtype=np.int64))
    assert {n: float(v[0]) for n, v in measures(match_PN, count_PN).items()} == pytest.approx(
        {n: float(v[0]) for n, v in whole.items()}
    )


def test_intervals_are_paired_and_contain_the_mean() -> None:
    random = np.random.default_rng(1)
    match_PN = random.random((30, 60)) < 0.3
    good_PN = np.argsort(-(match_PN + 0.8 * random.random((30, 60))), axis=1)
    compared = compare(match_PN, {"good": good_PN, "chance": random.permuted(good_PN, axis=1)}, draws=200)
    rows = np.arange(30)
    good = compared.spread("good", "precision", rows)
    assert good.low <= good.value <= good.high and good.value > 0.9
    difference = compared.spread("good", "precision", rows, minus="chance")
    assert difference.low > 0.3
    itself = compared.spread("good", "precision", rows, minus="good")
    assert (itself.value, itself.low, itself.high) == (0.0, 0.0, 0.0)


def test_matches_are_those_of_the_meaning() -> None:
    label_SX = np.random.default_rng(2).integers(0, 3, (20, len(SITES)))
    prompts = draw_prompts(5, 39)
    grades = [{site: Severity(s) for site, s in zip(SITES, row, strict=True)} for row in label_SX.tolist()]
    for prompt, match_N in zip(prompts, matches_of(prompts, label_SX), strict=True):
        assert match_N.tolist() == [holds(prompt.meaning, of_study) for of_study in grades]


def test_what_is_promised_by_sure_and_with_unsure_probabilities() -> None:
    prompts = draw_prompts(5, 26)
    segment = random_segment("some", 60, seed=1, dimensions=2)
    sure = replace(segment, graded_SX3=np.eye(3, dtype=np.float32)[segment.graded_SX3.argmax(axis=2)])
    unsure = replace(segment, graded_SX3=np.full_like(segment.graded_SX3, 1 / 3))
    of_sure, of_unsure = promised_precisions(sure, prompts), promised_precisions(unsure, prompts)
    assert np.nanmin(of_sure) == 1.0 and np.nanmean(of_unsure) < 0.6


def test_cosine_ranks_by_the_best_of_the_sites_that_are_meant() -> None:
    segment = of_studies(random_segment("some", 30, seed=1, dimensions=6), np.arange(3, 30))
    [prompt, *_] = draw_prompts(1, 13)
    text_D = np.array(segment.vector_XSD[4, 5])
    sites = [index for index, site in enumerate(SITES) if any(site in leaf for leaf in [prompt.meaning.sites])]
    best = [max(float(segment.vector_XSD[index, row] @ text_D) for index in sites) for row in range(len(segment))]
    assert ranked_by_cosine(prompt, text_D, segment).tolist() == sorted(range(27), key=lambda row: -best[row])


def told(value: float, real: float, covered: bool, prob: float, share: float) -> Told:
    match_N = np.arange(100) < 100 * share
    return Told(
        "and",
        Estimate(value, value, value),
        real,
        Estimate(10, 8, 12),
        10 if covered else 20,
        np.full(100, prob),
        match_N,
        np.full(10, prob),
        match_N[:10],
    )


def test_what_is_told_is_compared_with_the_truth() -> None:
    lines = told_worth.told_lines([told(0.9, 0.8, True, 0.5, 0.4), told(0.6, 0.8, False, 0.5, 0.4)], ["and", "or"])
    assert [line.split()[0] for line in lines[2:4]] == ["and", "all"]
    assert lines[2].split()[1:8] == ["2", "0.75", "0.80", "-0.050", "0.150", "0.500", "2"]
    assert lines[2].split()[8] == "0.100"
    assert [line.endswith("MISSED") for line in lines[5:]] == [True, True] and "within 0.05" in lines[4]


def test_a_segment_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "_CACHE_BYTES", 1024)
    monkeypatch.setattr(query, "KNOWN", (20,))
    query.measure_size(query.Size(40, 1, 2, 20, 30, vectors_mb=150, product_ratio=1.2), tmp_path)
    printed = capsys.readouterr().out
    assert all(f"tree: {kind}" in printed for kind in query.KINDS)
    for quantity in ("opening the index", "peak memory", "the slowest of them", "all sites", "relative to numpy"):
        assert quantity in printed


def test_the_command_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query.measure_command(tmp_path, 1)
    printed = capsys.readouterr().out
    assert "large libraries that it imports: none" in printed and "peak of its memory" in printed
