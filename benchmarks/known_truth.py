"""Measure what cross-fitted calibration loses against the true probabilities, which are known in a simulation.

    python -m benchmarks.known_truth            # two minutes on an idle core
    python -m benchmarks.known_truth --quick    # few draws of one case

The studies are those of `benchmarks.drawn_truth`: severities are drawn from true probabilities, and these are distorted
and then calibrated out of fold, as `eval_vl.py --calibrate` does it. The labels serve for fitting alone. What is
measured is the metric and the log loss that are *expected* under the truth, which no chance of labels blurs; only the
calibration error is that of the labels, beside its floor, as a report shows it. Each line is the mean of several draws
of studies, labels and distortions.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from benchmarks.drawn_truth import (
    Distortion,
    best_probabilities,
    draw_distortion,
    draw_table,
    draw_views,
    excess_log_loss,
    expected_metric,
    probabilities_given,
)
from benchmarks.machine import describe_machine
from vl_model.calibration.cross_fit import cross_fit, divisions_of
from vl_model.scoring.calibration_error import ece_floor
from vl_model.scoring.metrics import bins_of_equal_mass, ece
from workspace.cli import run_command
from workspace.settings_parser import read_settings

PROG = "-m benchmarks.known_truth"
SEED = 2024


@dataclass(frozen=True)
class Case:
    """Studies and their distortion: a slope, and the standard deviations of biases and of level shifts.

    aim: what the expected metric may lose against the best possible. ece_aim: by what ECE may exceed its floor.
    """

    name: str
    studies: int
    draws: int
    slope: float
    bias: float = 0.0
    level_bias: float = 0.0
    aim: float = float("nan")
    ece_aim: float = float("nan")


_STRONG = {"slope": 2.0, "bias": 0.7, "level_bias": 0.3}
#: The aim of 66 strongly distorted studies is what an earlier calibrator of this program lost on other draws of the
#: same kind: one fit of fixed strength to the weighted loss, on one division into groups.
CASES = (
    Case("strongly distorted", 800, 10, **_STRONG, aim=0.0015, ece_aim=0.002),
    Case("strongly distorted", 4000, 3, **_STRONG, aim=0.0005),
    Case("calibrated", 66, 10, 1.0, aim=0.003),
    Case("overconfident, slope 1.3", 66, 10, 1.3, aim=0.006),
    Case("strongly distorted", 66, 10, **_STRONG, aim=0.0111),
)
QUICK = (Case("overconfident, slope 1.3", 30, 6, 1.3, aim=0.006),)


@dataclass(frozen=True)
class Settings:
    """Settings of the benchmark of calibration."""

    quick: bool = False
    """Measure few draws of one case."""


@dataclass(frozen=True)
class Losses:
    """What one draw gave.

    best: the best possible expected metric. given, fitted: by what the metric-optimal probabilities exceed it, from
    the predictions as they are given and from the calibrated ones. given_log_loss, log_loss: by what the expected log
    loss exceeds that of the truth. ece, floor: of the labels. true_ece: with the true probability in place of the
    labels.
    """

    best: float
    given: float
    fitted: float
    given_log_loss: float
    log_loss: float
    ece: float
    floor: float
    true_ece: float


def main() -> None:
    quick = read_settings(PROG, __doc__, Settings).quick
    describe_machine("numpy", "scipy")
    print("excess of the expected metric over the best possible, and of the expected log loss over that of the truth;")
    print("mean of several draws, with its standard error for the metric")
    for case in QUICK if quick else CASES:
        strengths: Counter[str] = Counter()
        measured = [measure(case, number, strengths) for number in range(case.draws)]
        print("\n".join(["", *lines_of(case, measured, strengths)]), flush=True)


def measure(case: Case, number: int, strengths: Counter[str]) -> Losses:
    """Draw studies, distort and calibrate their probabilities; the chosen strengths are counted in `strengths`."""
    rng = np.random.default_rng((SEED, case.studies, number))
    true_SX3 = probabilities_given(draw_views(rng, case.studies))
    table = draw_table(rng, true_SX3)
    distortion: Distortion = draw_distortion(rng, case.slope, case.bias, case.level_bias)
    log_SX3 = distortion.log_prob(true_SX3)

    fitted = cross_fit(log_SX3.reshape(-1, 3), table, divisions_of(table))
    strengths.update(fitted.strengths)
    optimal_SX3 = fitted.metric_optimal(fitted.prob_N3, table).reshape(true_SX3.shape)
    given_SX3 = np.exp(log_SX3)
    as_given_SX3 = fitted.metric_optimal(given_SX3.reshape(-1, 3), table).reshape(true_SX3.shape)
    best = expected_metric(true_SX3, best_probabilities(true_SX3, table))[0]
    return Losses(
        best=float(best),
        given=float(expected_metric(true_SX3, as_given_SX3)[0] - best),
        fitted=float(expected_metric(true_SX3, optimal_SX3)[0] - best),
        given_log_loss=excess_log_loss(true_SX3, given_SX3),
        log_loss=excess_log_loss(true_SX3, fitted.prob_N3.reshape(true_SX3.shape)),
        ece=ece(table.severity_N, fitted.prob_N3),
        floor=ece_floor(fitted.prob_N3).mean,
        true_ece=true_ece(true_SX3.reshape(-1, 3), fitted.prob_N3),
    )


def true_ece(true_N3: np.ndarray, prob_N3: np.ndarray) -> float:
    """Return the calibration error of the most probable severity against its true probability; its floor is zero."""
    top_N = prob_N3.argmax(axis=1)
    rows = np.arange(len(top_N))
    gap_N = prob_N3[rows, top_N] - true_N3[rows, top_N]
    return float(np.abs(np.bincount(bins_of_equal_mass(prob_N3[rows, top_N], 15), gap_N)).sum() / len(gap_N))


def lines_of(case: Case, measured: list[Losses], strengths: Counter[str]) -> list[str]:
    """Return the figures of one case, those with an aim beside it."""
    mean = {name: float(np.mean([getattr(one, name) for one in measured])) for name in vars(measured[0])}
    fitted = np.array([one.fitted for one in measured])
    error = fitted.std(ddof=1) / np.sqrt(len(fitted)) if len(fitted) > 1 else float("nan")
    excess = mean["ece"] - mean["floor"]
    chosen = ", ".join(f"{name} ({count})" for name, count in strengths.most_common())
    return [
        f"{case.name}: {case.studies} studies, {25 * case.studies} rows; {case.draws} draws; best possible metric "
        f"{mean['best']:.4f}",
        f"  metric    as given +{mean['given']:.4f}, calibrated +{mean['fitted']:.5f} (standard error {error:.5f})"
        + _verdict(mean["fitted"], case.aim),
        f"  log loss  as given +{mean['given_log_loss']:.4f}, calibrated +{mean['log_loss']:.5f}",
        f"  ECE       {mean['ece']:.4f}, its floor {mean['floor']:.4f}, excess {excess:+.4f}"
        + _verdict(excess, case.ece_aim)
        + f"; of the true probabilities {mean['true_ece']:.4f}",
        f"  fitted    {chosen}",
    ]


def _verdict(value: float, aim: float) -> str:
    if np.isnan(aim):
        return ""
    return f"; aim: at most {aim:g}, {'met' if value <= aim else 'missed'}"


if __name__ == "__main__":
    run_command(PROG, main)
