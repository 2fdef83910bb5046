"""The locator's trainer: both networks step together, on one batch of each orientation per step.

A network whose orientation has no training data is left as it is.

Several processes learn from their batches as from one, except for batch statistics: each process normalises by those of
its own images, and the first process's are kept (torch's SyncBatchNorm requires GPUs).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from typing import Any

import torch
from accelerate import Accelerator

from locator.batches import ImageBatch, ImageBatches
from locator.network import LocatorNetwork, heatmap_loss
from runs.divergence import DivergenceCheck
from runs.optimization import build_optimizer, learning_rate_at, set_learning_rate
from runs.preemption import Preemption
from runs.settings import OptimizationSettings

#: The batches of a step, by orientation.
Batches = Mapping[str, ImageBatch]


class LocatorTrainer:
    """Trains both networks, as `runs.session.take_steps` drives it.

    Args:
        accelerator: the processes, their device and precision.
        model: the bare network, already on the accelerator's device.
        batches: this process's share of every global batch, for each orientation that has training data.
        steps: updates of the weights in all.
        checkpointing_steps: how often a checkpoint is written.
        optimization: how.
    """

    throughput = "pictures_per_second"
    evaluation_steps = None

    def __init__(
        self,
        accelerator: Accelerator,
        model: LocatorNetwork,
        batches: Mapping[str, ImageBatches],
        steps: int,
        checkpointing_steps: int | None,
        optimization: OptimizationSettings,
    ) -> None:
        self.accelerator = accelerator
        self.model = model
        self.batches = batches
        losses = [f"loss_{orientation}" for orientation in batches]
        self.columns = ("step", "loss", *losses, "learning_rate", "gradient_norm", self.throughput)
        self.steps = steps
        self.checkpointing_steps = checkpointing_steps
        self.optimization = optimization
        self.divergence = DivergenceCheck(is_scaled=accelerator.scaler is not None)
        for orientation in {"sagittal", "axial"} - batches.keys():
            model.of(orientation).requires_grad_(False)
        self.wrapped, self.optimizer = accelerator.prepare(model, build_optimizer(model, optimization))

    @property
    def samples_per_step(self) -> int:
        return sum(batches.batch_size for batches in self.batches.values()) * self.accelerator.num_processes

    def batches_after(
        self,
        step: int,
        should_end: Callable[[], bool],  # noqa: ARG002 - the batches are drawn in this process
    ) -> AbstractContextManager[Iterator[list[Batches]]]:
        """Open the stream of the batches of all steps after `step`, one per step."""
        return closing([self._draw(later)] for later in range(step + 1, self.steps + 1))

    def _draw(self, step: int) -> Batches:
        return {orientation: batches.draw(step) for orientation, batches in self.batches.items()}

    def step(self, step: int, batches: Iterator[Batches]) -> dict[str, Any]:
        """Update the weights once, and return the step's row of metrics.csv."""
        self.model.train()
        rate = learning_rate_at(step - 1, self.steps, self.optimization)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad()
        own = {orientation: batch.to(self.accelerator.device) for orientation, batch in next(batches).items()}
        with self.accelerator.autocast():
            logits = self.wrapped({orientation: batch.image_B3HW for orientation, batch in own.items()})
        counts = self._known_points(*own.values())
        losses = torch.stack(
            [
                heatmap_loss(logits[orientation].float(), batch.target_BCP, batch.known_BC, count)
                for (orientation, batch), count in zip(own.items(), counts, strict=True)
            ]
        )
        self.accelerator.backward(losses.sum())
        mean_losses = self.accelerator.reduce(losses.detach(), "mean").tolist()
        loss = sum(mean_losses)
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), self.optimization.max_grad_norm))
        self.divergence(step, loss, norm)
        self.optimizer.step()
        return {
            "step": step,
            "loss": loss,
            **{f"loss_{orientation}": one for orientation, one in zip(own, mean_losses, strict=True)},
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
