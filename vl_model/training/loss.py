"""The contrastive loss: images against all captions and against their own severities, captions against all images.

There are only K = 75 captions (25 sites, three severities), so many images of a batch share one. InfoNCE with one
positive per row (`vl_model.training.baseline_losses`) would push images away from their own caption. Let v_i be the
image embeddings, t_k the caption embeddings, s the inverse temperature, S_i the three captions of image i's site, and
q_ik the share of caption k in image i (1 for its own caption, unless severities are mixed or smoothed, see
`vl_model.data.targets`). The three terms are:

    L_caption  = mean_i  sum_k  -q_ik log( exp(s v_i.t_k) / sum_{l=1..75} exp(s v_i.t_l) )
    L_severity = mean_i  sum_k  -q_ik log( exp(s v_i.t_k) / sum_{l in S_i} exp(s v_i.t_l) )
    L_image    = mean_k  (1 / q_k) sum_i  -q_ik log( exp(s t_k.v_i) / sum_j exp(s t_k.v_j) ),   q_k = sum_i q_ik

L_caption is exact for every batch, because its sum contains all captions. L_severity trains the probabilities from
which a site's severity is predicted. L_image is a mean over the captions that occur in the global batch. All images of
a caption are its positives, and the sum over them is outside the logarithm (supervised contrastive learning, Khosla et
al. 2020, arXiv:2004.11362, eq. 2; between images and texts: UniCL, Yang et al. 2022, arXiv:2204.03610). The weight of a
caption in that mean is min(1, q_k), so that L_image is continuous in the smoothing.

**Mirrored captions.** Right-sided tiles are mirrored onto the left, so that they show no difference between "left" and
"right", and neither L_caption nor L_image can fall below ln 2 for such a pair. With `merge_mirrored`, L_caption adds
the probabilities of a caption and of its mirrored one, and in L_image the images of both sides are positives of either.

**Sampling.** If caption k is drawn r_k times as often as it occurs (`vl_model.data.sampling`), log r_k is added to
its logit in L_caption and L_severity, and -log r_{y_i} to that of image i in L_image, less the logarithm of the rate of
the site that is mixed into it, if there is one. The embeddings then learn the posterior under the natural frequencies
(Menon et al. 2021, arXiv:2007.07314; Ren et al. 2020, arXiv:2007.10740), or the smoothed one (`Targets.smoothed`).

Dimensions: B images of this process, N images of all processes, D embedding, K captions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data_prep.sites import SITES
from runs.processes.collectives import gather_with_gradient
from vl_model.data.site_table import SITE_INDEX
from vl_model.data.targets import SEVERITIES, Targets
from vl_model.training.baseline_losses import infonce, siglip
from vl_model.training.settings import LossSettings

DEFAULT_LOSS = LossSettings()

#: The index of each caption's mirrored caption: the same one of the other side. For the canal it is the caption itself.
MIRRORED = [SITE_INDEX[site.mirrored] * SEVERITIES + grade for site in SITES for grade in range(SEVERITIES)]


@dataclass(frozen=True)
class LossTerms:
    """The loss of the global batch (`total`), and its three terms, which every loss reports. All are scalars."""

    total: Tensor
    caption: Tensor
    severity: Tensor
    image: Tensor

    def values(self) -> list[float]:
        """Return total, caption, severity and image as numbers. This waits for the device."""
        numbers: list[float] = torch.stack([self.total, self.caption, self.severity, self.image]).tolist()
        return numbers


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
    """Return the loss of the global batch, and its terms. Every process must call this.

    Args:
        image_BD: the L2-normalised embeddings of this process's images.
        text_KD: the L2-normalised embeddings of all captions, equal in every process. Caption k has site k // 3 (in the
            order of `SITES`) and severity k % 3.
        scale: the inverse temperature s.
        targets: the captions and shares of this process's images.
        settings: the loss, and how its terms are weighted.
        bias: SigLIP's b. The other losses do not use it.
        log_ratio_K: log r_k, if captions are not drawn as often as they occur.
        counts: the number of images of each process, if it is not the same in all.
    """
    image_ND = gather_with_gradient(image_BD, counts)
    drawn = targets.gathered(counts)
    smoothed = drawn.smoothed(settings.label_smoothing)
    smoothed_as_drawn = drawn.smoothed(settings.label_smoothing, log_ratio_K)
    logits_NK = scale * image_ND @ text_KD.T
    by_caption_NK = logits_NK if log_ratio_K is None else logits_NK + log_ratio_K
    by_image_NK = logits_NK
    if log_ratio_K is not None:
        by_image_NK = logits_NK - (log_ratio_K[drawn.caption_B] + drawn.partner_log_rate_B)[:, None]
    caption = image_to_captions(by_caption_NK, smoothed_as_drawn, settings.merge_mirrored)
    severity = image_to_own_severities(by_caption_NK, smoothed_as_drawn)
    image = caption_to_images(by_image_NK, smoothed, settings.merge_mirrored)
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
    """Return L_caption."""
    log_prob_NK = logits_NK.log_softmax(dim=1)
    if merge_mirrored:
        log_prob_NK = _with_mirrored(log_prob_NK)
    return -(targets.target_BK * log_prob_NK).sum(dim=1).mean()


def image_to_own_severities(logits_NK: Tensor, targets: Targets) -> Tensor:
    """Return L_severity."""
    log_prob_N3 = own_severities(logits_NK, targets.site_B).log_softmax(dim=1)
    return -(targets.grade_B3 * log_prob_N3).sum(dim=1).mean()


def own_severities(logits_NK: Tensor, site_N: Tensor) -> Tensor:
    """Return the logits of the three severities of each image's own site, shape (N, 3)."""
    logits_NS3 = logits_NK.unflatten(1, (-1, SEVERITIES))
    return logits_NS3[torch.arange(len(site_N), device=site_N.device), site_N]


def caption_to_images(logits_NK: Tensor, targets: Targets, merge_mirrored: bool = False) -> Tensor:
    """Return L_image: the mean, over the captions that occur, of the mean over their images."""
    share_NK = targets.target_BK
    if merge_mirrored:
        share_NK = share_NK + torch.where(_sided(share_NK.device), share_NK[:, MIRRORED], 0.0)
    share_K = share_NK.sum(dim=0)
    loss_K = -(logits_NK.log_softmax(dim=0) * share_NK).sum(dim=0) / share_K.clamp(min=1e-12)
    weight_K = share_K.clamp(max=1)
    return (weight_K * loss_K).sum() / weight_K.sum()


def _with_mirrored(log_prob_NK: Tensor) -> Tensor:
    """Return log(p_k + p of the mirrored caption), and log p_k for the canal's captions."""
    return torch.where(_sided(log_prob_NK.device), torch.logaddexp(log_prob_NK, log_prob_NK[:, MIRRORED]), log_prob_NK)


def _sided(device: torch.device) -> Tensor:
    """Return whether each caption is of the left or the right side: bool of shape (75,)."""
    return torch.tensor([mirrored != k for k, mirrored in enumerate(MIRRORED)], device=device)
