"""Cross-fitting: each study's probabilities come from calibrators that were fitted without it.

The studies are divided into groups several times, and a study's log probabilities are averaged over the divisions:
one division alone moves the metric of 66 studies by several thousandths.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.special import log_softmax

from data_prep.sites import Severity
from vl_model.calibration.calibrator import Calibrator
from vl_model.data.site_table import Floats, SiteTable
from vl_model.scoring.metric_optimum import MetricRule, metric_optimal

DEFAULT_GROUPS = 5
#: Many divisions for few studies, where a division matters and a fit is quick; few for many.
FEWEST_DIVISIONS, MOST_DIVISIONS, _DIVIDED_STUDIES = 2, 6, 1200


@dataclass(frozen=True)
class CrossFit:
    """Calibrated probabilities (N, 3), the rule for the metric of each study, and the chosen strengths with counts.

    rule: that of all studies together, for a study without a label or an image.
    """

    prob_N3: Floats
    rule_of: Mapping[int, MetricRule]
    rule: MetricRule
    strengths: Mapping[str, int]

    def metric_optimal(self, prob_N3: Floats, table: SiteTable) -> Floats:
        """Return metric-optimal probabilities (N, 3) from calibrated ones of whole studies."""
        rule_of = {study: self.rule_of.get(study, self.rule) for study in table.study_ids}
        return metric_optimal(table, prob_N3, rule_of)


def check_enough(studies: int) -> None:
    """Raise ValueError for fewer than two labelled held-out studies: one cannot be both fitted on and predicted."""
    if studies < 2:
        raise ValueError(
            f"labelled held-out studies: {studies}; cross-fitting a calibrator requires at least two; hold out more "
            "folds, or prepare more studies"
        )


def study_groups(table: SiteTable, groups: int = DEFAULT_GROUPS, seed: int = 0) -> dict[int, int]:
    """Return study -> group, with severe and moderate sites distributed evenly; every group has a study.

    Raises ValueError for fewer than two labelled studies.
    """
    labelled = table.take(table.labelled_N)
    studies = labelled.study_ids
    check_enough(len(studies))
    count_S2 = np.zeros((len(studies), 2))
    for column, grade in enumerate((Severity.SEVERE, Severity.MODERATE)):
        found, count = np.unique(labelled.study_N[labelled.severity_N == grade], return_counts=True)
        count_S2[np.searchsorted(studies, found), column] = count
    rng = np.random.default_rng(seed)
    tie_S = rng.random(len(studies))
    worst_first = np.lexsort((tie_S, -count_S2[:, 1], -count_S2[:, 0]))
    # One study of every few of like severity goes into each group, at random.
    groups = min(groups, len(studies))
    dealt = np.concatenate([rng.permutation(groups) for _ in range(0, len(studies), groups)])
    return {studies[row]: int(group) for row, group in zip(worst_first, dealt, strict=False)}


def divisions_of(table: SiteTable, seed: int = 0) -> list[dict[int, int]]:
    """Return several divisions of the labelled studies into groups."""
    studies = len(table.take(table.labelled_N).study_ids)
    check_enough(studies)
    count = int(np.clip(_DIVIDED_STUDIES // studies, FEWEST_DIVISIONS, MOST_DIVISIONS))
    return [study_groups(table, seed=seed * MOST_DIVISIONS + number) for number in range(count)]


def cross_fit(
    log_prob: Floats, table: SiteTable, divisions: Sequence[Mapping[int, int]], context: bool = False
) -> CrossFit:
    """Cross-fit calibrators of log probabilities (N, 3), or (N, F, 3) of F files.

    Each division says the group of each study. Studies without a label are in none; a calibrator that was fitted on
    all others predicts them. context: see `Calibrator`.
    """
    everything = Calibrator(context=context).fit(log_prob, table)
    log_sum_N3 = np.zeros((len(table), 3))
    rules: dict[int, list[MetricRule]] = defaultdict(list)
    strengths: Counter[str] = Counter()
    for group_of in divisions:
        grouped_N = table.of_studies(group_of)
        log_sum_N3[~grouped_N] += np.log(everything.predict_proba(log_prob[~grouped_N], table.take(~grouped_N)))
        for group in sorted(set(group_of.values())):
            predicted = [study for study, its_group in group_of.items() if its_group == group]
            predicted_N = table.of_studies(predicted)
            fitted_N = grouped_N & ~predicted_N
            calibrator = Calibrator(context=context).fit(log_prob[fitted_N], table.take(fitted_N))
            log_sum_N3[predicted_N] += np.log(calibrator.predict_proba(log_prob[predicted_N], table.take(predicted_N)))
            strengths[str(calibrator.strength_)] += 1
            for study in predicted:
                rules[study].append(calibrator.rule_)
    prob_N3 = np.exp(log_softmax(log_sum_N3 / len(divisions), axis=1))
    rule_of = {study: _mean_rule(found) for study, found in rules.items()}
    return CrossFit(prob_N3, rule_of, everything.rule_, dict(strengths))


def _mean_rule(rules: Sequence[MetricRule]) -> MetricRule:
    names = [field.name for field in fields(MetricRule)]
    return MetricRule(**{name: float(np.mean([getattr(rule, name) for rule in rules])) for name in names})
