"""Answers about a whole study: the probability of any severe canal stenosis, and that of any severe finding.

The calibrated probabilities of the sites are composed as if the sites were independent, 1 - product of (1 - severe).
Levels and sides of one spine go together, so that this orders studies well, but is no probability; two parameters,
fitted to graded studies, make one of it (`recalibration`).

A study with sites that nobody graded is asked of its graded sites, for the composition as for the truth. The conditions
of which no held-out site is graded take no part: nothing tells how good their probabilities are.

Legend: N rows, S studies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.sites import Condition, Severity
from vl_model.calibration.recalibration import Recalibration, pulled_recalibration
from vl_model.data.site_table import CONDITIONS, Bools, Floats, Ints, SiteTable

#: The questions, as columns and figures are named, with the conditions that each is about.
QUESTIONS: dict[str, tuple[Condition, ...]] = {
    "any_severe_canal": (Condition.SPINAL_CANAL_STENOSIS,),
    "any_severe": CONDITIONS,
}


@dataclass(frozen=True)
class AskedStudies:
    """Studies with a graded site of a question: the composed score (S,) of each and whether such a site is severe."""

    study_S: Ints
    score_S: Floats
    event_S: Bools


class StudyAnswers:
    """The recalibration of each question.

    Learned attribute: `recalibration_`, by question; None if no site of its conditions is graded. `asked_`, by
    question, the conditions with graded sites.
    """

    def fit(self, prob_N3: Floats, table: SiteTable) -> "StudyAnswers":
        """Fit on calibrated probabilities of held-out studies. Few studies leave the composition nearly as it is."""
        self.asked_ = {question: graded_conditions(question, table) for question in QUESTIONS}
        self.recalibration_: dict[str, Recalibration | None] = {}
        for question in QUESTIONS:
            asked = asked_studies(question, prob_N3, table)
            fitted = pulled_recalibration(asked.score_S, asked.event_S) if len(asked.study_S) else None
            self.recalibration_[question] = fitted
        return self

    def predict(self, question: str, prob_N3: Floats, table: SiteTable) -> tuple[Ints, Floats]:
        """Return the studies (S,) of `table` in ascending order and the probability of each.

        All sites of the conditions that have graded held-out sites are asked, also those that no image shows. The
        probability is nan if there are no such conditions.
        """
        study_S = np.unique(table.study_N)
        recalibration = self.recalibration_[question]
        if recalibration is None:
            return study_S, np.full(len(study_S), np.nan)
        asked_N = np.isin(table.condition_N, [CONDITIONS.index(condition) for condition in self.asked_[question]])
        found_S, score_S = any_severe(prob_N3[asked_N], table.take(asked_N))
        probability_S = np.full(len(study_S), np.nan)
        probability_S[np.searchsorted(study_S, found_S)] = recalibration.probability(score_S)
        return study_S, probability_S

    def as_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads, as plain values."""
        return {
            question: None
            if recalibration is None
            else {
                "conditions": [condition.value for condition in self.asked_[question]],
                "intercept": recalibration.intercept,
                "slope": recalibration.slope,
                "variances": list(recalibration.variances),
            }
            for question, recalibration in self.recalibration_.items()
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "StudyAnswers":
        """Read saved recalibrations. Raises KeyError, TypeError or ValueError if they are not such."""
        found = cls()
        found.asked_, found.recalibration_ = {}, {}
        for question in QUESTIONS:
            block = saved[question]
            found.asked_[question] = () if block is None else tuple(Condition(name) for name in block["conditions"])
            found.recalibration_[question] = None if block is None else _recalibration(block)
        return found


def any_severe(prob_N3: Floats, table: SiteTable) -> tuple[Ints, Floats]:
    """Return the studies (S,) of the rows and the probability that one of them is severe, if rows were independent."""
    study_S, study_of_N = np.unique(table.study_N, return_inverse=True)
    with np.errstate(divide="ignore"):
        log_none_S = np.bincount(study_of_N, np.log1p(-prob_N3[:, Severity.SEVERE]), len(study_S))
    return study_S, -np.expm1(log_none_S)


def asked_studies(question: str, prob_N3: Floats, table: SiteTable) -> AskedStudies:
    """Return the studies that have a graded site of the question's conditions."""
    rows_N = table.labelled_N & _about(question, table)
    graded = table.take(rows_N)
    study_S, score_S = any_severe(prob_N3[rows_N], graded)
    event_S = np.isin(study_S, graded.study_N[graded.severity_N == Severity.SEVERE])
    return AskedStudies(study_S, score_S, event_S)


def graded_conditions(question: str, table: SiteTable) -> tuple[Condition, ...]:
    """Return the conditions of a question of which the table has a graded site."""
    graded = set(np.unique(table.condition_N[table.labelled_N]).tolist())
    return tuple(condition for condition in QUESTIONS[question] if CONDITIONS.index(condition) in graded)


def cross_fitted_answers(
    question: str, prob_N3: Floats, table: SiteTable, divisions: Sequence[Mapping[int, int]]
) -> tuple[AskedStudies, Floats]:
    """Return the asked studies with their probabilities (S,) by recalibrations that were fitted without each.

    divisions: of the labelled studies into groups; the logits are averaged over them, as in `cross_fit`.
    """
    asked = asked_studies(question, prob_N3, table)
    logit_S = np.zeros(len(asked.study_S))
    for group_of in divisions:
        group_S = np.array([group_of[study] for study in asked.study_S.tolist()])
        for group in np.unique(group_S):
            rows = group_S == group
            fitted = pulled_recalibration(asked.score_S[~rows], asked.event_S[~rows])
            logit_S[rows] += fitted.logit(asked.score_S[rows])
    return asked, 1 / (1 + np.exp(-logit_S / len(divisions)))


def _about(question: str, table: SiteTable) -> Bools:
    return np.isin(table.condition_N, [CONDITIONS.index(condition) for condition in QUESTIONS[question]])


def _recalibration(block: Mapping[str, Any]) -> Recalibration:
    intercept, slope = float(block["intercept"]), float(block["slope"])
    aa, ab, bb = (float(value) for value in block["variances"])
    if not np.isfinite([intercept, slope, aa, ab, bb]).all() or slope <= 0:
        raise ValueError(f"a recalibration with the intercept {intercept} and the slope {slope}")
    return Recalibration(intercept, slope, (aa, ab, bb))
