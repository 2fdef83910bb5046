"""L2 normalisation of embeddings. Dimensions: N images or texts, D embedding."""

import torch
import torch.nn.functional as F
from torch import Tensor


def l2_normalize(x_ND: Tensor) -> Tensor:
    """Return x / |x| in at least float32: in half precision the norm itself would be wrong by a thousandth."""
    return F.normalize(x_ND.to(torch.promote_types(x_ND.dtype, torch.float32)), dim=-1)
