"""Mixtures of two sites, mixup and cutmix: drawn for each sample, computed on the device for a whole batch.

mixup (Zhang et al. 2018, arXiv:1710.09412) blends two tiles, lambda x + (1 - lambda) x' with lambda from
Beta(`MIXUP_ALPHA`, `MIXUP_ALPHA`). cutmix (Yun et al. 2019, arXiv:1905.04899) replaces a rectangle of x by that of x';
its area is a share 1 - lambda of the tile, with uniform lambda. The grades are mixed in the same proportion.

A site is mixed only with the *same site* of another study in the same views and tiles. So the level, side and condition
of the caption remain true of the mixture, T1 is never mixed with T2, and only the severity is mixed.

Dimensions: B sites, M of them mixed, T tiles per site, h and w pixels of a tile.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vl_model.data.site_rows import SiteRow
from vl_model.data.targets import SEVERITIES, Targets

#: Most mixtures are then close to one of the two sites: Zhang et al. used 0.1 to 0.4 on ImageNet.
MIXUP_ALPHA = 0.4


@dataclass(frozen=True)
class MixDraw:
    """One site's mixture: the row to mix it with, its own share, and the box that the other row fills.

    A box is (left, top, right, bottom) as fractions of the tile's width and height; None: the tiles are blended.
    log_rate: how much more often that row is drawn than if all rows of its site were drawn alike, as a logarithm.
    """

    partner: int
    share: float
    box: tuple[float, float, float, float] | None
    log_rate: float = 0.0


@dataclass(frozen=True)
class Mixture:
    """The mixtures of a batch, as tensors on one device.

    Attributes:
        index_M: positions in the batch of the sites that are mixed.
        share_M: the share that each keeps of itself.
        grade_M: the severities of the partners.
        box_M4: boxes as in `MixDraw`, empty for a blend.
        log_rate_M: as in `MixDraw`.
    """

    index_M: Tensor
    share_M: Tensor
    grade_M: Tensor
    box_M4: Tensor
    log_rate_M: Tensor

    def to(self, device: torch.device) -> "Mixture":
        return Mixture(*(getattr(self, one.name).to(device) for one in fields(self)))


class Partners:
    """The rows that each row may be mixed with: those of the same site in the same views and tiles, itself included.

    rate_R: relative frequency of each row as a partner. It equals the row's sampling rate (`vl_model.data.sampling`),
    so that the loss's correction for the sampling holds for both sites of a mixture; where it corrects images, it needs
    the rate of the partner too (`MixDraw.log_rate`).
    """

    def __init__(self, rows: Sequence[SiteRow], rate_R: NDArray[np.float64]) -> None:
        groups: dict[object, list[int]] = defaultdict(list)
        for number, row in enumerate(rows):
            groups[row.site, row.views, row.offsets].append(number)
        self._rows, self._rate_R = rows, rate_R
        self._groups = {key: (group, np.cumsum(rate_R[group])) for key, group in groups.items()}

    def draw(self, number: int, generator: np.random.Generator) -> tuple[int, float]:
        """Draw a partner for row `number`; return the partner's row number, and the log rate of `MixDraw`."""
        row = self._rows[number]
        group, end_G = self._groups[row.site, row.views, row.offsets]
        drawn = int(np.searchsorted(end_G, generator.random() * end_G[-1], side="right"))
        partner = group[min(drawn, len(group) - 1)]
        return partner, float(np.log(self._rate_R[partner] * len(group) / end_G[-1]))


def draw_mix(
    number: int, partners: Partners, mixup: float, cutmix: float, generator: np.random.Generator
) -> MixDraw | None:
    """Draw the mixture of row `number`: a blend with probability `mixup`, a box with `cutmix`, else None."""
    kind = generator.random()
    if kind >= mixup + cutmix:
        return None
    partner, log_rate = partners.draw(number, generator)
    if kind < mixup:
        return MixDraw(partner, float(generator.beta(MIXUP_ALPHA, MIXUP_ALPHA)), None, log_rate)
    return _draw_box(partner, log_rate, generator)


def _draw_box(partner: int, log_rate: float, generator: np.random.Generator) -> MixDraw:
    """Draw a box of the tile's proportions around a uniform centre, cut at the tile's edges."""
    area, *centre = generator.random(3)
    half = np.sqrt(area) / 2
    left, top = (max(0.0, float(middle - half)) for middle in centre)
    right, bottom = (min(1.0, float(middle + half)) for middle in centre)
    return MixDraw(partner, 1 - (right - left) * (bottom - top), (left, top, right, bottom), log_rate)


def mixture_of(draws: Sequence[MixDraw | None], rows: Sequence[SiteRow]) -> Mixture:
    """Return the draws of a batch's sites as tensors; at least one draw must not be None."""
    mixed = [(index, draw) for index, draw in enumerate(draws) if draw is not None]
    severities = [rows[draw.partner].severity for _, draw in mixed]
    assert None not in severities
    return Mixture(
        index_M=torch.tensor([index for index, _ in mixed]),
        share_M=torch.tensor([draw.share for _, draw in mixed]),
        grade_M=torch.tensor([int(severity or 0) for severity in severities]),
        box_M4=torch.tensor([draw.box or (0.0, 0.0, 0.0, 0.0) for _, draw in mixed]),
        log_rate_M=torch.tensor([draw.log_rate for _, draw in mixed]),
    )


def mix_tiles(tiles_BT3hw: Tensor, other_MT3hw: Tensor, mixture: Mixture) -> Tensor:
    """Return the batch's tiles, with those of mixed sites blended with, or partly replaced by, `other_MT3hw`."""
    kept_Mhw = _kept(mixture, *tiles_BT3hw.shape[-2:])
    own_MT3hw = tiles_BT3hw[mixture.index_M]
    mixed_MT3hw = torch.lerp(other_MT3hw, own_MT3hw, kept_Mhw[:, None, None])
    return tiles_BT3hw.index_copy(0, mixture.index_M, mixed_MT3hw)


def mix_targets(targets: Targets, mixture: Mixture) -> Targets:
    """Return the batch's targets, with the grades of mixed sites mixed in the same proportion as their tiles."""
    other_M3 = F.one_hot(mixture.grade_M, SEVERITIES).to(targets.grade_B3.dtype)
    mixed_M3 = torch.lerp(other_M3, targets.grade_B3[mixture.index_M], mixture.share_M[:, None])
    log_rate_M = mixture.log_rate_M.to(targets.partner_log_rate_B.dtype)
    return replace(
        targets,
        grade_B3=targets.grade_B3.index_copy(0, mixture.index_M, mixed_M3),
        partner_log_rate_B=targets.partner_log_rate_B.index_copy(0, mixture.index_M, log_rate_M),
    )


def _kept(mixture: Mixture, height: int, width: int) -> Tensor:
    """Return, as (M, h, w), the share of each pixel that the site keeps; its mean is `share_M` at any tile size."""
    left_M, top_M, right_M, bottom_M = mixture.box_M4.unbind(dim=1)
    boxed_Mhw = _covered(top_M, bottom_M, height)[:, :, None] * _covered(left_M, right_M, width)[:, None, :]
    is_blend_M11 = (right_M <= left_M)[:, None, None]
    return torch.where(is_blend_M11, mixture.share_M[:, None, None], 1 - boxed_Mhw)


def _covered(first_M: Tensor, last_M: Tensor, pixels: int) -> Tensor:
    """Return, as (M, pixels), the share of each pixel between `first` and `last`, which are fractions of the side."""
    edges = torch.arange(pixels + 1, device=first_M.device) / pixels
    overlap_Mp = torch.minimum(last_M[:, None], edges[1:]) - torch.maximum(first_M[:, None], edges[:-1])
    return (overlap_Mp * pixels).clamp(0, 1)
