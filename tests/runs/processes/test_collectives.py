"""Gradients of several real gloo processes equal those of one process with the global batch."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from runs.processes.collectives import gather, rank, row_counts
from tests.processes import in_processes
from tests.tiny_model import tiny_towers, write_tiny_base
from vl_model.data.targets import CAPTIONS, Targets
from vl_model.model.settings import ModelSettings
from vl_model.model.site_model import SiteModel
from vl_model.training.loss import contrastive_loss
from vl_model.training.settings import LossSettings

CPU = torch.device("cpu")


class Model(nn.Module):
    """A stand-in for two towers, a scale and a bias. Every process starts with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.image, self.text = nn.Linear(6, 5).double(), nn.Linear(6, 5).double()
        self.log_scale = nn.Parameter(torch.tensor(1.5).double())
        self.bias = nn.Parameter(torch.tensor(-1.0).double())

    def forward(self, image_BD: torch.Tensor, text_KD: torch.Tensor) -> tuple[torch.Tensor, ...]:
        image_BD, text_KD = (F.normalize(x, dim=-1) for x in (self.image(image_BD), self.text(text_KD)))
        return image_BD, text_KD, self.log_scale.exp(), self.bias + 0.0


def embeddings_and_targets() -> tuple[torch.Tensor, torch.Tensor, Targets]:
    torch.manual_seed(0)
    caption_N = torch.tensor([3, 3, 4, 5, 74, 0, 3, 40, 41, 0, 0, 12])
    grade_N3 = torch.randn(12, 3).double().softmax(dim=-1)
    return (
        torch.randn(12, 6).double(),
        torch.randn(CAPTIONS, 6).double(),
        Targets(caption_N, grade_N3, torch.linspace(-1, 1, 12).double()),
    )


def gradients(
    model: nn.Module, share: slice, settings: LossSettings, counts: tuple[int, ...] | None = None
) -> torch.Tensor:
    """Return the flat gradient of all parameters: zeros for a parameter that the loss does not use."""
    image_ND, text_KD, targets = embeddings_and_targets()
    own = Targets(targets.caption_B[share], targets.grade_B3[share], targets.partner_log_rate_B[share])
    image_BD, text_KD, scale, bias = model(image_ND[share], text_KD)
    log_ratio_K = torch.linspace(-1, 1, CAPTIONS).double() if settings.takes_shares else None
    terms = contrastive_loss(image_BD, text_KD, scale, own, settings, bias=bias, log_ratio_K=log_ratio_K, counts=counts)
    (terms.total + 0 * bias).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def write_own_gradient(sizes: tuple[int, ...], settings: list[LossSettings], folder: Path) -> None:
    first = sum(sizes[: rank()])
    share = slice(first, first + sizes[rank()])
    counts = row_counts(sizes[rank()], CPU)
    assert counts == sizes
    ragged = counts if len(set(counts)) > 1 else None
    found = [gradients(nn.parallel.DistributedDataParallel(Model()), share, each, ragged) for each in settings]
    torch.save(torch.stack(found), folder / f"{rank()}.pt")


@pytest.mark.parametrize("sizes", [(6, 6), (4, 4, 4), (7, 5), (5, 6, 1), (8, 4, 0)], ids=str)
def test_gradients_of_several_processes_equal_those_of_one(sizes: tuple[int, ...], tmp_path: Path) -> None:
    settings = [
        LossSettings(label_smoothing=0.1),
        LossSettings(merge_mirrored=True),
        LossSettings("infonce"),
        LossSettings("siglip"),
        LossSettings("cross_entropy"),
    ]
    expected = torch.stack([gradients(Model(), slice(None), each) for each in settings])
    in_processes(len(sizes), write_own_gradient, sizes, settings, tmp_path)
    for process in range(len(sizes)):
        found = torch.load(tmp_path / f"{process}.pt", weights_only=True)
        assert ((found - expected).norm(dim=1) / expected.norm(dim=1)).max() < 1e-12


def site_gradients(model: nn.Module, share: slice, counts: tuple[int, ...] | None = None) -> torch.Tensor:
    """Return the flat gradient of a complete small model, in float64 except its embeddings, which are float32."""
    torch.manual_seed(3)
    tiles_NT3HW, token_KL = torch.randn(9, 2, 3, 32, 32).double(), torch.randint(1, 400, (CAPTIONS, 9))
    token_KL[:, -1] = 49407  # end of text: the tower pools at this token
    mask_NT = torch.rand(9, 2) < 0.7
    mask_NT[:, 0] = True
    targets = Targets(torch.arange(9) * 8, torch.randn(9, 3).softmax(dim=-1), torch.zeros(9))
    own = Targets(targets.caption_B[share], targets.grade_B3[share], targets.partner_log_rate_B[share])
    image_BD, text_KD, scale, _ = model(tiles_NT3HW[share], mask_NT[share], token_KL)
    contrastive_loss(image_BD.double(), text_KD.double(), scale, own, counts=counts).total.backward()
    return torch.cat([p.grad.double().flatten() for p in model.parameters() if p.requires_grad])


def site_model() -> SiteModel:
    return SiteModel(tiny_towers(5), ModelSettings("tiny-test-base", tune="full")).double()


def write_own_site_gradient(sizes: tuple[int, ...], folder: Path) -> None:
    first = sum(sizes[: rank()])
    model = nn.parallel.DistributedDataParallel(site_model())
    torch.save(site_gradients(model, slice(first, first + sizes[rank()]), sizes), folder / f"{rank()}.pt")


def test_gradients_of_a_complete_model_equal_those_of_one_process(tmp_path: Path) -> None:
    write_tiny_base(tmp_path / "base")  # this registers its configuration with open_clip
    expected = site_gradients(site_model(), slice(None))
    in_processes(2, write_own_site_gradient, (4, 5), tmp_path)
    for process in range(2):
        found = torch.load(tmp_path / f"{process}.pt", weights_only=True)
        assert (found - expected).norm() / expected.norm() < 1e-6


def refuse_a_wrong_number_of_rows() -> None:
    rows = torch.zeros(2 + rank(), 3)
    with pytest.raises(AssertionError, match="rows, but counts has"):
        gather(rows, (3, 2))


def test_a_wrong_number_of_rows_is_refused() -> None:
    in_processes(2, refuse_a_wrong_number_of_rows)
