"""The suspect labels of an evaluation: ``suspect_labels.csv`` and, of the first of them, ``suspect_labels.png``."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.conversion.pairs import Dataset
from vl_model.data.site_rows import evidence_of
from vl_model.data.suspect_labels import SUSPECT_LABELS, SuspectLabel, write_suspect_labels
from vl_model.report.example_sites import pairs_by_site
from vl_model.report.suspect_sheet import draw_suspect_sheet, shown_views

SHEET = "suspect_labels.png"
#: The number of suspect labels on the sheet; all are in the table.
SHOWN = 20


def write_suspect_list(
    logs: Path,
    labels: Sequence[SuspectLabel],
    graded_sites: int,
    dataset: Dataset,
    crops_R3HW: NDArray[np.uint8],
    tile_share: float,
) -> str:
    """Write both files for the held-out studies; return a line that says how many labels are suspect.

    Args:
        logs: the folder of the run's logs.
        labels: the suspect labels by rank (`rank_suspect_labels`).
        graded_sites: how many sites were ranked.
        dataset, crops_R3HW: the train split.
        tile_share: the share of a crop's width that the model gets.
    """
    table, sheet = logs / SUSPECT_LABELS, logs / SHEET
    write_suspect_labels(table, labels, evidence_of(dataset.pairs), graded_sites, dataset.fingerprint)
    if not labels:
        sheet.unlink(missing_ok=True)
        return f"suspects    no known grade of {graded_sites} sites is less probable than another"
    pairs_of = pairs_by_site(dataset.pairs)
    shown = labels[:SHOWN]
    views = [shown_views(pairs_of[label.study_id, label.site], crops_R3HW) for label in shown]
    title = f"The {len(shown)} most suspect labels of {graded_sites} graded sites (run {logs.name})"
    draw_suspect_sheet(sheet, title, shown, views, tile_share)
    return f"suspects    {table} ({len(labels)} of {graded_sites} known grades are less probable than another)"
