"""How typical the images of a study are: whether the figures of a run can be expected to hold for it.

A model grades any picture, also of a scanner or of a kind that it has never seen, and is often sure of it. So this is
out-of-distribution detection: the embeddings of a study are compared with those of the training studies. The distance
of a site is that of Mahalanobis to the mean of its condition, with the covariance that all conditions share (Lee et al.
2018, "A simple unified framework for detecting out-of-distribution samples and adversarial attacks"), and the distance
of a study is the mean over its sites. The typicality of a study is (1 + f) / (1 + n) if f of n held-out studies lie at
least as far away: a conformal p-value (Bates et al. 2023, "Testing for outliers with conformal p-values"). Of studies
like the held-out ones at most 5 % have a typicality of at most 0.05. Rare grades lie far away too, so that a cohort
with more severe studies is less typical, however its images look.

Legend: N rows, S studies, K conditions, D embedding.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from data_prep.sites import Condition
from vl_model.data.site_table import Floats, Ints, SiteTable

#: A study with a typicality of at most this is called atypical: at most this share of studies like the held-out ones.
ATYPICAL = 0.05
#: What is told of such a study.
ATYPICAL_WORDS = f"less typical images than {100 * (1 - ATYPICAL):.0f} % of the held-out studies"
#: With fewer held-out studies none could be atypical.
LEAST_HELD_OUT = round(1 / ATYPICAL) - 1
#: The significance level at which there are more atypical studies than among studies like the held-out ones.
SIGNIFICANT = 0.01
#: The least and the largest number of training sites to learn from; a share of more is taken at even intervals.
_LEAST_SITES, _MOST_SITES = 50, 20_000


@dataclass(frozen=True)
class Typicality:
    """The training embeddings' means by condition and whitening matrix, and the distances of the held-out studies.

    mean_KD: nan for a condition without a training site. whitening_DD: its product with its transpose is the inverse of
    the covariance. held_out_S: ascending.
    """

    mean_KD: Floats
    whitening_DD: Floats
    held_out_S: Floats

    def distances(self, table: SiteTable, image_ND: NDArray[np.float32]) -> tuple[Ints, Floats]:
        """Return the studies (S,) with a site of a known condition, ascending, and their distances."""
        known_N = np.isfinite(self.mean_KD[:, 0])[table.condition_N]
        table, image_ND = table.take(known_N), image_ND[known_N]
        distance_N = np.linalg.norm((image_ND - self.mean_KD[table.condition_N]) @ self.whitening_DD, axis=1)
        studies, study_N = np.unique(table.study_N, return_inverse=True)
        return studies, np.bincount(study_N, distance_N, len(studies)) / np.bincount(study_N, minlength=len(studies))

    def of_distances(self, distance_S: Floats) -> Floats:
        """Return the typicality (S,) of studies at some distances."""
        farther_S = len(self.held_out_S) - np.searchsorted(self.held_out_S, distance_S, side="left")
        typicality_S: Floats = (1 + farther_S) / (1 + len(self.held_out_S))
        return typicality_S

    def arrays(self) -> dict[str, Floats]:
        """Return the fields, as they are saved."""
        return {"mean_KD": self.mean_KD, "whitening_DD": self.whitening_DD, "held_out_S": self.held_out_S}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Floats]) -> "Typicality":
        return cls(arrays["mean_KD"], arrays["whitening_DD"], arrays["held_out_S"])


def learn_typicality(
    train: SiteTable, train_ND: NDArray[np.float32], held_out: SiteTable, held_out_MD: NDArray[np.float32]
) -> Typicality | None:
    """Learn from the sites of the training studies, and of held-out studies, that an image shows.

    Returns None if there are too few of either to tell anything, or if the embeddings do not vary.
    """
    from sklearn.covariance import LedoitWolf

    if len(train) < _LEAST_SITES:
        return None
    mean_KD = np.full((len(Condition), train_ND.shape[1]), np.nan)
    for condition in np.unique(train.condition_N):
        mean_KD[condition] = train_ND[train.condition_N == condition].mean(axis=0, dtype=np.float64)
    used = np.unique(np.linspace(0, len(train) - 1, min(len(train), _MOST_SITES)).astype(np.int64))
    residual_ND = train_ND[used] - mean_KD[train.condition_N[used]]
    if not residual_ND.any():
        return None
    try:
        whitening_DD = np.linalg.cholesky(LedoitWolf(assume_centered=True).fit(residual_ND).precision_)
    except np.linalg.LinAlgError:  # the embeddings vary in a few directions alone
        return None
    learned = Typicality(mean_KD, whitening_DD, np.zeros(0))
    _, distance_S = learned.distances(held_out, held_out_MD)
    return replace(learned, held_out_S=np.sort(distance_S)) if len(distance_S) >= LEAST_HELD_OUT else None


def typicality_sentence(typicality_S: Floats, held_out_studies: int) -> str:
    """Return what is told of some studies; nothing if the typicality of none is known (nan).

    held_out_studies: the number of those that they were compared with.

    Studies that are compared with the same held-out studies are not independent: if k of n held-out studies can lie
    farther away than an atypical study, the number of atypical ones is beta-binomial with k and n + 1 - k.
    """
    from scipy.stats import betabinom  # it takes a second, and queries import this module

    known_S = typicality_S[np.isfinite(typicality_S)]
    if not len(known_S):
        return ""
    atypical = int((known_S <= ATYPICAL).sum())
    sentence = (
        f"{atypical} of {len(known_S)} studies {'has' if atypical == 1 else 'have'} {ATYPICAL_WORDS} "
        f"(at most {100 * ATYPICAL:.0f} % are expected)"
    )
    first = math.floor(ATYPICAL * (held_out_studies + 1))
    by_chance = betabinom(len(known_S), first, held_out_studies + 1 - first).sf(atypical - 1)
    if by_chance > SIGNIFICANT:
        return sentence
    return f"{sentence}: what was measured on the held-out studies may not hold for studies with such images"
