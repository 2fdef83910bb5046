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
from torch import Tensor

from locator.carried import CarriedFiles
from runs.processes.accelerators import choose_precision, precision_in_words, uses_cpu
from runs.processes.launch import check_launch, own_rank, started_processes, threads_per_process, trackers_of
from runs.settings import RunSettings
from vl_model.data.batches import TrainingBatches, load_batch
from vl_model.data.training_set import TrainingSet
from vl_model.model.hub import check_repository
from vl_model.model.site_model import SiteModel
from vl_model.training.captions import Captions
from vl_model.training.contrastive import ContrastiveTraining
from vl_model.training.doctor_loader import check_loader, check_shared_memory
from vl_model.training.memory import GIB, MemoryEstimate, estimate_memory
from vl_model.training.settings import LossSettings
from vl_model.training.time_estimate import TimeEstimate, estimate_time
from workspace.cli import in_flags

#: The share of the free memory that the estimate may take: it leaves out the temporary memory of single layers.
USABLE_SHARE = 0.8
CROPS_READ = 32

T = TypeVar("T")


@dataclass(frozen=True)
class Checks:
    """What a training checks and builds before its first step, each by the function that the training itself calls.

    Args:
        check_run: raises ValueError if the run exists already.
        placing: returns the locator and atlas to copy into the run; raises ValueError if they are damaged.
        loss: returns the loss settings; raises ValueError if they contradict other settings.
        read: returns the training set; raises ValueError if there is none.
        build: returns the model; raises ValueError if there is none.
        training: returns the training on a training set.
    """

    check_run: Callable[[], None]
    placing: Callable[[], CarriedFiles]
    loss: Callable[[], LossSettings]
    read: Callable[[], TrainingSet]
    build: Callable[[], SiteModel]
    training: Callable[[TrainingSet], ContrastiveTraining]


@dataclass(frozen=True)
class Finding:
    """The result of one check, which is printed as one line."""

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
        """Run one check, print its finding, and return what was made.

        Args:
            name: the name of the check.
            make: makes what is checked. If it raises ValueError or OSError, that is the finding.
            judge: takes what was made, and returns whether it is well and the message.

        Returns None if `make` raised.
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
        checks: the functions that the training itself calls.
        session: the settings that every training has.
        sites: the number of sites per process and batch.
        push_to_hub: the repository that ``final/`` will be uploaded to, if any.

    Returns the exit status: 0 if all is well, else 2.
    """
    examination = Examination()
    for name, check in (("packages", check_packages), ("devices", check_devices), ("processes", check_world)):
        examination.add(name, check, lambda found: found)
    examination.add("precision", lambda: check_precision(session.mixed_precision), lambda found: found)
    examination.add("run", checks.check_run, lambda _: (True, f"{run.name} can start"))
    examination.add("trackers", lambda: trackers_of(session.report_to), check_trackers)
    if repository := push_to_hub:
        valid = f"{repository} is a valid repository name; write access is only checked when final/ is uploaded"
        examination.add("hub", lambda: check_repository(repository), lambda _: (True, valid))
    examination.add("locator", checks.placing, check_placing)
    examination.add("loss", checks.loss, lambda loss: (True, loss.loss))
    training, batches = examine_training_set(examination, checks, run)
    model = examination.add("model", checks.build, check_model)
    if training is not None and model is not None:
        checkpoint = session.resume_from_checkpoint
        examination.add("checkpoint", lambda: training.step_to_resume_from(run, checkpoint, model), check_step)
        examine_room(examination, run, training, batches, model, session, sites)
    return 0 if all(finding.is_ok for finding in examination.findings) else 2


def examine_training_set(
    examination: Examination, checks: Checks, run: Path
) -> tuple[ContrastiveTraining | None, TrainingBatches | None]:
    """Check the data, and then the crops, the base's lineage and the batches, which depend on it."""
    training_set = examination.add("data set", checks.read, check_data)
    if training_set is None:
        return None, None
    training = checks.training(training_set)
    examination.add("crops", lambda: check_crops(training_set), lambda found: found)
    examination.add("base", lambda: training.check_base(run), lambda _: describe_base(training))
    batches = examination.add("batches", lambda: training.build_batches(own_rank(), started_processes()), check_batches)
    if batches is not None:
        workers = training.computation.dataloader_num_workers
        examination.add("loader", lambda: check_loader(batches, workers), lambda found: found)
    examination.add("sharing", check_shared_memory, lambda found: found)
    return training, batches


def examine_room(
    examination: Examination,
    run: Path,
    training: ContrastiveTraining,
    batches: TrainingBatches | None,
    model: SiteModel,
    session: RunSettings,
    sites: int,
) -> None:
    """Check the free memory and the free disk space, and estimate the time."""
    forward = Forward(model, training.training_set, session.mixed_precision)
    needed = examination.add("memory", lambda: forward.memory(sites), lambda needed: check_memory(needed, sites))
    if needed is not None:
        limit = session.checkpoints_total_limit
        examination.add("disk", lambda: check_disk(run, needed, limit), lambda found: found)
        if batches is not None:
            is_enough, steps = examination.findings[-2].is_ok, training.steps_on(batches)
            parts = training.duration.gradient_accumulation_steps
            examination.add(
                "time", lambda: forward.time(steps, parts, sites, is_enough), lambda found: (True, str(found))
            )


def check_packages() -> tuple[bool, str]:
    """Check that torch is the release that torchvision was built for; `import open_clip` fails with another one."""
    installed = version("torch")
    try:
        needs = requires("torchvision") or ()
        requirement = next((need for need in needs if need.startswith("torch==")), f"torch=={installed}")
        message = f"torch {installed}, torchvision {version('torchvision')}"
    except PackageNotFoundError:
        return False, f"torch {installed}: torchvision is not installed; install the release that matches torch"
    required = requirement.removeprefix("torch==")
    if required.split("+")[0] != installed.split("+")[0]:
        return False, f"{message}: torchvision was built for torch {required}; install the two together"
    return True, message


def check_devices() -> tuple[bool, str]:
    """Describe the GPUs, or the CPU's threads."""
    if uses_cpu(check_launch()):
        return True, f"CPU, {threads_per_process()} threads per process (OMP_NUM_THREADS)"
    found = [
        f"{torch.cuda.get_device_name(index)} ({'.'.join(map(str, torch.cuda.get_device_capability(index)))})"
        for index in range(torch.cuda.device_count())
    ]
    return True, f"{len(found)} of {', '.join(sorted(set(found)))}"


def check_precision(requested: str) -> tuple[bool, str]:
    """Check that the device can compute in the requested precision, and does not emulate it."""
    launch = check_launch()
    use_cpu = uses_cpu(launch)
    chosen = choose_precision(requested, use_cpu, launch.shards)
    name = precision_in_words(chosen)
    if requested not in ("auto", "fast"):
        is_slow = chosen == "bf16" and not use_cpu and torch.cuda.get_device_capability()[0] < 8
        slow = "; this GPU emulates bf16: choose fp16 or auto" if is_slow else ""
        return not is_slow, f"{name}, as --mixed_precision requests{slow}"
    reasons = {
        "fp32": "the default on a CPU; --mixed_precision fast may be faster",
        "bf16": "the CPU has instructions for it" if use_cpu else "compute capability 8 or higher",
        "fp16": "compute capability below 8, where bf16 is emulated",
    }
    return True, f"{name}: {reasons[name]}"


def check_world() -> tuple[bool, str]:
    """Check that as many processes were started as the launcher was configured for."""
    launch = check_launch()
    configured = "as many as configured" if launch.processes else "no launcher configured a number"
    sharded = ", sharded weights" if launch.shards and started_processes() > 1 else ""
    return True, f"{started_processes()} process{'es' * (started_processes() > 1)}, {configured}{sharded}"


def check_data(training_set: TrainingSet) -> tuple[bool, str]:
    """Check that there are sites to train on and held-out ones to evaluate."""
    training, held_out = training_set.training, training_set.held_out
    message = (
        f"fingerprint {training_set.dataset.fingerprint[:12]}; "
        f"{len(training)} sites of {len({row.study_id for row in training})} studies to train on, "
        f"{len(held_out)} held out"
    )
    shortage = training_set.shortage if held_out else "no site can be evaluated; set --held_out_folds"
    message += f"; {training_set.dropped.words}" if training_set.dropped else ""
    return bool(held_out), message + (f": {shortage}" if shortage else "")


def check_model(model: SiteModel) -> tuple[bool, str]:
    """Check that at least one weight is trained."""
    weights = [parameter.numel() for parameter in model.parameters()]
    trainable = model.learning_weights
    return trainable > 0, f"{sum(weights) / 1e6:.2f} million weights, {trainable / 1e6:.2f} million of them trainable"


def describe_base(training: ContrastiveTraining) -> tuple[bool, str]:
    """Describe a base that has been checked (`check_base`), and how its crops differ from those of the training."""
    unknown, note = "is not known to have been trained on held-out studies", training.note_on_base()
    return True, f"{unknown}; {note}" if note else unknown


def check_trackers(trackers: tuple[str, ...]) -> tuple[bool, str]:
    """Describe where the metrics are logged."""
    return True, " and ".join(("metrics.csv", *trackers))


def check_placing(placing: CarriedFiles) -> tuple[bool, str]:
    """Describe the locator or atlas that places the sites of new studies; it is copied into the run."""
    parts = {"a locator": placing.locator, "the training studies' atlas": placing.atlas}
    names = [name for name, path in parts.items() if path is not None]
    return True, f"the run will contain {' and '.join(names) or 'nothing'} to locate the sites of new studies"


def check_batches(batches: TrainingBatches) -> tuple[bool, str]:
    """Describe the global batches of an epoch."""
    return True, f"{batches.batches_per_epoch} of {batches.global_batch_size} sites per epoch"


def check_step(step: int) -> tuple[bool, str]:
    """Describe the step from which the training starts."""
    return True, f"resumes from step {step}" if step else "starts at the first step"


def check_crops(training_set: TrainingSet) -> tuple[bool, str]:
    """Read crops from the start to the end of the file, so that a truncated or unreachable file is found."""
    crops_R3HW = training_set.crops_R3HW
    indices = np.linspace(0, len(crops_R3HW) - 1, min(CROPS_READ, len(crops_R3HW))).astype(int)
    blank = sum(not crops_R3HW[index].any() for index in indices)
    size = crops_R3HW.nbytes / GIB
    message = f"{len(crops_R3HW)} crops of {training_set.geometry}, {size:.2f} GiB, {len(indices)} of them read"
    return blank < len(indices), message + (f", {blank} blank" if blank else "")


def check_memory(estimate: MemoryEstimate, sites: int) -> tuple[bool, str]:
    """Compare the estimate with the free memory of the GPU, or with the process's share of the machine's."""
    if uses_cpu(check_launch()):
        free = psutil.virtual_memory().available // max(1, started_processes())
    else:
        free = torch.cuda.mem_get_info()[0]
    needed, at_start = estimate, ""
    if check_launch().shards:
        needed, at_start = estimate.sharded_over(started_processes()), ", and the full weights once at the start"
    is_enough = max(needed.total, estimate.weights) < USABLE_SHARE * free
    remedy = "" if is_enough else ": lower --per_device_train_batch_size or set --gradient_checkpointing"
    return (
        is_enough,
        f"{sites} sites per process need {needed}{at_start}; {free / GIB:.1f} GiB free per process{remedy}",
    )


def check_disk(run: Path, estimate: MemoryEstimate, limit: int | None) -> tuple[bool, str]:
    """Compare the free disk space with the size of the checkpoints and of ``final/``.

    One checkpoint more than the limit exists while the newest is written.
    """
    existing = next(folder for folder in (run, *run.parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        return False, f"{existing}: is not writable; choose another --root, or change its permissions"
    free = shutil.disk_usage(existing).free
    needed = (limit or 1) * estimate.state + estimate.state + estimate.weights
    count = f"{limit + 1} checkpoints" if limit else "each checkpoint"
    message = f"{needed / GIB:.2f} GiB for {count} and the result, {free / GIB:.1f} GiB free"
    remedy = "" if needed < free else ": free some disk space or lower --checkpoints_total_limit"
    return needed < free, message + remedy


class Forward:
    """A forward pass as in a training step, on some copies of the site with the most crops, to measure what it needs.

    Args:
        model: the model, which is moved to its device.
        training_set: the sites.
        mixed_precision: the requested precision.
    """

    def __init__(self, model: SiteModel, training_set: TrainingSet, mixed_precision: str) -> None:
        self.model = model
        self.training_set = training_set
        self.use_cpu = uses_cpu(check_launch())
        self._precision = mixed_precision
        self._captions: Captions | None = None

    def memory(self, sites: int) -> MemoryEstimate:
        """Estimate the memory of a step of `sites` sites per process, by measuring one site and two.

        Raises ValueError if the GPU does not have enough memory for two sites.
        """
        try:
            self._captions = Captions(self.model.to("cpu" if self.use_cpu else "cuda"), 0)
            self.model.train()
            return estimate_memory(self.model, self._run, sites)
        except torch.OutOfMemoryError:
            raise ValueError(
                "the GPU does not have enough memory for this model and two sites; stop other programs, set "
                "--gradient_checkpointing, or choose a smaller --model"
            ) from None

    def time(self, steps: int, parts: int, sites: int, fits: bool) -> TimeEstimate:
        """Estimate the time of `steps` steps of `parts` batches of `sites` sites.

        A whole batch is timed on a GPU, if it fits into its memory, and one site otherwise.
        """
        tiles = [len(row.crops) for row in self.training_set.training]
        timed = 1 if self.use_cpu or not fits else sites
        share = float(np.mean(tiles)) / max(tiles)
        return estimate_time(self.model, self._run, parts * sites * share, timed, steps)

    def _run(self, count: int, with_texts: bool = True) -> tuple[Tensor, ...]:
        assert self._captions is not None
        training_set, towers = self.training_set, self.model.towers
        widest = max(training_set.training, key=lambda row: len(row.crops))
        batch = load_batch([widest] * count, training_set.crops_R3HW, geometry=training_set.geometry)
        batch = batch.to(self.model.device)
        tiles_BT3hw = batch.tiles(towers.image_size, towers.mean, towers.std, self.model.settings.view_mm)
        precision = choose_precision(self._precision, self.use_cpu)
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        tokens = self._captions.tokens(1) if with_texts else None
        with torch.autocast(self.model.device.type, dtype=kind, enabled=kind is not None):
            found: tuple[Tensor, ...] = self.model(tiles_BT3hw, batch.mask_BT, tokens)
        return found
