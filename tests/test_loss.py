import math
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import torch.nn.functional as F
from torch import nn

from vl_model.loss import LossWeights, contrastive_loss

CAPTIONS = 75
WEIGHTS = LossWeights(caption=0.7, severity=1.1, image=0.3)


def material(count: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features of images and captions, and captions of which some occur several times."""
    torch.manual_seed(0)
    caption_N = torch.tensor([3, 3, 4, 5, 74, 0, 3, 40, 41, 0, 0, 12])[:count]
    return torch.randn(count, 6).double(), torch.randn(CAPTIONS, 6).double(), caption_N


def naive_loss(image_ND: np.ndarray, text_KD: np.ndarray, scale: float, caption_N: list[int]) -> tuple[float, ...]:
    """The module's formulas with loops and sums, in float64."""

    def exponential(i: int, k: int) -> float:
        return math.exp(scale * float(image_ND[i] @ text_KD[k]))

    everyone = range(len(caption_N))
    caption, severity, image = [], [], []
    for i in everyone:
        own = caption_N[i]
        site = 3 * (own // 3)
        caption.append(-math.log(exponential(i, own) / sum(exponential(i, k) for k in range(CAPTIONS))))
        severity.append(-math.log(exponential(i, own) / sum(exponential(i, k) for k in range(site, site + 3))))
    for k in sorted(set(caption_N)):
        total = sum(exponential(j, k) for j in everyone)
        image.append(np.mean([-math.log(exponential(i, k) / total) for i in everyone if caption_N[i] == k]))
    return float(np.mean(caption)), float(np.mean(severity)), float(np.mean(image))


def test_terms_are_those_of_the_naive_formulas() -> None:
    image_ND, text_KD, caption_N = material()
    image_ND, text_KD = F.normalize(image_ND, dim=-1), F.normalize(text_KD, dim=-1)
    terms = contrastive_loss(image_ND, text_KD, torch.tensor(7.0), caption_N, WEIGHTS)
    caption, severity, image = naive_loss(image_ND.numpy(), text_KD.numpy(), 7.0, caption_N.tolist())
    assert terms.caption.item() == pytest.approx(caption, rel=1e-9)
    assert terms.severity.item() == pytest.approx(severity, rel=1e-9)
    assert terms.image.item() == pytest.approx(image, rel=1e-9)
    assert terms.total.item() == pytest.approx(0.7 * caption + 1.1 * severity + 0.3 * image, rel=1e-9)


def test_gradient_is_that_of_finite_differences() -> None:
    image_ND, text_KD, caption_N = (tensor.requires_grad_(tensor.is_floating_point()) for tensor in material(6))
    scale = torch.tensor(3.0, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda image, text, s: contrastive_loss(image, text, s, caption_N, WEIGHTS).total, (image_ND, text_KD, scale)
    )


class Model(nn.Module):
    """Stands for two towers and a scale, with weights that every process starts with alike."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.image, self.text = nn.Linear(6, 5).double(), nn.Linear(6, 5).double()
        self.log_scale = nn.Parameter(torch.tensor(1.5).double())

    def forward(self, image_BD: torch.Tensor, text_KD: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return F.normalize(self.image(image_BD), dim=-1), F.normalize(self.text(text_KD), dim=-1), self.log_scale.exp()


def gradients(model: nn.Module, images: torch.Tensor, texts: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
    image_BD, text_KD, scale = model(images, texts)
    contrastive_loss(image_BD, text_KD, scale, captions, WEIGHTS).total.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def one_of_several(rank: int, world: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    images, texts, captions = material()
    share = slice(rank * len(captions) // world, (rank + 1) * len(captions) // world)
    model = nn.parallel.DistributedDataParallel(Model())
    gradient = gradients(model, images[share], texts, captions[share])
    if rank == 0:
        torch.save(gradient, Path(folder) / "gradient.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_gradients_of_several_processes_are_those_of_one(world: int, tmp_path: Path) -> None:
    expected = gradients(Model(), *material())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.start_processes(
        one_of_several, args=(world, port, str(tmp_path)), nprocs=world, start_method="fork"
    )
    found = torch.load(tmp_path / "gradient.pt", weights_only=True)
    assert (found - expected).norm() / expected.norm() < 1e-12
