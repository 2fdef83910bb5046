"""A linear map behind a frozen image tower. Dimensions: B sites, D embedding."""

import torch
from torch import Tensor, nn

from vl_model.towers.l2_normalize import l2_normalize


class ImageMap(nn.Module):
    """image_BD -> (image + W image) / |image + W image|, with W = 0 at the start.

    What ``--tune head`` learns besides pooling and logit scale: a linear probe that stays in the space of the texts,
    and begins as the pretrained model (a residual adapter as in Gao et al. 2021, arXiv:2110.04544, without its
    bottleneck). Sums in float32 also under autocast, which would round every embedding.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.weight_DD = nn.Parameter(torch.zeros(embed_dim, embed_dim))

    def forward(self, image_BD: Tensor) -> Tensor:
        with torch.autocast(image_BD.device.type, enabled=False):
            return l2_normalize(image_BD + image_BD @ self.weight_DD.T)
