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
    from data_prep.interrupts import end_at_ctrl_c

    end_at_ctrl_c()  # until run_command heeds it: the imports take their time

import math
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveFloat, PositiveInt

from data_prep.commands import (
    LoaderWorkers,
    NonNegativeFinite,
    PositiveFinite,
    Seed,
    SettingsParser,
    run_command,
    settings_of,
)
from data_prep.layout import DataRoot, data_root, home_expanded
from vl_model.launch import (
    Launch,
    add_run_flags,
    check_launch,
    follow,
    own_rank,
    set_environment_of_torch,
    started_processes,
    threads_per_process,
    trackers_of,
)
from vl_model.locator_of_run import Placing, placing_to_carry
from vl_model.material import Material, read_material
from vl_model.run_folder import check_run, claim_run, held, remove_run, write_record

if TYPE_CHECKING:
    from pathlib import Path

    from accelerate import Accelerator

    from vl_model.batches import TrainingBatches
    from vl_model.captions import Captions
    from vl_model.loss import LossSettings
    from vl_model.seen_studies import SeriesOf
    from vl_model.site_model import ModelSettings, SiteModel
    from vl_model.tiles import Augmentation
    from vl_model.training import Trainer

PROG = "train_vl.py"
DEFAULT_MODEL, DEFAULT_PRETRAINED = "ViT-B-16", "openai"

#: What may not change when a run is resumed.
FIXED_SETTINGS = (
    *("model", "pretrained", "tune", "lora_rank", "lora_alpha", "lora_dropout"),
    *("lora_towers", "lora_last_blocks"),
    *("seed", "per_device_train_batch_size", "gradient_accumulation_steps", "cache_negatives"),
    *("max_train_steps", "num_train_epochs"),
    *("held_out_folds", "loss", "loss_weights", "label_smoothing", "merge_mirrored"),
    *("augment", "jitter_mm", "drop_view", "mixup", "cutmix", "severity_sampling"),
)


def settings_parser() -> SettingsParser:
    parser = SettingsParser(PROG, __doc__)
    add = parser.add_argument
    add("--root", type=str | None, help="the data root; else $LUMBAR_ROOT, else data/lumbarspine")
    add("--run", type=str, default="default", help="the run's name")
    add("--doctor", action="store_true", help="train nothing: check everything that is needed, and say what to do")
    add("--overwrite", type=bool, default=False, help="delete a run of this name first")
    # What is trained.
    add(
        "--model", type=str, default=DEFAULT_MODEL, help="open_clip name, local-dir:PATH, hf-hub:NAME, hf:PATH, hf:NAME"
    )
    add("--pretrained", type=str | None, help=f"a tag or a weights file; for {DEFAULT_MODEL} {DEFAULT_PRETRAINED}")
    add(
        "--tune",
        choices=("lora", "full", "head"),
        default="lora",
        help="adapters on a frozen base, every weight, or what stands behind a frozen base",
    )
    add("--lora_rank", type=PositiveInt, default=8)
    add("--lora_alpha", type=PositiveInt, default=16)
    add("--lora_dropout", type=ClosedUnitInterval, default=0.0)
    add("--lora_towers", choices=("image", "both"), default="image")
    add("--lora_last_blocks", type=PositiveInt | None, help="adapters in so many last blocks only; default in all")
    # How long, and on what.
    add("--num_train_epochs", type=PositiveInt, default=10)
    add("--max_train_steps", type=NonNegativeInt | None, help="instead of epochs; 0 writes the bare base as a run")
    add("--per_device_train_batch_size", type=PositiveInt, default=64, help="sites, not tiles, a process and step")
    add("--gradient_accumulation_steps", type=PositiveInt, default=1, help="adds no negatives, but see")
    add("--cache_negatives", type=bool, default=False, help="one pool of all of a step's batches, embedded twice")
    add("--held_out_folds", type=int, nargs="*", default=[0], help="folds that training never sees")
    add("--held_out_sites", type=PositiveInt, default=300, help="how many of their sites are evaluated on the way")
    add("--evaluation_steps", type=PositiveInt | None, help="between evaluations; default once an epoch")
    # How.
    add("--learning_rate", type=PositiveFinite, default=3e-4)
    add("--warmup_ratio", type=ClosedUnitInterval, default=0.05, help="share of the steps in which the rate rises")
    add("--weight_decay", type=NonNegativeFinite, default=0.1)
    add("--max_grad_norm", type=PositiveFloat, default=1.0)
    add(
        "--loss",
        choices=("all_captions", "infonce", "siglip", "cross_entropy"),
        default="all_captions",
        help="every image against all captions; for comparison those with one caption an image, and severities alone",
    )
    add(
        "--loss_weights",
        type=NonNegativeFinite,
        nargs=3,
        default=[0.5, 1.0, 0.25],
        help="of all_captions: captions, severities, images",
    )
    add("--label_smoothing", type=ClosedUnitInterval, default=0.0, help="share of a grade that its neighbours get")
    add("--merge_mirrored", type=bool, default=False, help="left and right captions are positives of each other")
    add("--augment", type=bool, default=True, help="vary the tiles in training")
    add("--jitter_mm", type=NonNegativeFinite, default=1.0, help="scatter of tiles, as a locator errs")
    add("--drop_view", type=ClosedUnitInterval, default=0.1, help="how often a site is seen without one of its views")
    add("--mixup", type=ClosedUnitInterval, default=0.0, help="how often a site is blended with another study's")
    add("--cutmix", type=ClosedUnitInterval, default=0.0, help="how often it gets a part of another study's")
    add(
        "--severity_sampling",
        type=ClosedUnitInterval,
        default=0.0,
        help="0: grades as often as they occur; 1: all alike; the loss takes the difference out again",
    )
    add("--mixed_precision", choices=("auto", "fast", "no", "fp16", "bf16"), default="auto")
    add("--gradient_checkpointing", type=bool, default=False, help="less memory: compute the towers' blocks twice")
    add("--compile", type=bool, default=False, help="the towers' blocks, by torch.compile; resumes to rounding only")
    add("--seed", type=Seed, default=0)
    add("--dataloader_num_workers", type=LoaderWorkers, default=0)
    # States and records.
    add("--checkpointing_steps", type=PositiveInt | None, help="between states; default once an epoch")
    add("--checkpoints_total_limit", type=PositiveInt | None, default=2, help="older states are deleted")
    add_run_flags(parser)
    add("--export", type=str | None, help="write the finished run for stock open_clip or transformers, and no more")
    add("--push_to_hub", type=str | None, help="a repository for final/, ORGANISATION/NAME; made private")
    return parser


def main() -> int:
    settings = settings_parser().parse_args()
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
    run, logs = root.run(settings.run), root.logs(settings.run)
    claim_run(run, settings.overwrite, settings.resume_from_checkpoint)
    trackers = trackers_of(settings.report_to)
    placing = placing_to_carry(root)
    if settings.push_to_hub:
        from vl_model.hub import check_repository, push

        check_repository(settings.push_to_hub)
    material = material_of(root, settings)

    # torch takes seconds to import: everything above was checked without it.
    set_environment_of_torch()
    import torch

    from vl_model.accelerators import build_accelerator
    from vl_model.checkpoints import find_checkpoints, resume, save_checkpoint
    from vl_model.ending import orderly_end
    from vl_model.preemption import Preemption
    from vl_model.provenance import run_record
    from vl_model.records import Records
    from vl_model.seen_studies import series_seen
    from vl_model.training import METRICS

    torch.set_num_threads(threads_per_process())
    base = model_settings(settings)
    check_base(base, run, material, settings.held_out_folds)
    states = find_checkpoints(run, settings.resume_from_checkpoint) if settings.resume_from_checkpoint else []
    accelerator = build_accelerator(launch, settings.mixed_precision, trackers, logs)
    torch.manual_seed(settings.seed)  # adapters, and towers without weights, start alike in every process
    model = build_model(settings).to(accelerator.device)
    trainer = build_trainer(settings, accelerator, model, material)
    plan = run_plan(settings, material, model, trainer.captions, accelerator.num_processes)
    steps = trainer.settings.steps
    series = series_seen(base.model, base.pretrained, material.dataset, material.training if steps else ())

    # Before anything is written: a state that does not fit leaves the run as it was.
    start, state = resume(states, model, trainer.optimizer, accelerator.scaler, plan)
    if accelerator.is_main_process:
        if settings.overwrite:
            remove_run(run, logs)
        record = run_record(settings_of(settings), plan["dataset_fingerprint"], steps, accelerator)
        write_record(run, record)
        announce(material, accelerator, model, steps)
    accelerator.wait_for_everyone()
    if state:
        accelerator.print(f"resumed from {state.name}")
    elif settings.resume_from_checkpoint:
        accelerator.print(f"{run.name!r} has no checkpoint yet: it starts at the first step")
    if trackers:
        options = {"tensorboard": {"purge_step": start + 1}, "wandb": {"name": settings.run}}
        accelerator.init_trackers(settings.run, init_kwargs=options)

    def checkpoint(step: int) -> None:
        if accelerator.is_main_process:
            limit = settings.checkpoints_total_limit
            save_checkpoint(run, step, model, trainer.optimizer, accelerator.scaler, plan, limit)

    records = Records(accelerator, logs, start, METRICS)
    preemption = Preemption(run, settings.stop_margin, accelerator)
    with orderly_end(accelerator, preemption, run):
        trainer.run(start, records, checkpoint, preemption)
        if accelerator.is_main_process:
            finish(run, model, placing, record, series)
            if cost := records.evaluation_cost():
                print(cost, flush=True)
            if settings.push_to_hub:
                print(push(run / "final", settings.push_to_hub), flush=True)
    accelerator.end_training()


def check_base(base: "ModelSettings", run: "Path", material: Material, held_out_folds: list[int]) -> None:
    """Raises ValueError where the run would write over its base, or the base has seen what the run holds out."""
    from vl_model.seen_studies import check_base_is_blind, check_base_is_elsewhere

    check_base_is_elsewhere(base.model, base.pretrained, run)
    check_base_is_blind(base.model, base.pretrained, material.dataset, held_out_folds)


def finish(run: "Path", model: "SiteModel", placing: Placing, record: dict[str, Any], series: "SeriesOf") -> None:
    """Write ``final/`` and what places sites for it; then the record says that the run is finished.

    series: those that the model has seen.
    """
    from vl_model.seen_studies import SERIES

    trained_on = {name: record[name] for name in ("dataset_fingerprint", "held_out_folds", "steps")}
    model.save(run / "final", trained_on | {SERIES: series})
    placing.copy_to(run)
    write_record(run, record | {"finished": True})
    print(f"wrote {run / 'final'}", flush=True)


def export(settings: Namespace, run: "Path") -> int:
    if settings.overwrite or settings.resume_from_checkpoint:
        raise ValueError("--export writes a finished run: leave --overwrite and --resume_from_checkpoint out")
    if own_rank() == 0:
        from vl_model.export import export_run

        print(f"wrote {export_run(run, home_expanded(settings.export, '--export'))}", flush=True)
    return 0


def examine(settings: Namespace) -> int:
    """--doctor: everything that can be checked before the first step; nothing is written."""
    from vl_model import doctor

    root = data_root(settings.root)
    run = root.run(settings.run)
    parts = doctor.Parts(
        claim=lambda: check_run(run, settings.overwrite, settings.resume_from_checkpoint),
        placing=lambda: placing_to_carry(root),
        loss=lambda: loss_settings(settings),
        read=lambda: material_of(root, settings),
        check_base=lambda material: check_base(model_settings(settings), run, material, settings.held_out_folds),
        batches=lambda material: build_batches(settings, material, own_rank(), started_processes()),
        build=lambda: build_model(settings),
        step=lambda material, model: step_to_go_on_from(settings, run, material, model),
    )
    flags = doctor.DoctorSettings(
        settings.mixed_precision,
        settings.per_device_train_batch_size,
        settings.checkpoints_total_limit,
        settings.report_to,
        settings.push_to_hub,
    )
    return doctor.examine(run, parts, flags)


def step_to_go_on_from(settings: Namespace, run: "Path", material: Material, model: "SiteModel") -> int:
    """By the state that a resumed run would load, whose weights are not read. Raises ValueError for another run's."""
    from vl_model.captions import Captions
    from vl_model.checkpoints import check_state, find_checkpoints, first_whole

    states = find_checkpoints(run, settings.resume_from_checkpoint) if settings.resume_from_checkpoint else []
    if not states:
        return 0
    plan = run_plan(settings, material, model, Captions(model, settings.seed), started_processes())
    step, _ = first_whole(states, lambda state: check_state(state, plan))
    return step


def material_of(root: DataRoot, settings: Namespace) -> Material:
    return read_material(root.processed("train"), settings.held_out_folds, settings.held_out_sites, settings.seed)


def build_model(settings: Namespace) -> "SiteModel":
    """On the CPU, ready to train. Raises ValueError where it cannot be built as the settings want it."""
    from vl_model.blocks import compile_blocks
    from vl_model.gradient_checkpointing import checkpoint_blocks
    from vl_model.site_model import build_site_model

    model = build_site_model(model_settings(settings))
    if settings.loss == "siglip":
        model.add_logit_bias()
    if settings.gradient_checkpointing and not checkpoint_blocks(model.towers):
        raise ValueError(f"--gradient_checkpointing true: {settings.model!r} has no blocks to compute twice")
    if settings.compile and not compile_blocks(model.towers):
        raise ValueError(f"--compile true: {settings.model!r} has no blocks to compile")
    return model


def model_settings(settings: Namespace) -> "ModelSettings":
    from vl_model.lora import LoraSettings
    from vl_model.site_model import ModelSettings

    pretrained = settings.pretrained or (DEFAULT_PRETRAINED if settings.model == DEFAULT_MODEL else None)
    lora = LoraSettings(
        settings.lora_rank,
        settings.lora_alpha,
        settings.lora_dropout,
        settings.lora_towers,
        settings.lora_last_blocks,
    )
    return ModelSettings(settings.model, pretrained, settings.tune, lora)


def loss_settings(settings: Namespace) -> "LossSettings":
    """Raises ValueError where the loss cannot take what the other settings want of it."""
    from vl_model.loss import LossSettings, LossWeights

    loss = LossSettings(
        settings.loss, LossWeights(*settings.loss_weights), settings.label_smoothing, settings.merge_mirrored
    )
    check_shares(settings, loss)
    return loss


def build_batches(settings: Namespace, material: Material, process: int, processes: int) -> "TrainingBatches":
    from vl_model.batches import TrainingBatches

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


def build_trainer(settings: Namespace, accelerator: "Accelerator", model: "SiteModel", material: Material) -> "Trainer":
    from vl_model.training import Trainer, TrainingSettings

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
    return Trainer(accelerator, model, batches, material.held_out, training)


def augmentation(settings: Namespace) -> "Augmentation | None":
    """Raises ValueError for sites that are mixed where nothing may vary."""
    from vl_model.tiles import Augmentation

    varied = Augmentation(
        shift_mm=settings.jitter_mm, drop_view=settings.drop_view, mixup=settings.mixup, cutmix=settings.cutmix
    )
    if settings.augment:
        return varied
    if settings.mixup or settings.cutmix:
        raise ValueError("--augment false: varies nothing, so --mixup and --cutmix must be 0")
    return None


def check_shares(settings: Namespace, loss: "LossSettings") -> None:
    """Raises ValueError where the loss would take what is mixed, or drawn more often, for what it is not."""
    for name in ("mixup", "cutmix", "severity_sampling"):
        if settings[name] and not loss.takes_shares:
            raise ValueError(f"--{name} {settings[name]}: --loss {loss.name} cannot weigh it; use all_captions")


def run_plan(
    settings: Namespace, material: Material, model: "SiteModel", captions: "Captions", processes: int
) -> dict[str, Any]:
    """What a resumed run must share with the run that it goes on from."""
    return {key: settings[key] for key in FIXED_SETTINGS} | {
        "processes": processes,
        "dataset_fingerprint": material.dataset.fingerprint,
        "captions_sha256": captions.sha256,
        "base_sha256": model.base_sha256,
    }


def announce(material: Material, accelerator: "Accelerator", model: "SiteModel", steps: int) -> None:
    from vl_model.accelerators import precision_in_words

    processes = f"{accelerator.num_processes} process{'es' if accelerator.num_processes > 1 else ''}"
    precision = precision_in_words(accelerator.mixed_precision)
    print(f"{processes}, device {accelerator.device.type}, precision {precision}")
    print(
        f"{len(material.training)} sites to train on, {len(material.held_out)} held out to evaluate, "
        f"{steps} steps, {model.learning_weights / 1e6:.2f} million weights learn",
        flush=True,
    )


if __name__ == "__main__":
    run_command(PROG, main if own_rank() == 0 else lambda: follow(main))
