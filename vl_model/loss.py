"""The contrastive loss: every image against all captions, its own severities, and every caption against all images.

There are only K = 75 captions (25 sites, three severities), so many images of a batch share one. InfoNCE with one
positive a row (Radford et al. 2021, arXiv:2103.00020) would push images away from their own caption. Instead, with
image embeddings v_i, caption embeddings t_k, inverse temperature s, y_i the caption of image i and S_i the three
captions of its site:

    L_caption  = mean_i  -log( exp(s v_i.t_{y_i}) / sum_{k=1..75} exp(s v_i.t_k) )
    L_severity = mean_i  -log( exp(s v_i.t_{y_i}) / sum_{k in S_i} exp(s v_i.t_k) )
    L_image    = mean_k  mean_{i: y_i=k}  -log( exp(s t_k.v_i) / sum_j exp(s t_k.v_j) )

The first is exact whatever the batch: no caption is missing from its sum. The second is what the site's grade is
read from. The third runs over the captions that occur in the global batch, each with all its images as positives
outside the logarithm (supervised contrastive learning, Khosla et al. 2020, arXiv:2004.11362, eq. 2; between
images and texts: UniCL, Yang et al. 2022, arXiv:2204.03610).

**Across processes.** Every process gathers the images of all of them, in rank order, and computes the same loss of
the global batch. The sum over processes of d loss / d (own images) is then the number of processes W times this
process's share, which is what `_Gather` hands back; DDP's mean over processes divides by W again, and the result is
the gradient of one process with the global batch. No communication is needed on the way back.

Dimensions: B images of this process, N images of all, D embedding, K captions.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from data_prep.sites import Severity

SEVERITIES = len(Severity)


@dataclass(frozen=True)
class LossWeights:
    """How much each of the three terms counts."""

    caption: float = 0.5
    severity: float = 1.0
    image: float = 0.25

    def __post_init__(self) -> None:
        if not self.caption + self.severity + self.image > 0:
            raise ValueError("--loss_weights 0 0 0: nothing would be learned; one of them must be above zero")


@dataclass(frozen=True)
class LossTerms:
    """Scalars of the global batch; `total` is their weighted sum and carries the gradient."""

    total: Tensor
    caption: Tensor
    severity: Tensor
    image: Tensor


def contrastive_loss(
    image_BD: Tensor, text_KD: Tensor, scale: Tensor, caption_B: Tensor, weights: LossWeights = LossWeights()
) -> LossTerms:
    """The loss of the global batch, of which this process brings `image_BD`.

    Args:
        image_BD: embeddings of length one; the same B in every process.
        text_KD: embeddings of length one of all captions, the same in every process; caption k is that of site k // 3
            (in the order of `SITES`) and severity k % 3.
        scale: the inverse temperature s.
        caption_B: each image's caption, 0..K-1.
    """
    image_ND, caption_N = gather_with_gradient(image_BD), gather(caption_B)
    logits_NK = scale * image_ND @ text_KD.T
    caption = F.cross_entropy(logits_NK, caption_N)
    severity = F.cross_entropy(own_severities(logits_NK, caption_N), caption_N % SEVERITIES)
    image = caption_to_images(logits_NK, caption_N)
    total = weights.caption * caption + weights.severity * severity + weights.image * image
    return LossTerms(total, caption, severity, image)


def own_severities(logits_NK: Tensor, caption_N: Tensor) -> Tensor:
    """logits_NK -> logits_N3 of each image's own site."""
    logits_NS3 = logits_NK.unflatten(1, (-1, SEVERITIES))
    return logits_NS3[torch.arange(len(caption_N), device=caption_N.device), caption_N // SEVERITIES]


def caption_to_images(logits_NK: Tensor, caption_N: Tensor) -> Tensor:
    """L_image: the mean, over the captions that occur, of the mean over their images."""
    positive_NK = F.one_hot(caption_N, logits_NK.shape[1]).to(logits_NK.dtype)
    count_K = positive_NK.sum(dim=0)
    loss_K = -(logits_NK.log_softmax(dim=0) * positive_NK).sum(dim=0) / count_K.clamp(min=1)
    return loss_K.sum() / (count_K > 0).sum()


def gather(tensor: Tensor) -> Tensor:
    """Rows of all processes, in rank order, without gradient."""
    if world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def gather_with_gradient(tensor_BD: Tensor) -> Tensor:
    """Rows of all processes, in rank order; see the module's text for the gradient, which needs a global loss."""
    return tensor_BD if world_size() == 1 else _Gather.apply(tensor_BD)


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor_BD: Tensor) -> Tensor:  # noqa: ARG004
        return gather(tensor_BD.detach())

    @staticmethod
    def backward(ctx: Any, gradient_ND: Tensor) -> Tensor:  # noqa: ARG004
        return world_size() * gradient_ND.chunk(world_size())[dist.get_rank()]
