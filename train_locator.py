"""Train a locator: where the 25 sites lie in studies that nobody marked, from the marked ones of the training split.

    python train_locator.py --root DATA
    accelerate launch --config_file accelerate_configs/cpu_2.yaml train_locator.py --root DATA --run locator
    python train_locator.py --root DATA --resume_from_checkpoint latest
    python train_locator.py --root DATA --show

Reads <root>/train/processed_data, which prepare_data.py wrote from marked studies. The result,
``<root>/train/checkpoints/<run>/final/``, is what prepare_data.py then places unmarked sites by. States lie beside it
in ``checkpoint-<step>/``, the records in ``<root>/train/logs/<run>/``: metrics.csv, locator_report.json (errors on
held-out folds, which it never learned from), and with --show sheets of located and marked points, worst first.
"""

if __name__ == "__main__":
    from workspace.interrupts import end_at_ctrl_c

    end_at_ctrl_c()  # until run_command heeds it: the imports take their time

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace
from jsonargparse.typing import ClosedUnitInterval, PositiveInt

from data_prep.conversion.pairs import read_metadata
from runs.launch import (
    Launch,
    add_run_flags,
    check_launch,
    check_not_empty,
    follow,
    own_rank,
    set_environment_of_torch,
    threads_per_process,
    trackers_of,
)
from runs.run_folder import claim_run, held, remove_run, write_record
from workspace.cli import NonNegativeFinite, PositiveFinite, Seed, SettingsParser, run_command, settings_of
from workspace.layout import DataRoot, data_root

if TYPE_CHECKING:
    from accelerate import Accelerator

    from data_prep.placement.atlas import Atlas
    from locator.calibration import HeldOutStudy
    from locator.locator import Locator
    from locator.marked_studies import MarkedStudy
    from locator.network import LocatorNetwork
    from locator.spine_prior import SpinePrior
    from locator.trainer import LocatorTrainer
    from runs.preemption import Preemption

PROG = "train_locator.py"
#: What may not change when a run is resumed.
FIXED_SETTINGS = ("seed", "per_device_train_batch_size", "max_train_steps", "held_out_folds")


def settings_parser() -> SettingsParser:
    parser = SettingsParser(PROG, __doc__)
    add = parser.add_argument
    add("--root", type=str | None, help="the data root; else $LUMBAR_ROOT, else data/lumbarspine")
    add("--run", type=str, default="locator", help="the run's name")
    add("--overwrite", type=bool, default=False, help="delete a run of this name first")
    add(
        "--show",
        type=PositiveInt | None,
        nargs="?",
        const=10,
        help="train nothing: draw so many (10) of the studies that a finished run held out, worst first",
    )
    # How long, and on what.
    add("--max_train_steps", type=PositiveInt, default=800, help="a batch of sagittal and one of axial pictures each")
    add("--per_device_train_batch_size", type=PositiveInt, default=16, help="pictures of each, a process and step")
    add("--held_out_folds", type=int, nargs="*", default=[0], help="folds that it never learns from")
    # How.
    add("--learning_rate", type=PositiveFinite, default=3e-3)
    add("--warmup_ratio", type=ClosedUnitInterval, default=0.1, help="share of the steps in which the rate rises")
    add("--weight_decay", type=NonNegativeFinite, default=0.01)
    add("--max_grad_norm", type=PositiveFinite, default=5.0)
    add("--mixed_precision", choices=("auto", "fast", "no", "fp16", "bf16"), default="fast")
    add("--seed", type=Seed, default=0)
    # States and records.
    add("--checkpointing_steps", type=PositiveInt, default=200, help="between states")
    add("--checkpoints_total_limit", type=PositiveInt | None, default=1, help="older states are deleted")
    add_run_flags(parser)
    return parser


@dataclass(frozen=True)
class Material:
    """The marked studies, parted by fold; the prior of the training ones; digests of the data set and of its marks.

    The atlas, which the locator falls back on, is that of the whole data set: a mean over all its marked studies.
    """

    processed: Path
    training: tuple["MarkedStudy", ...]
    held_out: tuple["MarkedStudy", ...]
    atlas: "Atlas"
    prior: "SpinePrior"
    fingerprint: str
    marks_sha256: str


def main() -> None:
    settings = settings_parser().parse_args()
    check_not_empty(settings, "run", "resume_from_checkpoint")
    launch = check_launch()
    if launch.shards:
        raise ValueError("a locator fits every GPU: accelerate launch --config_file accelerate_configs/multi_gpu.yaml")
    root = data_root(settings.root)
    set_environment_of_torch()
    if settings.show is not None:
        show(root, settings)
        return
    with held(root.run(settings.run)):
        train(settings, launch, root)


def train(settings: Namespace, launch: Launch, root: DataRoot) -> None:
    run, logs = root.run(settings.run), root.logs(settings.run)
    claim_run(run, settings.overwrite, settings.resume_from_checkpoint)
    trackers = trackers_of(settings.report_to)
    material = read_material(root.processed("train"), settings.held_out_folds)

    import torch

    from locator.locator import new_network
    from locator.trainer import METRICS
    from runs.accelerators import build_accelerator
    from runs.checkpoints import find_checkpoints, save_checkpoint
    from runs.metrics_log import Records
    from runs.preemption import Preemption
    from runs.provenance import run_record
    from runs.resuming import resume
    from runs.shutdown import orderly_end

    torch.set_num_threads(threads_per_process())
    states = find_checkpoints(run, settings.resume_from_checkpoint)
    accelerator = build_accelerator(launch, settings.mixed_precision, trackers, logs)
    torch.manual_seed(settings.seed)
    network = new_network().to(accelerator.device)
    trainer = build_trainer(settings, accelerator, network, material)
    plan = run_plan(settings, material, accelerator)
    start, state = resume(states, network, trainer.optimizer, accelerator.scaler, plan)
    if accelerator.is_main_process:
        if settings.overwrite:
            remove_run(run, logs)
        record = run_record(settings_of(settings), material.fingerprint, settings.max_train_steps, accelerator)
        write_record(run, record)
        print(
            f"{len(material.training)} marked studies to learn from, {len(material.held_out)} held out, "
            f"{settings.max_train_steps} steps",
            flush=True,
        )
    accelerator.wait_for_everyone()
    if state:
        accelerator.print(f"resumed from {state.name}")
    if trackers:
        accelerator.init_trackers(settings.run)

    checkpoint = partial(
        save_checkpoint,
        run,
        model=network,
        optimizer=trainer.optimizer,
        scaler=accelerator.scaler,
        plan=plan,
        limit=settings.checkpoints_total_limit,
    )
    records = Records(accelerator, logs, start, METRICS)
    preemption = Preemption(run, settings.stop_margin, accelerator)
    with orderly_end(accelerator, preemption, run):
        trainer.run(start, records, checkpoint, preemption)
        if accelerator.is_main_process:
            finish(run, logs, network, material, preemption)
            write_record(run, record | {"finished": True})
            print(f"wrote {run / 'final'}", flush=True)
    accelerator.end_training()


def read_material(processed: Path, held_out_folds: Sequence[int]) -> Material:
    """Raises ValueError where there is nothing to learn from."""
    metadata = read_metadata(processed)

    from data_prep.placement.atlas import load_atlas
    from locator.marked_studies import read_marked_studies
    from locator.spine_prior import learn_prior
    from locator.suspects import MARKS

    fold_of = {int(study): int(fold) for study, fold in metadata["folds"]["of_study"].items()}
    studies = read_marked_studies(processed, fold_of)
    if strange := set(held_out_folds) - set(fold_of.values()):
        raise ValueError(
            f"--held_out_folds {sorted(strange)}: this data set's folds are {sorted(set(fold_of.values()))}"
        )
    training = tuple(study for study in studies if study.fold not in held_out_folds)
    held_out = tuple(study for study in studies if study.fold in held_out_folds)
    if not training:
        raise ValueError(
            f"{processed}: no marked study outside --held_out_folds {held_out_folds}; without marks "
            "(train_label_coordinates.csv) nothing can be learned, and prepare_data.py places sites by an atlas"
        )
    atlas = load_atlas(processed / "atlas.json")
    prior = learn_prior(atlas.shape_N3, [study.position_N3 for study in training])
    hashes = metadata["hashes"]
    return Material(processed, training, held_out, atlas, prior, hashes["input"], hashes[MARKS])


def build_trainer(
    settings: Namespace, accelerator: "Accelerator", network: "LocatorNetwork", material: Material
) -> "LocatorTrainer":
    """Cuts the pictures, where they are not cut yet."""
    from tqdm import tqdm

    from locator.batches import ImageBatches
    from locator.trainer import LocatorBatches, LocatorTrainer
    from locator.training_data import cache_images
    from runs.optimization import OptimizationSettings

    def progress(studies: Any) -> Any:
        return tqdm(studies, desc="cutting pictures", unit="study")

    with accelerator.main_process_first():  # the others find them cut
        studies = sorted((*material.training, *material.held_out), key=lambda study: study.study_id)
        cuts = cache_images(studies, material.processed, material.fingerprint, progress)
    batches = {
        name: ImageBatches(
            name,
            cuts[name],
            cuts[name].rows_of(material.training),
            settings.per_device_train_batch_size,
            settings.seed,
            accelerator.process_index,
            accelerator.num_processes,
        )
        for name in cuts
    }
    training = OptimizationSettings(
        steps=settings.max_train_steps,
        learning_rate=settings.learning_rate,
        warmup_steps=round(settings.warmup_ratio * settings.max_train_steps),
        weight_decay=settings.weight_decay,
        max_gradient_norm=settings.max_grad_norm,
        checkpointing_steps=settings.checkpointing_steps,
        seed=settings.seed,
    )
    return LocatorTrainer(accelerator, network, LocatorBatches(**batches), training)


def run_plan(settings: Namespace, material: Material, accelerator: "Accelerator") -> dict[str, Any]:
    """What a resumed run must share with the run that it goes on from."""
    return {key: settings[key] for key in FIXED_SETTINGS} | {
        "processes": accelerator.num_processes,
        "dataset_fingerprint": material.fingerprint,
    }


def finish(run: Path, logs: Path, network: "LocatorNetwork", material: Material, preemption: "Preemption") -> None:
    """Look at the held-out studies, calibrate by them, write ``final/`` and the report."""
    from locator.calibration import calibrate
    from locator.locator import Locator
    from locator.report import write_report

    bare = Locator(network.eval(), material.prior, material.atlas)
    seen = look_at(bare, material, preemption)
    notes = {"dataset_fingerprint": material.fingerprint, "studies": len(material.training)}
    calibrate(bare, seen).save(run / "final", notes)
    if seen:
        write_report(logs, bare, seen, material.marks_sha256)
    else:
        print("no study is held out: nothing is known of its errors")


def look_at(locator: "Locator", material: Material, preemption: "Preemption") -> list["HeldOutStudy"]:
    """The held-out studies as the networks see them. Raises Stopped where it is asked to stop meanwhile."""
    from tqdm import tqdm

    from locator.calibration import HeldOutStudy
    from runs.shutdown import Stopped

    seen = []
    for marked in tqdm(material.held_out, desc="locating held-out studies", unit="study"):
        if preemption.is_asked_of_the_first():
            raise Stopped("after the last step")
        pose, detections, count_error = locator.detect(marked.read(material.processed))
        seen.append(HeldOutStudy(marked.study_id, marked.position_N3, pose, tuple(detections), count_error))
    return seen


def show(root: DataRoot, settings: Namespace) -> None:
    """Sheets of the studies that the run held out, worst first."""
    from locator.locator import load_locator
    from locator.sheet import locate_studies, write_sheets
    from runs.run_record import read_run_record

    record = read_run_record(root.run(settings.run))
    material = read_material(root.processed("train"), record.held_out_folds)
    if material.fingerprint != record.dataset_fingerprint:
        raise ValueError(f"--run {settings.run!r} learned from other data than lies in {material.processed} now")
    if not material.held_out:
        raise ValueError(f"--show: run {settings.run!r} held out no study, so none can be shown fairly")
    cases = locate_studies(load_locator(root.run(settings.run) / "final"), material.held_out, material.processed)
    for path in write_sheets(cases, root.logs(settings.run) / "sheets", settings.show):
        print(path)


if __name__ == "__main__":
    run_command(PROG, main if own_rank() == 0 else lambda: follow(main))
