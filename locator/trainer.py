"""The locator's training: both networks step together, one batch of each orientation a step.

Several processes learn from their batches as from one, but for batch statistics: each normalises by those of its own
pictures, and the first's are kept (torch's SyncBatchNorm knows GPUs only).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from locator.batches import ImageBatch, ImageBatches
from locator.network import LocatorNetwork, heatmap_loss
from runs.metrics_log import Records
from runs.optimization import OptimizationSettings, build_optimizer, learning_rate_at
from runs.preemption import Preemption
from runs.shutdown import FiniteCheck, Stopped

METRICS = ("step", "loss", "loss_sagittal", "loss_axial", "learning_rate", "gradient_norm", "pictures_per_second")


@dataclass(frozen=True)
class LocatorBatches:
    sagittal: ImageBatches
    axial: ImageBatches


class LocatorTrainer:
    """One run; `network` is the bare network, already on the accelerator's device."""

    def __init__(
        self,
        accelerator: Accelerator,
        network: LocatorNetwork,
        batches: LocatorBatches,
        settings: OptimizationSettings,
    ) -> None:
        self.accelerator = accelerator
        self.network = network
        self.batches = batches
        self.settings = settings
        self._check_finite = FiniteCheck(is_scaled=accelerator.scaler is not None)
        self.wrapped, self.optimizer = accelerator.prepare(network, build_optimizer(network, settings))

    def run(self, start: int, records: Records, checkpoint: Callable[[int], object], preemption: Preemption) -> None:
        """Steps `start`+1 to the last.

        `checkpoint(step)` is called in every process where one is due, and where the run stops early.
        Raises Stopped there, and Diverged before the update that a loss out of bounds would have made.
        """
        settings = self.settings
        steps = range(start + 1, settings.steps + 1)
        hidden = not self.accelerator.is_main_process
        for step in tqdm(steps, initial=start, total=settings.steps, unit="step", disable=hidden):
            began = time.perf_counter()
            row = self.step(step)
            pictures = 2 * self.batches.sagittal.batch_size * self.accelerator.num_processes
            row["pictures_per_second"] = pictures / (time.perf_counter() - began)
            records.write(row)
            every = settings.checkpointing_steps
            is_stopping = preemption.is_asked()
            if is_stopping or (every is not None and (step % every == 0 or step == settings.steps)):
                checkpoint(step)
            if is_stopping:
                raise Stopped(f"after step {step} of {settings.steps}")

    def step(self, step: int) -> dict[str, Any]:
        """One update of the weights; what `metrics.csv` says of it."""
        self.network.train()
        rate = learning_rate_at(step - 1, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        device = self.accelerator.device
        sagittal, axial = self.batches.sagittal.draw(step).to(device), self.batches.axial.draw(step).to(device)
        with self.accelerator.autocast():
            logits = self.wrapped(sagittal.image_B3HW, axial.image_B3HW)
        batches, counts = (sagittal, axial), self._known_points(sagittal, axial)
        losses = torch.stack(
            [
                heatmap_loss(logits_BCP.float(), batch.target_BCP, batch.known_BC, count)
                for logits_BCP, batch, count in zip(logits, batches, counts, strict=True)
            ]
        )
        self.accelerator.backward(losses.sum())
        loss_sagittal, loss_axial = self.accelerator.reduce(losses.detach(), "mean").tolist()
        loss = loss_sagittal + loss_axial
        norm = float(self.accelerator.clip_grad_norm_(self.network.parameters(), self.settings.max_gradient_norm))
        self._check_finite(step, loss, norm)
        self.optimizer.step()
        return {
            "step": step,
            "loss": loss,
            "loss_sagittal": loss_sagittal,
            "loss_axial": loss_axial,
            "learning_rate": rate,
            "gradient_norm": norm,
        }

    def _known_points(self, *batches: ImageBatch) -> torch.Tensor:
        """Of each batch, the mean over the processes; together they know at least one."""
        known = self.accelerator.reduce(torch.stack([batch.known_BC.sum() for batch in batches]), "sum")
        return known.clamp_min(1) / self.accelerator.num_processes
