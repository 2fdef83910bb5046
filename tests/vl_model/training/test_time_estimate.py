"""The estimate of a training's time: counted operations against a count by hand, and the hours that follow."""

import re

import pytest
import torch
from torch import Tensor, nn

from tests.training_runs import Train
from vl_model.training.time_estimate import LARGE_GPU, TimeEstimate, estimate_time


class TwoTowers(nn.Module):
    """An image layer of 30 x 20 weights, applied to each site, and a text layer of 30 x 10, applied to 75 texts."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(30, 20, bias=False), nn.Linear(30, 10, bias=False)

    def run(self, sites: int, with_texts: bool) -> tuple[Tensor, ...]:
        image = self.image(torch.ones(sites, 30))
        return (image, self.text(torch.ones(75, 30))) if with_texts else (image,)


def test_operations_are_those_of_the_layers() -> None:
    """A layer of n x m weights takes 2 n m operations forward, and as many for the gradient of its weights."""
    model = TwoTowers()
    estimate = estimate_time(model, model.run, sites=64, timed=2, steps=7)
    assert estimate.operations == 2 * 2 * 30 * 20 * 64 + 2 * 2 * 30 * 10 * 75
    assert estimate.per_second > 0 and estimate.steps == 7
    assert all(parameter.grad is None for parameter in model.parameters())


def test_hours_follow_from_operations_and_speed() -> None:
    estimate = TimeEstimate(operations=3.6e15, per_second=1e12, steps=10)
    assert estimate.hours == pytest.approx(10.0)
    assert str(estimate).startswith("3600.00 TFLOP per step, 10 steps: about 10.0 hours on this machine, about 3.0 min")
    assert LARGE_GPU == 200e12


def test_the_doctor_counts_the_steps_of_the_training(train: Train, capsys: pytest.CaptureFixture) -> None:
    """135 labelled sites or so outside fold 0: 4 epochs in batches of 10, two batches per step."""
    flags = ["--doctor", "--per_device_train_batch_size", "10", "--gradient_accumulation_steps", "2"]
    assert train("timed", *flags, "--num_train_epochs", "4", "--tune", "full") == 0
    out = capsys.readouterr().out
    batches = int(re.search(r"batches +(\d+) of 10 sites per epoch", out)[1])  # type: ignore[index]
    steps = int(re.search(r"time .* TFLOP per step, (\d+) steps:", out)[1])  # type: ignore[index]
    assert steps == -(-4 * batches // 2)
    assert re.search(r"crops .* crops of 64 mm at 0.5 mm per pixel, 0\.\d\d GiB, 32 of them read", out)
