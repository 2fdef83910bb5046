"""Measure how often the 95 % intervals of a report contain the truth.

    python -m benchmarks.coverage            # four minutes on an idle core
    python -m benchmarks.coverage --quick    # few samples

Many samples of 66 and of 395 studies are drawn, with replacement, from one large cohort of simulated studies
(`benchmarks.drawn_truth`). The truth of a figure is its value over the cohort. Two predictors grade the studies: one
sees their images, and is a little overconfident; the other sees them blurred. A third is as able as the first, with
other errors. Intervals are those of the report (Student's t of each study's influence) and, for comparison, percentile
bootstraps over studies. Intervals that miss lie above the truth (for a loss: too pessimistic) or below it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from benchmarks.drawn_truth import (
    Distortion,
    best_probabilities,
    blurred,
    draw_table,
    draw_views,
    probabilities_given,
)
from benchmarks.machine import describe_machine
from data_prep.sites import SITES
from vl_model.data.site_table import CONDITION_OF_SITE, CONDITIONS, Floats, Ints
from vl_model.scoring.calibration_content import cut_aucs
from vl_model.scoring.intervals import Interval, metric_intervals, paired_differences
from vl_model.scoring.metrics import PARTS, StudySums, scores_of, study_sums
from vl_model.scoring.score_intervals import share_interval
from workspace.cli import run_command
from workspace.settings_parser import read_settings

PROG = "-m benchmarks.coverage"
SEED = 2024
SIZES = (66, 395)
NAMES = ("score", *PARTS)
RESAMPLINGS = 1000
#: Aims in percent: at least, at most.
AIMS = {"score": (93.0, 97.0), "difference, unlike": (92.0, 100.0), "difference, alike": (92.0, 100.0)}


@dataclass(frozen=True)
class Settings:
    """Settings of the benchmark of intervals."""

    quick: bool = False
    """Draw few samples."""
    samples: int = 2000
    """The number of samples of each size; 400 tell a coverage to 1.1 % (one standard error), 2000 to 0.5 %."""


@dataclass(frozen=True)
class Cohort:
    """S studies with the metric-optimal probabilities (S, X, 3) of predictors, and their parts in the metric."""

    severity_SX: Ints
    prob_SX3: Mapping[str, Floats]
    sums: Mapping[str, StudySums]


@dataclass
class Tally:
    """How many intervals contain the truth, lie above it, lie below it, or do not exist; the sum of their widths."""

    inside: int = 0
    above: int = 0
    below: int = 0
    none: int = 0
    widths: list[float] = field(default_factory=list)

    def add(self, interval: Interval, truth: float) -> None:
        if not np.isfinite([interval.low, interval.high]).all():
            self.none += 1
            return
        self.above += interval.low > truth
        self.below += interval.high < truth
        self.inside += interval.low <= truth <= interval.high
        self.widths.append(interval.high - interval.low)

    @property
    def percent(self) -> tuple[float, float, float]:
        """Return the shares, in percent of the intervals there are: inside, above, below."""
        count = max(self.inside + self.above + self.below, 1)
        return 100 * self.inside / count, 100 * self.above / count, 100 * self.below / count


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    describe_machine("numpy", "scipy")
    rng = np.random.default_rng(SEED)
    cohort = draw_cohort(rng, 300 if settings.quick else 4000)
    truth = figures(cohort, np.arange(len(cohort.severity_SX)))
    print(f"cohort of {len(cohort.severity_SX)} studies: " + ", ".join(f"{n} {truth[n].value:.3f}" for n in truth))
    for size in SIZES[:1] if settings.quick else SIZES:
        samples = 40 if settings.quick else settings.samples
        ours: dict[str, Tally] = {}
        theirs: dict[str, Tally] = {}
        for _ in range(samples):
            row_S = rng.integers(0, len(cohort.severity_SX), size)
            for tallies, found in ((ours, figures(cohort, row_S)), (theirs, bootstrapped(rng, cohort, row_S))):
                for name, interval in found.items():
                    tallies.setdefault(name, Tally()).add(interval, truth[name].value)
        print("\n".join(["", *lines_of(size, samples, ours, theirs)]), flush=True)


def draw_cohort(rng: np.random.Generator, studies: int) -> Cohort:
    """Draw the studies, and let the three predictors grade them."""
    view_SX = draw_views(rng, studies)
    table = draw_table(rng, probabilities_given(view_SX))
    tempered = Distortion(1.3, np.zeros((3, 3)), np.zeros((3, 5, 3)))
    prob_SX3 = {
        name: best_probabilities(np.exp(tempered.log_prob(probabilities_given(seen_SX, kept))), table)
        for name, seen_SX, kept in (
            ("able", blurred(rng, view_SX, 0.98), 0.98),
            ("as able", blurred(rng, view_SX, 0.98), 0.98),
            ("blurred", blurred(rng, view_SX, 0.90), 0.90),
        )
    }
    sums = {name: study_sums(table, prob.reshape(-1, 3)) for name, prob in prob_SX3.items()}
    return Cohort(table.severity_N.reshape(view_SX.shape), prob_SX3, sums)


def figures(cohort: Cohort, row_S: Ints) -> dict[str, Interval]:
    """Return the report's figures of the studies in these rows; one that comes twice counts as two studies."""
    sums = {name: _taken(one, row_S) for name, one in cohort.sums.items()}
    found = {name: metric_intervals(sums["able"])[name] for name in NAMES}
    found["difference, unlike"] = paired_differences(sums["able"], sums["blurred"])["score"]
    found["difference, alike"] = paired_differences(sums["able"], sums["as able"])["score"]
    return found | _aucs(cohort.severity_SX[row_S], cohort.prob_SX3["able"][row_S])


def bootstrapped(rng: np.random.Generator, cohort: Cohort, row_S: Ints) -> dict[str, Interval]:
    """Return percentile bootstrap intervals of the figures of the metric."""
    weight_BS = rng.multinomial(len(row_S), np.full(len(row_S), 1 / len(row_S)), RESAMPLINGS).astype(float)
    score_B5 = {}
    for name, sums in cohort.sums.items():
        score_B5[name] = scores_of(weight_BS @ sums.loss_SG[row_S], weight_BS @ sums.weight_SG[row_S])
    found = {name: _percentiles(score_B5["able"][:, column]) for column, name in enumerate(NAMES)}
    found["difference, unlike"] = _percentiles((score_B5["able"] - score_B5["blurred"])[:, 0])
    found["difference, alike"] = _percentiles((score_B5["able"] - score_B5["as able"])[:, 0])
    return found


def lines_of(size: int, samples: int, ours: Mapping[str, Tally], theirs: Mapping[str, Tally]) -> list[str]:
    """Return the table of one sample size."""
    lines = [
        f"{samples} samples of {size} studies; % of intervals; one standard error is "
        f"{100 * np.sqrt(0.95 * 0.05 / samples):.1f}",
        f"{'':37}{'t-interval':^31}{'percentile bootstrap':^31}",
        f"{'':37}" + f"{'inside':>8}{'above':>7}{'below':>7}{'width':>9}" * 2 + "   aim",
    ]
    for name, tally in ours.items():
        cells = _cells(tally) + (_cells(theirs[name]) if name in theirs else f"{'-':>8}{'':23}")
        lines.append(f"{name:37}{cells}{_verdict(name, tally.percent[0])}{_missing(tally)}".rstrip())
    return lines


def _cells(tally: Tally) -> str:
    inside, above, below = tally.percent
    return f"{inside:>8.1f}{above:>7.1f}{below:>7.1f}{np.mean(tally.widths):>9.4f}"


def _verdict(name: str, inside: float) -> str:
    if name not in AIMS:
        return ""
    low, high = AIMS[name]
    aim = f"{low:g} to {high:g}" if high < 100 else f"at least {low:g}"
    return f"   {aim}: {'met' if low <= inside <= high else 'missed'}"


def _missing(tally: Tally) -> str:
    return f"   ({tally.none} samples have none)" if tally.none else ""


def _taken(sums: StudySums, row_S: Ints) -> StudySums:
    return StudySums(np.arange(len(row_S)), sums.loss_SG[row_S], sums.weight_SG[row_S])


def _aucs(severity_SX: Ints, prob_SX3: Floats) -> dict[str, Interval]:
    """Return the AUC of both cuts, by condition."""
    found = {}
    study_SX = np.repeat(np.arange(len(severity_SX))[:, None], len(SITES), axis=1)
    for index in range(len(CONDITIONS)):
        sites = index == CONDITION_OF_SITE
        severity_N, prob_N3 = severity_SX[:, sites].ravel(), prob_SX3[:, sites].reshape(-1, 3)
        for cut, figure in cut_aucs(severity_N, prob_N3, study_SX[:, sites].ravel()).items():
            found[f"AUC {PARTS[index]}, {cut.replace('_', ' ')}"] = share_interval(figure)
    return found


def _percentiles(value_B: Floats) -> Interval:
    low, high = np.percentile(value_B, [2.5, 97.5])
    return Interval(float(value_B.mean()), float(low), float(high))


if __name__ == "__main__":
    run_command(PROG, main)
