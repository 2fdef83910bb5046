"""Which studies a report is about: named, imaged, graded, scored, and why others are not; and how often a grade is."""

import csv
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.conversion.pairs import Dataset
from data_prep.sites import SITES, Severity
from vl_model.data.site_table import CONDITIONS, SiteTable
from vl_model.evaluation.cross_fitting import HeldOut

Json = dict[str, Any]


def flow_block(dataset: Dataset, labels: SiteTable, held_out: HeldOut, faults: Path) -> Json:
    """Return the numbers of studies and of sites, with the reasons why others are not scored.

    Args:
        dataset: the train split.
        labels: all 25 sites of each of its studies, with the grades that are known.
        held_out: what is scored.
        faults: its ``faults.csv``, which tells why a study has no image.
    """
    named = set(dataset.study_ids) | set(dataset.fold_of)
    imaged = {pair.study_id for pair in dataset.pairs}
    graded = set(labels.take(labels.labelled_N).study_ids)
    held_out_studies = set(held_out.table.study_ids)
    scored_N = held_out.table.labelled_N
    scored = set(held_out.table.take(scored_N).study_ids)
    shown_N = scored_N & held_out.imaged_N
    return {
        "studies": {
            "named": len(named),
            "imaged": len(named & imaged),
            "graded": len(named & graded),
            "held_out": len(held_out_studies),
            "scored": len(scored),
        },
        "not_imaged": _reasons(named - imaged, faults),
        "not_graded": len(named - graded),
        "graded_not_held_out": len(graded - held_out_studies),
        "held_out_not_graded": len(held_out_studies - scored),
        "scored_not_imaged": len(scored - set(held_out.table.take(shown_N).study_ids)),
        "sites": {
            "of_scored_studies": len(SITES) * len(scored),
            "graded": int(scored_N.sum()),
            "imaged": int(shown_N.sum()),
        },
        "prevalence": {
            "held_out": prevalence(held_out.table),
            "others": prevalence(labels.take(~labels.of_studies(held_out_studies))),
        },
    }


def prevalence(table: SiteTable) -> Json:
    """Return, by condition with a graded site, the number of sites of each grade."""
    graded = table.take(table.labelled_N)
    counts = {
        condition.value: np.bincount(graded.severity_N[graded.condition_N == index], minlength=len(Severity)).tolist()
        for index, condition in enumerate(CONDITIONS)
    }
    return {
        name: dict(zip((grade.key for grade in Severity), count, strict=True))
        for name, count in counts.items()
        if sum(count)
    }


def _reasons(studies: set[int], faults: Path) -> dict[str, int]:
    """Return how many of these studies have which faults, sorted by name, and how many have none on record."""
    kinds_of: dict[int, set[str]] = defaultdict(set)
    if studies and faults.is_file():
        with faults.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            for row in csv.DictReader(file):
                if row["study_id"].isdigit() and int(row["study_id"]) in studies:
                    kinds_of[int(row["study_id"])].add(row["kind"])
    counts = Counter(" and ".join(sorted(kinds_of[study])) or "no view that shows a site" for study in studies)
    return dict(sorted(counts.items()))
