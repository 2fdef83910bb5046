"""What the flags of train_vl.py say, as the parts of a training."""

import math
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from jsonargparse import Namespace

from runs.checkpoints import check_state, find_checkpoints
from runs.launch import started_processes
from runs.resuming import first_whole
from vl_model.data.batches import TrainingBatches
from vl_model.data.tiles import Augmentation
from vl_model.data.training_set import TrainingSet
from vl_model.model.lineage import check_base_outside_run, check_leakage
from vl_model.model.lora import LoraSettings
from vl_model.model.site_model import ModelSettings, SiteModel, build_site_model
from vl_model.model.site_model_files import base_sha256
from vl_model.towers.blocks import compile_blocks
from vl_model.towers.gradient_checkpointing import checkpoint_blocks
from vl_model.training.captions import captions_sha256
from vl_model.training.loss import LossSettings, LossWeights
from vl_model.training.trainer import Trainer, TrainingSettings

#: What may not change when a run is resumed.
FIXED_SETTINGS = (
    *("model", "pretrained", "tune", "lora_rank", "lora_alpha", "lora_dropout"),
    *("lora_towers", "lora_last_blocks"),
    *("seed", "per_device_train_batch_size", "gradient_accumulation_steps", "cache_negatives"),
    *("max_train_steps", "num_train_epochs"),
    *("held_out_folds", "loss", "loss_weights", "label_smoothing", "merge_mirrored"),
    *("augment", "jitter_mm", "drop_view", "mixup", "cutmix", "severity_sampling"),
)


def check_base(base: ModelSettings, run: Path, material: TrainingSet, held_out_folds: list[int]) -> None:
    """Raises ValueError where the run would write over its base, or the base has seen what the run holds out."""
    check_base_outside_run(base.model, base.pretrained, run)
    check_leakage(base.model, base.pretrained, material.dataset, held_out_folds)


def step_to_go_on_from(settings: Namespace, run: Path, material: TrainingSet, model: SiteModel) -> int:
    """By the state that a resumed run would load, whose tensors are not. Raises ValueError for another run's."""
    states = find_checkpoints(run, settings.resume_from_checkpoint)
    if not states:
        return 0
    plan = run_plan(settings, material, model, started_processes())
    found, _ = first_whole(states, lambda state: check_state(state, plan))
    return found[0] if found else 0


def build_model(settings: Namespace, shards: bool) -> SiteModel:
    """On the CPU, ready to train, or to have its weights spread over processes (`shards`).

    Raises ValueError where it cannot be built as the settings want it.
    """
    if settings.compile and shards:
        raise ValueError("--compile true: not with weights that are spread over processes (FSDP2)")
    model = build_site_model(model_settings(settings))
    if settings.loss == "siglip":
        model.add_logit_bias()
    if settings.gradient_checkpointing and not checkpoint_blocks(model.towers):
        raise ValueError(f"--gradient_checkpointing true: {settings.model!r} has no blocks to compute twice")
    if settings.compile and not compile_blocks(model.towers):
        raise ValueError(f"--compile true: {settings.model!r} has no blocks to compile")
    return model


def model_settings(settings: Namespace) -> ModelSettings:
    lora = LoraSettings(
        settings.lora_rank,
        settings.lora_alpha,
        settings.lora_dropout,
        settings.lora_towers,
        settings.lora_last_blocks,
    )
    return ModelSettings(settings.model, settings.pretrained, settings.tune, lora)


def loss_settings(settings: Namespace) -> LossSettings:
    """Raises ValueError where the loss cannot take what the other settings want of it."""
    loss = LossSettings(
        settings.loss, LossWeights(*settings.loss_weights), settings.label_smoothing, settings.merge_mirrored
    )
    check_shares(settings, loss)
    return loss


def build_batches(settings: Namespace, material: TrainingSet, process: int, processes: int) -> TrainingBatches:
    return TrainingBatches(
        material.training,
        material.crops_R3HW,
        settings.per_device_train_batch_size,
        settings.seed,
        augmentation(settings),
        process,
        processes,
        settings.severity_sampling,
    )


def build_trainer(
    settings: Namespace, accelerator: Accelerator, model: SiteModel, material: TrainingSet, shards: bool
) -> Trainer:
    loss = loss_settings(settings)
    batches = build_batches(settings, material, accelerator.process_index, accelerator.num_processes)
    steps_per_epoch = max(1, batches.batches_per_epoch // settings.gradient_accumulation_steps)
    steps = settings.max_train_steps
    if steps is None:
        # Batches are one stream over the epochs: a step may span the end of one.
        steps = math.ceil(settings.num_train_epochs * batches.batches_per_epoch / settings.gradient_accumulation_steps)
    training = TrainingSettings(
        steps=steps,
        learning_rate=settings.learning_rate,
        warmup_steps=round(settings.warmup_ratio * steps),
        weight_decay=settings.weight_decay,
        max_gradient_norm=settings.max_grad_norm,
        accumulation=settings.gradient_accumulation_steps,
        caches_negatives=settings.cache_negatives,
        checkpointing_steps=settings.checkpointing_steps or steps_per_epoch,
        evaluation_steps=settings.evaluation_steps or steps_per_epoch,
        seed=settings.seed,
        workers=settings.dataloader_num_workers,
        loss=loss,
    )
    return Trainer(accelerator, model, batches, material.held_out, training, shards)


def augmentation(settings: Namespace) -> Augmentation | None:
    """Raises ValueError for sites that are mixed where nothing may vary."""
    varied = Augmentation(
        shift_mm=settings.jitter_mm, drop_view=settings.drop_view, mixup=settings.mixup, cutmix=settings.cutmix
    )
    if settings.augment:
        return varied
    if settings.mixup or settings.cutmix:
        raise ValueError("--augment false: varies nothing, so --mixup and --cutmix must be 0")
    return None


def check_shares(settings: Namespace, loss: LossSettings) -> None:
    """Raises ValueError where the loss would take what is mixed, or drawn more often, for what it is not."""
    for name in ("mixup", "cutmix", "severity_sampling"):
        if settings[name] and not loss.takes_shares:
            raise ValueError(f"--{name} {settings[name]}: --loss {loss.name} cannot weigh it; use all_captions")


def trained_model(settings: Namespace, trainer: Trainer) -> SiteModel:
    """What was trained, in the first process; where weights are spread every process must ask.

    Those are put into a model that is built anew: what writes it need not know of parts.
    """
    if trainer.sharding is None:
        return trainer.model
    together = trainer.sharding.full_state_dict()
    if not trainer.accelerator.is_main_process:
        return trainer.model
    model = build_model(settings, shards=True)
    model.load_state_dict(together)
    return model


def run_plan(settings: Namespace, material: TrainingSet, model: SiteModel, processes: int) -> dict[str, Any]:
    """What a resumed run must share with the run that it goes on from; of a model whose weights are not spread yet."""
    return {key: settings[key] for key in FIXED_SETTINGS} | {
        "processes": processes,
        "dataset_fingerprint": material.dataset.fingerprint,
        "captions_sha256": captions_sha256(),
        "base_sha256": base_sha256(model),
    }
