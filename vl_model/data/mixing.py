"""Two sites in one picture: mixup and cutmix, drawn for each sample, done on the device for a whole batch.

mixup (Zhang et al. 2018, arXiv:1710.09412) blends two tiles, lambda x + (1 - lambda) x' with lambda from
Beta(`MIXUP_ALPHA`, `MIXUP_ALPHA`); cutmix (Yun et al. 2019, arXiv:1905.04899) puts a rectangle of x' in the place of
x's, whose area is a share 1 - lambda of the tile, lambda uniform. The grades are shared alike: lambda to 1 - lambda.

A site is mixed with the *same site* of another study, seen in the same views. So what the text says of level, side
and condition stays true of the mixture, T1 is never mixed with T2, and only the severity is shared.

Dimensions: B sites, M of them mixed, T tiles a site, h and w pixels of a tile.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vl_model.data.site_rows import SiteRow
from vl_model.data.targets import SEVERITIES, Targets

#: Mostly one of the two, with a little of the other: Zhang et al. used 0.1 to 0.4 on ImageNet.
MIXUP_ALPHA = 0.4


@dataclass(frozen=True)
class MixDraw:
    """One site's mixture: the row to mix it with, its own share, and the box that the other fills (None: a blend).

    A box is (left, top, right, bottom) in shares of the tile's width and height.
    """

    partner: int
    share: float
    box: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class Mixture:
    """What is done to the sites `place_M` of a batch; tensors of one device.

    share_M: what each keeps of itself; grade_M: the partners' severities; box_M4: as in `MixDraw`, empty for a blend.
    """

    place_M: Tensor
    share_M: Tensor
    grade_M: Tensor
    box_M4: Tensor

    def to(self, device: torch.device) -> "Mixture":
        return Mixture(
            self.place_M.to(device), self.share_M.to(device), self.grade_M.to(device), self.box_M4.to(device)
        )


class Partners:
    """For each row those that it may be mixed with: the same site in the same views, itself among them.

    rate_R: how often each row is drawn as a partner, on any scale. It is as often as it is drawn itself
    (`vl_model.data.sampling`): the loss takes that rate out of both.
    """

    def __init__(self, rows: Sequence[SiteRow], rate_R: NDArray[np.float64]) -> None:
        groups: dict[object, list[int]] = defaultdict(list)
        for number, row in enumerate(rows):
            groups[row.site, row.views].append(number)
        self._rows = rows
        self._groups = {key: (group, np.cumsum(rate_R[group])) for key, group in groups.items()}

    def draw(self, sample: int, generator: np.random.Generator) -> int:
        row = self._rows[sample]
        group, end_G = self._groups[row.site, row.views]
        place = int(np.searchsorted(end_G, generator.random() * end_G[-1], side="right"))
        return group[min(place, len(group) - 1)]


def draw_mix(
    sample: int, partners: Partners, mixup: float, cutmix: float, generator: np.random.Generator
) -> MixDraw | None:
    """With probability `mixup` a blend, with probability `cutmix` a box, else None."""
    kind = generator.random()
    if kind >= mixup + cutmix:
        return None
    partner = partners.draw(sample, generator)
    if kind < mixup:
        return MixDraw(partner, float(generator.beta(MIXUP_ALPHA, MIXUP_ALPHA)), None)
    return _draw_box(partner, generator)


def _draw_box(partner: int, generator: np.random.Generator) -> MixDraw:
    """A box of the tile's own shape about a uniform centre, cut at the tile's edges; the share is what is left."""
    area, *centre = generator.random(3)
    half = np.sqrt(area) / 2
    left, top = (max(0.0, float(place - half)) for place in centre)
    right, bottom = (min(1.0, float(place + half)) for place in centre)
    return MixDraw(partner, 1 - (right - left) * (bottom - top), (left, top, right, bottom))


def mixture_of(draws: Sequence[MixDraw | None], rows: Sequence[SiteRow]) -> Mixture:
    """The draws of a batch's sites as tensors; at least one of them is not None."""
    mixed = [(place, draw) for place, draw in enumerate(draws) if draw is not None]
    severities = [rows[draw.partner].severity for _, draw in mixed]
    assert None not in severities
    return Mixture(
        place_M=torch.tensor([place for place, _ in mixed]),
        share_M=torch.tensor([draw.share for _, draw in mixed]),
        grade_M=torch.tensor([int(severity or 0) for severity in severities]),
        box_M4=torch.tensor([draw.box or (0.0, 0.0, 0.0, 0.0) for _, draw in mixed]),
    )


def mix_tiles(tiles_BT3hw: Tensor, other_MT3hw: Tensor, mixture: Mixture) -> Tensor:
    """The batch's tiles, with the mixed sites' in their places."""
    kept_Mhw = _kept(mixture, *tiles_BT3hw.shape[-2:])
    own_MT3hw = tiles_BT3hw[mixture.place_M]
    mixed_MT3hw = torch.lerp(other_MT3hw, own_MT3hw, kept_Mhw[:, None, None])
    return tiles_BT3hw.index_copy(0, mixture.place_M, mixed_MT3hw)


def mix_targets(targets: Targets, mixture: Mixture) -> Targets:
    """The mixed sites' grades, shared with their partners'."""
    other_M3 = F.one_hot(mixture.grade_M, SEVERITIES).to(targets.grade_B3.dtype)
    mixed_M3 = torch.lerp(other_M3, targets.grade_B3[mixture.place_M], mixture.share_M[:, None])
    return Targets(targets.caption_B, targets.grade_B3.index_copy(0, mixture.place_M, mixed_M3))


def _kept(mixture: Mixture, height: int, width: int) -> Tensor:
    """(M, h, w): how much of each pixel stays the site's own; its mean is `share_M`, whatever the size of the tile."""
    left_M, top_M, right_M, bottom_M = mixture.box_M4.unbind(dim=1)
    boxed_Mhw = _covered(top_M, bottom_M, height)[:, :, None] * _covered(left_M, right_M, width)[:, None, :]
    is_blend_M11 = (right_M <= left_M)[:, None, None]
    return torch.where(is_blend_M11, mixture.share_M[:, None, None], 1 - boxed_Mhw)


def _covered(first_M: Tensor, last_M: Tensor, pixels: int) -> Tensor:
    """(M, pixels): how much of each pixel lies between `first` and `last`, which are shares of the whole side."""
    edges = torch.arange(pixels + 1, device=first_M.device) / pixels
    overlap_Mp = torch.minimum(last_M[:, None], edges[1:]) - torch.maximum(first_M[:, None], edges[:-1])
    return (overlap_Mp * pixels).clamp(0, 1)
