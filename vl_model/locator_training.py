"""The locator's training: both networks step together, one batch of each orientation a step."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from vl_model.ending import Stopped, check_finite
from vl_model.locator_batches import PictureBatches
from vl_model.locator_network import LocatorNetwork, place_loss
from vl_model.preemption import Preemption
from vl_model.records import Records
from vl_model.training import TrainingSettings, build_optimizer, learning_rate_at

METRICS = ("step", "loss", "loss_sagittal", "loss_axial", "learning_rate", "gradient_norm", "pictures_per_second")


@dataclass(frozen=True)
class LocatorBatches:
    sagittal: PictureBatches
    axial: PictureBatches


class LocatorTrainer:
    """One run; `network` is the bare network, already on the accelerator's device."""

    def __init__(
        self,
        accelerator: Accelerator,
        network: LocatorNetwork,
        batches: LocatorBatches,
        settings: TrainingSettings,
    ) -> None:
        self.accelerator = accelerator
        self.network = network
        self.batches = batches
        self.settings = settings
        self.wrapped, self.optimizer = accelerator.prepare(network, build_optimizer(network, settings))

    def run(self, start: int, records: Records, checkpoint: Callable[[int], None], preemption: Preemption) -> None:
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
            logits = self.wrapped(sagittal.picture_B3HW, axial.picture_B3HW)
        losses = [
            place_loss(logits_BCP.float(), batch.target_BCP, batch.known_BC)
            for logits_BCP, batch in zip(logits, (sagittal, axial), strict=True)
        ]
        loss = losses[0] + losses[1]
        self.accelerator.backward(loss)
        norm = float(self.accelerator.clip_grad_norm_(self.network.parameters(), self.settings.max_gradient_norm))
        check_finite(step, loss.item(), norm, is_scaled=self.accelerator.scaler is not None)
        self.optimizer.step()
        return {
            "step": step,
            "loss": loss.item(),
            "loss_sagittal": losses[0].item(),
            "loss_axial": losses[1].item(),
            "learning_rate": rate,
            "gradient_norm": norm,
        }
