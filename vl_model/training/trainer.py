"""The loop and its parts: schedule, optimiser, step, held-out evaluation, records.

Dimensions: B sites, K captions, N sites of all processes, D embedding.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from runs.collectives import row_counts
from runs.metrics_log import Records
from runs.optimization import OptimizationSettings, build_optimizer, learning_rate_at
from runs.preemption import Preemption
from runs.random_streams import Stream, torch_seed
from runs.shutdown import FiniteCheck, Stopped, check_exploded
from vl_model.data.batches import Batch, TrainingBatches, load_batch, training_loader
from vl_model.data.site_rows import SiteRow
from vl_model.data.targets import Targets, joined, sure_targets
from vl_model.model.lora import check_gradients
from vl_model.model.site_model import SiteModel
from vl_model.towers.plain_attention import use_plain_attention
from vl_model.training.captions import Captions
from vl_model.training.grad_cache import Embedded, backward_through_pool
from vl_model.training.loss import LossSettings, LossTerms, contrastive_loss, image_to_captions, image_to_own_severities

if TYPE_CHECKING:
    from vl_model.training.sharding import Sharding

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


#: Below it even opposite embeddings differ by few logits; CLIP starts at 14 and ends at 100.
COLLAPSED_SCALE = 4.0


@dataclass(frozen=True)
class TrainingSettings(OptimizationSettings):
    """How to train the site model."""

    caches_negatives: bool = False
    evaluation_steps: int | None = None
    workers: int = 0
    loss: LossSettings = field(default_factory=LossSettings)


class Trainer:
    """One run of training: `model` is the bare `SiteModel`, already on the accelerator's device.

    shards: spread its weights over the processes.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: SiteModel,
        batches: TrainingBatches,
        held_out: Sequence[SiteRow],
        settings: TrainingSettings,
        shards: bool = False,
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
        self._check_finite = FiniteCheck(is_scaled=accelerator.scaler is not None)
        self._first_loss = 0.0
        self._has_collapsed = False
        self.sharding = spread(model, accelerator) if shards and accelerator.num_processes > 1 else None
        self.optimizer = accelerator.prepare(build_optimizer(model, settings))
        # Where weights are spread, gradients are exchanged already: there is nothing for DDP to do.
        self.wrapped = accelerator.prepare_model(model, evaluation_mode=self.sharding is not None)
        ratio = batches.log_ratio_K
        self._log_ratio_K = None if ratio is None else torch.tensor(ratio).float().to(accelerator.device)
        self._row_counts = row_counts(self._batch_size, accelerator.device)

    def run(self, start: int, records: Records, checkpoint: Callable[[int], object], preemption: Preemption) -> None:
        """Steps `start`+1 to the last.

        `checkpoint(step)` is called in every process where one is due, and where the run stops early.
        Raises Stopped there, and Diverged before the update that a loss out of bounds would have made.
        """
        settings = self.settings
        self._first_loss = records.first("loss") or 0.0
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
                self._tell_of_collapse(step, row["logit_scale"], bar)
                bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
                is_stopping = preemption.should_stop()
                if is_stopping or self._is_due(step, settings.checkpointing_steps):
                    checkpoint(step)
                if is_stopping:
                    raise Stopped(f"after step {step} of {settings.steps}")

    def _tell_of_collapse(self, step: int, scale: float, bar: "tqdm[int]") -> None:
        if scale < COLLAPSED_SCALE and not self._has_collapsed:
            self._has_collapsed = True
            if self.accelerator.is_main_process:
                bar.write(
                    f"step {step}: the logit scale fell to {scale:.1f}, at which captions are hardly told apart: lower "
                    "--learning_rate, or look for labels that contradict the images",
                    file=sys.stderr,
                )

    def _make_up_evaluation(self, start: int, records: Records, preemption: Preemption) -> None:
        """The one that was due when the run was asked to stop, so that the records are those of an unbroken run."""
        if start and self._is_due(start, self.settings.evaluation_steps) and records.lack("held_out_severity"):
            records.amend(start, self.evaluate(preemption))

    def step(self, step: int, loader: Iterator[Batch]) -> dict[str, Any]:
        """One update of the weights; what `metrics.csv` says of it."""
        self.model.train()
        rate = learning_rate_at(step - 1, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        add_gradients = self._add_pooled_gradients if self.settings.caches_negatives else self._add_gradients
        loss, caption, severity, image = add_gradients(step, loader)
        if self.sharding:
            self.sharding.exchange_what_is_whole()
        if not self._gradients_are_checked:  # before clipping, which makes zeros of fp16's first overflow
            check_gradients(self.model.towers)
            self._gradients_are_checked = True
        norm = self._clip_gradients(self.settings.max_gradient_norm)
        self._check_finite(step, loss, norm)
        self._first_loss = self._first_loss or loss
        check_exploded(step, loss, self._first_loss)
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

    def _clip_gradients(self, largest: float) -> float:
        if self.sharding:
            return self.sharding.clip_gradients(largest)
        return float(self.accelerator.clip_grad_norm_(self.model.parameters(), largest))

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
            if preemption.should_stop():
                return {}
            rows = own[first : first + size]
            if not rows and not self.sharding:
                continue
            # One that has done its share goes on putting weights together with those that have not.
            batch = load_batch(rows or self.held_out[:1], self.batches.crops_R3HW).to(self.accelerator.device)
            tiles_BT3hw = self._tiles(batch)
            with self.accelerator.autocast():
                image_BD = self.model.embed_sites(tiles_BT3hw, batch.mask_BT)
            if rows:
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

    def _add_gradients(self, step: int, loader: Iterator[Batch]) -> list[float]:
        """Of the mean over `accumulation` batches, each a pool of its own; the loss and its terms."""
        parts, totals = self.settings.accumulation, np.zeros(4)
        for part in range(parts):
            with self._synchronised(part == parts - 1):
                batch = next(loader).to(self.accelerator.device)
                terms = self._loss(self._embed(batch, step, part), batch.targets(), step)
                self.accelerator.backward(terms.total / parts)
            totals += terms.values()
        return list(totals / parts)

    def _add_pooled_gradients(self, step: int, loader: Iterator[Batch]) -> list[float]:
        """Of one pool of `accumulation` batches (`vl_model.training.grad_cache`); the loss and its terms."""
        parts = self.settings.accumulation
        batches = [next(loader).to(self.accelerator.device) for _ in range(parts)]
        targets = joined([batch.targets() for batch in batches])

        def embed(part: int) -> Embedded:
            return self._embed(batches[part], step, part, with_texts=part == parts - 1)

        terms = backward_through_pool(
            parts,
            embed,
            lambda pool: self._loss(pool, targets, step, parts),
            self.accelerator.backward,
            self._synchronised,
        )
        return terms.values()

    def _synchronised(self, is_last: bool) -> AbstractContextManager[None]:
        """The processes exchange gradients after the last batch of a step alone; where weights are spread after each,
        because no process has room for whole gradients."""
        context: AbstractContextManager[None] = nullcontext() if is_last else self.accelerator.no_sync(self.wrapped)
        return context

    def _embed(self, batch: Batch, step: int, part: int, with_texts: bool = True) -> Embedded:
        tokens = self.captions.tokens(step) if with_texts else None
        embedded: Embedded = self.wrapped(self._tiles(batch), batch.mask_BT, tokens, self._dropout_seeds(step, part))
        return embedded

    def _dropout_seeds(self, step: int, part: int) -> tuple[int, int]:
        """Texts', the same in every process, as their embeddings have to be; and images'."""
        seed, process = self.settings.seed, self.accelerator.process_index
        return (
            torch_seed(seed, Stream.TEXT_DROPOUT, step, part),
            torch_seed(seed, Stream.IMAGE_DROPOUT, step, part, process),
        )

    def _loss(self, embedded: Embedded, targets: Targets, step: int, parts: int = 1) -> LossTerms:
        """Of the embeddings of `parts` batches of every process."""
        image_BD, text_KD, scale, bias = embedded
        if text_KD is None:
            text_KD = self.captions.embeddings(step)
        assert text_KD is not None, "texts are embedded in a step or once for all"
        counts = tuple(parts * count for count in self._row_counts)
        settings, ratio_K = self.settings.loss, self._log_ratio_K
        return contrastive_loss(
            image_BD, text_KD, scale, targets, settings, bias=bias, log_ratio_K=ratio_K, counts=counts
        )

    def _tiles(self, batch: Batch) -> Tensor:
        towers = self.model.towers
        return batch.tiles(towers.image_size, towers.mean, towers.std)

    def _is_due(self, step: int, every: int | None) -> bool:
        return every is not None and (step % every == 0 or step == self.settings.steps)


def spread(model: SiteModel, accelerator: Accelerator) -> "Sharding":
    """Over the processes, in place."""
    from vl_model.training.sharding import Sharding

    return Sharding(model, accelerator.mixed_precision)


def held_out_sums(image_BD: Tensor, text_KD: Tensor, scale: Tensor, caption_B: Tensor) -> Tensor:
    """Sums over the sites of L_caption and L_severity, and how many sites: shape (3,)."""
    logits_BK, targets, count = scale * image_BD @ text_KD.T, sure_targets(caption_B), len(caption_B)
    caption = count * image_to_captions(logits_BK, targets)
    severity = count * image_to_own_severities(logits_BK, targets)
    return torch.stack([caption, severity, caption.new_tensor(count)])
