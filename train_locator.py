"""Train a locator, which finds the 25 sites in unannotated studies, on the marked studies of the train split.

    python train_locator.py --root DATA
    accelerate launch --config_file accelerate_configs/cpu_2.yaml train_locator.py --root DATA --run locator
    python train_locator.py --root DATA --resume_from_checkpoint latest
    python train_locator.py --root DATA --show

It reads <root>/train/processed_data, which prepare_data.py wrote. The result is written to
``<root>/train/checkpoints/<run>/final/``: prepare_data.py then locates unannotated sites with it. Checkpoints lie
beside it in ``checkpoint-<step>/``, metrics.csv and locator_report.json (the errors in held-out studies, which the
locator never learned from) in ``<root>/train/logs/<run>/``.
"""

if __name__ == "__main__":
    from workspace.interrupts import end_at_ctrl_c

    end_at_ctrl_c()  # until run_command takes over: the imports take a while

from dataclasses import dataclass, field
from typing import Literal

from locator.files import BASE_WEIGHTS, not_a_base
from runs.processes.launch import Launch, check_launch, follow, own_rank, set_environment_of_torch, trackers_of
from runs.run_folder import hold_run, prepare_run
from runs.settings import OptimizationSettings, RunSettings
from workspace.cli import run_command
from workspace.layout import DataRoot, data_root, home_expanded
from workspace.setting_types import NonNegativeNumber, PositiveInteger, PositiveNumber, Share
from workspace.settings_parser import plain_settings, read_settings

PROG = "train_locator.py"


@dataclass(frozen=True)
class LocatorRunSettings(RunSettings):
    """The run: its name, its checkpoints and its logs."""

    run: str = "locator"
    checkpointing_steps: PositiveInteger = 200
    """Write a checkpoint every N steps."""
    checkpoints_total_limit: PositiveInteger | None = 1
    mixed_precision: Literal["auto", "fast", "no", "fp16", "bf16"] = "fast"


@dataclass(frozen=True)
class LocatorOptimizationSettings(OptimizationSettings):
    """Optimizer."""

    learning_rate: PositiveNumber = 3e-3
    warmup_ratio: Share = 0.1
    weight_decay: NonNegativeNumber = 0.01
    max_grad_norm: PositiveNumber = 5.0


@dataclass(frozen=True)
class Settings:
    """Settings of train_locator.py."""

    session: LocatorRunSettings
    optimization: LocatorOptimizationSettings
    max_train_steps: PositiveInteger = 800
    """The number of steps. Each step takes one batch of sagittal and one batch of axial images."""
    per_device_train_batch_size: PositiveInteger = 16
    """The number of sagittal images per process and step; it is also the number of axial images."""
    base: str | None = None
    """The folder of a base that python -m vl_model.towers.packaged_bases made. Its EfficientNet-Lite0 then reads the
    sagittal images: its weights, of ImageNet, stay as they are, and what follows it is trained. By default a smaller
    encoder is trained from random weights."""
    held_out_folds: tuple[int, ...] = (0,)
    """The folds whose studies the locator is not trained on."""
    show: PositiveInteger | None = field(default=None, metadata={"without_value": 10})
    """Train nothing: draw the N held-out studies with the largest errors of a finished run. N is 10 if left out."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    launch = check_launch()
    if launch.shards:
        raise ValueError(
            "a locator fits on every GPU: launch it with accelerate_configs/multi_gpu.yaml instead of fsdp2.yaml"
        )
    root = data_root(settings.session.root)
    set_environment_of_torch()
    if settings.show is not None:
        show(root, settings.session.run, settings.show)
        return
    with hold_run(root.run(settings.session.run)):
        train(settings, launch, root)


def train(settings: Settings, launch: Launch, root: DataRoot) -> None:
    session = settings.session
    base = None if settings.base is None else home_expanded(settings.base, "base")
    if base is not None and not (base / BASE_WEIGHTS).is_file():
        raise not_a_base(base, "does not exist")
    run, logs = root.run(session.run), root.logs(session.run)
    prepare_run(run, session.overwrite, session.resume_from_checkpoint)
    trackers = trackers_of(session.report_to)

    from locator.learning_set import read_learning_set
    from locator.training import LocatorTraining
    from runs.session import run_training

    training = LocatorTraining(
        read_learning_set(root.processed("train"), settings.held_out_folds),
        steps=settings.max_train_steps,
        batch_size=settings.per_device_train_batch_size,
        checkpointing_steps=session.checkpointing_steps,
        optimization=settings.optimization,
        held_out_folds=settings.held_out_folds,
        seed=session.seed,
        settings=plain_settings(settings),
        base=base,
    )
    run_training(training, session, launch, run, logs, trackers)


def show(root: DataRoot, run: str, count: int) -> None:
    """Draw sheets of the studies that the run held out, those with the largest errors first."""
    from locator.learning_set import read_learning_set
    from locator.saved_locator import load_locator
    from locator.sheet import locate_studies, write_sheets
    from runs.run_record import LOCATOR_RUN, read_run_record

    record = read_run_record(root.run(run), LOCATOR_RUN)
    studies = read_learning_set(root.processed("train"), record.held_out_folds)
    if studies.fingerprint != record.dataset_fingerprint:
        raise ValueError(
            f"--run {run!r}: was trained on other data than {studies.processed} contains now; train a new run"
        )
    if not studies.held_out:
        raise ValueError(f"--run {run!r}: held out no study, so there is none to draw; train it with --held_out_folds")
    cases = locate_studies(load_locator(root.run(run) / "final"), studies.held_out, studies.processed)
    for path in write_sheets(cases, root.logs(run) / "sheets", count):
        print(path)


if __name__ == "__main__":
    run_command(PROG, main if own_rank() == 0 else lambda: follow(main))
