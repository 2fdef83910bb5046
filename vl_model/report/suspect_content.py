"""The suspect labels in ``report.json``: how many were ranked and listed, by condition, and the first of them."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from data_prep.conversion.pairs import Pair
from data_prep.sites import SITES, Condition, Severity
from vl_model.data.suspect_labels import SuspectLabel
from vl_model.evaluation.cross_fitting import HeldOut
from vl_model.report.example_sites import ExampleSite, example_site, pairs_by_site

Json = dict[str, Any]
#: The suspect labels in the report's table, and those of them that its page shows.
TOLD, SHOWN = 10, 8
GROUP = "suspect labels"


def suspects_block(labels: Sequence[SuspectLabel], ranked: int, held_out: HeldOut, others: int) -> Json:
    """Return what the report tells of the list.

    Args:
        labels: the suspect labels by rank.
        ranked: how many known grades were ranked.
        held_out: the predictions that ranked them.
        others: the graded studies of the data set that nothing is known of, because the run learned from them.
    """
    site_N = held_out.table.site_N[held_out.imaged_N & held_out.table.labelled_N]
    conditions = np.array([site.condition.value for site in SITES])
    listed = [label.site.condition for label in labels]
    return {
        "ranked": ranked,
        "listed": len(labels),
        "studies": len(held_out.table.study_ids),
        "studies_not_ranked": others,
        "conditions": {
            condition.value: {"ranked": count, "listed": listed.count(condition)}
            for condition in Condition
            if (count := int((conditions[site_N] == condition.value).sum()))
        },
        "first": [_as_json(label) for label in labels[:TOLD]],
    }


def suspect_examples(labels: Sequence[SuspectLabel], pairs: Iterable[Pair]) -> list[ExampleSite]:
    """Return the first suspect labels with their tiles."""
    pairs_of = pairs_by_site(pairs)
    return [
        example_site(
            GROUP, label.study_id, label.site, label.severity, label.probabilities, pairs_of[label.study_id, label.site]
        )
        for label in labels[:SHOWN]
    ]


def _as_json(label: SuspectLabel) -> Json:
    return {
        "rank": label.rank,
        "study_id": label.study_id,
        "site": label.site.key,
        "words": label.site.words,
        "severity": label.severity.key,
        "most_probable": Severity(int(np.argmax(label.probabilities))).key,
        "times": float(np.exp(label.margin)),
        "probabilities": list(label.probabilities),
    }
