"""The contrastive loss: every image against all captions, its own severities, and every caption against all images.

There are only K = 75 captions (25 sites, three severities), so many images of a batch share one. InfoNCE with one
positive a row (`vl_model.training.baseline_losses`) would push images away from their own caption. Instead, with image
embeddings v_i, caption embeddings t_k, inverse temperature s, S_i the three captions of image i's site, and q_ik the
share of caption k in image i (1 for its own caption, unless grades are mixed or smoothed: `vl_model.data.targets`):

    L_caption  = mean_i  sum_k  -q_ik log( exp(s v_i.t_k) / sum_{l=1..75} exp(s v_i.t_l) )
    L_severity = mean_i  sum_k  -q_ik log( exp(s v_i.t_k) / sum_{l in S_i} exp(s v_i.t_l) )
    L_image    = mean_k  (1 / q_k) sum_i  -q_ik log( exp(s t_k.v_i) / sum_j exp(s t_k.v_j) ),   q_k = sum_i q_ik

The first is exact whatever the batch: no caption is missing from its sum. The second is what the site's grade is
read from. The third runs over the captions that occur in the global batch, each with all its images as positives
outside the logarithm (supervised contrastive learning, Khosla et al. 2020, arXiv:2004.11362, eq. 2; between
images and texts: UniCL, Yang et al. 2022, arXiv:2204.03610); a caption that occurs by less than one whole image
(q_k < 1) counts by q_k, so that a little smoothing changes a little.

**Mirrored captions.** Right-sided tiles are mirrored onto the left, so nothing in them tells "left" from "right", and
neither L_caption nor L_image can fall below ln 2 for a pair of them. `merge_mirrored` asks for the pair: in L_caption
the probabilities of a caption and of the same one of the other side are added, in L_image the images of both sides are
positives of either.

**Sampling.** Where caption k is drawn r_k times as often as it occurs (`vl_model.data.sampling`), log r_k is added to
its logit in L_caption and L_severity, and -log r_{y_i} to that of image i in L_image: the embeddings then learn the
posterior under the natural frequencies, though they meet others (Menon et al. 2021, arXiv:2007.07314; Ren et al. 2020,
arXiv:2007.10740).

Dimensions: B images of this process, N images of all, D embedding, K captions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data_prep.sites import SITES
from runs.collectives import gather_with_gradient
from vl_model.data.site_table import SITE_INDEX
from vl_model.data.targets import SEVERITIES, Targets
from vl_model.training.baseline_losses import infonce, siglip
from vl_model.training.settings import LossSettings

DEFAULT_LOSS = LossSettings()

#: Of each caption, the one that says the same of the other side; the canal's is its own.
MIRRORED = [SITE_INDEX[site.mirrored] * SEVERITIES + grade for site in SITES for grade in range(SEVERITIES)]


@dataclass(frozen=True)
class LossTerms:
    """Scalars of the global batch; `total` carries the gradient. The three terms are told whatever the loss is."""

    total: Tensor
    caption: Tensor
    severity: Tensor
    image: Tensor

    def values(self) -> list[float]:
        """The four numbers; it waits for the device."""
        found: list[float] = torch.stack([self.total, self.caption, self.severity, self.image]).tolist()
        return found


def contrastive_loss(
    image_BD: Tensor,
    text_KD: Tensor,
    scale: Tensor,
    targets: Targets,
    settings: LossSettings = DEFAULT_LOSS,
    *,
    bias: Tensor | None = None,
    log_ratio_K: Tensor | None = None,
    counts: Sequence[int] | None = None,
) -> LossTerms:
    """The loss of the global batch, of which this process brings `image_BD`.

    Args:
        image_BD: embeddings of length one.
        text_KD: embeddings of length one of all captions, the same in every process; caption k is that of site k // 3
            (in the order of `SITES`) and severity k % 3.
        scale: the inverse temperature s.
        targets: of this process's images.
        bias: SigLIP's b; it alone needs one.
        log_ratio_K: log r_k where captions are not drawn as often as they occur.
        counts: the images of each process, where they are not as many in all.
    """
    image_ND = gather_with_gradient(image_BD, counts)
    drawn = targets.gathered(counts)
    wanted = drawn.smoothed(settings.label_smoothing)
    logits_NK = scale * image_ND @ text_KD.T
    by_caption_NK = logits_NK if log_ratio_K is None else logits_NK + log_ratio_K
    by_image_NK = logits_NK if log_ratio_K is None else logits_NK - log_ratio_K[drawn.caption_B, None]
    caption = image_to_captions(by_caption_NK, wanted, settings.merge_mirrored)
    severity = image_to_own_severities(by_caption_NK, wanted)
    image = caption_to_images(by_image_NK, wanted, settings.merge_mirrored)
    if settings.loss == "infonce":
        total = infonce(logits_NK, drawn.caption_B)
    elif settings.loss == "siglip":
        assert bias is not None
        total = siglip(logits_NK, bias, drawn.caption_B)
    elif settings.loss == "cross_entropy":
        total = severity
    else:
        for_caption, for_severity, for_image = settings.loss_weights
        total = for_caption * caption + for_severity * severity + for_image * image
    return LossTerms(total, caption, severity, image)


def image_to_captions(logits_NK: Tensor, targets: Targets, merge_mirrored: bool = False) -> Tensor:
    """L_caption."""
    log_prob_NK = logits_NK.log_softmax(dim=1)
    if merge_mirrored:
        log_prob_NK = _with_mirrored(log_prob_NK)
    return -(targets.target_BK * log_prob_NK).sum(dim=1).mean()


def image_to_own_severities(logits_NK: Tensor, targets: Targets) -> Tensor:
    """L_severity."""
    log_prob_N3 = own_severities(logits_NK, targets.site_B).log_softmax(dim=1)
    return -(targets.grade_B3 * log_prob_N3).sum(dim=1).mean()


def own_severities(logits_NK: Tensor, site_N: Tensor) -> Tensor:
    """logits_NK -> logits_N3 of each image's own site."""
    logits_NS3 = logits_NK.unflatten(1, (-1, SEVERITIES))
    return logits_NS3[torch.arange(len(site_N), device=site_N.device), site_N]


def caption_to_images(logits_NK: Tensor, targets: Targets, merge_mirrored: bool = False) -> Tensor:
    """L_image: the mean, over the captions that occur, of the mean over their images."""
    share_NK = targets.target_BK
    if merge_mirrored:
        share_NK = share_NK + torch.where(_sided(share_NK.device), share_NK[:, MIRRORED], 0.0)
    share_K = share_NK.sum(dim=0)
    loss_K = -(logits_NK.log_softmax(dim=0) * share_NK).sum(dim=0) / share_K.clamp(min=1e-12)
    weight_K = share_K.clamp(max=1)
    return (weight_K * loss_K).sum() / weight_K.sum()


def _with_mirrored(log_prob_NK: Tensor) -> Tensor:
    """log(p_k + p of the same caption of the other side); the canal's captions keep their own."""
    return torch.where(_sided(log_prob_NK.device), torch.logaddexp(log_prob_NK, log_prob_NK[:, MIRRORED]), log_prob_NK)


def _sided(device: torch.device) -> Tensor:
    """True for the captions that have another side, shape (75,)."""
    return torch.tensor([mirrored != k for k, mirrored in enumerate(MIRRORED)], device=device)
