"""Example sites for the report: correct and wrong predictions, each with the images that the model received."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.conversion.crop_geometry import CROP_SLICES
from data_prep.conversion.pairs import Pair
from data_prep.sites import SITES, Severity, Side, Site
from vl_model.data.site_table import Bools, Floats
from vl_model.evaluation.cross_fitting import HeldOut
from vl_model.evaluation.grader import HeadName
from vl_model.scoring.metrics import SEVERITY_WEIGHTS, row_losses

EXAMPLES_PER_GROUP = 4


@dataclass(frozen=True)
class ExampleSite:
    """One graded held-out site: its true severity, calibrated probabilities, and tiles (rows of ``crops.npy``)."""

    group: str
    study_id: int
    site: Site
    severity: Severity
    probabilities: tuple[float, float, float]
    caption: str
    source: str
    views: tuple[str, ...]
    crops: tuple[int, ...]


def choose_example_sites(
    held_out: HeldOut, head: HeadName, pairs: Iterable[Pair], count: int = EXAMPLES_PER_GROUP
) -> list[ExampleSite]:
    """Return the most certain correct severe sites, and the wrong predictions of each kind with the highest loss.

    Each group has at most one site per study, so that one unusual study does not fill the page, and at most `count`
    sites.
    """
    prob_N3 = held_out.prob_N3[head, "calibrated"]
    table = held_out.table
    graded = held_out.imaged_N & table.labelled_N
    truth_N, predicted_N = table.severity_N, prob_N3.argmax(axis=1)
    loss_N = np.zeros(len(table))
    loss_N[graded] = row_losses(table.severity_N[graded], prob_N3[graded])
    loss_N[graded] *= np.asarray(SEVERITY_WEIGHTS)[table.severity_N[graded]]

    groups: list[tuple[str, Bools, Floats]] = [
        (
            "severe, predicted severe",
            graded & (truth_N == Severity.SEVERE) & (predicted_N == Severity.SEVERE),
            prob_N3[:, Severity.SEVERE],
        ),
        ("severe, predicted normal or mild", graded & (truth_N == 2) & (predicted_N == 0), loss_N),
        ("severe, predicted moderate", graded & (truth_N == 2) & (predicted_N == 1), loss_N),
        ("moderate, predicted normal or mild", graded & (truth_N == 1) & (predicted_N == 0), loss_N),
        ("normal or mild, predicted severe", graded & (truth_N == 0) & (predicted_N == 2), loss_N),
        ("normal or mild, predicted moderate", graded & (truth_N == 0) & (predicted_N == 1), loss_N),
    ]
    pairs_of = pairs_by_site(pairs)
    return [
        _example_of_row(name, row, held_out, prob_N3, pairs_of)
        for name, rows, rank_N in groups
        for row in _best_of_each_study(np.flatnonzero(rows), rank_N, table.study_N, count)
    ]


def tile_as_png(tile_3HW: NDArray[np.uint8], side: Side | None, is_axial: bool) -> str:
    """Return a tile's middle slice as a PNG in a ``data:`` URL, in the radiological orientation.

    Right-sided tiles are stored mirrored; an axial one is mirrored back.
    """
    middle = tile_3HW[CROP_SLICES // 2]
    if side is Side.RIGHT and is_axial:
        middle = middle[:, ::-1]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(middle)).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _best_of_each_study(
    rows: NDArray[np.int64], rank_N: Floats, study_N: NDArray[np.int64], count: int
) -> Sequence[int]:
    first: dict[int, int] = {}
    for row in rows[np.argsort(-rank_N[rows], kind="stable")]:
        first.setdefault(int(study_N[row]), int(row))
    return list(first.values())[:count]


def pairs_by_site(pairs: Iterable[Pair]) -> dict[tuple[int, Site], list[Pair]]:
    """Return the pairs of each study and site."""
    pairs_of: dict[tuple[int, Site], list[Pair]] = {}
    for pair in pairs:
        pairs_of.setdefault((pair.study_id, pair.site), []).append(pair)
    return pairs_of


def example_site(
    group: str,
    study_id: int,
    site: Site,
    severity: Severity,
    probabilities: tuple[float, float, float],
    pairs: Iterable[Pair],
) -> ExampleSite:
    """Return an example with the site's pairs, of which there is at least one, as its tiles."""
    shown = sorted(pairs, key=lambda pair: site.views.index(pair.view))
    return ExampleSite(
        group=group,
        study_id=study_id,
        site=site,
        severity=severity,
        probabilities=probabilities,
        caption=shown[0].text,
        source=shown[0].source.value,
        views=tuple(pair.view.value for pair in shown),
        crops=tuple(pair.crop for pair in shown),
    )


def _example_of_row(
    group: str, row: int, held_out: HeldOut, prob_N3: Floats, pairs_of: Mapping[tuple[int, Site], Sequence[Pair]]
) -> ExampleSite:
    table = held_out.table
    study_id, site = int(table.study_N[row]), SITES[table.site_N[row]]
    normal, moderate, severe = prob_N3[row].tolist()
    severity = Severity(int(table.severity_N[row]))
    return example_site(group, study_id, site, severity, (normal, moderate, severe), pairs_of[study_id, site])
