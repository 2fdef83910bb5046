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


def material(count: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embeddings of images and captions, and captions of which some occur several times, some with their mirror."""
    torch.manual_seed(0)
    caption_N = torch.tensor([3, 3, 4, 5, 74, 0, 3, 40, 41, 0, 0, 59])[:count]
    features = torch.randn(count, 6).double(), torch.randn(CAPTIONS, 6).double()
    return *(F.normalize(feature, dim=-1) for feature in features), caption_N


def mixed(caption_N: torch.Tensor) -> Targets:
    """Some images wholly of their grade, some shared out."""
    grade_N3 = torch.randn(len(caption_N), 3, generator=torch.Generator().manual_seed(4)).double().softmax(dim=-1)
    grade_N3[::2] = one_hot_targets(caption_N).grade_B3[::2].double()
    return Targets(caption_N, grade_N3)


def naive_terms(
    image_ND: np.ndarray,
    text_KD: np.ndarray,
    scale: float,
    share_NK: np.ndarray,
    merged: bool,
    column: np.ndarray,
    row: np.ndarray,
) -> tuple[float, float, float]:
    """The module's formulas with loops and sums, in float64; `column` and `row` are added to logits."""
    everyone = range(len(image_ND))

    def exponential(i: int, k: int) -> float:
        return math.exp(scale * float(image_ND[i] @ text_KD[k]) + column[k])

    def family(k: int) -> list[int]:
        return [k, MIRROR[k]] if merged and k in MIRROR else [k]

    caption = severity = 0.0
    for i in everyone:
        everything = sum(exponential(i, k) for k in range(CAPTIONS))
        for k in np.flatnonzero(share_NK[i]):
            share, site = share_NK[i, k], 3 * (k // 3)
            caption -= share * math.log(sum(exponential(i, member) for member in family(k)) / everything)
            severity -= share * math.log(exponential(i, k) / sum(exponential(i, m) for m in range(site, site + 3)))
    losses, weights = [], []
    for k in range(CAPTIONS):
        logits = [scale * float(image_ND[i] @ text_KD[k]) + row[i] for i in everyone]
        everything = sum(math.exp(logit) for logit in logits)
        shares = [sum(share_NK[i, member] for member in family(k)) for i in everyone]
        if sum(shares) > 0:
            terms = [-share * math.log(math.exp(logits[i]) / everything) for i, share in enumerate(shares)]
            losses.append(sum(terms) / sum(shares))
            weights.append(min(1.0, sum(shares)))
    return caption / len(image_ND), severity / len(image_ND), float(np.average(losses, weights=weights))


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("resampled", [False, True])
def test_terms_are_those_of_the_naive_formulas(merged: bool, smoothing: float, shared: bool, resampled: bool) -> None:
    image_ND, text_KD, caption_N = material()
    targets = mixed(caption_N) if shared else one_hot_targets(caption_N)
    log_ratio_K = torch.linspace(-1, 1, CAPTIONS).double() if resampled else torch.zeros(CAPTIONS).double()
    found = contrastive_loss(
        image_ND,
        text_KD,
        torch.tensor(7.0),
        targets,
        LossSettings(loss_weights=WEIGHTS, label_smoothing=smoothing, merge_mirrored=merged),
        log_ratio_K=log_ratio_K if resampled else None,
    )
    share_NK = targets.smoothed(smoothing).target_BK.double().numpy()
    row = -log_ratio_K[caption_N].numpy()
    terms = naive_terms(image_ND.numpy(), text_KD.numpy(), 7.0, share_NK, merged, log_ratio_K.numpy(), row)
    assert [term.item() for term in (found.caption, found.severity, found.image)] == pytest.approx(terms, rel=1e-6)
    assert found.total.item() == pytest.approx(np.dot((0.7, 1.1, 0.3), terms), rel=1e-6)


def test_gradient_is_that_of_finite_differences() -> None:
    image_ND, text_KD, caption_N = material(6)
    scale = torch.tensor(3.0, dtype=torch.double, requires_grad=True)
    settings = LossSettings(loss_weights=WEIGHTS, label_smoothing=0.1, merge_mirrored=True)
    assert torch.autograd.gradcheck(
        lambda image, text, s: contrastive_loss(image, text, s, mixed(caption_N), settings).total,
        (image_ND.requires_grad_(), text_KD.requires_grad_(), scale),
    )


def test_a_little_smoothing_changes_a_little() -> None:
    image_ND, text_KD, caption_N = material()

    def total(smoothing: float) -> float:
        settings = LossSettings(label_smoothing=smoothing)
        return contrastive_loss(image_ND, text_KD, torch.tensor(7.0), one_hot_targets(caption_N), settings).total.item()

    assert total(1e-4) == pytest.approx(total(0.0), rel=1e-3)


def test_mirrored_captions_have_a_floor_until_they_are_merged() -> None:
    """Two captions that cannot be told apart: ln 2 is the least that L_caption can be, and nothing once merged."""
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
def test_the_best_loss_under_resampling_is_the_natural_posterior(power: float) -> None:
    """Pictures of five kinds, each with its own grades; severe ones are drawn far more often than they occur.

    Free logits that minimise the corrected L_severity are the natural posterior of each kind; uncorrected they are not.
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

    # A batch in which each (kind, grade) has its share of the draws: shares stand for many images.
    def fitted(correction: torch.Tensor | None) -> torch.Tensor:
        logits = torch.zeros(kind, CAPTIONS, dtype=torch.double, requires_grad=True)
        optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = torch.zeros((), dtype=torch.double)
            for k in range(kind):
                targets = Targets(torch.tensor([0]), (drawn[k] / drawn[k].sum())[None])
                # An identity for texts: embeddings are then the logits themselves.
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
    image_ND, text_KD, caption_N = material(count)
    settings = LossSettings(loss=name)  # type: ignore[arg-type]
    bias = torch.tensor(-2.0)
    terms = contrastive_loss(image_ND, text_KD, torch.tensor(7.0), one_hot_targets(caption_N), settings, bias=bias)
    return terms, 7 * image_ND @ text_KD[caption_N].T, caption_N


def test_infonce_is_that_of_its_formula() -> None:
    terms, logits_NN, _ = losses("infonce")
    exponential = logits_NN.exp().numpy()
    expected = [
        -math.log(exponential[i, i] / exponential[i].sum()) - math.log(exponential[i, i] / exponential[:, i].sum())
        for i in range(6)
    ]
    assert terms.total.item() == pytest.approx(np.mean(expected) / 2, rel=1e-9)


def test_siglip_is_that_of_its_formula() -> None:
    terms, logits_NN, _ = losses("siglip")
    expected = 0.0
    for i in range(6):
        for j in range(6):
            sign = 1 if i == j else -1
            expected += math.log(1 + math.exp(-sign * (logits_NN[i, j].item() - 2.0)))
    assert terms.total.item() == pytest.approx(expected / 6, rel=1e-6)


def test_cross_entropy_is_the_severities_term_alone() -> None:
    terms, _, _ = losses("cross_entropy")
    assert terms.total is terms.severity and terms.total.item() == losses("all_captions")[0].severity.item()


def test_a_loss_of_one_caption_an_image_takes_no_shares() -> None:
    for name in ("infonce", "siglip"):
        with pytest.raises(
            ValueError, match=f"label_smoothing 0.1: the loss {name} has one positive caption per image"
        ):
            LossSettings(loss=name, label_smoothing=0.1).check()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="merge_mirrored true: the loss cross_entropy"):
        LossSettings(loss="cross_entropy", merge_mirrored=True).check()
