"""The locator's trainer: both networks step together, on one batch of each orientation per step.

Several processes learn from their batches as from one, except for batch statistics: each process normalises by those of
its own images, and the first process's are kept (torch's SyncBatchNorm requires GPUs).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator

from locator.batches import ImageBatch, ImageBatches
from locator.network import LocatorNetwork, heatmap_loss
from runs.divergence import DivergenceCheck
from runs.optimization import build_optimizer, learning_rate_at, set_learning_rate
from runs.preemption import Preemption
from runs.settings import OptimizationSettings

METRICS = ("step", "loss", "loss_sagittal", "loss_axial", "learning_rate", "gradient_norm", "pictures_per_second")


@dataclass(frozen=True)
class LocatorBatches:
    """The batches of both orientations."""

    sagittal: ImageBatches
    axial: ImageBatches


class LocatorTrainer:
    """Trains both networks, as `runs.session.take_steps` drives it.

    Args:
        accelerator: the processes, their device and precision.
        model: the bare network, already on the accelerator's device.
        batches: this process's share of every global batch.
        steps: updates of the weights in all.
        checkpointing_steps: how often a checkpoint is written.
        optimization: how.
    """

    columns = METRICS
    throughput = "pictures_per_second"
    evaluation_steps = None

    def __init__(
        self,
        accelerator: Accelerator,
        model: LocatorNetwork,
        batches: LocatorBatches,
        steps: int,
        checkpointing_steps: int | None,
        optimization: OptimizationSettings,
    ) -> None:
        self.accelerator = accelerator
        self.model = model
        self.batches = batches
        self.steps = steps
        self.checkpointing_steps = checkpointing_steps
        self.optimization = optimization
        self.divergence = DivergenceCheck(is_scaled=accelerator.scaler is not None)
        self.wrapped, self.optimizer = accelerator.prepare(model, build_optimizer(model, optimization))

    @property
    def samples_per_step(self) -> int:
        return 2 * self.batches.sagittal.batch_size * self.accelerator.num_processes

    def batches_after(
        self,
        step: int,
        should_end: Callable[[], bool],  # noqa: ARG002 - the batches are drawn in this process
    ) -> AbstractContextManager[Iterator[list[tuple[ImageBatch, ImageBatch]]]]:
        """Open the stream of the batches (sagittal, axial) of all steps after `step`, one per step."""
        return closing(
            [(self.batches.sagittal.draw(later), self.batches.axial.draw(later))]
            for later in range(step + 1, self.steps + 1)
        )

    def step(self, step: int, batches: Iterator[tuple[ImageBatch, ImageBatch]]) -> dict[str, Any]:
        """Update the weights once, and return the step's row of metrics.csv."""
        self.model.train()
        rate = learning_rate_at(step - 1, self.steps, self.optimization)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad()
        sagittal, axial = (batch.to(self.accelerator.device) for batch in next(batches))
        with self.accelerator.autocast():
            logits = self.wrapped(sagittal.image_B3HW, axial.image_B3HW)
        counts = self._known_points(sagittal, axial)
        losses = torch.stack(
            [
                heatmap_loss(logits_BCP.float(), batch.target_BCP, batch.known_BC, count)
                for logits_BCP, batch, count in zip(logits, (sagittal, axial), counts, strict=True)
            ]
        )
        self.accelerator.backward(losses.sum())
        loss_sagittal, loss_axial = self.accelerator.reduce(losses.detach(), "mean").tolist()
        loss = loss_sagittal + loss_axial
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), self.optimization.max_grad_norm))
        self.divergence(step, loss, norm)
        self.optimizer.step()
        return {
            "step": step,
            "loss": loss,
            "loss_sagittal": loss_sagittal,
            "loss_axial": loss_axial,
            "learning_rate": rate,
            "gradient_norm": norm,
        }

    def evaluate(self, preemption: Preemption) -> dict[str, float]:  # noqa: ARG002
        """Return nothing: the held-out studies are located once, after the last step."""
        return {}

    def _known_points(self, *batches: ImageBatch) -> torch.Tensor:
        """Return, for each batch, the mean number of known points per process; at least one over all processes."""
        known = self.accelerator.reduce(torch.stack([batch.known_BC.sum() for batch in batches]), "sum")
        return known.clamp_min(1) / self.accelerator.num_processes
