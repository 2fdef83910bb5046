"""Areas under the ROC curve without each study, from which their intervals follow (`intervals`)."""

import numpy as np
from scipy.stats import rankdata

from vl_model.data.site_table import Bools, Floats, Ints


def aucs_without_each(positive_N: Bools, score_N: Floats, study_N: Ints, studies: int) -> Floats:
    """Return the AUC (S) without the rows of each study. study_N: the index of each row's study, below `studies`.

    A pair of a positive and a negative row counts as won if the positive one scores higher, half if they tie. Without
    a study, the pairs with its rows are gone. It is nan if no positive or no negative row is left.
    """
    won_N = _pairs_won(positive_N, score_N)
    inside_S = _pairs_won_inside(positive_N, score_N, study_N, studies)
    won_S = won_N[positive_N].sum() - np.bincount(study_N, won_N, studies) + inside_S
    positives_S = positive_N.sum() - np.bincount(study_N, positive_N, studies)
    negatives_S = (~positive_N).sum() - np.bincount(study_N, ~positive_N, studies)
    pairs_S = positives_S * negatives_S
    return np.divide(won_S, pairs_S, out=np.full(studies, np.nan), where=pairs_S > 0)


def _pairs_won(positive_N: Bools, score_N: Floats) -> Floats:
    """Return how many pairs each positive row wins, and each negative row loses."""
    won_N = np.zeros(len(score_N))
    rank_N = rankdata(score_N)
    for one_N in (positive_N, ~positive_N):
        below_N = rank_N[one_N] - rankdata(score_N[one_N])  # rows of the other kind below, ties half
        others = int((~one_N).sum())
        won_N[one_N] = below_N if one_N is positive_N else others - below_N
    return won_N


def _pairs_won_inside(positive_N: Bools, score_N: Floats, study_N: Ints, studies: int) -> Floats:
    """Return the pairs within each study (S) that are won, which are counted at both of their rows."""
    count_S = np.bincount(study_N, minlength=studies)
    present_SR = np.arange(count_S.max(initial=0)) < count_S[:, None]
    score_SR, sign_SR = np.zeros(present_SR.shape), np.zeros(present_SR.shape)
    order_N = np.argsort(study_N, kind="stable")
    score_SR[present_SR], sign_SR[present_SR] = score_N[order_N], np.where(positive_N[order_N], 1.0, -1.0)
    wins_SRR = (score_SR[:, :, None] > score_SR[:, None]) + 0.5 * (score_SR[:, :, None] == score_SR[:, None])
    pairs_SRR = (sign_SR[:, :, None] > 0) & (sign_SR[:, None] < 0)
    inside: Floats = (wins_SRR * pairs_SRR).sum(axis=(1, 2))
    return inside
