"""The contrastive training of a site model, from the training set to ``final/``."""

import math
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from locator.carried import CarriedFiles
from runs.checkpoints import check_checkpoint, find_checkpoints, planned
from runs.processes.launch import started_processes
from runs.resuming import first_readable
from runs.session import Session
from runs.settings import OptimizationSettings
from vl_model.data.augmentation import Augmentation
from vl_model.data.batches import TrainingBatches
from vl_model.data.dropped_sites import DROPPED
from vl_model.data.training_set import TrainingSet
from vl_model.model.base_places import base_path, is_there, place_named
from vl_model.model.lineage import (
    SERIES,
    SeriesByStudy,
    check_base_outside_run,
    check_leakage,
    lineage,
    trained_series,
)
from vl_model.model.lora import base_state
from vl_model.model.run_crops import CROPS, crops_record, note_on_base
from vl_model.model.settings import ModelSettings
from vl_model.model.site_model import SiteModel, build_site_model
from vl_model.model.site_model_files import base_sha256, find_base, save_site_model, state_sha256
from vl_model.towers.blocks import compile_blocks
from vl_model.towers.gradient_checkpointing import checkpoint_blocks
from vl_model.training.captions import captions_sha256
from vl_model.training.settings import (
    ComputationSettings,
    DurationSettings,
    HeldOutSettings,
    LossSettings,
    check_loss,
)
from vl_model.training.trainer import Trainer
from workspace.setting_error import SettingError
from workspace.settings_parser import plain_settings


def build_model(
    model_settings: ModelSettings, loss: LossSettings, computation: ComputationSettings, shards: bool
) -> SiteModel:
    """Return a model on the CPU, ready to train. Raises SettingError if it cannot be built with these settings.

    Args:
        model_settings: the towers, their weights and what is trained.
        loss: the loss: siglip adds a bias to the model.
        computation: how the towers' blocks are computed.
        shards: whether the weights will be sharded over the processes.
    """
    if computation.compile and shards:
        raise SettingError("compile", "true: cannot be combined with sharded weights (FSDP2)")
    model = build_site_model(model_settings)
    if loss.loss == "siglip":
        model.add_logit_bias()
    if computation.gradient_checkpointing and not checkpoint_blocks(model.towers):
        raise SettingError("gradient_checkpointing", f"true: {model_settings.model!r} has no blocks to recompute")
    if computation.compile and not compile_blocks(model.towers):
        raise SettingError("compile", f"true: {model_settings.model!r} has no blocks to compile")
    return model


def base_of_run(model: ModelSettings, base: str | None, run: Path, resume_from_checkpoint: str | None) -> ModelSettings:
    """Return the settings with the place where the base lies now, which may have moved since the run began.

    Args:
        model: the settings, with the base as it was named when the run began.
        base: the folder in which it lies now; None: where it is named or, for a resumed run, beside the run.
        run: the run's folder.
        resume_from_checkpoint: the setting.

    Raises SettingError if there is no such base.
    """
    if base is not None:
        if resume_from_checkpoint is None:
            raise SettingError("base", f"{base!r}: is for a run that is resumed or exported; a new run has its --model")
        return place_named(model, base)
    try:
        checkpoints = find_checkpoints(run, resume_from_checkpoint)
    except SettingError:
        if is_there(model):
            return model  # the checkpoint is refused where it is read
        raise
    trained = planned(checkpoints, "model") if checkpoints else None
    if trained is not None and trained != model.model and not ("/" in trained and "/" in model.model):
        raise SettingError(
            "model",
            f"{model.model!r}: the run was trained on {trained!r}; give its flags or its --config again, or start "
            "another run",
        )
    if is_there(model):
        return model
    return find_base(model, planned(checkpoints, "base_sha256"), run / "final") if checkpoints else model


class ContrastiveTraining:
    """The contrastive training of a site model, as a `runs.session.Training`.

    Args:
        training_set: the labelled sites, divided by fold, and their crops.
        carried: the locator and atlas that are copied into the run, to locate the sites of new studies.
        model, duration, held_out, optimization, loss, augmentation, computation: the settings, by theme.
        base: `model`, with the place where the base was found if it is not where `model` names it.
        checkpointing_steps: the steps between two checkpoints; None: one epoch.
        seed: the seed of every random choice.
        shards: whether to shard the weights over the processes.
        settings: all resolved settings, to be recorded.
    """

    def __init__(
        self,
        training_set: TrainingSet,
        carried: CarriedFiles,
        *,
        model: ModelSettings,
        base: ModelSettings,
        duration: DurationSettings,
        held_out: HeldOutSettings,
        optimization: OptimizationSettings,
        loss: LossSettings,
        augmentation: Augmentation,
        computation: ComputationSettings,
        checkpointing_steps: int | None,
        seed: int,
        shards: bool,
        settings: dict[str, Any],
    ) -> None:
        self.training_set = training_set
        self.carried = carried
        self.model = model
        self.base = base
        self.duration = duration
        self.held_out = held_out
        self.optimization = optimization
        self.loss = loss
        self.augmentation = augmentation
        self.computation = computation
        self.checkpointing_steps = checkpointing_steps
        self.seed = seed
        self.shards = shards
        self.settings = settings
        self.dataset_fingerprint = training_set.dataset.fingerprint
        dropped = training_set.dropped
        self.facts: dict[str, Any] = {} if dropped is None else {DROPPED: dropped.counts}
        self._trained_series: SeriesByStudy = {}

    def check_base(self, run: Path) -> None:
        """Raise ValueError if the run would overwrite its base, or if the base was trained on held-out studies."""
        model, pretrained = self.base.model, self.base.pretrained
        check_base_outside_run(model, pretrained, run)
        check_leakage(model, pretrained, self.training_set.dataset, list(self.held_out.held_out_folds))

    def note_on_base(self) -> str | None:
        """Return in words how the base's crops differ from this run's; None if they do not, or are not known."""
        runs = lineage(self.base.model, self.base.pretrained)
        return note_on_base(runs, self.training_set.geometry, self.model.view_mm)

    def build_model(self) -> SiteModel:
        """Return the model on the CPU, ready to train."""
        return build_model(self.base, self.loss, self.computation, self.shards)

    def plan(self, model: SiteModel, processes: int) -> dict[str, Any]:
        """Return the settings and fingerprints that a resumed run must share with its checkpoint.

        The learning rate may change between starts, but not the duration.

        model: the model before its weights are sharded.
        processes: the number of processes.
        """
        return {
            **plain_settings(self.model),
            **plain_settings(self.duration),
            "held_out_folds": list(self.held_out.held_out_folds),
            **plain_settings(self.loss),
            **plain_settings(self.augmentation),
            "seed": self.seed,
            "processes": processes,
            "crops": str(self.training_set.geometry),
            "dataset_fingerprint": self.dataset_fingerprint,
            "captions_sha256": captions_sha256(),
            "base_sha256": self._base_sha256(model),
            **({} if self.training_set.dropped is None else {DROPPED: self.training_set.dropped.sha256}),
        }

    def _base_sha256(self, model: SiteModel) -> str | None:
        """Return the digest of the frozen base, or of the folder's weights that every weight starts from."""
        if self.model.tune == "full" and base_path(self.base) is not None:
            return state_sha256(base_state(model.towers.clip))
        return base_sha256(model)

    def step_to_resume_from(self, run: Path, checkpoint: str | None, model: SiteModel) -> int:
        """Return the step of the checkpoint that the run would resume from, without reading its tensors; 0: none.

        Raises ValueError if the checkpoint was written for another plan.
        """
        checkpoints = find_checkpoints(run, checkpoint)
        if not checkpoints:
            return 0
        plan = self.plan(model, started_processes())
        checked, _ = first_readable(checkpoints, lambda folder: check_checkpoint(folder, plan))
        return checked[0] if checked else 0

    def build_batches(self, process: int, processes: int) -> TrainingBatches:
        """Return one process's share of every global batch."""
        self.augmentation.check()
        return TrainingBatches(
            self.training_set.training,
            self.training_set.crops_R3HW,
            self.duration.per_device_train_batch_size,
            self.seed,
            self.augmentation,
            process,
            processes,
            self.duration.severity_sampling,
            self.training_set.geometry,
        )

    def steps_on(self, batches: TrainingBatches) -> int:
        """Return the number of steps of the training."""
        if self.duration.max_train_steps is not None:
            return self.duration.max_train_steps
        # Batches are one stream over all epochs: a step may span two epochs.
        epochs, accumulation = self.duration.num_train_epochs, self.duration.gradient_accumulation_steps
        return math.ceil(epochs * batches.batches_per_epoch / accumulation)

    def build_trainer(self, accelerator: Accelerator, model: SiteModel) -> Trainer:
        """Return the trainer of a model that is on its device."""
        check_loss(self.loss, self.augmentation, self.duration)
        batches = self.build_batches(accelerator.process_index, accelerator.num_processes)
        accumulation = self.duration.gradient_accumulation_steps
        steps, steps_per_epoch = self.steps_on(batches), max(1, batches.batches_per_epoch // accumulation)
        # Now, not at the end: the base's folder may be gone by then, or hold another run.
        trained_rows = self.training_set.training if steps else ()
        base, pretrained = self.base.model, self.base.pretrained
        self._trained_series = trained_series(base, pretrained, self.training_set.dataset, trained_rows)
        return Trainer(
            accelerator,
            model,
            batches,
            self.training_set.held_out,
            steps,
            self.optimization,
            self.loss,
            gradient_accumulation_steps=accumulation,
            cache_negatives=self.duration.cache_negatives,
            checkpointing_steps=self.checkpointing_steps or steps_per_epoch,
            evaluation_steps=self.held_out.evaluation_steps or steps_per_epoch,
            seed=self.seed,
            workers=self.computation.dataloader_num_workers,
            shards=self.shards,
        )

    def describe(self, trainer: Trainer) -> str:
        """Return one line for the log."""
        return (
            f"{len(self.training_set.training)} sites to train on, {len(self.training_set.held_out)} held out to "
            f"evaluate, {trainer.steps} steps, {trainer.model.learning_weights / 1e6:.2f} million trainable weights"
        )

    def finish(self, trainer: Trainer, session: Session) -> None:
        """Write ``final/``, and copy the locator and the atlas into the run."""
        model = self._trained_model(trainer)
        if not session.accelerator.is_main_process:
            return
        trained_on = {name: session.record[name] for name in ("dataset_fingerprint", "held_out_folds", "steps")}
        crops = crops_record(self.training_set.geometry, self.model.view_mm)
        if self.training_set.dropped is not None:
            trained_on[DROPPED] = self.training_set.dropped.record
        save_site_model(model, session.run / "final", trained_on | {SERIES: self._trained_series, CROPS: crops})
        self.carried.copy_to(session.run)

    def _trained_model(self, trainer: Trainer) -> SiteModel:
        """Return the trained model. Every process must call this; the result is complete in the first one only.

        Sharded weights are gathered into a new model, so that nothing else has to handle shards.
        """
        if trainer.sharding is None:
            return trainer.model
        state = trainer.sharding.full_state_dict()
        if not trainer.accelerator.is_main_process:
            return trainer.model
        model = self.build_model()
        model.load_state_dict(state)
        return model
