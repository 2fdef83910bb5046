"""``train_vl.py --doctor``: what would go wrong, found before the first step. Nothing is written."""

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

from locator.carried import CarriedFiles
from runs.accelerators import choose_precision, precision_in_words, uses_cpu
from runs.launch import check_launch, started_processes, threads_per_process, trackers_of
from vl_model.data.batches import TrainingBatches, load_batch
from vl_model.data.training_set import Material
from vl_model.model.hub import check_repository
from vl_model.model.site_model import SiteModel
from vl_model.training.captions import Captions
from vl_model.training.loss import LossSettings
from vl_model.training.memory import GIB, MemoryEstimate, estimate_memory

#: Share of the memory that is free which the estimate may take: it leaves out what single layers need in passing.
USABLE_SHARE = 0.8
CROPS_READ = 32


T = TypeVar("T")


@dataclass(frozen=True)
class DoctorSettings:
    """sites: of one process and batch; states: how many are kept, None: all. The others are the run's own flags."""

    mixed_precision: str
    sites: int
    states: int | None
    report_to: str
    push_to_hub: str | None


@dataclass(frozen=True)
class Parts:
    """What the training checks and makes before its first step, each by the function that it calls itself.

    They raise ValueError: `claim` where the run is in the way, `check_base` where its base is not blind to what is held
    out, `step` (the one to go on from) where the state there is another run's, the rest where they cannot be made.
    """

    claim: Callable[[], None]
    placing: Callable[[], CarriedFiles]
    loss: Callable[[], LossSettings]
    read: Callable[[], Material]
    check_base: Callable[[Material], None]
    batches: Callable[[Material], TrainingBatches]
    build: Callable[[], SiteModel]
    step: Callable[[Material, SiteModel], int]


@dataclass(frozen=True)
class Finding:
    name: str
    is_ok: bool
    said: str

    def __str__(self) -> str:
        return f"{'ok' if self.is_ok else 'FIX':4} {self.name:10} {self.said}"


class Examination:
    """Prints what each check finds as soon as it is found."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def look(self, name: str, make: Callable[[], T], judge: Callable[[T], tuple[bool, str]]) -> T | None:
        """What `make` made, judged; None where it could not: wrong input, which raises elsewhere, is a finding here."""
        made = None
        try:
            made = make()
            finding = Finding(name, *judge(made))
        except (ValueError, OSError) as error:
            finding = Finding(name, False, " ".join(str(error).split()))
        self.findings.append(finding)
        print(finding, flush=True)
        return made


def examine(run: Path, parts: Parts, settings: DoctorSettings) -> int:
    """Check everything before the first step, a line each: 0 where all is well, else 2."""
    doctor = Examination()
    for name, check in (("packages", check_packages), ("devices", check_devices), ("processes", check_world)):
        doctor.look(name, check, lambda told: told)
    doctor.look("precision", lambda: check_precision(settings.mixed_precision), lambda told: told)
    doctor.look("run", parts.claim, lambda _: (True, f"{run.name} can start"))
    doctor.look("records", lambda: trackers_of(settings.report_to), check_trackers)
    if repository := settings.push_to_hub:
        named = f"{repository} is a name; whether it may be written to shows at the end"
        doctor.look("hub", lambda: check_repository(repository), lambda _: (True, named))
    doctor.look("placing", parts.placing, check_placing)
    doctor.look("loss", parts.loss, lambda loss: (True, loss.name))
    material = examine_material(doctor, parts)
    model = doctor.look("model", parts.build, check_model)
    if material is not None and model is not None:
        doctor.look("state", lambda: parts.step(material, model), check_step)
        examine_room(doctor, run, material, model, settings)
    return 0 if all(finding.is_ok for finding in doctor.findings) else 2


def examine_material(doctor: Examination, parts: Parts) -> Material | None:
    material = doctor.look("data set", parts.read, check_data)
    if material is not None:
        doctor.look("crops", lambda: check_crops(material.crops_R3HW), lambda told: told)
        blind = "not known to have seen what is held out"
        doctor.look("base", lambda: parts.check_base(material), lambda _: (True, blind))
        doctor.look("batches", lambda: parts.batches(material), check_batches)
    return material


def examine_room(
    doctor: Examination, run: Path, material: Material, model: SiteModel, settings: DoctorSettings
) -> None:
    """In memory and on the disk."""
    needed = doctor.look(
        "memory",
        lambda: estimate(model, material, settings.sites, settings.mixed_precision),
        lambda needed: check_memory(needed, settings.sites),
    )
    if needed is not None:
        doctor.look("disk", lambda: check_disk(run, needed, settings.states), lambda told: told)


def check_packages() -> tuple[bool, str]:
    """torchvision names the release of torch that it was built for; another one breaks `import open_clip`."""
    found = version("torch")
    try:
        needs = next((need for need in requires("torchvision") or () if need.startswith("torch==")), f"torch=={found}")
        said = f"torch {found}, torchvision {version('torchvision')}"
    except PackageNotFoundError:
        return False, f"torch {found}, but no torchvision: install the release that belongs to it"
    wanted = needs.removeprefix("torch==")
    if wanted.split("+")[0] != found.split("+")[0]:
        return False, f"{said}, which was built for torch {wanted}: install the two together"
    return True, said


def check_devices() -> tuple[bool, str]:
    if uses_cpu(check_launch()):
        return True, f"CPU, {threads_per_process()} threads a process (OMP_NUM_THREADS)"
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
        slow = "; this GPU emulates bf16: take fp16 or auto" if is_slow else ""
        return not is_slow, f"{name}, as --mixed_precision says{slow}"
    reasons = {
        "fp32": "the CPU's, in which two processes repeat one; --mixed_precision fast may be faster",
        "bf16": "the CPU has instructions for it" if use_cpu else "compute capability 8 or higher",
        "fp16": "compute capability below 8, where bf16 is emulated",
    }
    return True, f"{name}: {reasons[name]}"


def check_world() -> tuple[bool, str]:
    launch = check_launch()
    asked = "as many as it should" if launch.processes else "no launcher said how many"
    spread = ", weights spread over them" if launch.shards and started_processes() > 1 else ""
    return True, f"{started_processes()} process{'es' * (started_processes() > 1)}, {asked}{spread}"


def check_data(material: Material) -> tuple[bool, str]:
    studies = len({row.study_id for row in material.training})
    said = (
        f"fingerprint {material.dataset.fingerprint[:12]}; "
        f"{len(material.training)} sites of {studies} studies to train on, {len(material.held_out)} held out"
    )
    return bool(material.held_out), said + ("" if material.held_out else ": none to evaluate; give --held_out_folds")


def check_model(model: SiteModel) -> tuple[bool, str]:
    weights = [parameter.numel() for parameter in model.parameters()]
    learning = model.learning_weights
    return learning > 0, f"{sum(weights) / 1e6:.2f} million weights, {learning / 1e6:.2f} million of them learn"


def check_trackers(trackers: tuple[str, ...]) -> tuple[bool, str]:
    return True, " and ".join(("metrics.csv", *trackers))


def check_placing(placing: CarriedFiles) -> tuple[bool, str]:
    carried = {"a locator": placing.locator, "the training studies' atlas": placing.atlas}
    names = [name for name, path in carried.items() if path is not None]
    return True, f"the run carries {' and '.join(names) or 'nothing'} for the sites of new studies"


def check_batches(batches: TrainingBatches) -> tuple[bool, str]:
    return True, f"{batches.batches_per_epoch} of {batches.global_batch_size} sites an epoch"


def check_step(step: int) -> tuple[bool, str]:
    return True, f"goes on from step {step}" if step else "starts at the first step"


def check_crops(crops_R3HW: np.ndarray) -> tuple[bool, str]:
    """Read some from end to end of the file: a truncated or unreachable one shows here."""
    places = np.linspace(0, len(crops_R3HW) - 1, min(CROPS_READ, len(crops_R3HW))).astype(int)
    blank = sum(not crops_R3HW[place].any() for place in places)
    said = f"{len(crops_R3HW)} crops of {crops_R3HW.shape[-1]} pixels, {len(places)} of them read"
    return blank < len(places), said + (f", {blank} blank" if blank else "")


def check_memory(estimate: MemoryEstimate, sites: int) -> tuple[bool, str]:
    """Against what is free: of the GPU, or of the machine's memory shared among its processes."""
    if uses_cpu(check_launch()):
        free = psutil.virtual_memory().available // max(1, started_processes())
    else:
        free = torch.cuda.mem_get_info()[0]
    needed, at_first = estimate, ""
    if check_launch().shards:
        needed, at_first = estimate.spread_over(started_processes()), ", before that every weight"
    is_enough = max(needed.total, estimate.weights) < USABLE_SHARE * free
    remedy = "" if is_enough else ": lower --per_device_train_batch_size or give --gradient_checkpointing true"
    return is_enough, f"{sites} sites a process need {needed}{at_first}; {free / GIB:.1f} GiB free a process{remedy}"


def check_disk(run: Path, estimate: MemoryEstimate, limit: int | None) -> tuple[bool, str]:
    """States with their moments, one more than the limit while the next is written, and the result."""
    exists = next(folder for folder in (run, *run.parents) if folder.exists())
    if not os.access(exists, os.W_OK):
        return False, f"{exists} cannot be written to: choose another --root, or ask for its rights"
    free = shutil.disk_usage(exists).free
    needed = (limit or 1) * estimate.state + estimate.state + estimate.weights
    count = f"{limit + 1} states" if limit else "each state"
    said = f"{needed / GIB:.2f} GiB for {count} and the result, {free / GIB:.1f} GiB free"
    return needed < free, said + ("" if needed < free else ": make room or lower --checkpoints_total_limit")


def estimate(model: SiteModel, material: Material, sites: int, mixed_precision: str) -> MemoryEstimate:
    """Of a training step of this model on `sites` sites, measured where it is trained.

    Raises ValueError where a GPU has not even the memory for the two sites that are measured.
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
            "the GPU has no room for this model and two sites: end what else is on it, give --gradient_checkpointing "
            "true, or take a smaller --model"
        ) from None
