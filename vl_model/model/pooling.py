"""Pooling of the embeddings of a site's tiles into one embedding.

Dimensions: B sites, T tiles per site, D embedding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TilePooling(nn.Module):
    """Attention over a site's tiles with one learned query.

    The query starts at zero, which makes the pooling a plain mean, so that a pretrained model's zero-shot grading works
    before the first step. The weight of tile t is softmax_t(sqrt(D) query . tile_t); tiles are L2-normalised, and the
    factor sqrt(D) makes their entries about 1. The sums are not written as matrix products, because autocast would
    compute those in half precision and so round every embedding.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.query_D = nn.Parameter(torch.zeros(embed_dim))

    def forward(self, tile_BTD: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Pool the tiles of sites.

        Args:
            tile_BTD: L2-normalised embeddings of tiles.
            mask_BT: true for the tiles that exist, at least one per site.

        Returns:
            L2-normalised image_BD, and weight_BT of the tiles, whose sum per site is 1.
        """
        scores_BT = (tile_BTD * self.query_D).sum(dim=-1) * tile_BTD.shape[-1] ** 0.5
        weight_BT = scores_BT.masked_fill(~mask_BT, float("-inf")).softmax(dim=-1)
        return F.normalize((weight_BT.unsqueeze(-1) * tile_BTD).sum(dim=1), dim=-1), weight_BT  # BTD -> BD
