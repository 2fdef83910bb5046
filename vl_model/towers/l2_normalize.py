"""Embeddings have length one. Dimensions: N images or texts, D embedding."""

import torch
import torch.nn.functional as F
from torch import Tensor


def unit_length(x_ND: Tensor) -> Tensor:
    """x / |x| in at least float32: in half precision the length itself would be off by a thousandth."""
    return F.normalize(x_ND.to(torch.promote_types(x_ND.dtype, torch.float32)), dim=-1)
