"""What the loss wants of each image: its site, which is certain, and a distribution over that site's severities.

A grade is one severity, until tiles of two grades are mixed (`vl_model.data.mixing`) or grades are smoothed. Both keep
an image at its own site, so three numbers an image say everything, in every term of the loss.

Dimensions: B images of this process, N of all, K = 75 captions (that of site s and severity c is 3 s + c).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.sites import SITES, Severity
from runs.collectives import gather

SEVERITIES = len(Severity)
CAPTIONS = len(SITES) * SEVERITIES


@dataclass(frozen=True)
class Targets:
    """caption_B: the caption that each image was drawn with; grade_B3: its severities' shares, which sum to one."""

    caption_B: Tensor
    grade_B3: Tensor

    @property
    def site_B(self) -> Tensor:
        return self.caption_B // SEVERITIES

    @property
    def target_BK(self) -> Tensor:
        """The shares as a distribution over all captions, zero at other sites'."""
        own_B3 = self.site_B[:, None] * SEVERITIES + torch.arange(SEVERITIES, device=self.caption_B.device)
        return self.grade_B3.new_zeros(len(own_B3), CAPTIONS).scatter(1, own_B3, self.grade_B3)

    def gathered(self, counts: Sequence[int] | None = None) -> "Targets":
        """Those of all processes, in rank order (`runs.collectives.gather`)."""
        return Targets(gather(self.caption_B, counts), gather(self.grade_B3, counts))

    def smoothed(self, smoothing: float) -> "Targets":
        """With the share `smoothing` of each grade moved to its neighbours, half to each side of Moderate.

        Readers differ by one grade, hardly ever by two: so severe loses nothing to normal, as uniform label smoothing
        (Szegedy et al. 2016, arXiv:1512.00567) would have it. Soft labels along an order: Diaz and Marathe, CVPR 2019.
        """
        if not smoothing:
            return self
        stays = 1 - smoothing
        neighbours_33 = self.grade_B3.new_tensor(
            [[stays, smoothing, 0.0], [smoothing / 2, stays, smoothing / 2], [0.0, smoothing, stays]]
        )
        return Targets(self.caption_B, self.grade_B3 @ neighbours_33)


def sure_targets(caption_B: Tensor, dtype: torch.dtype = torch.float32) -> Targets:
    """Each image is its caption's grade, and no other."""
    return Targets(caption_B, F.one_hot(caption_B % SEVERITIES, SEVERITIES).to(dtype))


def joined(parts: Sequence[Targets]) -> Targets:
    """Those of several batches, in order."""
    return Targets(torch.cat([part.caption_B for part in parts]), torch.cat([part.grade_B3 for part in parts]))
