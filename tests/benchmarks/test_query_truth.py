"""The simulation of queries: its studies and queries against other definitions, and what is printed."""

import sys

import numpy as np
import pytest

from benchmarks import query_truth
from benchmarks.drawn_queries import KINDS, Kind, draw_studies, matches
from data_prep.phantom.grades import class_probabilities
from data_prep.sites import SITES, Condition, Level, Severity, Side, Site

KIND = {kind.words: kind for kind in KINDS}
CANALS = [site for site in SITES if site.condition is Condition.SPINAL_CANAL_STENOSIS]


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    return draw_studies(np.random.default_rng(0), 30_000)


def test_the_grader_is_calibrated_and_the_frequencies_are_the_real_ones(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    severity_SX, prob_SX3 = drawn
    share_X3 = np.array([class_probabilities(site) for site in SITES])
    assert prob_SX3.mean(axis=0) == pytest.approx(share_X3, abs=0.01)
    for low in (0.05, 0.3, 0.6, 0.9):
        near = (prob_SX3 > low) & (prob_SX3 < low + 0.05)
        truth = np.eye(3)[severity_SX][near].mean()
        assert truth == pytest.approx(prob_SX3[near].mean(), abs=0.01)
    canal_S5 = severity_SX[:, [SITES.index(site) for site in CANALS]]
    assert (canal_S5 == Severity.SEVERE).any(axis=1).mean() == pytest.approx(0.185, abs=0.015)  # as of the real studies


def test_composed_scores_miss_by_a_factor_of_two(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    severity_SX, prob_SX3 = drawn

    def factor(kind: Kind) -> float:
        return float(kind.composed(prob_SX3).mean() / matches(kind, severity_SX).mean())

    assert factor(KIND["severe canal L4-L5"]) == pytest.approx(1, abs=0.05)
    assert 0.38 < factor(KIND["all 25 normal"]) < 0.5
    assert factor(KIND["severe canal without severe recess"]) > 2
    assert 0.7 < factor(KIND["both recesses severe L4-L5"]) < 0.85


def test_queries_match_what_their_words_say(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    """Queries in their own words over the grades of each study, one study at a time."""
    severity_SX = drawn[0][:400]
    grades = [dict(zip(SITES, map(Severity, row), strict=True)) for row in severity_SX.tolist()]
    recess = [
        (
            Site(Condition.SUBARTICULAR_STENOSIS, Side.LEFT, level),
            Site(Condition.SUBARTICULAR_STENOSIS, Side.RIGHT, level),
        )
        for level in Level
    ]
    foramen = [
        (
            Site(Condition.NEURAL_FORAMINAL_NARROWING, Side.LEFT, level),
            Site(Condition.NEURAL_FORAMINAL_NARROWING, Side.RIGHT, level),
        )
        for level in Level
    ]
    severe = Severity.SEVERE
    meanings = {
        "all 25 normal": lambda g: set(g.values()) == {Severity.NORMAL_MILD},
        "nothing severe": lambda g: severe not in g.values(),
        "both recesses severe, any level": lambda g: any(g[a] == g[b] == severe for a, b in recess),
        "exactly 1 level of canal stenosis": lambda g: sum(g[site] > 0 for site in CANALS) == 1,
        "at least 2 levels of severe recess": lambda g: sum(severe in (g[a], g[b]) for a, b in recess) >= 2,
        "canal stenosis only at L4-L5": lambda g: (
            [g[site] > 0 for site in CANALS] == [False, False, False, True, False]
        ),
        "right foramen worse than left": lambda g: any(g[right] > g[left] for left, right in foramen),
        "severe canal without severe recess": lambda g: (
            any(g[site] == severe for site in CANALS) and not any(severe in (g[a], g[b]) for a, b in recess)
        ),
    }
    for words, meaning in meanings.items():
        assert matches(KIND[words], severity_SX).tolist() == [meaning(grade) for grade in grades], words


def test_what_is_told_is_printed_beside_the_aims(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["query_truth", "--quick"])
    monkeypatch.setattr(query_truth, "POOL", 14_000)
    query_truth.main()
    printed = capsys.readouterr().out
    assert f"66 known, 300 searched; calibrated grader; {len(KINDS)} queries, 4 simulations each" in printed
    every = next(line for line in printed.splitlines() if line.startswith("all  ")).split()
    factor, fitted, ece, size, floor, error, bias, counted, *covers = [float(cell.strip("%")) for cell in every[1:]]
    assert 1.1 < factor < 1.5 and 40 < fitted < 75
    assert 0.01 < ece < 0.06 and floor < size < 0.12 and abs(error) <= bias < 0.08 and counted < 0.05
    assert len(covers) == 5 and min(covers) > 80
    assert "cover of the expected matches in %" in printed and "aim: 90 to 99" in printed
