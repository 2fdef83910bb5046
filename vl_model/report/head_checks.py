"""What the report tells about each head by itself, from its raw predictions of held-out studies.

No calibrator takes part here, so nothing here learned from the labels of held-out studies: raw probabilities are made
ready for the metric by Bayes' rule alone (each multiplied by the metric's weight of its severity).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vl_model.data.site_table import CONDITIONS, Floats
from vl_model.evaluation.cross_fitting import HeldOut
from vl_model.evaluation.further_predictions import SHARES, share_name, studies_in, wording_name
from vl_model.evaluation.grader import HEADS, Grader
from vl_model.evaluation.heads import LinearProbe
from vl_model.evaluation.raw_predictions import RawHeldOut
from vl_model.report.report_content import metric_block, metric_values
from vl_model.scoring.metrics import GRADES, SEVERITY_WEIGHTS, log_loss

Json = dict[str, Any]


def head_blocks(
    raw: RawHeldOut, held_out: HeldOut, probes: Sequence[LinearProbe], training_studies: Sequence[int]
) -> Json:
    """Return the entries `by_rule`, `wordings`, `probe_losses` and `learning_curve` of ``report.json``.

    Args:
        raw: the raw predictions of the held-out studies.
        held_out: the same studies with cross-fitted probabilities.
        probes: the linear probe of each run.
        training_studies: the number of graded training studies of each run.
    """
    rule_N3 = {name: by_rule(raw, log_prob_N3) for name, log_prob_N3 in raw.log_prob_N3.items()}
    return {
        "by_rule": {head: metric_block(held_out, rule_N3[head]) for head in HEADS},
        "wordings": _wordings(raw, rule_N3),
        "probe_losses": probe_losses(raw, probes),
        "learning_curve": _learning_curve(raw, rule_N3, training_studies),
    }


def calibrators_block(grader: Grader) -> Json:
    """Return, by head, what its calibrator for new studies learned: its strength, and by condition its numbers.

    A condition without a graded site is left out.
    """
    blocks: Json = {}
    for head, calibrator in grader.calibrators.items():
        conditions = {}
        for index, condition in enumerate(CONDITIONS):
            if calibrator.examples_KC_[index].sum():
                conditions[condition.value] = {
                    "sites": dict(zip(GRADES, calibrator.examples_KC_[index].tolist(), strict=True)),
                    "slope": float(calibrator.slope_KF_[index].sum()),
                    "bias": dict(zip(GRADES, calibrator.bias_KC_[index].tolist(), strict=True)),
                }
        blocks[head] = {"strength": str(calibrator.strength_), "conditions": conditions}
    return blocks


def by_rule(raw: RawHeldOut, log_prob_N3: Floats) -> Floats:
    """Return probabilities (N, 3) for the metric by Bayes' rule; a site without an image has its column's constant."""
    prob_N3 = raw.constant_N3.copy()
    weighted_M3 = np.exp(log_prob_N3[raw.imaged_N]) * SEVERITY_WEIGHTS
    prob_N3[raw.imaged_N] = weighted_M3 / weighted_M3.sum(axis=1, keepdims=True)
    return prob_N3


def probe_losses(raw: RawHeldOut, probes: Sequence[LinearProbe]) -> Json:
    """Return, per condition, the probe's log loss within the training studies and on the held-out ones, unweighted.

    Within the training studies it is cross-validated, but the adapters were trained on them: if it is much lower than
    the other, the embeddings are over-fitted. Of several runs it is the mean.
    """
    known = raw.imaged_N & raw.table.labelled_N
    blocks: Json = {}
    for index, condition in enumerate(CONDITIONS):
        rows = known & (raw.table.condition_N == index)
        inner = [probe.inner_loss_K_[index] for probe in probes if np.isfinite(probe.inner_loss_K_[index])]
        blocks[condition.value] = {
            "inner": float(np.mean(inner)) if inner else float("nan"),
            "held_out": log_loss(raw.table.severity_N[rows], np.exp(raw.log_prob_N3["linear_probe"][rows])),
        }
    return blocks


def _wordings(raw: RawHeldOut, rule_N3: Mapping[str, Floats]) -> list[Json]:
    """Return the metric of the prompt head with each wording of its sentences alone, in their order."""
    names: list[str] = []
    while wording_name(len(names)) in rule_N3:
        names.append(wording_name(len(names)))
    return [metric_values(raw.table, rule_N3[name]) for name in names]


def _learning_curve(raw: RawHeldOut, rule_N3: Mapping[str, Floats], training_studies: Sequence[int]) -> list[Json]:
    """Return the metric and the log loss of probes that learned from more and more studies (mean number over runs)."""
    known = raw.imaged_N & raw.table.labelled_N
    points = []
    for share, name in [*((share, share_name(share)) for share in SHARES), (1.0, "linear_probe")]:
        if name in rule_N3:
            losses = log_loss(raw.table.severity_N[known], np.exp(raw.log_prob_N3[name][known]))
            count = float(np.mean([studies_in(share, studies) for studies in training_studies]))
            points.append({"studies": count, **metric_values(raw.table, rule_N3[name]), "log_loss": losses})
    return points
