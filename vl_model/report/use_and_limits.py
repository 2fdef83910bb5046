"""What a report says of its own use: its limits in sentences, and where two guidelines' items are answered."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from data_prep.sites import Condition

Json = Mapping[str, Any]
_FEW = 30


def guideline_items() -> dict[str, list[tuple[str, str, str]]]:
    """Return, by guideline, the number and topic of each item, and where it is answered or why it cannot be."""
    path = Path(__file__).with_name("reporting_items.yaml")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name: [(item, topic, where) for item, topic, where in items] for name, items in content.items()}


def limits(report: Json) -> list[str]:
    """Return what the figures of a report do not tell, in sentences."""
    counts = report["n"]["severities"]
    sentences = [
        "All studies are of one data set. Those of another hospital may be graded, imaged and ill in other ways, and "
        "nothing here tells how good the probabilities are there.",
        "Age, sex and site of care are never read: whether the figures differ between groups of people is not known.",
        "Each site has one grade. How far readers differ among themselves is not known, and no model can be measured "
        "more closely than that.",
    ]
    graded = set(report["n"]["graded_conditions"])
    if lacking := [condition.value.replace("_", " ") for condition in Condition if condition.value not in graded]:
        sentences.append(f"Nothing is known of {' and '.join(lacking)}: no held-out site of it is graded.")
    for grade in ("moderate", "severe"):
        if counts[grade] < _FEW:
            number = {0: "No graded site is", 1: "One graded site is"}.get(counts[grade])
            sentences.append(
                f"{number or f'Only {counts[grade]} graded sites are'} {grade}: figures about it are hardly known."
            )
    places = report.get("places")
    if places and not places["reason"]:
        sentences.append(
            "The figures are for sites that readers marked. New studies are graded where a locator or an atlas finds "
            "the sites."
        )
    if report.get("fold_runs"):
        sentences.append("New studies are graded by the mean of all models, which itself has no figures.")
    return sentences
