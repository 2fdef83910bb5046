"""Targets of the loss: for each image its site, and a distribution over that site's severities.

The distribution is one severity alone, unless tiles of two grades are mixed (`vl_model.data.mixing`) or grades are
smoothed. Both leave an image's site as it is, so three numbers per image suffice for every term of the loss.

Dimensions: B images of this process, N of all, K = 75 captions (that of site s and severity c is 3 s + c).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.sites import SITES, Severity
from runs.processes.collectives import gather

SEVERITIES = len(Severity)
CAPTIONS = len(SITES) * SEVERITIES


@dataclass(frozen=True)
class Targets:
    """Targets of a batch.

    Attributes:
        caption_B: each image's own caption.
        grade_B3: its distribution over severities.
        partner_log_rate_B: how much more often the site that is mixed into the image is drawn than it occurs, as a
            logarithm; 0 if none is (`vl_model.data.mixing`).
    """

    caption_B: Tensor
    grade_B3: Tensor
    partner_log_rate_B: Tensor

    @property
    def site_B(self) -> Tensor:
        return self.caption_B // SEVERITIES

    @property
    def target_BK(self) -> Tensor:
        """Distribution over all captions, zero at the captions of other sites."""
        own_B3 = self.site_B[:, None] * SEVERITIES + torch.arange(SEVERITIES, device=self.caption_B.device)
        return self.grade_B3.new_zeros(len(own_B3), CAPTIONS).scatter(1, own_B3, self.grade_B3)

    def gathered(self, counts: Sequence[int] | None = None) -> "Targets":
        """Return the targets of all processes, in rank order (`runs.processes.collectives.gather`)."""
        return Targets(*(gather(getattr(self, one.name), counts) for one in fields(self)))

    def smoothed(self, smoothing: float, log_ratio_K: Tensor | None = None) -> "Targets":
        """Return targets with the share `smoothing` of each grade moved to its neighbours, from Moderate half to each.

        Readers often differ by one grade, hardly ever by two. So nothing moves between severe and normal, as it would
        by uniform label smoothing (Szegedy et al. 2016, arXiv:1512.00567). Soft labels for ordered classes: Diaz and
        Marathe, CVPR 2019.

        log_ratio_K: for logits to which this is added. A target is then the smoothed grade times the rate of each
            severity, so that an image of a certain grade has the smoothed grade after the correction, too.
        """
        if not smoothing:
            return self
        kept = 1 - smoothing
        neighbours_33 = self.grade_B3.new_tensor(
            [[kept, smoothing, 0.0], [smoothing / 2, kept, smoothing / 2], [0.0, smoothing, kept]]
        )
        if log_ratio_K is None:
            return replace(self, grade_B3=self.grade_B3 @ neighbours_33)
        rate_B3 = log_ratio_K.exp().unflatten(0, (-1, SEVERITIES))[self.site_B].to(neighbours_33.dtype)
        drawn_B33 = neighbours_33 * rate_B3[:, None, :]
        drawn_B33 = drawn_B33 / drawn_B33.sum(dim=2, keepdim=True)
        return replace(self, grade_B3=torch.einsum("bg,bgk->bk", self.grade_B3, drawn_B33))


def one_hot_targets(caption_B: Tensor, dtype: torch.dtype = torch.float32) -> Targets:
    """Return targets whose distribution is the severity of each image's own caption alone."""
    grade_B3 = F.one_hot(caption_B % SEVERITIES, SEVERITIES).to(dtype)
    return Targets(caption_B, grade_B3, torch.zeros_like(caption_B, dtype=dtype))


def joined(parts: Sequence[Targets]) -> Targets:
    """Return the targets of several batches as one, in order."""
    return Targets(*(torch.cat([getattr(part, one.name) for part in parts]) for one in fields(Targets)))
