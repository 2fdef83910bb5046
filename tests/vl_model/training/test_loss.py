"""The contrastive losses equal their formulas, written with loops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data_prep.sites import SITES, Severity, Side
from vl_model.data.site_rows import caption_index
from vl_model.data.targets import CAPTIONS, Targets, one_hot_targets
from vl_model.training.loss import LossTerms, contrastive_loss
from vl_model.training.settings import LossSettings

WEIGHTS = (0.7, 1.1, 0.3)
MIRROR = {
    caption_index(site, grade): caption_index(site.mirrored, grade)
    for site in SITES
    if site.side is not None
    for grade in Severity
}


def embeddings_and_captions(count: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return embeddings of images and of captions, and the images' captions.

    Some of these occur several times, and some together with their mirrored caption.
    """
    torch.manual_seed(0)
    caption_N = torch.tensor([3, 3, 4, 5, 74, 0, 3, 40, 41, 0, 0, 59])[:count]
    features = torch.randn(count, 6).double(), torch.randn(CAPTIONS, 6).double()
    return *(F.normalize(feature, dim=-1) for feature in features), caption_N


def mixed_targets(caption_N: torch.Tensor) -> Targets:
    """Return targets in which every second image has shares of several severities, and another site mixed in."""
    grade_N3 = torch.randn(len(caption_N), 3, generator=torch.Generator().manual_seed(4)).double().softmax(dim=-1)
    grade_N3[::2] = one_hot_targets(caption_N).grade_B3[::2].double()
    log_rate_N = torch.where(torch.arange(len(caption_N)) % 2 == 1, torch.linspace(-1, 2, len(caption_N)), 0.0)
    return Targets(caption_N, grade_N3, log_rate_N.double())


def naive_terms(
    image_ND: np.ndarray,
    text_KD: np.ndarray,
    scale: float,
    share_NK: np.ndarray,
    image_share_NK: np.ndarray,
    merged: bool,
    column: np.ndarray,
    row: np.ndarray,
) -> tuple[float, float, float]:
    """Return the three terms by the module's formulas, with loops and sums in float64.

    image_share_NK: the shares in L_image. column, row: what is added to the logits of each caption, and to those of
    each image in L_image.
    """
    images = range(len(image_ND))

    def exponential(i: int, k: int) -> float:
        return math.exp(scale * float(image_ND[i] @ text_KD[k]) + column[k])

    def merged_captions(k: int) -> list[int]:
        return [k, MIRROR[k]] if merged and k in MIRROR else [k]

    caption = severity = 0.0
    for i in images:
        total = sum(exponential(i, k) for k in range(CAPTIONS))
        for k in np.flatnonzero(share_NK[i]):
            share, site = share_NK[i, k], 3 * (k // 3)
            caption -= share * math.log(sum(exponential(i, member) for member in merged_captions(k)) / total)
            severity -= share * math.log(exponential(i, k) / sum(exponential(i, m) for m in range(site, site + 3)))
    losses, weights = [], []
    for k in range(CAPTIONS):
        logits = [scale * float(image_ND[i] @ text_KD[k]) + row[i] for i in images]
        total = sum(math.exp(logit) for logit in logits)
        shares = [sum(image_share_NK[i, member] for member in merged_captions(k)) for i in images]
        if sum(shares) > 0:
            terms = [-share * math.log(math.exp(logits[i]) / total) for i, share in enumerate(shares)]
            losses.append(sum(terms) / sum(shares))
            weights.append(min(1.0, sum(shares)))
    return caption / len(image_ND), severity / len(image_ND), float(np.average(losses, weights=weights))


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("resampled", [False, True])
def test_terms_equal_the_naive_formulas(merged: bool, smoothing: float, mixed: bool, resampled: bool) -> None:
    image_ND, text_KD, caption_N = embeddings_and_captions()
    targets = mixed_targets(caption_N) if mixed else one_hot_targets(caption_N)
    log_ratio_K = torch.linspace(-1, 1, CAPTIONS).double() if resampled else torch.zeros(CAPTIONS).double()
    found = contrastive_loss(
        image_ND,
        text_KD,
        torch.tensor(7.0),
        targets,
        LossSettings(loss_weights=WEIGHTS, label_smoothing=smoothing, merge_mirrored=merged),
        log_ratio_K=log_ratio_K if resampled else None,
    )
    image_share_NK = targets.smoothed(smoothing).target_BK.double().numpy()
    share_NK = targets.smoothed(smoothing, log_ratio_K if resampled else None).target_BK.double().numpy()
    row = -(log_ratio_K[caption_N] + targets.partner_log_rate_B * resampled).numpy()
    terms = naive_terms(
        image_ND.numpy(), text_KD.numpy(), 7.0, share_NK, image_share_NK, merged, log_ratio_K.numpy(), row
    )
    assert [term.item() for term in (found.caption, found.severity, found.image)] == pytest.approx(terms, rel=1e-6)
    assert found.total.item() == pytest.approx(np.dot((0.7, 1.1, 0.3), terms), rel=1e-6)


def test_gradient_equals_finite_differences() -> None:
    image_ND, text_KD, caption_N = embeddings_and_captions(6)
    scale = torch.tensor(3.0, dtype=torch.double, requires_grad=True)
    settings = LossSettings(loss_weights=WEIGHTS, label_smoothing=0.1, merge_mirrored=True)
    assert torch.autograd.gradcheck(
        lambda image, text, s: contrastive_loss(image, text, s, mixed_targets(caption_N), settings).total,
        (image_ND.requires_grad_(), text_KD.requires_grad_(), scale),
    )


def test_a_little_smoothing_changes_the_loss_a_little() -> None:
    image_ND, text_KD, caption_N = embeddings_and_captions()

    def total(smoothing: float) -> float:
        settings = LossSettings(label_smoothing=smoothing)
        return contrastive_loss(image_ND, text_KD, torch.tensor(7.0), one_hot_targets(caption_N), settings).total.item()

    assert total(1e-4) == pytest.approx(total(0.0), rel=1e-3)


def test_the_loss_of_mirrored_captions_has_a_lower_bound_unless_they_are_merged() -> None:
    """For two captions whose images look the same, L_caption is at least ln 2, and zero if they are merged."""
    left, right = (
        next(caption_index(site, Severity.SEVERE) for site in SITES if site.side is side)
        for side in (Side.LEFT, Side.RIGHT)
    )
    text_KD = -torch.eye(8)[0].expand(CAPTIONS, 8).clone()
    text_KD[[left, right]] *= -1
    image_2D = torch.eye(8)[0].expand(2, 8)
    terms = [
        contrastive_loss(
            image_2D,
            text_KD,
            torch.tensor(100.0),
            one_hot_targets(torch.tensor([left, right])),
            LossSettings(merge_mirrored=merged),
        )
        for merged in (False, True)
    ]
    assert [term.caption.item() for term in terms] == pytest.approx([math.log(2), 0.0], abs=1e-6)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_the_optimum_under_resampling_is_the_natural_posterior(power: float) -> None:
    """There are five kinds of images, each with its own severities; severe ones are drawn more often than they occur.

    The free logits that minimise the corrected L_severity give the natural posterior of each kind. Without the
    correction they do not.
    """
    torch.manual_seed(0)
    kind, grades = 5, 3
    natural = torch.rand(kind, grades).double() * torch.tensor([8.0, 2.0, 0.5])
    natural /= natural.sum()
    ratio_3 = natural.sum(0) ** -power
    ratio_3 /= (natural.sum(0) * ratio_3).sum()
    drawn = natural * ratio_3
    log_ratio_K = ratio_3.log().repeat(CAPTIONS // 3)
    posterior = natural / natural.sum(1, keepdim=True)

    # In this batch, the shares of one image per kind replace many images.
    def fitted(correction: torch.Tensor | None) -> torch.Tensor:
        logits = torch.zeros(kind, CAPTIONS, dtype=torch.double, requires_grad=True)
        optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = torch.zeros((), dtype=torch.double)
            for k in range(kind):
                targets = Targets(torch.tensor([0]), (drawn[k] / drawn[k].sum())[None], torch.zeros(1))
                # With the identity as text embeddings, the image embeddings are the logits.
                terms = contrastive_loss(
                    logits[k : k + 1], torch.eye(CAPTIONS).double(), torch.tensor(1.0), targets, log_ratio_K=correction
                )
                loss = loss + drawn[k].sum() * terms.severity
            loss.backward()
            return loss

        optimizer.step(closure)
        return logits.detach()[:, :grades].softmax(dim=1)

    assert torch.allclose(fitted(log_ratio_K), posterior, atol=1e-5)
    assert not torch.allclose(fitted(None), posterior, atol=0.05)


def losses(name: str, count: int = 6) -> tuple[LossTerms, torch.Tensor, torch.Tensor]:
    image_ND, text_KD, caption_N = embeddings_and_captions(count)
    settings = LossSettings(loss=name)  # type: ignore[arg-type]
    bias = torch.tensor(-2.0)
    terms = contrastive_loss(image_ND, text_KD, torch.tensor(7.0), one_hot_targets(caption_N), settings, bias=bias)
    return terms, 7 * image_ND @ text_KD[caption_N].T, caption_N


def test_infonce_equals_its_formula() -> None:
    terms, logits_NN, _ = losses("infonce")
    exponential = logits_NN.exp().numpy()
    expected = [
        -math.log(exponential[i, i] / exponential[i].sum()) - math.log(exponential[i, i] / exponential[:, i].sum())
        for i in range(6)
    ]
    assert terms.total.item() == pytest.approx(np.mean(expected) / 2, rel=1e-9)


def test_siglip_equals_its_formula() -> None:
    terms, logits_NN, _ = losses("siglip")
    expected = 0.0
    for i in range(6):
        for j in range(6):
            sign = 1 if i == j else -1
            expected += math.log(1 + math.exp(-sign * (logits_NN[i, j].item() - 2.0)))
    assert terms.total.item() == pytest.approx(expected / 6, rel=1e-6)


def test_cross_entropy_is_only_the_severity_term() -> None:
    terms, _, _ = losses("cross_entropy")
    assert terms.total is terms.severity and terms.total.item() == losses("all_captions")[0].severity.item()


def test_a_loss_with_one_caption_per_image_takes_no_shares() -> None:
    for name in ("infonce", "siglip"):
        with pytest.raises(
            ValueError, match=f"label_smoothing 0.1: the loss {name} has one positive caption per image"
        ):
            LossSettings(loss=name, label_smoothing=0.1).check()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="merge_mirrored true: the loss cross_entropy"):
        LossSettings(loss="cross_entropy", merge_mirrored=True).check()
