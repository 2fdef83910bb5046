"""The loop and its parts: schedule, optimiser, step, held-out evaluation, records.

Dimensions: B sites, K captions, N sites of all processes, D embedding.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from vl_model.attention import use_plain_attention
from vl_model.batches import Batch, TrainingBatches, load_batch, training_loader
from vl_model.captions import Captions
from vl_model.ending import Stopped, check_finite
from vl_model.gathering import row_counts
from vl_model.lora import check_gradients
from vl_model.loss import LossSettings, LossTerms, contrastive_loss, image_to_captions, image_to_own_severities
from vl_model.preemption import Preemption
from vl_model.records import Records
from vl_model.rows import SiteRow
from vl_model.site_model import SiteModel
from vl_model.targets import sure_targets

METRICS = (
    "step",
    "epoch",
    "loss",
    "loss_caption",
    "loss_severity",
    "loss_image",
    "logit_scale",
    "learning_rate",
    "gradient_norm",
    "sites_per_second",
    "held_out_caption",
    "held_out_severity",
    "evaluation_seconds",
)


#: Ends of the names of position and class embeddings, in all towers, and of the query that SigLIP pools with.
UNDECAYED = (
    *("positional_embedding", "class_embedding", "pos_embed", "cls_token"),
    *("position_embedding.weight", "position_embeddings.weight", "probe"),
)


@dataclass(frozen=True)
class TrainingSettings:
    """How to train; a step is one update of the weights, on `accumulation` global batches."""

    steps: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float = 0.1
    max_gradient_norm: float = 1.0
    accumulation: int = 1
    checkpointing_steps: int | None = None
    evaluation_steps: int | None = None
    seed: int = 0
    workers: int = 0
    loss: LossSettings = field(default_factory=LossSettings)


def learning_rate_at(step: int, settings: TrainingSettings) -> float:
    """Linear warm-up, then half a cosine to zero (Loshchilov and Hutter 2017, arXiv:1608.03983)."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def build_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW with CLIP's betas; matrices decay, gains, biases, embeddings of position and class, and scalars do not."""
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    decays = {name: parameter.ndim >= 2 and not name.endswith(UNDECAYED) for name, parameter in learning.items()}
    groups = [
        {"params": [p for name, p in learning.items() if decays[name]], "weight_decay": settings.weight_decay},
        {"params": [p for name, p in learning.items() if not decays[name]], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), eps=1e-6)


class Trainer:
    """One run of training: `model` is the bare `SiteModel`, already on the accelerator's device."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: SiteModel,
        batches: TrainingBatches,
        held_out: Sequence[SiteRow],
        settings: TrainingSettings,
    ) -> None:
        self.accelerator = accelerator
        self.model = model
        self.batches = batches
        self.held_out = held_out
        self.settings = settings
        self.captions = Captions(model, settings.seed)
        self._gradients_are_checked = False
        if accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16":
            use_plain_attention(model)
        optimizer = build_optimizer(model, settings)
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        ratio = batches.log_ratio_K
        self._log_ratio_K = None if ratio is None else torch.tensor(ratio).float().to(accelerator.device)
        self._row_counts = row_counts(self._batch_size, accelerator.device)

    def run(self, start: int, records: Records, checkpoint: Callable[[int], None], preemption: Preemption) -> None:
        """Steps `start`+1 to the last.

        `checkpoint(step)` is called in every process where one is due, and where the run stops early.
        Raises Stopped there, and Diverged, the weights still those of the last good step.
        """
        settings = self.settings
        self._make_up_evaluation(start, records, preemption)
        if preemption.reason:
            raise Stopped(f"after step {start} of {settings.steps}")
        first, last = start * settings.accumulation, settings.steps * settings.accumulation
        steps = range(start + 1, settings.steps + 1)
        hidden = not self.accelerator.is_main_process
        with (
            closing(training_loader(self.batches, first, last, settings.workers)) as loader,
            tqdm(steps, initial=start, total=settings.steps, unit="step", disable=hidden) as bar,
        ):
            for step in bar:
                began = time.perf_counter()
                row = self.step(step, loader)
                row["sites_per_second"] = self._sites_per_step / (time.perf_counter() - began)
                if self._is_due(step, settings.evaluation_steps):
                    row |= self.evaluate(preemption)
                records.write(row)
                bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
                is_stopping = preemption.is_asked()
                if is_stopping or self._is_due(step, settings.checkpointing_steps):
                    checkpoint(step)
                if is_stopping:
                    raise Stopped(f"after step {step} of {settings.steps}")

    def _make_up_evaluation(self, start: int, records: Records, preemption: Preemption) -> None:
        """The one that was due when the run was asked to stop, so that the records are those of an unbroken run."""
        if start and self._is_due(start, self.settings.evaluation_steps) and records.lack("held_out_severity"):
            records.amend(start, self.evaluate(preemption))

    def step(self, step: int, loader: Iterator[Batch]) -> dict[str, Any]:
        """One update of the weights; what `metrics.csv` says of it."""
        self.model.train()
        self._seed(step)
        rate = learning_rate_at(step - 1, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        totals = np.zeros(4)
        for part in range(self.settings.accumulation):
            is_last = part == self.settings.accumulation - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.wrapped):
                terms = self._loss(next(loader), step)
                self.accelerator.backward(terms.total / self.settings.accumulation)
            if not self._gradients_are_checked:  # before clipping, which makes zeros of fp16's first overflow
                check_gradients(self.model.towers)
                self._gradients_are_checked = True
            totals += torch.stack([terms.total, terms.caption, terms.severity, terms.image]).tolist()
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.max_gradient_norm))
        loss, caption, severity, image = totals / self.settings.accumulation
        check_finite(step, loss, norm, is_scaled=self.accelerator.scaler is not None)
        self.optimizer.step()
        self.model.logit_scale.clamp_()
        return {
            "step": step,
            "epoch": step * self.settings.accumulation / self.batches.batches_per_epoch,
            "loss": loss,
            "loss_caption": caption,
            "loss_severity": severity,
            "loss_image": image,
            "logit_scale": self.model.logit_scale().item(),
            "learning_rate": rate,
            "gradient_norm": norm,
        }

    @torch.no_grad()
    def evaluate(self, preemption: Preemption) -> dict[str, float]:
        """The two exact terms of the loss on the held-out sites, which the processes share among them.

        Empty where there are none, and where the run is asked to stop meanwhile.
        """
        if not self.held_out:
            return {}
        began = time.perf_counter()
        self.model.eval()
        # As in a training step, only the towers compute in half precision: neither tiles nor logits do.
        with self.accelerator.autocast():
            text_KD = self.model.embed_texts(self.captions.first_texts())
        sums_3 = torch.zeros(3, device=self.accelerator.device)
        own = self.held_out[self.accelerator.process_index :: self.accelerator.num_processes]
        size = self._batch_size
        largest = math.ceil(len(self.held_out) / self.accelerator.num_processes)
        for first in range(0, largest, size):  # as often in every process: they ask together
            if preemption.is_asked():
                return {}
            if first >= len(own):
                continue
            batch = load_batch(own[first : first + size], self.batches.crops_R3HW).to(self.accelerator.device)
            tiles_BT3hw = self._tiles(batch)
            with self.accelerator.autocast():
                image_BD = self.model.embed_sites(tiles_BT3hw, batch.mask_BT)
            sums_3 += held_out_sums(image_BD, text_KD, self.model.logit_scale(), batch.caption_B)
        caption, severity, count = self.accelerator.reduce(sums_3, "sum").tolist()
        return {
            "held_out_caption": caption / count,
            "held_out_severity": severity / count,
            "evaluation_seconds": time.perf_counter() - began,
        }

    @property
    def _batch_size(self) -> int:
        return self.batches.own.stop - self.batches.own.start

    @property
    def _sites_per_step(self) -> int:
        return self.batches.global_batch_size * self.settings.accumulation

    def _loss(self, batch: Batch, step: int) -> LossTerms:
        batch = batch.to(self.accelerator.device)
        image_BD, text_KD, scale, bias = self.wrapped(self._tiles(batch), batch.mask_BT, self.captions.tokens(step))
        if text_KD is None:
            text_KD = self.captions.embeddings(step)
        return contrastive_loss(
            image_BD,
            text_KD,
            scale,
            batch.targets(),
            self.settings.loss,
            bias=bias,
            log_ratio_K=self._log_ratio_K,
            counts=self._row_counts,
        )

    def _tiles(self, batch: Batch) -> Tensor:
        towers = self.model.towers
        return batch.tiles(towers.image_size, towers.mean, towers.std)

    def _seed(self, step: int) -> None:
        """Dropout's draws depend on (seed, step, process) alone, so that a resumed run repeats them."""
        entropy = (self.settings.seed, step, self.accelerator.process_index)
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))

    def _is_due(self, step: int, every: int | None) -> bool:
        return every is not None and (step % every == 0 or step == self.settings.steps)


def held_out_sums(image_BD: Tensor, text_KD: Tensor, scale: Tensor, caption_B: Tensor) -> Tensor:
    """Sums over the sites of L_caption and L_severity, and how many sites: shape (3,)."""
    logits_BK, targets, count = scale * image_BD @ text_KD.T, sure_targets(caption_B), len(caption_B)
    caption = count * image_to_captions(logits_BK, targets)
    severity = count * image_to_own_severities(logits_BK, targets)
    return torch.stack([caption, severity, caption.new_tensor(count)])
