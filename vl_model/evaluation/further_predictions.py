"""Predictions of held-out studies beside those of the two heads, for the report alone: nothing is chosen by them.

Each is named, and has the logarithms (M, 3) of the probabilities of the M held-out sites that an image shows:

- of the prompt head with a single wording of its sentences (`wording_name`);
- of linear probes that were fitted on a part of the training studies (`share_name`), for a learning curve.
"""

import math

import numpy as np
from numpy.typing import NDArray

from vl_model.data.site_table import Floats, SiteTable
from vl_model.evaluation.heads import LinearProbe, ZeroShotHead

#: The shares of the training studies in the learning curve, besides all of them.
SHARES = (0.125, 0.25, 0.5)


def wording_name(number: int) -> str:
    """Return the name of the predictions with one wording, numbered from 0."""
    return f"wording {number}"


def share_name(share: float) -> str:
    """Return the name of the predictions of the probe that was fitted on a share of the training studies."""
    return f"probe on {share:g}"


def studies_in(share: float, studies: int) -> int:
    """Return how many of the training studies a share is, at least one."""
    return max(1, math.ceil(share * studies))


def predict_by_wording(
    wording_WSCD: NDArray[np.float32], logit_scale: float, shown: SiteTable, image_MD: NDArray[np.float32]
) -> dict[str, Floats]:
    """Return the prompt head's predictions with each wording alone."""
    return {
        wording_name(number): ZeroShotHead(logit_scale).fit(text_SCD).predict_log_proba(shown, image_MD)
        for number, text_SCD in enumerate(wording_WSCD)
    }


def predict_by_share(
    train: SiteTable,
    train_ND: NDArray[np.float32],
    shown: SiteTable,
    image_MD: NDArray[np.float32],
    seed: int = 0,
) -> dict[str, Floats]:
    """Return the predictions of probes that learned from a share of the studies of `train`; shares contain each other.

    train: the training sites that an image shows, with their embeddings; at least one is labelled.
    """
    studies = np.random.default_rng(seed).permutation(train.take(train.labelled_N).study_ids)
    found = {}
    for share in SHARES:
        rows = train.of_studies(studies[: studies_in(share, len(studies))].tolist())
        probe = LinearProbe().fit(train.take(rows), train_ND[rows])
        found[share_name(share)] = probe.predict_log_proba(shown, image_MD)
    return found
