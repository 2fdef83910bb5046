"""Training and evaluation of one condition with one seed; the result is one line of JSON.

The result holds each held-out study's part in the metric (`vl_model.scoring.metrics.StudySums`), so that any two
conditions can be compared by study afterwards, without training again.
"""

import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import nn

from benchmarks.ablation_conditions import Condition
from data_prep.conversion.crops import open_crops, read_crop_geometry
from data_prep.conversion.pairs import Dataset, read_dataset
from data_prep.sites import SITES, Severity, Side
from prompts.render import zero_shot_prompts
from runs.processes.accelerators import build_accelerator
from runs.processes.launch import Launch
from runs.settings import OptimizationSettings
from vl_model.data.batches import TrainingBatches, training_loader
from vl_model.data.site_rows import SiteRow, group_sites
from vl_model.evaluation.cross_fitting import StudySplit, fit_heads, predict_held_out, split_studies
from vl_model.evaluation.embed import embed_ensembles, embed_rows
from vl_model.evaluation.embeddings import Embeddings
from vl_model.evaluation.grader import HEADS
from vl_model.model.lora import merge_adapters
from vl_model.model.settings import ModelSettings
from vl_model.model.site_model import SiteModel, build_site_model
from vl_model.scoring.metrics import StudySums, study_sums
from vl_model.training.trainer import Trainer

WARMUP = 0.05


@dataclass(frozen=True)
class Plan:
    """The data, base and length that all conditions share.

    Attributes:
        processed: The folder of the prepared split.
        base: The name of the base.
        unmirrored: The file that `write_unmirrored` wrote.
        steps: The number of training steps.
        batch_size: The number of sites per step.
        precision: The precision of training.
        held_out_folds: The folds that are not trained on.
        probe_studies: The largest number of training studies from which the linear probe learns; None: all.
    """

    processed: str
    base: str
    unmirrored: str
    steps: int
    batch_size: int
    precision: str
    held_out_folds: tuple[int, ...] = (0, 1)
    probe_studies: int | None = None


def run_condition(plan: Plan, condition: Condition, seed: int) -> dict[str, Any]:
    """Train and evaluate a condition; return its result.

    Raises SettingError if the crops or the base do not allow it.
    """
    began = time.perf_counter()
    read_crop_geometry(Path(plan.processed)).check_view(condition.view_mm)
    torch.manual_seed(seed)
    dataset = read_dataset(Path(plan.processed))
    rows = [with_first_views(row, condition.views) for row in group_sites(dataset.pairs) if row.severity is not None]
    crops_R3HW = open_crops(Path(plan.processed)) if condition.is_mirrored else np.load(plan.unmirrored, mmap_mode="r")
    training = [row for row in rows if row.fold not in plan.held_out_folds]
    base = ModelSettings(
        condition.base or plan.base, tune=condition.tune, view_mm=condition.view_mm, lora=condition.lora
    )
    model = build_site_model(base)
    if condition.is_trained:
        train(model, training, crops_R3HW, plan, condition, seed)
    trained = time.perf_counter()
    sums = evaluate(model, rows, crops_R3HW, dataset, plan)
    return {
        "condition": condition.name,
        "seed": seed,
        "settings": asdict(condition),
        "training_seconds": trained - began,
        "evaluation_seconds": time.perf_counter() - trained,
        "study": sums[HEADS[0]].study_S.tolist(),
        "weight": sums[HEADS[0]].weight_SG.tolist(),
        "loss": {head: sums[head].loss_SG.tolist() for head in HEADS},
    }


def with_first_views(row: SiteRow, views: int) -> SiteRow:
    """Return the row with only the tiles of the first `views` views of its site."""
    first = row.site.views[:views]
    kept = [index for index, view in enumerate(row.views) if view in first] or [0]
    return replace(
        row,
        crops=tuple(row.crops[index] for index in kept),
        views=tuple(row.views[index] for index in kept),
        offsets=tuple(row.offsets[index] for index in kept if row.offsets),
    )


def train(
    model: SiteModel,
    rows: list[SiteRow],
    crops_R3HW: NDArray[np.uint8],
    plan: Plan,
    condition: Condition,
    seed: int,
) -> None:
    if condition.loss.loss == "siglip":
        model.add_logit_bias()
    model.pooling.query_D.requires_grad_(condition.learns_pooling)
    batches = TrainingBatches(
        rows,
        crops_R3HW,
        plan.batch_size,
        seed,
        condition.augmentation,
        severity_sampling=condition.severity_sampling,
        geometry=read_crop_geometry(Path(plan.processed)),
    )
    optimization = OptimizationSettings(learning_rate=condition.learning_rate, warmup_ratio=WARMUP)
    accelerator = _accelerator(plan.precision)
    steps = plan.steps * condition.length
    trainer = Trainer(accelerator, model, batches, (), steps, optimization, condition.loss, seed=seed)
    loader = iter(training_loader(batches, 0, steps, workers=0))
    average = MovingAverage(model, condition.averaging)
    for step in range(1, steps + 1):
        trainer.step(step, loader)
        average.add()
    average.copy_to_model()
    accelerator.free_memory()


class MovingAverage:
    """Exponential moving average of the weights: after step t, the mean of w_1 .. w_t weighted by decay^(t - i).

    It is normalised by the sum of the factors, as Adam's moments are (Kingma and Ba, 2015, section 3), so that the
    initial weights do not contribute, and the decay has its full meaning even after few steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._averages = [weight.detach().clone() for weight in self._weights]
        self._decay = decay
        self._added = 0

    @torch.no_grad()
    def add(self) -> None:
        """Add the present weights to the average."""
        self._added += 1
        newest = (1 - self._decay) / (1 - self._decay**self._added)
        for average, weight in zip(self._averages, self._weights, strict=True):
            average.lerp_(weight, newest)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Replace the weights of the model by the average."""
        for average, weight in zip(self._averages, self._weights, strict=True):
            weight.copy_(average)


def evaluate(
    model: SiteModel, rows: list[SiteRow], crops_R3HW: NDArray[np.uint8], dataset: Dataset, plan: Plan
) -> dict[str, StudySums]:
    """Score the metric-optimal probabilities of each head, with cross-fitted calibrators, as `eval_vl.py` does."""
    if model.settings.tune == "lora":
        merge_adapters(model.towers)
    model.requires_grad_(False).eval()
    rows, geometry = with_few_to_learn_from(rows, plan), read_crop_geometry(Path(plan.processed))
    image_ND, _ = embed_rows(model, rows, crops_R3HW, plan.batch_size, geometry=geometry)
    embeddings = Embeddings(tuple(rows), image_ND, {})
    prompts = [[zero_shot_prompts(site, severity) for severity in Severity] for site in SITES]
    split: StudySplit = split_studies(embeddings.table, dataset.fold_of, plan.held_out_folds)
    heads = fit_heads(split.train, embeddings, embed_ensembles(model, prompts), float(model.logit_scale()))
    held_out = predict_held_out(heads, split, embeddings, seed=0)
    return {head: study_sums(held_out.table, held_out.prob_N3[head, "metric_optimal"]) for head in HEADS}


def with_few_to_learn_from(rows: list[SiteRow], plan: Plan) -> list[SiteRow]:
    """Return the rows of the held-out studies, and of the first `probe_studies` of the others."""
    learning = sorted({row.study_id for row in rows if row.fold not in plan.held_out_folds})[: plan.probe_studies]
    kept = set(learning)
    return [row for row in rows if row.fold in plan.held_out_folds or row.study_id in kept]


def write_unmirrored(processed: Path, path: Path) -> None:
    """Write the crops without the mirroring of right sides; a second mirroring undoes the first."""
    crops_R3HW = open_crops(processed)
    unmirrored = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=crops_R3HW.shape)
    for row in group_sites(read_dataset(processed).pairs):
        for crop, view in zip(row.crops, row.views, strict=True):
            tile = crops_R3HW[crop]
            if row.site.side is Side.RIGHT:
                tile = tile[::-1] if view.is_sagittal else tile[:, :, ::-1]
            unmirrored[crop] = tile
    unmirrored.flush()


@cache
def _accelerator(precision: str) -> Accelerator:
    return build_accelerator(Launch(use_cpu=True), precision, (), Path())
