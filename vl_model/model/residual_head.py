"""A residual linear layer on a frozen image tower. Dimensions: B sites, D embedding."""

import torch
from torch import Tensor, nn

from vl_model.towers.l2_normalize import l2_normalize


class ResidualHead(nn.Module):
    """Residual linear layer: image_BD -> (image + W image) / |image + W image|, with W = 0 at the start.

    With tune "head" it is trained together with pooling and logit scale, and nothing else. It is a linear probe whose
    output stays in the space of the text embeddings, and which starts as the pretrained model: a residual adapter as in
    Gao et al. 2021, arXiv:2110.04544, without its bottleneck. It computes in float32 even under autocast, which would
    round every embedding.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.weight_DD = nn.Parameter(torch.zeros(embed_dim, embed_dim))

    def forward(self, image_BD: Tensor) -> Tensor:
        with torch.autocast(image_BD.device.type, enabled=False):
            return l2_normalize(image_BD + image_BD @ self.weight_DD.T)
