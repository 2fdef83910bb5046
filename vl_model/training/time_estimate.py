"""An estimate of how long a training takes, made before it starts.

The floating-point operations of a step are counted, forward and backward, for one site and for the texts. They do not
depend on the machine, so they also tell of a GPU that is not here. How many of them this machine does per second is
measured on a few sites. Loading, the optimizer and the evaluations are not counted.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

#: Operations per second that one large GPU (H100, H200) is taken to reach in bf16: a fifth of what its makers state.
LARGE_GPU = 200e12
TERA, HOUR = 1e12, 3600.0


@dataclass(frozen=True)
class TimeEstimate:
    """Operations of one step of one process, what this machine does per second, and the number of steps."""

    operations: float
    per_second: float
    steps: int

    @property
    def hours(self) -> float:
        """Hours on this machine."""
        return self.operations * self.steps / self.per_second / HOUR

    def __str__(self) -> str:
        large = self.operations * self.steps / LARGE_GPU / HOUR
        return (
            f"{self.operations / TERA:.2f} TFLOP per step, {self.steps} steps: {_hours(self.hours)} on this machine, "
            f"{_hours(large)} on a GPU that does {LARGE_GPU / TERA:.0f} TFLOP/s; without loading and evaluation"
        )


def _hours(hours: float) -> str:
    return f"about {hours:.1f} hours" if hours >= 1 else f"about {60 * hours:.1f} minutes"


def estimate_time(
    model: nn.Module, forward: Callable[[int, bool], tuple[Tensor, ...]], sites: float, timed: int, steps: int
) -> TimeEstimate:
    """Estimate the time of training `model`.

    Args:
        model: the model, with `requires_grad` set as in training.
        forward: called with n and whether to embed the texts too; runs the model on n sites of the largest number of
            tiles, and returns its outputs, the first with a gradient.
        sites: sites per process and batch; a fraction of them if most have fewer tiles than the largest number.
        timed: the number of sites to measure the speed on.
        steps: the number of steps of the training.
    """
    image, both = (_operations(model, partial(forward, 1, texts)) for texts in (False, True))
    if timed > 1:
        _step(model, lambda: forward(timed, True))  # the first one of a size is slower on a GPU
    began = _now(model)
    _step(model, lambda: forward(timed, True))
    seconds = _now(model) - began
    done = timed * image + (both - image)
    return TimeEstimate(sites * image + (both - image), done / max(seconds, 1e-9), steps)


def _operations(model: nn.Module, forward: Callable[[], tuple[Tensor, ...]]) -> float:
    with FlopCounterMode(display=False) as counter:
        _step(model, forward)
    return float(counter.get_total_flops())


def _step(model: nn.Module, forward: Callable[[], tuple[Tensor, ...]]) -> None:
    """Compute an output forward and backward, and forget the gradients."""
    outputs = [output for output in forward() if output is not None and output.requires_grad]
    torch.stack([output.float().sum() for output in outputs]).sum().backward()
    model.zero_grad(set_to_none=True)


def _now(model: nn.Module) -> float:
    if next(model.parameters()).is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()
