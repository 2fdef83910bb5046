"""Several tiles of one site -> one embedding.

Dimensions: B sites, T tiles a site, D embedding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TilePooling(nn.Module):
    """Attention over a site's tiles with one learned query, which starts at zero: the plain mean.

    So a pretrained model's zero-shot works before the first step. The weight of tile t is
    softmax_t(sqrt(D) query . tile_t); tiles have length one, sqrt(D) gives their entries unit size. Sums of products
    rather than matrix products: autocast would compute those in half precision, and round every embedding.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.query_D = nn.Parameter(torch.zeros(embed_dim))

    def forward(self, tile_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """tile_BTD of length one, mask_BT true where a tile is (at least one a site) -> image_BD of length one."""
        scores_BT = (tile_BTD * self.query_D).sum(dim=-1) * tile_BTD.shape[-1] ** 0.5
        weights_BT = scores_BT.masked_fill(~mask_BT, float("-inf")).softmax(dim=-1)
        return F.normalize((weights_BT.unsqueeze(-1) * tile_BTD).sum(dim=1), dim=-1)  # BTD -> BD
