"""Train a run: image and text towers on the pairs of `prepare_data.py`, contrastively.

    accelerate launch --config_file accelerate_configs/one_gpu.yaml train_vl.py --root DATA --run first \\
        --config recipes/vit-b-16-openai.yaml
    accelerate launch --config_file accelerate_configs/cpu_2.yaml train_vl.py --root DATA --run tiny \\
        --model lumbar-tiny --tune full --learning_rate 1e-3
    python train_vl.py --root DATA --run first --config recipes/vit-b-16-openai.yaml --resume_from_checkpoint latest
    python train_vl.py --root DATA --run first --export FOLDER

Plain `python train_vl.py` is one process of the same. States lie in
``<root>/train/checkpoints/<run>/checkpoint-<step>/``, the result in ``final/``, the records in
``<root>/train/logs/<run>/`` (metrics.csv, TensorBoard events). ``--export`` trains nothing: it writes a finished run's
towers, adapters merged, as a folder of open_clip or transformers, whichever its base is of.
"""

if __name__ == "__main__":
    from workspace.interrupts import end_at_ctrl_c

    end_at_ctrl_c()  # until run_command heeds it: the imports take their time

from functools import partial
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt

from locator.carried import CarriedFiles, find_carried_files
from runs.launch import (
    Launch,
    add_run_flags,
    check_launch,
    check_not_empty,
    follow,
    own_rank,
    set_environment_of_torch,
    started_processes,
    threads_per_process,
    trackers_of,
)
from runs.run_folder import check_run, claim_run, held, remove_run, write_record
from vl_model.data.training_set import Material, read_material
from vl_model.training.flags import DEFAULT_MODEL, DEFAULT_PRETRAINED, add_training_flags
from workspace.cli import SettingsParser, run_command, settings_of
from workspace.layout import DataRoot, data_root, home_expanded

if TYPE_CHECKING:
    from pathlib import Path

    from accelerate import Accelerator

    from vl_model.model.lineage import SeriesOf
    from vl_model.model.site_model import SiteModel
    from vl_model.training.trainer import Trainer

PROG = "train_vl.py"


def settings_parser() -> SettingsParser:
    parser = SettingsParser(PROG, __doc__)
    add = parser.add_argument
    add("--root", type=str | None, help="the data root; else $LUMBAR_ROOT, else data/lumbarspine")
    add("--run", type=str, default="default", help="the run's name")
    add("--doctor", action="store_true", help="train nothing: check everything that is needed, and say what to do")
    add("--overwrite", type=bool, default=False, help="delete a run of this name first")
    add_training_flags(parser)
    add("--checkpointing_steps", type=PositiveInt | None, help="between states; default once an epoch")
    add("--checkpoints_total_limit", type=PositiveInt | None, default=2, help="older states are deleted")
    add_run_flags(parser)
    add("--export", type=str | None, help="write the finished run for stock open_clip or transformers, and no more")
    add("--push_to_hub", type=str | None, help="a repository for final/, ORGANISATION/NAME; made private")
    return parser


def main() -> int:
    settings = settings_parser().parse_args()
    check_not_empty(settings, "run", "pretrained", "resume_from_checkpoint", "export", "push_to_hub")
    if settings.model == DEFAULT_MODEL and settings.pretrained is None:
        settings.pretrained = DEFAULT_PRETRAINED
    if settings.doctor:
        return examine(settings) if own_rank() == 0 else 0
    launch = check_launch()
    root = data_root(settings.root)
    if settings.export:
        return export(settings, root.run(settings.run))
    with held(root.run(settings.run)):
        train(settings, launch, root)
    return 0


def train(settings: Namespace, launch: Launch, root: DataRoot) -> None:
    """What can be checked without torch, which takes seconds to import, is; then the training."""
    claim_run(root.run(settings.run), settings.overwrite, settings.resume_from_checkpoint)
    trackers = trackers_of(settings.report_to)
    placing = find_carried_files(root)
    if settings.push_to_hub:
        from vl_model.model.hub import check_repository

        check_repository(settings.push_to_hub)
    material = material_of(root, settings)
    set_environment_of_torch()
    train_on(material, settings, launch, root, trackers, placing)


def train_on(
    material: Material,
    settings: Namespace,
    launch: Launch,
    root: DataRoot,
    trackers: tuple[str, ...],
    placing: CarriedFiles,
) -> None:
    import torch

    from runs.accelerators import build_accelerator
    from runs.checkpoints import find_checkpoints, save_checkpoint
    from runs.metrics_log import Records
    from runs.preemption import Preemption
    from runs.resuming import resume
    from runs.shutdown import orderly_end
    from vl_model.model.lineage import series_seen
    from vl_model.training.build import build_model, build_trainer, check_base, model_settings, run_plan, trained_model
    from vl_model.training.trainer import METRICS

    torch.set_num_threads(threads_per_process())
    run, logs = root.run(settings.run), root.logs(settings.run)
    base = model_settings(settings)
    check_base(base, run, material, settings.held_out_folds)
    states = find_checkpoints(run, settings.resume_from_checkpoint)
    accelerator = build_accelerator(launch, settings.mixed_precision, trackers, logs)
    torch.manual_seed(settings.seed)  # adapters, and towers without weights, start alike in every process
    model = build_model(settings, launch.shards).to(accelerator.device)
    plan = run_plan(settings, material, model, accelerator.num_processes)
    trainer = build_trainer(settings, accelerator, model, material, launch.shards)
    learned_from = material.training if trainer.settings.steps else ()
    series = series_seen(base.model, base.pretrained, material.dataset, learned_from)

    # Before anything is written: a state that does not fit leaves the run as it was.
    start, state = resume(states, model, trainer.optimizer, accelerator.scaler, plan)
    record = open_run(settings, run, logs, material, trainer)
    tell_start(settings, accelerator, start, state, trackers)
    checkpoint = partial(
        save_checkpoint,
        run,
        model=model,
        optimizer=trainer.optimizer,
        scaler=accelerator.scaler,
        plan=plan,
        limit=settings.checkpoints_total_limit,
    )
    records = Records(accelerator, logs, start, METRICS)
    preemption = Preemption(run, settings.stop_margin, accelerator)
    with orderly_end(accelerator, preemption, run):
        trainer.run(start, records, checkpoint, preemption)
        trained = trained_model(settings, trainer)
        if accelerator.is_main_process:
            finish(run, trained, placing, record, series)
            if cost := records.evaluation_cost():
                print(cost, flush=True)
            if settings.push_to_hub:
                from vl_model.model.hub import push

                print(push(run / "final", settings.push_to_hub), flush=True)
    accelerator.end_training()


def open_run(settings: Namespace, run: "Path", logs: "Path", material: Material, trainer: "Trainer") -> dict[str, Any]:
    """The record of a run that begins or goes on, which the first process writes and announces; empty in the others."""
    from runs.provenance import run_record

    accelerator, steps, is_sharded = trainer.accelerator, trainer.settings.steps, trainer.sharding is not None
    record: dict[str, Any] = {}
    if accelerator.is_main_process:
        if settings.overwrite:
            remove_run(run, logs)
        record = run_record(settings_of(settings), material.dataset.fingerprint, steps, accelerator)
        record["sharded"] = is_sharded
        write_record(run, record)
        announce(material, accelerator, trainer.model, steps, is_sharded)
    accelerator.wait_for_everyone()
    return record


def tell_start(
    settings: Namespace, accelerator: "Accelerator", start: int, state: "Path | None", trackers: tuple[str, ...]
) -> None:
    """To who looks on, and to the trackers, which forget the steps that are done again."""
    if state:
        accelerator.print(f"resumed from {state.name}")
    elif settings.resume_from_checkpoint:
        accelerator.print(f"{settings.run!r} has no checkpoint yet: it starts at the first step")
    if trackers:
        options = {"tensorboard": {"purge_step": start + 1}, "wandb": {"name": settings.run}}
        accelerator.init_trackers(settings.run, init_kwargs=options)


def finish(run: "Path", model: "SiteModel", placing: CarriedFiles, record: dict[str, Any], series: "SeriesOf") -> None:
    """Write ``final/`` and what places sites for it; then the record says that the run is finished.

    series: those that the model has seen.
    """
    from vl_model.model.lineage import SERIES

    trained_on = {name: record[name] for name in ("dataset_fingerprint", "held_out_folds", "steps")}
    model.save(run / "final", trained_on | {SERIES: series})
    placing.copy_to(run)
    write_record(run, record | {"finished": True})
    print(f"wrote {run / 'final'}", flush=True)


def export(settings: Namespace, run: "Path") -> int:
    if settings.overwrite or settings.resume_from_checkpoint:
        raise ValueError("--export writes a finished run: leave --overwrite and --resume_from_checkpoint out")
    if own_rank() == 0:
        from vl_model.model.export import export_run

        folder = home_expanded(settings.export, "--export")
        try:
            print(f"wrote {export_run(run, folder)}", flush=True)
        except OSError as error:
            raise ValueError(f"--export {settings.export!r}: cannot be written ({error.strerror or error})") from None
    return 0


def examine(settings: Namespace) -> int:
    """--doctor: everything that can be checked before the first step; nothing is written."""
    from vl_model.training import build as parts_of
    from vl_model.training import doctor

    root = data_root(settings.root)
    run = root.run(settings.run)
    parts = doctor.Parts(
        claim=lambda: check_run(run, settings.overwrite, settings.resume_from_checkpoint),
        placing=lambda: find_carried_files(root),
        loss=lambda: parts_of.loss_settings(settings),
        read=lambda: material_of(root, settings),
        check_base=lambda material: parts_of.check_base(
            parts_of.model_settings(settings), run, material, settings.held_out_folds
        ),
        batches=lambda material: parts_of.build_batches(settings, material, own_rank(), started_processes()),
        build=lambda: parts_of.build_model(settings, check_launch().shards),
        step=lambda material, model: parts_of.step_to_go_on_from(settings, run, material, model),
    )
    flags = doctor.DoctorSettings(
        settings.mixed_precision,
        settings.per_device_train_batch_size,
        settings.checkpoints_total_limit,
        settings.report_to,
        settings.push_to_hub,
    )
    return doctor.examine(run, parts, flags)


def material_of(root: DataRoot, settings: Namespace) -> Material:
    return read_material(root.processed("train"), settings.held_out_folds, settings.held_out_sites, settings.seed)


def announce(material: Material, accelerator: "Accelerator", model: "SiteModel", steps: int, is_sharded: bool) -> None:
    from runs.accelerators import precision_in_words

    processes = f"{accelerator.num_processes} process{'es' if accelerator.num_processes > 1 else ''}"
    precision = precision_in_words(accelerator.mixed_precision)
    spread = ", weights spread over them" if is_sharded else ""
    print(f"{processes}, device {accelerator.device.type}, precision {precision}{spread}")
    print(
        f"{len(material.training)} sites to train on, {len(material.held_out)} held out to evaluate, "
        f"{steps} steps, {model.learning_weights / 1e6:.2f} million weights learn",
        flush=True,
    )


if __name__ == "__main__":
    run_command(PROG, main if own_rank() == 0 else lambda: follow(main))
