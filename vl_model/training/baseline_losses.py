"""The usual losses of contrastive models, as baselines: each image has one positive caption.

Both take the same logits_NK as `vl_model.training.loss`: the images of the global batch against all captions. In a
batch of N images, text j is the caption of image j. If images i and j share a caption, these losses still treat text j
as a negative of image i. This error is the reason for the project's own loss.

Dimensions: N images of all processes, K captions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def infonce(logits_NK: Tensor, caption_N: Tensor) -> Tensor:
    """Return CLIP's symmetric InfoNCE loss (Radford et al. 2021, arXiv:2103.00020, figure 3).

    With logits l_ij = s v_i.t_{y_j} it is

    (1/2N) sum_i  -log( exp(l_ii) / sum_j exp(l_ij) ) - log( exp(l_ii) / sum_j exp(l_ji) )
    """
    logits_NN = logits_NK[:, caption_N]
    own_N = torch.arange(len(caption_N), device=caption_N.device)
    return (F.cross_entropy(logits_NN, own_N) + F.cross_entropy(logits_NN.T, own_N)) / 2


def siglip(logits_NK: Tensor, bias: Tensor, caption_N: Tensor) -> Tensor:
    """Return SigLIP's pairwise sigmoid loss (Zhai et al. 2023, arXiv:2303.15343, equation 1).

    With z_ij = 1 if i = j, else -1, and a learned bias b, it is

    (1/N) sum_i sum_j  -log sigmoid( z_ij (s v_i.t_{y_j} + b) )
    """
    logits_NN = logits_NK[:, caption_N] + bias
    sign_NN = 2 * torch.eye(len(caption_N), dtype=logits_NN.dtype, device=logits_NN.device) - 1
    return -F.logsigmoid(sign_NN * logits_NN).sum() / len(caption_N)
