"""Evaluate runs as one, and write what eval_vl.py reports: the page, the predictions, the heads, the suspect labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_prep.conversion.crops import open_crops
from data_prep.conversion.pairs import Dataset
from vl_model.baseline.crop_descriptors import CropDescriptors
from vl_model.data.site_table import Floats, SiteTable
from vl_model.data.suspect_labels import SuspectLabel
from vl_model.evaluated_runs import EvaluatedRun, evaluate_run, fold_blocks, join_located, split_by_run
from vl_model.evaluation.cross_fitting import HeldOut, better_head, cross_fit_heads, cross_fit_kinds, fit_grader
from vl_model.evaluation.embeddings import Embeddings
from vl_model.evaluation.grader import Grader, HeadName, Kind, write_grader
from vl_model.evaluation.known_labels import known_labels
from vl_model.evaluation.label_ranking import rank_suspect_labels
from vl_model.evaluation.predictions import Predictions, write_predictions
from vl_model.evaluation.predictions_card import write_predictions_card
from vl_model.evaluation.raw_predictions import PLAIN_BASELINE, RawHeldOut, join_folds
from vl_model.fold_runs import joined_checkpoint
from vl_model.loaded_run import REPORT_SCHEMA_VERSION, LoadedRun
from vl_model.report.example_sites import choose_example_sites
from vl_model.report.failures import failures_block
from vl_model.report.head_checks import calibrators_block, head_blocks
from vl_model.report.report import write_report
from vl_model.report.report_content import (
    Json,
    baseline_block,
    compare_runs,
    curves_block,
    held_out_metrics,
    places_block,
)
from vl_model.report.report_text import report_text
from vl_model.report.set_content import sets_block
from vl_model.report.study_answer_content import answers_block
from vl_model.report.study_flow import flow_block
from vl_model.report.subgroups import site_facts, subgroups_block
from vl_model.report.suspect_content import suspect_examples, suspects_block
from vl_model.report.suspect_list import write_suspect_list
from workspace.json_files import plain
from workspace.layout import DataRoot


@dataclass(frozen=True)
class Evaluation:
    """What is known of one run, or of the runs of all folds together, after its held-out studies were graded.

    name: of the run, or of the joined runs. train: the data set; labels: its known grades; graded: those that the runs
    together learned from. crops: its crops. runs: the evaluated runs. raw: their predictions at the places of the data
    set, joined; held_out: the same, cross-fitted. in_use: as held_out, at places as in use if these are known. sources:
    the sites there by what placed them; why_not_located: the reason in words if they are not known. best: the head of
    the submission. grader: for new studies. baseline: the plain baseline's probabilities. seed: of the cross-fitting
    groups. joined: whether the runs are those of all folds.
    """

    root: DataRoot
    name: str
    train: Dataset
    labels: SiteTable
    graded: SiteTable
    crops: NDArray[np.uint8]
    runs: Sequence[EvaluatedRun]
    raw: RawHeldOut
    held_out: HeldOut
    in_use: HeldOut
    sources: Mapping[str, int]
    why_not_located: str
    best: HeadName
    grader: Grader
    baseline: Mapping[Kind, Floats]
    seed: int
    joined: bool

    @property
    def new(self) -> list[Embeddings]:
        """The embeddings of the test split by each run; empty if there is none."""
        return [one.new for one in self.runs if one.new is not None]

    @property
    def held_out_folds(self) -> list[int]:
        """The folds whose studies were held out."""
        return [fold for one in self.runs for fold in one.run.record.held_out_folds]

    @cached_property
    def suspects(self) -> tuple[list[SuspectLabel], int]:
        """The suspect labels of the held-out studies by rank, and the number of sites that were ranked."""
        return rank_suspect_labels(self.held_out, self.best)


def evaluate_runs(
    root: DataRoot,
    name: str,
    runs: Sequence[LoadedRun],
    train: Dataset,
    *,
    head: Literal["auto"] | HeadName,
    joined: bool,
    has_test: bool,
    batch_size: int,
    workers: int,
    seed: int,
) -> Evaluation:
    """Embed both splits, fit heads, calibrators and the plain baseline, and grade the held-out studies.

    Args:
        root: the data root.
        name: the name of the run, or of the joined runs.
        runs: the run, or those of all folds.
        train: the train split, from which they learned.
        head: the head of the submission; auto: the one with the better metric.
        joined: whether the runs are those of all folds.
        has_test: whether there is a test split.
        batch_size: sites per forward pass.
        workers: processes that place the held-out studies; 0 to leave this out.
        seed: the seed of the cross-fitting groups.

    Raises ValueError if a run held out nothing, or if too few held-out studies are graded.
    """
    labels, crops = known_labels(root, train), open_crops(root.processed("train"))
    splits = split_by_run(runs, labels, train)
    descriptors = CropDescriptors(crops, runs[0].crops.pixel_mm)
    evaluated = [
        evaluate_run(run, split, train, descriptors, has_test, batch_size, workers)
        for run, split in zip(runs, splits, strict=True)
    ]
    del descriptors  # up to some hundred megabytes
    raw = join_folds([one.raw for one in evaluated])
    held_out = cross_fit_heads(raw, seed)
    located, why_not_located, sources = join_located(evaluated)
    in_use = held_out if located is None else cross_fit_heads(located, seed)
    best = better_head(in_use) if head == "auto" else head
    fingerprint = runs[0].fingerprint | {"checkpoint": joined_checkpoint(runs)}
    models = {one.run.name: one.heads for one in evaluated}
    typicality = {one.run.name: one.typicality for one in evaluated if one.typicality}
    graded = labels if joined else splits[0].train
    grader = fit_grader(models, located or raw, graded, best, fingerprint, in_use, typicality)
    baseline = cross_fit_kinds(raw.log_prob_N3[PLAIN_BASELINE], raw, seed)
    return Evaluation(
        root=root,
        name=name,
        train=train,
        labels=labels,
        graded=graded,
        crops=crops,
        runs=evaluated,
        raw=raw,
        held_out=held_out,
        in_use=in_use,
        sources=sources,
        why_not_located=why_not_located,
        best=best,
        grader=grader,
        baseline=baseline,
        seed=seed,
        joined=joined,
    )


def report_of(evaluation: Evaluation, settings: Json, other: tuple[str, Predictions] | None) -> Json:
    """Return the content of ``report.json``.

    Args:
        evaluation: what was found.
        settings: those of eval_vl.py, to be recorded.
        other: another evaluated run to compare with, and its predictions.
    """
    runs, held_out, best, seed = evaluation.runs, evaluation.held_out, evaluation.best, evaluation.seed
    labels, processed = evaluation.labels, evaluation.root.processed("train")
    suspects, ranked = evaluation.suspects
    not_ranked = len(set(labels.take(labels.labelled_N).study_ids) - set(held_out.table.study_ids))
    facts = site_facts(evaluation.train, held_out.table, processed / "slices.csv")
    report: dict[str, Any] = {
        "schema_version": REPORT_SCHEMA_VERSION,
        "run": evaluation.name,
        "head": best,
        "fingerprint": evaluation.grader.fingerprint,
        "held_out_folds": evaluation.held_out_folds,
        "training_studies": len(evaluation.graded.study_ids),
        "fold_runs": fold_blocks(runs) if evaluation.joined else None,
        "settings": settings,
        "training_settings": runs[0].run.record.settings,
        **held_out_metrics(held_out, seed),
        "places": places_block(held_out, evaluation.in_use, evaluation.sources, evaluation.why_not_located),
        **head_blocks(evaluation.raw, held_out, [one.probe for one in runs], [one.graded for one in runs]),
        "plain_baseline": baseline_block(held_out, evaluation.baseline, seed),
        "study_flow": flow_block(evaluation.train, labels, held_out, processed / "faults.csv"),
        "study_answers": answers_block(held_out, best, seed),
        "prediction_sets": sets_block(held_out, best, evaluation.grader.sets, seed),
        "curves": curves_block(held_out, best),
        "subgroups": subgroups_block(held_out, best, facts),
        "calibrators": calibrators_block(evaluation.grader),
        "failures": failures_block(held_out, best),
        "suspect_labels": suspects_block(suspects, ranked, held_out, not_ranked),
        "comparison": compare_runs(held_out, *other) if other else None,
    }
    plain_report: Json = plain(report)
    return plain_report


def write_evaluation(evaluation: Evaluation, report: Json) -> list[str]:
    """Write heads, predictions, suspect labels and the report; return the lines to print about them."""
    logs, held_out, pairs = evaluation.root.logs(evaluation.name), evaluation.held_out, evaluation.train.pairs
    write_grader(evaluation.root.run(evaluation.name) / "heads", evaluation.grader)
    write_predictions(logs / "predictions.csv", held_out, evaluation.seed)
    fingerprint = evaluation.grader.fingerprint
    write_predictions_card(logs / "predictions.csv", fingerprint, evaluation.held_out_folds)
    examples = choose_example_sites(held_out, evaluation.best, pairs)
    run = evaluation.runs[0].run
    tile_share = run.view_mm / run.crops.field_mm
    suspects, ranked = evaluation.suspects
    listed = write_suspect_list(logs, suspects, ranked, evaluation.train, evaluation.crops, tile_share)
    write_report(logs, report, examples, evaluation.crops, tile_share, suspect_examples(suspects, pairs))
    return [report_text(report), listed, f"report      {logs / 'report.html'}"]
