"""The prevalences of another hospital, and the shift of calibrated probabilities to them.

If only the prevalences of the grades differ between two hospitals, and the images of a grade look alike in both, the
probabilities follow by Bayes' rule: p_new is proportional to p times new prevalence / old prevalence (Saerens, Latinne
and Decaestecker, Neural Computation 14, 2002, equation 2.4).

Legend: N rows, K = 3 conditions, 3 severities.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data_prep.sites import Condition, Severity, parse_severity
from vl_model.data.site_table import CONDITIONS, Floats, Ints, SiteTable
from vl_model.scoring.metric_optimum import MetricRule
from vl_model.scoring.metrics import SEVERITY_WEIGHTS
from vl_model.scoring.submission import read_words

COLUMNS = ("condition", "severity", "prevalence")
#: Prevalences of a condition whose sum differs from 1 by at most this are divided by their sum.
SUM_TOLERANCE = 1e-3

Prevalences = Mapping[Condition, tuple[float, float, float]]
"""The prevalence of each severity in the graded sites of a condition, all above 0 and of sum 1."""


@dataclass(frozen=True)
class PrevalenceShift:
    """The shift from the prevalences of the studies that the calibrators learned from to those of another hospital.

    old_K3, new_K3: both prevalences; a condition that does not shift has the same ones.
    """

    old_K3: Floats
    new_K3: Floats

    def shift(self, prob_N3: Floats, table: SiteTable) -> Floats:
        """Return the shifted probabilities (N, 3)."""
        shifted_N3 = prob_N3 * (self.new_K3 / self.old_K3)[table.condition_N]
        shifted: Floats = shifted_N3 / shifted_N3.sum(axis=1, keepdims=True)
        return shifted

    def rule(self, rule: MetricRule) -> MetricRule:
        """Return what the metric's optimum depends on: the mean weights change with the prevalences of the canal.

        Both weights are 1 plus an excess for each Moderate and Severe row; the excess changes as that of all rows does.
        """
        spinal = CONDITIONS.index(Condition.SPINAL_CANAL_STENOSIS)
        old, new = (
            float(np.dot(prevalence_K3[spinal], SEVERITY_WEIGHTS)) for prevalence_K3 in (self.old_K3, self.new_K3)
        )
        return replace(
            rule,
            spinal_weight=rule.spinal_weight * new / old,
            any_severe_weight=1 + (rule.any_severe_weight - 1) * (new - 1) / (old - 1),
        )

    def lines(self) -> list[str]:
        """Return one line in words per condition that shifts."""
        return [
            f"prevalence of {condition.words}, from that of the studies that the calibrators learned from: "
            + ", ".join(
                f"{grade.label} {was:.3f} -> {now:.3f}" for grade, was, now in zip(Severity, old, new, strict=True)
            )
            for condition, old, new in zip(CONDITIONS, self.old_K3, self.new_K3, strict=True)
            if not np.array_equal(old, new)
        ]


def prevalence_shift(new: Prevalences, examples_KC: Ints) -> PrevalenceShift:
    """Return the shift from the prevalences of the graded sites that a calibrator learned from, `examples_KC`.

    Raises ValueError if these have no site of a severity in a condition that is to shift: it cannot be scaled.
    """
    old_K3 = examples_KC / np.maximum(examples_KC.sum(axis=1, keepdims=True), 1)
    new_K3 = old_K3.copy()
    for condition, prevalences in new.items():
        row = CONDITIONS.index(condition)
        if not examples_KC[row].all():
            lacking = Severity(int(np.flatnonzero(examples_KC[row] == 0)[0]))
            raise ValueError(
                f"{condition}: no {lacking.label} site among those that the calibrator learned from, so that its "
                "probabilities cannot be shifted; leave this condition out"
            )
        new_K3[row] = prevalences
    unused = examples_KC.sum(axis=1) == 0
    old_K3[unused] = new_K3[unused] = 1 / len(Severity)
    return PrevalenceShift(old_K3, new_K3)


def read_prevalences(path: Path) -> Prevalences:
    """Read a CSV file with the columns condition, severity and prevalence: three rows per condition that shifts.

    Raises ValueError, which quotes the cell, for an unknown condition or severity, a prevalence that is not between 0
    and 1, a row twice, a severity that is missing, or a sum that is not 1.
    """
    table = read_words(path)
    if missing := [name for name in COLUMNS if name not in table.columns]:
        raise ValueError(f"{path}: has no column {missing[0]!r}; expected {', '.join(COLUMNS)}")
    found: dict[Condition, dict[Severity, float]] = {}
    for line, cells in enumerate(zip(*(table[name] for name in COLUMNS), strict=True), start=2):
        try:
            condition, severity, prevalence = _condition(cells[0]), parse_severity(cells[1]), _prevalence(cells[2])
            if severity in found.setdefault(condition, {}):
                raise ValueError(f"{condition} and {severity.key} appear twice")
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
        found[condition][severity] = prevalence
    if not found:
        raise ValueError(f"{path}: has no row; expected three per condition")
    return {condition: _of_condition(path, condition, grades) for condition, grades in found.items()}


def _of_condition(path: Path, condition: Condition, grades: Mapping[Severity, float]) -> tuple[float, float, float]:
    if lacking := [grade for grade in Severity if grade not in grades]:
        raise ValueError(f"{path}: {condition} has no row for {lacking[0].key}; all three severities are needed")
    total = sum(grades.values())
    if abs(total - 1) > SUM_TOLERANCE:
        raise ValueError(f"{path}: the prevalences of {condition} have the sum {total:g}; they should have the sum 1")
    normal, moderate, severe = (grades[grade] / total for grade in Severity)
    return normal, moderate, severe


def _condition(text: str) -> Condition:
    try:
        return Condition("_".join(text.strip().lower().replace("_", " ").split()))
    except ValueError:
        raise ValueError(f"{text!r} is not a condition; expected one of {', '.join(Condition)}") from None


def _prevalence(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < 1:
        raise ValueError(f"{text!r} is not a prevalence; expected a number above 0 and below 1")
    return number
