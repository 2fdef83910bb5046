"""Measure whether what is told of a query's worth is true, where composed scores miss by a factor of two.

    python -m benchmarks.query_truth            # two minutes on an idle core
    python -m benchmarks.query_truth --quick    # few simulations

Studies, their grader and the queries are those of `benchmarks.drawn_queries`. Each simulation draws M studies with
known grades and N others that are searched, and asks `vl_model.queries.worth` what a query is worth whose ten best
answers are shown. The truth is that of the N studies (how many match; how many of the ten do) or of a large pool of
studies (average precision; precision and recall above the cut; the frequency of matches at a probability).

- factor: the mean composed score over the true frequency; one if independence held. Of several queries, the geometric
  mean of the factor or its inverse, whichever is above one.
- fitted: how often enough studies of both kinds are known for a probability to be shown.
- ECE: of the shown probability over the pool; bins of equal mass.
- told precision: its error against the real precision of the ten answers. |error| is the mean size; floor is that of
  the best function of the score, fitted to the whole pool, because the matches of ten answers are a matter of chance;
  error is the mean; bias is the mean over queries of the size of a query's mean error.
- expected |error|: of the expected number of matches, as a share of the studies searched.
- cover: how many of the 95 % intervals contain the truth, in %.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from benchmarks.drawn_queries import KINDS, Kind, draw_studies, matches
from benchmarks.machine import describe_machine
from vl_model.calibration.recalibration import Recalibration, fit_recalibration
from vl_model.data.site_table import Bools, Floats, Ints
from vl_model.queries.average_precision import average_precision
from vl_model.queries.estimates import Estimate
from vl_model.queries.worth import UNKNOWN, worth_of
from workspace.cli import run_command
from workspace.settings_parser import read_settings

PROG = "-m benchmarks.query_truth"
SEED = 2024
ANSWERS = 10
POOL = 60_000
#: The studies of the pool that the truth of a cut and of probabilities is read from, in each simulation.
READ = 12_000
BINS = 15


@dataclass(frozen=True)
class Settings:
    """Settings of the benchmark of what a query is worth."""

    quick: bool = False
    """Draw few simulations."""
    simulations: int = 100
    """The number of simulations per query and case."""


@dataclass(frozen=True)
class Grader:
    """Site probabilities p are stated as p^slope e^bias, normalised; biases are normal, one per site and severity."""

    words: str
    slope: float = 1.0
    bias: float = 0.0


@dataclass(frozen=True)
class Case:
    """How many studies are known and searched, how many of those searched are known ones, and the grader."""

    known: int
    searched: int
    both: int = 0
    grader: int = 0

    @property
    def words(self) -> str:
        among = f", {self.both} of them known" if self.both else ""
        return f"{self.known} known, {self.searched} searched{among}; {GRADERS[self.grader].words}"


GRADERS = (
    Grader("calibrated grader"),
    Grader("too sure, biased grader", 1.6, 0.5),
    Grader("too unsure, biased grader", 0.6, 0.5),
)
CASES = (
    Case(12, 300),
    Case(66, 300),
    Case(66, 2000),
    Case(394, 300),
    Case(394, 2000),
    Case(394, 800, both=394),
    Case(66, 2000, grader=1),
    Case(66, 2000, grader=2),
    Case(394, 2000, grader=1),
    Case(394, 2000, grader=2),
)
#: Aims over all queries: at least, at most.
AIMS = {"ece": (0.0, 0.04), "error": (0.0, 0.05), "bias": (0.0, 0.05), "expected": (90.0, 99.0)}


@dataclass(frozen=True)
class Pool:
    """A query's scores and matches over all studies of the pool."""

    kind: Kind
    score_S: Floats
    match_S: Bools

    @property
    def factor(self) -> float:
        return float(self.score_S.mean() / self.match_S.mean())


@dataclass(frozen=True)
class Found:
    """What one simulation found; nan where there is nothing to compare.

    The last six are one where the interval contains the truth, and zero where it does not.
    """

    fitted: float
    ece: float
    error: float
    floor: float
    expected: float
    told: float
    precision: float
    recall: float
    average_precision: float
    expected_error: float


NAMES = tuple(field.name for field in fields(Found))


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    describe_machine("numpy", "scipy")
    simulations = 4 if settings.quick else settings.simulations
    pools = [draw_pools(grader) for grader in GRADERS]
    print("\n".join(["", *factor_lines(pools[0])]))
    cases = [Case(66, 300)] if settings.quick else CASES
    all_found = []
    for number, case in enumerate(cases):
        found_QTF = np.array(
            [
                simulate(pool, case, np.random.default_rng((SEED, number, row)), simulations)
                for row, pool in enumerate(pools[case.grader])
            ]
        )
        all_found.append(found_QTF)
        print("\n".join(["", *lines_of(case, pools[case.grader], found_QTF)]), flush=True)
    print("\n".join(["", "all cases", *_verdicts(np.concatenate(all_found))]))


def draw_pools(grader: Grader) -> list[Pool]:
    """Return the pool of each query; the studies are the same for all graders."""
    rng = np.random.default_rng(SEED)
    severity_SX, prob_SX3 = draw_studies(rng, POOL)
    stated_SX3 = prob_SX3**grader.slope * np.exp(grader.bias * rng.standard_normal(prob_SX3.shape[1:]))
    stated_SX3 /= stated_SX3.sum(axis=-1, keepdims=True)
    return [Pool(kind, np.clip(kind.composed(stated_SX3), 0, 1), matches(kind, severity_SX)) for kind in KINDS]


def simulate(pool: Pool, case: Case, rng: np.random.Generator, simulations: int) -> Floats:
    """Return what each simulation of one query found (T, F), in the order of `NAMES`."""
    exact = average_precision(pool.score_S, pool.match_S)
    assert exact is not None
    best = fit_recalibration(pool.score_S, pool.match_S)
    return np.array([_measure(pool, case, rng, exact.value, best) for _ in range(simulations)])


def _measure(pool: Pool, case: Case, rng: np.random.Generator, exact: float, best: Recalibration | None) -> Floats:
    row = rng.choice(POOL, case.known + case.searched - case.both + READ, replace=False)
    known_M, other_R = row[: case.known], row[-READ:]
    searched_N = row[case.known - case.both : case.known + case.searched - case.both]
    is_known_N = np.full(case.searched, UNKNOWN)
    is_known_N[: case.both] = np.arange(case.known - case.both, case.known)
    score_N, match_N = pool.score_S[searched_N], pool.match_S[searched_N]
    # Known studies are no answers here: what is told of these would be their grades.
    shown_K = np.argsort(np.where(is_known_N == UNKNOWN, -score_N, 1.0), kind="stable")[:ANSWERS]
    told = worth_of(score_N, pool.score_S[known_M], pool.match_S[known_M], is_known_N, shown_K)
    precision, recall = _at_cut(pool.score_S[other_R], pool.match_S[other_R], score_N[shown_K].min())
    shown, real, count = told.recalibration, float(match_N[shown_K].mean()), float(match_N.sum())
    assert told.told_precision is not None and told.expected_matches is not None
    found = Found(
        fitted=float(shown is not None),
        ece=np.nan if shown is None else _ece(shown.probability(pool.score_S[other_R]), pool.match_S[other_R]),
        error=told.told_precision.value - real,
        floor=np.nan if best is None else float(best.probability(score_N[shown_K]).mean()) - real,
        expected=_covers(told.expected_matches, count),
        told=_covers(told.told_precision, real),
        precision=_covers(told.precision, precision),
        recall=_covers(told.recall, recall),
        average_precision=_covers(told.average_precision, exact),
        expected_error=(told.expected_matches.value - count) / case.searched,
    )
    return np.array([getattr(found, name) for name in NAMES])


def _at_cut(score_R: Floats, match_R: Bools, cut: float) -> tuple[float, float]:
    """Return the precision and recall of the pool at a cut; nan where there is none."""
    above_R = score_R >= cut
    found = float((match_R & above_R).sum())
    return (found / above_R.sum() if above_R.any() else np.nan, found / match_R.sum() if match_R.any() else np.nan)


def _ece(prob_R: Floats, match_R: Bools) -> float:
    order = np.argsort(prob_R, kind="stable")
    bin_R = np.arange(len(order)) * BINS // len(order)
    return float(np.abs(np.bincount(bin_R, prob_R[order] - match_R[order])).sum() / len(order))


def _covers(estimate: Estimate | None, truth: float) -> float:
    if estimate is None or np.isnan(truth):
        return np.nan
    return float(estimate.low - 1e-9 <= truth <= estimate.high + 1e-9)


def factor_lines(pools: Sequence[Pool]) -> list[str]:
    """Return the frequency of each query and by what factor its mean composed score misses it."""
    lines = [f"{POOL} studies; {GRADERS[0].words}", f"{'':52}{'matches':>9}{'factor':>8}"]
    for pool in pools:
        lines.append(f"{pool.kind.group:12}{pool.kind.words:40}{100 * pool.match_S.mean():>8.2f}%{pool.factor:>8.2f}")
    return lines


def lines_of(case: Case, pools: Sequence[Pool], found_QTF: Floats) -> list[str]:
    """Return the table of a case: groups of queries, all queries, and the aims."""
    queries, simulations, _ = found_QTF.shape
    groups = list(dict.fromkeys(pool.kind.group for pool in pools))
    rows = {group: np.array([pool.kind.group == group for pool in pools]) for group in groups}
    lines = [
        f"{case.words}; {queries} queries, {simulations} simulations each",
        f"{'':12}{'':7}{'':7}{'':7}{'told precision':^28}{'expected':^9}{'cover':^38}",
        f"{'':12}{'factor':>7}{'fitted':>7}{'ECE':>7}{'|error|':>8}{'floor':>7}{'error':>8}{'bias':>6}"
        f"{'|error|':>9}{'expected':>10}{'told':>6}{'prec.':>7}{'recall':>7}{'AP':>6}",
    ]
    for group in groups:
        lines.append(_row(group, [pool for pool in pools if pool.kind.group == group], found_QTF[rows[group]]))
    return [*lines, _row("all", pools, found_QTF), *_verdicts(found_QTF), *_worst(pools, found_QTF)]


def _row(name: str, pools: Sequence[Pool], found_QTF: Floats) -> str:
    value = {name: found_QTF[..., column] for column, name in enumerate(NAMES)}
    factor = np.exp(np.mean([abs(np.log(pool.factor)) for pool in pools]))
    bias = np.abs(value["error"].mean(axis=1)).mean()
    percent = {key: 100 * _mean(value[key]) for key in ("fitted", *NAMES[4:9])}
    return (
        f"{name:12}{factor:>7.2f}{percent['fitted']:>6.0f}%{_mean(value['ece']):>7.3f}"
        f"{_mean(np.abs(value['error'])):>8.3f}{_mean(np.abs(value['floor'])):>7.3f}{_mean(value['error']):>+8.3f}"
        f"{bias:>6.3f}{_mean(np.abs(value['expected_error'])):>9.3f}{percent['expected']:>10.1f}{percent['told']:>6.1f}"
        f"{percent['precision']:>7.1f}{percent['recall']:>7.1f}{percent['average_precision']:>6.1f}"
    )


def _verdicts(found_QTF: Floats) -> list[str]:
    value = {name: found_QTF[..., column] for column, name in enumerate(NAMES)}
    floor = _mean(np.abs(value["floor"]))
    figures = {
        "ece": ("ECE of the shown probability", _mean(value["ece"])),
        "error": (f"told precision, mean size of the error (floor {floor:.3f})", _mean(np.abs(value["error"]))),
        "bias": (
            "told precision, mean size of a query's mean error",
            float(np.abs(value["error"].mean(axis=1)).mean()),
        ),
        "expected": ("cover of the expected matches in %", 100 * _mean(value["expected"])),
    }
    lines = []
    for key, (words, figure) in figures.items():
        low, high = AIMS[key]
        aim = f"{low:g} to {high:g}" if low else f"at most {high:g}"
        if np.isfinite(figure):
            lines.append(f"  {words} {figure:.3f}; aim: {aim}, {'met' if low <= figure <= high else 'missed'}")
    return lines


def _worst(pools: Sequence[Pool], found_QTF: Floats) -> list[str]:
    """Return the queries with the least cover of the expected matches and the largest mean error of the precision."""
    cover_Q = 100 * found_QTF[..., NAMES.index("expected")].mean(axis=1)
    error_Q = found_QTF[..., NAMES.index("error")].mean(axis=1)
    least, largest = int(cover_Q.argmin()), int(np.abs(error_Q).argmax())
    return [
        f"  worst queries: expected matches cover {cover_Q[least]:.0f} % ({pools[least].kind.words}); "
        f"told precision {error_Q[largest]:+.3f} ({pools[largest].kind.words})"
    ]


def _mean(value: Floats | Ints) -> float:
    known = np.isfinite(value)
    return float(np.asarray(value)[known].mean()) if known.any() else float("nan")


if __name__ == "__main__":
    run_command(PROG, main)
