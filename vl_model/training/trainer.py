"""The contrastive trainer: one step, and the evaluation of held-out sites.

Dimensions: B sites of this process, N sites of all processes, T tiles, K captions, D embedding.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from runs.divergence import DivergenceCheck
from runs.optimization import build_optimizer, learning_rate_at, set_learning_rate
from runs.preemption import Preemption
from runs.processes.collectives import row_counts
from runs.random_streams import Stream, torch_seed
from runs.settings import OptimizationSettings
from vl_model.data.batches import Batch, TrainingBatches, load_batch, step_loader
from vl_model.data.site_rows import SiteRow
from vl_model.data.targets import Targets, joined, one_hot_targets
from vl_model.model.lora import check_gradients
from vl_model.model.site_model import SiteModel
from vl_model.towers.depthwise import use_float32_depthwise
from vl_model.towers.plain_attention import use_plain_attention
from vl_model.training.captions import Captions
from vl_model.training.grad_cache import Embedded, backward_through_pool
from vl_model.training.loss import LossTerms, contrastive_loss, image_to_captions, image_to_own_severities
from vl_model.training.settings import LossSettings

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

#: At lower scales even opposite embeddings differ by few logits. CLIP starts at 14 and ends at 100.
COLLAPSED_SCALE = 4.0


class Trainer:
    """Trains a `SiteModel` contrastively, as `runs.session.take_steps` drives it.

    Args:
        accelerator: the processes, their device and precision.
        model: the bare model, already on the accelerator's device.
        batches: this process's share of every global batch.
        held_out: the labelled sites to evaluate.
        steps: the number of updates of the weights, each on `gradient_accumulation_steps` global batches.
        optimization, loss: their settings.
        gradient_accumulation_steps: batches per step.
        cache_negatives: contrast the batches of a step as one pool (`vl_model.training.grad_cache`).
        checkpointing_steps, evaluation_steps: the steps between two checkpoints or evaluations; None: never.
        seed: the seed of the wordings and of dropout.
        workers: the number of worker processes that load batches.
        shards: whether to shard the weights over the processes.
    """

    columns = METRICS
    throughput = "sites_per_second"

    def __init__(
        self,
        accelerator: Accelerator,
        model: SiteModel,
        batches: TrainingBatches,
        held_out: Sequence[SiteRow],
        steps: int,
        optimization: OptimizationSettings,
        loss: LossSettings,
        *,
        gradient_accumulation_steps: int = 1,
        cache_negatives: bool = False,
        checkpointing_steps: int | None = None,
        evaluation_steps: int | None = None,
        seed: int = 0,
        workers: int = 0,
        shards: bool = False,
    ) -> None:
        self.accelerator = accelerator
        self.model = model
        self.batches = batches
        self.held_out = held_out
        self.steps = steps
        self.optimization = optimization
        self.loss = loss
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.cache_negatives = cache_negatives
        self.checkpointing_steps = checkpointing_steps
        self.evaluation_steps = evaluation_steps
        self.seed = seed
        self.workers = workers
        self.captions = Captions(model, seed)
        self.divergence = DivergenceCheck(is_scaled=accelerator.scaler is not None)
        self._gradients_are_checked = False
        self._has_collapsed = False
        if accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16":
            use_plain_attention(model)
            use_float32_depthwise(model)
        self.sharding = shard(model, accelerator) if shards and accelerator.num_processes > 1 else None
        self.optimizer = accelerator.prepare(build_optimizer(model, optimization))
        # Sharded weights exchange their gradients themselves: the model must not be wrapped in DDP.
        self.wrapped = accelerator.prepare_model(model, evaluation_mode=self.sharding is not None)
        ratio = batches.log_ratio_K
        self._log_ratio_K = None if ratio is None else torch.tensor(ratio).float().to(accelerator.device)
        self._row_counts = row_counts(self._batch_size, accelerator.device)

    def batches_after(self, step: int, should_end: Callable[[], bool]) -> AbstractContextManager[Iterator[list[Batch]]]:
        """Open the stream of the batches of all steps after `step`."""
        parts = self.gradient_accumulation_steps
        return closing(step_loader(self.batches, step, self.steps, parts, self.workers, should_end))

    def step(self, step: int, batches: Iterator[Batch]) -> dict[str, Any]:
        """Update the weights once, and return the step's row of metrics.csv."""
        self.model.train()
        rate = learning_rate_at(step - 1, self.steps, self.optimization)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad()

        parts, device = self.gradient_accumulation_steps, self.accelerator.device
        if self.cache_negatives:  # all batches are contrasted with each other
            pool = [next(batches).to(device) for _ in range(parts)]
            targets = joined([batch.targets() for batch in pool])
            terms = backward_through_pool(
                parts,
                lambda part: self._embed(pool[part], step, part, with_texts=part == parts - 1),
                lambda embedded: self._loss(embedded, targets, step, parts),
                self.accelerator.backward,
                self._exchange_of_gradients,
            )
            loss, caption, severity, image = terms.values()
        else:  # each batch is contrasted with itself only, and the loss is the mean
            sums_4 = np.zeros(4)
            for part in range(parts):
                with self._exchange_of_gradients(part == parts - 1):
                    batch = next(batches).to(device)
                    terms = self._loss(self._embed(batch, step, part), batch.targets(), step)
                    self.accelerator.backward(terms.total / parts)
                sums_4 += terms.values()
            loss, caption, severity, image = sums_4 / parts

        if self.sharding:
            self.sharding.synchronise_unsharded()
        if not self._gradients_are_checked:  # before clipping: it turns an overflow of fp16 into zeros
            check_gradients(self.model.towers)
            self._gradients_are_checked = True
        norm = self._clip_gradients()
        self.divergence(step, loss, norm)
        self.optimizer.step()
        self.model.logit_scale.clamp_()
        scale = self.model.logit_scale().item()
        self._warn_of_collapse(step, scale)
        return {
            "step": step,
            "epoch": step * parts / self.batches.batches_per_epoch,
            "loss": loss,
            "loss_caption": caption,
            "loss_severity": severity,
            "loss_image": image,
            "logit_scale": scale,
            "learning_rate": rate,
            "gradient_norm": norm,
        }

    @torch.no_grad()
    def evaluate(self, preemption: Preemption) -> dict[str, float]:
        """Return the two exact terms of the loss on the held-out sites, which are divided among the processes.

        Returns nothing if there are no held-out sites, or if the run is asked to stop meanwhile.
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
        for first in range(0, largest, size):  # equally often in every process, because all check for a stop together
            if preemption.should_stop():
                return {}
            rows = own[first : first + size]
            if not rows and not self.sharding:
                continue
            # A process without rows must still take part when the others gather sharded weights.
            batch = load_batch(rows or self.held_out[:1], self.batches.crops_R3HW, geometry=self.batches.geometry).to(
                self.accelerator.device
            )
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
    def samples_per_step(self) -> int:
        """The number of sites per step, over all processes."""
        return self.batches.global_batch_size * self.gradient_accumulation_steps

    @property
    def _batch_size(self) -> int:
        return self.batches.own.stop - self.batches.own.start

    def _exchange_of_gradients(self, is_last: bool) -> AbstractContextManager[None]:
        """Return the context of one backward pass.

        The processes exchange their gradients after the last batch of a step alone. Sharded weights exchange them after
        each batch, because no process has memory for full gradients.
        """
        context: AbstractContextManager[None] = nullcontext() if is_last else self.accelerator.no_sync(self.wrapped)
        return context

    def _embed(self, batch: Batch, step: int, part: int, with_texts: bool = True) -> Embedded:
        """Embed one batch and, unless they are frozen, this step's texts."""
        tokens = self.captions.tokens(step) if with_texts else None
        embedded: Embedded = self.wrapped(self._tiles(batch), batch.mask_BT, tokens, self._dropout_seeds(step, part))
        return embedded

    def _dropout_seeds(self, step: int, part: int) -> tuple[int, int]:
        """Return the seeds of the dropout in texts and in images.

        The first is the same in every process, because the embeddings of texts must be equal.
        """
        return (
            torch_seed(self.seed, Stream.TEXT_DROPOUT, step, part),
            torch_seed(self.seed, Stream.IMAGE_DROPOUT, step, part, self.accelerator.process_index),
        )

    def _loss(self, embedded: Embedded, targets: Targets, step: int, parts: int = 1) -> LossTerms:
        """Return the loss of the embeddings of `parts` batches of every process."""
        image_BD, text_KD, scale, bias = embedded
        if text_KD is None:
            text_KD = self.captions.embeddings(step)
        assert text_KD is not None, "texts are embedded in each step, or once before training"
        counts = tuple(parts * count for count in self._row_counts)
        ratio_K = self._log_ratio_K
        return contrastive_loss(
            image_BD, text_KD, scale, targets, self.loss, bias=bias, log_ratio_K=ratio_K, counts=counts
        )

    def _clip_gradients(self) -> float:
        """Scale the gradients down to the norm `max_grad_norm`, and return the norm that they had before."""
        largest = self.optimization.max_grad_norm
        if self.sharding:
            return self.sharding.clip_gradients(largest)
        return float(self.accelerator.clip_grad_norm_(self.model.parameters(), largest))

    def _warn_of_collapse(self, step: int, scale: float) -> None:
        if scale < COLLAPSED_SCALE and not self._has_collapsed:
            self._has_collapsed = True
            if self.accelerator.is_main_process:
                tqdm.write(
                    f"step {step}: logit_scale fell to {scale:.1f}, too low to separate captions; lower learning_rate, "
                    "or check the labels",
                    file=sys.stderr,
                )

    def _tiles(self, batch: Batch) -> Tensor:
        towers = self.model.towers
        return batch.tiles(towers.image_size, towers.mean, towers.std, self.model.settings.view_mm)


def shard(model: SiteModel, accelerator: Accelerator) -> "Sharding":
    """Shard the model's weights over the processes, in place."""
    from vl_model.training.sharding import Sharding

    return Sharding(model, accelerator.mixed_precision)


def held_out_sums(image_BD: Tensor, text_KD: Tensor, scale: Tensor, caption_B: Tensor) -> Tensor:
    """Return the sums of L_caption and L_severity over the sites, and the number of sites: shape (3,)."""
    logits_BK, targets, count = scale * image_BD @ text_KD.T, one_hot_targets(caption_B), len(caption_B)
    caption = count * image_to_captions(logits_BK, targets)
    severity = count * image_to_own_severities(logits_BK, targets)
    return torch.stack([caption, severity, caption.new_tensor(count)])
