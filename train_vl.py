"""Train a run: fine-tune image and text towers contrastively on the pairs that prepare_data.py wrote.

    accelerate launch --config_file accelerate_configs/one_gpu.yaml train_vl.py --root DATA --run first \\
        --config recipes/vit-b-16-openai.yaml
    accelerate launch --config_file accelerate_configs/cpu_2.yaml train_vl.py --root DATA --run tiny \\
        --model lumbar-tiny --tune full --learning_rate 1e-3
    python train_vl.py --root DATA --run first --config recipes/vit-b-16-openai.yaml --resume_from_checkpoint latest
    python train_vl.py --root DATA --run first --config recipes/vit-b-16-openai.yaml --doctor
    python train_vl.py --root DATA --run first --config recipes/vit-b-16-openai.yaml --fold 3
    python train_vl.py --root DATA --run clean --drop_suspects DATA/train/logs/lora/suspect_labels.csv
    python train_vl.py --root DATA --run first --export FOLDER

`python train_vl.py` is one process of what `accelerate launch train_vl.py` starts. Checkpoints are written to
``<root>/train/checkpoints/<run>/checkpoint-<step>/``, the result to ``final/`` beside them, and metrics.csv and the
TensorBoard events to ``<root>/train/logs/<run>/``. `--fold 3` trains the run first-3, which holds out fold 3.
"""

if __name__ == "__main__":
    from workspace.interrupts import end_at_ctrl_c

    end_at_ctrl_c()  # until run_command takes over: the imports take a while

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from locator.carried import CarriedFiles, find_carried_files
from runs.processes.launch import Launch, check_launch, follow, own_rank, set_environment_of_torch, trackers_of
from runs.run_folder import check_run, hold_run, prepare_run
from runs.settings import OptimizationSettings, RunSettings
from vl_model.data.augmentation import Augmentation
from vl_model.data.training_set import TrainingSet, read_training_set
from vl_model.fold_runs import fold_run_name
from vl_model.model.settings import DEFAULT_MODEL, DEFAULT_PRETRAINED, ModelSettings
from vl_model.training.settings import (
    ComputationSettings,
    DurationSettings,
    HeldOutSettings,
    LossSettings,
    SuspectLabelSettings,
    check_loss,
)
from workspace.cli import run_command
from workspace.layout import DataRoot, data_root, home_expanded
from workspace.settings_parser import plain_settings, read_settings

if TYPE_CHECKING:
    from vl_model.training.contrastive import ContrastiveTraining

PROG = "train_vl.py"


@dataclass(frozen=True)
class Settings:
    """Settings of train_vl.py."""

    session: RunSettings
    model: ModelSettings
    duration: DurationSettings
    held_out: HeldOutSettings
    suspect_labels: SuspectLabelSettings
    optimization: OptimizationSettings
    loss: LossSettings
    augmentation: Augmentation
    computation: ComputationSettings
    doctor: bool = False
    """Train nothing: check everything that the run needs, and print what is missing and how to provide it."""
    export: str | None = None
    """Train nothing: write the finished run to this folder, with its adapters merged, as a model that open_clip or
    transformers can load."""
    base: str | None = None
    """For a run that is resumed or exported: the folder of the model that it was trained on, if it is found neither
    where it was then nor beside the run."""
    push_to_hub: str | None = None
    """The repository on the Hugging Face hub, ORGANISATION/NAME, to which final/ is uploaded after training. A new
    repository is private."""


def main() -> int:
    settings = of_fold(with_default_weights(read_settings(PROG, __doc__, Settings)))
    root = data_root(settings.session.root)
    if settings.doctor:
        return examine(settings, root) if own_rank() == 0 else 0
    launch = check_launch()
    if settings.export:
        return export(settings, root.run(settings.session.run))
    with hold_run(root.run(settings.session.run)):
        train(settings, launch, root)
    return 0


def with_default_weights(settings: Settings) -> Settings:
    model = settings.model
    if model.model == DEFAULT_MODEL and model.pretrained is None:
        return replace(settings, model=replace(model, pretrained=DEFAULT_PRETRAINED))
    return settings


def of_fold(settings: Settings) -> Settings:
    """Return the settings of the run that `--fold` stands for. Raises SettingError if other folds are named as well."""
    session, held_out = settings.session, settings.held_out
    if held_out.fold is None:
        return settings
    held_out.check()
    return replace(
        settings,
        session=replace(session, run=fold_run_name(session.run, held_out.fold)),
        held_out=replace(held_out, fold=None, held_out_folds=(held_out.fold,)),
    )


def train(settings: Settings, launch: Launch, root: DataRoot) -> None:
    """Check everything that can be checked without torch, whose import takes seconds; then train."""
    session = settings.session
    run, logs = root.run(session.run), root.logs(session.run)
    prepare_run(run, session.overwrite, session.resume_from_checkpoint)
    check_loss(settings.loss, settings.augmentation, settings.duration)
    trackers = trackers_of(session.report_to)
    carried = find_carried_files(root)
    training_set = training_set_of(settings, root)
    if training_set.shortage and own_rank() == 0:
        print(f"note: {training_set.shortage}", flush=True)
    if training_set.dropped and own_rank() == 0:
        print(f"note: {training_set.dropped.words}", flush=True)
    set_environment_of_torch()

    from runs.session import run_training
    from vl_model.model.hub import check_repository, push
    from vl_model.training.contrastive import base_of_run

    if settings.push_to_hub:
        check_repository(settings.push_to_hub)
    base = base_of_run(settings.model, settings.base, run, session.resume_from_checkpoint)
    training = training_of(settings, training_set, carried, launch.shards, base)
    training.check_base(run)
    if (note := training.note_on_base()) and own_rank() == 0:
        print(f"note: {note}", flush=True)
    is_finished = run_training(training, session, launch, run, logs, trackers)
    if is_finished and settings.push_to_hub and own_rank() == 0:
        print(push(run / "final", settings.push_to_hub), flush=True)


def training_set_of(settings: Settings, root: DataRoot) -> TrainingSet:
    held_out = settings.held_out
    training_set = read_training_set(
        root.processed("train"),
        held_out.held_out_folds,
        held_out.held_out_sites,
        settings.session.seed,
        settings.suspect_labels.request(),
    )
    training_set.geometry.check_view(settings.model.view_mm)
    return training_set


def training_of(
    settings: Settings, training_set: TrainingSet, carried: CarriedFiles, shards: bool, base: ModelSettings
) -> "ContrastiveTraining":
    from vl_model.training.contrastive import ContrastiveTraining

    return ContrastiveTraining(
        training_set,
        carried,
        model=settings.model,
        base=base,
        duration=settings.duration,
        held_out=settings.held_out,
        optimization=settings.optimization,
        loss=settings.loss,
        augmentation=settings.augmentation,
        computation=settings.computation,
        checkpointing_steps=settings.session.checkpointing_steps,
        seed=settings.session.seed,
        shards=shards,
        settings=plain_settings(settings),
    )


def export(settings: Settings, run: Path) -> int:
    if settings.session.overwrite or settings.session.resume_from_checkpoint:
        raise ValueError("--export writes a finished run: leave out --overwrite and --resume_from_checkpoint")
    if own_rank() == 0:
        from vl_model.model.export import export_run

        folder = home_expanded(str(settings.export), "export")
        try:
            print(f"wrote {export_run(run, folder, settings.base)}", flush=True)
        except OSError as error:
            raise ValueError(f"--export {settings.export!r}: cannot be written ({error.strerror or error})") from None
    return 0


def examine(settings: Settings, root: DataRoot) -> int:
    """Check everything before the first step, and write nothing."""
    from vl_model.training import doctor
    from vl_model.training.contrastive import base_of_run, build_model

    session = settings.session
    run, shards = root.run(session.run), check_launch().shards

    @cache
    def base() -> ModelSettings:
        return base_of_run(settings.model, settings.base, run, session.resume_from_checkpoint)

    def base_or_named() -> ModelSettings:
        try:
            return base()
        except ValueError:  # a finding of `build`
            return settings.model

    checks = doctor.Checks(
        check_run=lambda: check_run(run, session.overwrite, session.resume_from_checkpoint),
        placing=lambda: find_carried_files(root),
        loss=lambda: check_loss(settings.loss, settings.augmentation, settings.duration),
        read=lambda: training_set_of(settings, root),
        build=lambda: build_model(base(), settings.loss, settings.computation, shards),
        # Nothing is carried, because nothing is trained: a damaged locator is the finding of `placing` alone.
        training=lambda training_set: training_of(
            settings, training_set, CarriedFiles(None, None), shards, base_or_named()
        ),
    )
    return doctor.examine(run, checks, session, settings.duration.per_device_train_batch_size, settings.push_to_hub)


if __name__ == "__main__":
    run_command(PROG, main if own_rank() == 0 else lambda: follow(main))
