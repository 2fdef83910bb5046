"""``train_vl.py --doctor``: check everything that a training needs, before its first step. Nothing is written."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
import torch

from locator.carried import Placing
from runs.accelerators import choose_precision, precision_in_words, uses_cpu
from runs.launch import check_launch, own_rank, started_processes, threads_per_process, trackers_of
from runs.settings import RunSettings
from vl_model.data.batches import TrainingBatches, load_batch
from vl_model.data.training_set import Material
from vl_model.model.hub import check_repository
from vl_model.model.site_model import SiteModel
from vl_model.training.captions import Captions
from vl_model.training.contrastive import ContrastiveTraining
from vl_model.training.memory import GIB, MemoryEstimate, estimate_memory
from vl_model.training.settings import LossSettings
from workspace.cli import in_flags

#: The share of the free memory that the estimate may take: it leaves out the temporary memory of single layers.
USABLE_SHARE = 0.8
CROPS_READ = 32

T = TypeVar("T")


@dataclass(frozen=True)
class Checks:
    """What a training checks and builds before its first step, each by the function that the training itself calls.

    Each raises ValueError: `check_run` if the run exists, `placing` if the locator to carry is damaged, `loss` if
    the loss cannot be used, `read` and `build` if there is no data or no model, `training` never.
    """

    check_run: Callable[[], None]
    placing: Callable[[], Placing]
    loss: Callable[[], LossSettings]
    read: Callable[[], Material]
    build: Callable[[], SiteModel]
    training: Callable[[Material], ContrastiveTraining]


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    name: str
    is_ok: bool
    message: str

    def __str__(self) -> str:
        return f"{'ok' if self.is_ok else 'FIX':4} {self.name:10} {self.message}"


class Examination:
    """The findings so far. Each is printed as soon as it is made."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def add(self, name: str, make: Callable[[], T], judge: Callable[[T], tuple[bool, str]]) -> T | None:
        """Call `make`, print how `judge` describes its result, and return the result.

        Returns None if `make` raised: wrong input, which ends a training, is a finding here.
        """
        made = None
        try:
            made = make()
            finding = Finding(name, *judge(made))
        except (ValueError, OSError) as error:
            finding = Finding(name, False, " ".join(in_flags(error).split()))
        self.findings.append(finding)
        print(finding, flush=True)
        return made


def examine(run: Path, checks: Checks, session: RunSettings, sites: int, push_to_hub: str | None) -> int:
    """Check everything before the first step and print a line for each check.

    Args:
        run: the run's folder.
        checks: what the training checks and builds itself.
        session: the settings that every training has.
        sites: sites per process and batch.
        push_to_hub: the repository that ``final/`` will be uploaded to, if any.

    Returns the exit status: 0 if all is well, else 2.
    """
    examination = Examination()
    for name, check in (("packages", check_packages), ("devices", check_devices), ("processes", check_world)):
        examination.add(name, check, lambda found: found)
    examination.add("precision", lambda: check_precision(session.mixed_precision), lambda found: found)
    examination.add("run", checks.check_run, lambda _: (True, f"{run.name} can start"))
    examination.add("records", lambda: trackers_of(session.report_to), check_trackers)
    if repository := push_to_hub:
        valid = (
            f"{repository} is a valid repository name; whether you may write to it is only known when it is uploaded"
        )
        examination.add("hub", lambda: check_repository(repository), lambda _: (True, valid))
    examination.add("placing", checks.placing, check_placing)
    examination.add("loss", checks.loss, lambda loss: (True, loss.loss))
    training = examine_training_set(examination, checks, run)
    model = examination.add("model", checks.build, check_model)
    if training is not None and model is not None:
        checkpoint = session.resume_from_checkpoint
        examination.add("state", lambda: training.step_to_resume_from(run, checkpoint, model), check_step)
        examine_room(examination, run, training.training_set, model, session, sites)
    return 0 if all(finding.is_ok for finding in examination.findings) else 2


def examine_training_set(examination: Examination, checks: Checks, run: Path) -> ContrastiveTraining | None:
    """Check the data, and what depends on it: the crops, the base's lineage, the batches."""
    training_set = examination.add("data set", checks.read, check_data)
    if training_set is None:
        return None
    training = checks.training(training_set)
    examination.add("crops", lambda: check_crops(training_set.crops_R3HW), lambda found: found)
    unknown = "is not known to have been trained on held-out studies"
    examination.add("base", lambda: training.check_base(run), lambda _: (True, unknown))
    examination.add("batches", lambda: training.build_batches(own_rank(), started_processes()), check_batches)
    return training


def examine_room(
    examination: Examination, run: Path, training_set: Material, model: SiteModel, session: RunSettings, sites: int
) -> None:
    """Check the free memory and the free disk space."""
    needed = examination.add(
        "memory",
        lambda: estimate(model, training_set, sites, session.mixed_precision),
        lambda needed: check_memory(needed, sites),
    )
    if needed is not None:
        limit = session.checkpoints_total_limit
        examination.add("disk", lambda: check_disk(run, needed, limit), lambda found: found)


def check_packages() -> tuple[bool, str]:
    """Check that torch is the release that torchvision was built for; `import open_clip` fails with another one."""
    found = version("torch")
    try:
        needs = next((need for need in requires("torchvision") or () if need.startswith("torch==")), f"torch=={found}")
        described = f"torch {found}, torchvision {version('torchvision')}"
    except PackageNotFoundError:
        return False, f"torch {found}, but no torchvision: install the release that matches it"
    wanted = needs.removeprefix("torch==")
    if wanted.split("+")[0] != found.split("+")[0]:
        return False, f"{described}, which was built for torch {wanted}: install the two together"
    return True, described


def check_devices() -> tuple[bool, str]:
    if uses_cpu(check_launch()):
        return True, f"CPU, {threads_per_process()} threads per process (OMP_NUM_THREADS)"
    found = [
        f"{torch.cuda.get_device_name(index)} ({'.'.join(map(str, torch.cuda.get_device_capability(index)))})"
        for index in range(torch.cuda.device_count())
    ]
    return True, f"{len(found)} of {', '.join(sorted(set(found)))}"


def check_precision(wanted: str) -> tuple[bool, str]:
    launch = check_launch()
    use_cpu = uses_cpu(launch)
    chosen = choose_precision(wanted, use_cpu, launch.shards)
    name = precision_in_words(chosen)
    if wanted not in ("auto", "fast"):
        is_slow = chosen == "bf16" and not use_cpu and torch.cuda.get_device_capability()[0] < 8
        slow = "; this GPU emulates bf16: choose fp16 or auto" if is_slow else ""
        return not is_slow, f"{name}, as --mixed_precision asks{slow}"
    reasons = {
        "fp32": "the default on a CPU; --mixed_precision fast may be faster",
        "bf16": "the CPU has instructions for it" if use_cpu else "compute capability 8 or higher",
        "fp16": "compute capability below 8, where bf16 is emulated",
    }
    return True, f"{name}: {reasons[name]}"


def check_world() -> tuple[bool, str]:
    launch = check_launch()
    asked = "as many as configured" if launch.processes else "no launcher configured a number"
    sharded = ", sharded weights" if launch.shards and started_processes() > 1 else ""
    return True, f"{started_processes()} process{'es' * (started_processes() > 1)}, {asked}{sharded}"


def check_data(material: Material) -> tuple[bool, str]:
    studies = len({row.study_id for row in material.training})
    said = (
        f"fingerprint {material.dataset.fingerprint[:12]}; "
        f"{len(material.training)} sites of {studies} studies to train on, {len(material.held_out)} held out"
    )
    return bool(material.held_out), said + (
        "" if material.held_out else ": nothing can be evaluated; set --held_out_folds"
    )


def check_model(model: SiteModel) -> tuple[bool, str]:
    weights = [parameter.numel() for parameter in model.parameters()]
    learning = model.learning_weights
    return learning > 0, f"{sum(weights) / 1e6:.2f} million weights, {learning / 1e6:.2f} million of them trainable"


def check_trackers(trackers: tuple[str, ...]) -> tuple[bool, str]:
    return True, " and ".join(("metrics.csv", *trackers))


def check_placing(placing: Placing) -> tuple[bool, str]:
    carried = {"a locator": placing.locator, "the training studies' atlas": placing.atlas}
    names = [name for name, path in carried.items() if path is not None]
    return True, f"the run carries {' and '.join(names) or 'nothing'} to place the sites of new studies"


def check_batches(batches: TrainingBatches) -> tuple[bool, str]:
    return True, f"{batches.batches_per_epoch} of {batches.global_batch_size} sites per epoch"


def check_step(step: int) -> tuple[bool, str]:
    return True, f"resumes from step {step}" if step else "starts at the first step"


def check_crops(crops_R3HW: np.ndarray) -> tuple[bool, str]:
    """Read crops from the start to the end of the file, so that a truncated or unreachable file is found."""
    places = np.linspace(0, len(crops_R3HW) - 1, min(CROPS_READ, len(crops_R3HW))).astype(int)
    blank = sum(not crops_R3HW[place].any() for place in places)
    said = f"{len(crops_R3HW)} crops of {crops_R3HW.shape[-1]} pixels, {len(places)} of them read"
    return blank < len(places), said + (f", {blank} blank" if blank else "")


def check_memory(estimate: MemoryEstimate, sites: int) -> tuple[bool, str]:
    """Compare the estimate with the free memory of the GPU, or with each process's share of the machine's."""
    if uses_cpu(check_launch()):
        free = psutil.virtual_memory().available // max(1, started_processes())
    else:
        free = torch.cuda.mem_get_info()[0]
    needed, at_first = estimate, ""
    if check_launch().shards:
        needed, at_first = estimate.spread_over(started_processes()), ", and the full weights once at the start"
    is_enough = max(needed.total, estimate.weights) < USABLE_SHARE * free
    remedy = "" if is_enough else ": lower --per_device_train_batch_size or set --gradient_checkpointing"
    return (
        is_enough,
        f"{sites} sites per process need {needed}{at_first}; {free / GIB:.1f} GiB free per process{remedy}",
    )


def check_disk(run: Path, estimate: MemoryEstimate, limit: int | None) -> tuple[bool, str]:
    """Compare the free disk space with the checkpoints, one more than the limit while it is written, and the result."""
    exists = next(folder for folder in (run, *run.parents) if folder.exists())
    if not os.access(exists, os.W_OK):
        return False, f"{exists} is not writable: choose another --root, or ask for permission"
    free = shutil.disk_usage(exists).free
    needed = (limit or 1) * estimate.state + estimate.state + estimate.weights
    count = f"{limit + 1} checkpoints" if limit else "each checkpoint"
    said = f"{needed / GIB:.2f} GiB for {count} and the result, {free / GIB:.1f} GiB free"
    return needed < free, said + ("" if needed < free else ": make room or lower --checkpoints_total_limit")


def estimate(model: SiteModel, material: Material, sites: int, mixed_precision: str) -> MemoryEstimate:
    """Estimate the memory of a training step on `sites` sites, by measuring a step on two.

    Raises ValueError if the GPU does not have the memory for those two.
    """
    use_cpu = uses_cpu(check_launch())
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(choose_precision(mixed_precision, use_cpu))
    widest = max(material.training, key=lambda row: len(row.crops))

    def forward(count: int) -> object:
        batch = load_batch([widest] * count, material.crops_R3HW).to(model.device)
        tiles_BT3hw = batch.tiles(model.towers.image_size, model.towers.mean, model.towers.std)
        with torch.autocast(model.device.type, dtype=kind, enabled=kind is not None):
            return model(tiles_BT3hw, batch.mask_BT, captions.tokens(1))

    try:
        captions = Captions(model.to("cpu" if use_cpu else "cuda"), 0)
        model.train()
        return estimate_memory(model, forward, sites)
    except torch.OutOfMemoryError:
        raise ValueError(
            "the GPU has no room for this model and two sites: stop other programs, set --gradient_checkpointing, "
            "or choose a smaller --model"
        ) from None
