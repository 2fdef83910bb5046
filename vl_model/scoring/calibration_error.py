"""How well probabilities are calibrated, beside what perfect ones would show.

- The calibration error of N rows is above zero even for a perfect model; its floor is what labels drawn from the
  probabilities themselves would give.
- Calibration slope and intercept of a cut (Cox, 1958; Van Calster et al., 2016): of the regression of the event on the
  logit of its probability. A slope below one means overconfident; the intercept, at a slope of one, means too low
  probabilities if it is above zero.
- The log loss is split into what a recalibration would remove (temperature and biases per condition) and the rest.

Intervals are over studies (`intervals`).

Legend: N rows, B draws, S studies, K conditions, C = 3 severities, 2 logits.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import logit
from scipy.stats import t as student_t

from data_prep.sites import Severity
from vl_model.data.site_table import CONDITIONS, Bools, Floats, Ints, SiteTable
from vl_model.scoring.intervals import LINEAR, LOG, Interval, interval_without_each, wilson_bounds
from vl_model.scoring.metrics import DEFAULT_BINS, bins_of_equal_mass, row_losses
from vl_model.scoring.pulled_regression import Regression, Solution, fit, left_out_losses

_DRAWS = 400
#: Probabilities are kept this far from zero and one before their logit is taken.
_EDGE = 1e-6
#: Weak pull on a recalibration, which keeps it finite where a severity has no row.
_WEAK_PULL = 0.1


@dataclass(frozen=True)
class Floor:
    """Calibration error of labels drawn from the probabilities: its mean, and what 95 % of the draws stay below."""

    mean: float
    high: float


@dataclass(frozen=True)
class CutCalibration:
    """Calibration slope and intercept of one cut, with intervals; nan if not both outcomes occur.

    The slope is nan, too, if a threshold separates all events from all others: no finite slope fits best then.
    """

    events: int
    slope: Interval
    intercept: Interval


@dataclass(frozen=True)
class LossSplit:
    """Mean unweighted log loss: all, what a recalibration without the study itself removes, and what remains."""

    whole: Interval
    removable: Interval
    remaining: Interval


def ece_floor(prob_N3: Floats, bins: int = DEFAULT_BINS, draws: int = _DRAWS, seed: int = 0) -> Floor:
    """Return the floor of `metrics.ece` (top label, bins of equal mass) for these probabilities."""
    return event_ece_floor(prob_N3.max(axis=1), bins, draws, seed)


def event_ece_floor(confidence_N: Floats, bins: int = DEFAULT_BINS, draws: int = _DRAWS, seed: int = 0) -> Floor:
    """Return the floor of the error of `metrics.reliability` for these probabilities of an event."""
    if not len(confidence_N):
        return Floor(float("nan"), float("nan"))
    bin_N = bins_of_equal_mass(confidence_N, bins)
    expected_X = np.bincount(bin_N, confidence_N)
    rng = np.random.default_rng(seed)
    errors = []
    for _ in range(draws):
        hit_N = rng.random(len(confidence_N)) < confidence_N
        errors.append(np.abs(np.bincount(bin_N, hit_N) - expected_X).sum())
    error_B = np.array(errors) / len(confidence_N)
    return Floor(float(error_B.mean()), float(np.percentile(error_B, 95)))


def cut_events(severity_N: Ints, prob_N3: Floats) -> dict[str, tuple[Bools, Floats]]:
    """Return the events of both cuts, at least moderate and severe, with their probabilities."""
    return {
        "at_least_moderate": (severity_N >= Severity.MODERATE, 1 - prob_N3[:, Severity.NORMAL_MILD]),
        "severe": (severity_N == Severity.SEVERE, prob_N3[:, Severity.SEVERE]),
    }


def bin_intervals(event_N: Bools, bin_N: Ints, study_N: Ints) -> list[tuple[float, float]]:
    """Return the 95 % interval of the share of events in each bin that has a row.

    It is Wilson's (1927), with the number of rows divided by the design effect: rows of one study count for less if
    their deviations from the share agree (Kish, 1965; Korn and Graubard, 1998).
    """
    intervals = []
    for number in np.unique(bin_N):
        event_M = event_N[bin_N == number].astype(np.float64)
        _, study_of_M = np.unique(study_N[bin_N == number], return_inverse=True)
        share, rows, studies = event_M.mean(), len(event_M), study_of_M.max() + 1
        independent = share * (1 - share) * rows
        together = (np.bincount(study_of_M, event_M - share) ** 2).sum() * studies / max(studies - 1, 1)
        effect = max(together / independent, 1.0) if independent > 0 else rows / studies
        intervals.append(wilson_bounds(share, rows / effect, student_t.ppf(0.975, max(studies - 1, 1))))
    return intervals


def cut_calibration(event_N: Bools, prob_N: Floats, study_N: Ints) -> CutCalibration:
    """Return the slope of the event on the logit of its probability, and the intercept at a slope of one.

    The degrees of freedom of the intervals belong to the studies with the scarcer outcome.
    """
    events = int(event_N.sum())
    none = Interval(float("nan"), float("nan"), float("nan"))
    if not 0 < events < len(event_N):
        return CutCalibration(events, none, none)
    logit_N = logit(np.clip(prob_N, _EDGE, 1 - _EDGE))
    intercept = _cox(event_N, logit_N, study_N, "intercept")
    if logit_N[event_N].min() > logit_N[~event_N].max():
        return CutCalibration(events, none, intercept)
    return CutCalibration(events, _cox(event_N, logit_N, study_N, "slope"), intercept)


def loss_split(table: SiteTable, prob_N3: Floats) -> LossSplit:
    """Return the log loss of labelled rows, split by a recalibration that is fitted without the study it judges."""
    studies, study_N = np.unique(table.study_N, return_inverse=True)
    log_prob_N3 = np.log(np.clip(prob_N3, _EDGE, 1.0))
    after_S = np.zeros(len(studies))
    for condition in range(len(CONDITIONS)):
        rows = table.condition_N == condition
        design_2MD = np.zeros((2, int(rows.sum()), 3))
        design_2MD[:, :, 0] = (log_prob_N3[rows, 1:] - log_prob_N3[rows, :1]).T
        design_2MD[0, :, 1] = design_2MD[1, :, 2] = 1.0
        regression = Regression(design_2MD, table.severity_N[rows], study_N[rows], len(studies))
        after_S += left_out_losses(regression, _weakly(regression, np.array([1.0, 0.0, 0.0])))[0]
    before_S = np.bincount(study_N, row_losses(table.severity_N, prob_N3), len(studies)).astype(np.float64)
    count_S = np.bincount(study_N, minlength=len(studies))

    def over_rows(sum_S: Floats, log_scale: bool) -> Interval:
        with np.errstate(divide="ignore", invalid="ignore"):
            value = sum_S.sum() / count_S.sum()
            without_S = (sum_S.sum() - sum_S) / (count_S.sum() - count_S)
        return interval_without_each(float(value), without_S, LOG if log_scale else LINEAR)

    return LossSplit(over_rows(before_S, True), over_rows(before_S - after_S, False), over_rows(after_S, True))


def _cox(event_N: Bools, logit_N: Floats, study_N: Ints, what: str) -> Interval:
    """Regress the event with two parameters, intercept and slope; for the intercept, the slope is held at one."""
    studies, study_of_N = np.unique(study_N, return_inverse=True)
    # The regression is one of three severities: the third has the logit -50 and never occurs.
    design_2ND = np.zeros((2, len(event_N), 3))
    design_2ND[0, :, 0], design_2ND[0, :, 1], design_2ND[1, :, 2] = 1.0, logit_N, 1.0
    rows = Regression(design_2ND, event_N.astype(np.int64), study_of_N, len(studies))
    held = np.array([False, what == "intercept", True])
    solution = _weakly(rows, np.array([0.0, 1.0, -50.0]), held)
    _, step_SD = left_out_losses(rows, solution)
    place = 1 if what == "slope" else 0
    fewest = min(len(np.unique(study_N[event_N])), len(np.unique(study_N[~event_N])))
    value = float(solution.theta_D[place])
    return interval_without_each(value, value + step_SD[:, place], fewest=fewest)


def _weakly(rows: Regression, centre_D: Floats, held_D: Bools | None = None) -> Solution:
    pull_D = np.full(len(centre_D), _WEAK_PULL)
    if held_D is not None:
        pull_D[held_D] = np.inf
    return fit(rows, pull_D, centre_D, np.zeros(len(centre_D), dtype=bool))
