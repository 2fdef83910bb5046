"""Predictions of held-out studies before any calibrator: those of one run, or of the runs of all folds, joined.

Legend: N rows, all 25 sites of each held-out study; rows that no image shows have the logarithm nan.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vl_model.data.site_table import Bools, Floats, SiteTable

PLAIN_BASELINE = "plain_baseline"


@dataclass(frozen=True)
class RawHeldOut:
    """What heads predict for studies from which neither they nor their adapters learned.

    table: the rows. imaged_N: whether an image shows the site.
    constant_N3: the best constants of the training studies. prior_N3: the probabilities of sites without an image,
    from the training studies too. log_prob_N3: natural logarithms of the probabilities of each head, and of what else
    was computed (`PLAIN_BASELINE`, `further_predictions`), by name.
    """

    table: SiteTable
    imaged_N: Bools
    constant_N3: Floats
    prior_N3: Floats
    log_prob_N3: Mapping[str, Floats]


def join_folds(folds: Sequence[RawHeldOut]) -> RawHeldOut:
    """Return the predictions of several runs as one, by study id: each study as the run that held it out predicts it.

    Raises ValueError if two runs held out the same study.
    """
    if len(folds) == 1:
        return folds[0]
    studies = np.concatenate([np.unique(fold.table.study_N) for fold in folds])
    if len(twice := np.flatnonzero(np.bincount(np.unique(studies, return_inverse=True)[1]) > 1)):
        raise ValueError(
            f"study {np.unique(studies)[twice[0]]}: is held out by two of the runs ({len(twice)} such studies); the "
            "runs of the folds must hold out different studies"
        )
    study_N = np.concatenate([fold.table.study_N for fold in folds])
    order = np.argsort(study_N, kind="stable")

    def rows(columns: Sequence[Floats]) -> Floats:
        return np.concatenate(columns)[order]

    first = folds[0]
    return RawHeldOut(
        SiteTable(
            study_N[order],
            np.concatenate([fold.table.site_N for fold in folds])[order],
            np.concatenate([fold.table.severity_N for fold in folds])[order],
        ),
        np.concatenate([fold.imaged_N for fold in folds])[order],
        rows([fold.constant_N3 for fold in folds]),
        rows([fold.prior_N3 for fold in folds]),
        {head: rows([fold.log_prob_N3[head] for fold in folds]) for head in first.log_prob_N3},
    )
