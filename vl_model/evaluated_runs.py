"""The evaluation of runs, from their weights to what `eval_vl.py` reports: one run by itself, or those of all folds.

Each model predicts the studies that it held out. The predictions of the runs of all folds are joined before they are
calibrated, so that every study of the data set is predicted once, by a model that was not trained on it.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data_prep.conversion.pairs import Dataset
from data_prep.sites import Source
from vl_model.baseline.baseline_files import baseline_log_probabilities
from vl_model.baseline.crop_descriptors import CropDescriptors
from vl_model.calibration.cross_fit import check_enough
from vl_model.data.site_table import Floats, SiteTable
from vl_model.evaluation.cross_fitting import StudySplit, fit_heads, predict_raw, split_studies
from vl_model.evaluation.embeddings import Embeddings, TextEmbeddings
from vl_model.evaluation.further_predictions import predict_by_share, predict_by_wording
from vl_model.evaluation.grader import Grader, Heads
from vl_model.evaluation.heads import LinearProbe
from vl_model.evaluation.raw_predictions import PLAIN_BASELINE, RawHeldOut, join_folds
from vl_model.evaluation.typicality import Typicality, learn_typicality
from vl_model.fold_runs import FoldRuns, check_siblings
from vl_model.loaded_run import LoadedRun
from vl_model.located_places import Located, embed_located
from vl_model.run_embeddings import kept_embeddings, prompt_embeddings
from vl_model.scoring.constant_baseline import best_constants
from vl_model.scoring.priors import ColumnPrior
from workspace.setting_error import SettingError


@dataclass(frozen=True)
class EvaluatedRun:
    """A run with its fitted heads, their predictions of its held-out studies, and its embeddings of the test split.

    raw: at the places of the data set, which are readers' marks if there are any. located: at places as in use, where
    new studies are graded; or the reason in words why that is not known. sources: how many of those sites were placed
    by what. new: None if there is no test split. typicality: of the images of new studies; None if it cannot be told.
    """

    run: LoadedRun
    split: StudySplit
    heads: Heads
    raw: RawHeldOut
    located: RawHeldOut | str
    sources: Mapping[str, int]
    new: Embeddings | None
    typicality: Typicality | None

    @property
    def probe(self) -> LinearProbe:
        """Its linear probe."""
        probe = self.heads["linear_probe"]
        assert isinstance(probe, LinearProbe)
        return probe

    @property
    def graded(self) -> int:
        """The number of graded training studies."""
        return len(self.split.train.take(self.split.train.labelled_N).study_ids)


def split_by_run(runs: Sequence[LoadedRun], labels: SiteTable, dataset: Dataset) -> list[StudySplit]:
    """Return the training and the held-out studies of each run. Raises ValueError if too few are graded."""
    for run in runs:
        if not run.record.held_out_folds:
            raise SettingError(
                "run",
                f"{run.name!r}: held out no study, so that nothing can be measured or calibrated on it; train runs "
                "of its folds (train_vl.py --fold), join them (eval_vl.py --folds all), and give --calibrators",
            )
    splits = [split_studies(labels, dataset.fold_of, run.record.held_out_folds) for run in runs]
    check_enough(sum(len(split.held_out.take(split.held_out.labelled_N).study_ids) for split in splits))
    return splits


def evaluate_run(
    run: LoadedRun,
    split: StudySplit,
    dataset: Dataset,
    crops: CropDescriptors,
    has_test: bool,
    batch_size: int,
    workers: int,
) -> EvaluatedRun:
    """Embed both splits, fit the heads on the training studies, and predict the held-out ones.

    The model is released: those of all folds need not fit into memory together. The linear probe does not learn from
    sites that the run left out of its training; constants, priors and the plain baseline are those of all labels.

    Args:
        run: the run.
        split: its training and held-out studies.
        dataset, crops: the train split, with the descriptors of its crops.
        has_test: whether there is a test split.
        batch_size: sites per forward pass.
        workers: processes that place the held-out studies; 0 to leave this out.
    """
    embeddings = kept_embeddings(run, "train", dataset, run.processed["train"], batch_size)
    prompts = prompt_embeddings(run)
    new = run.embed("test", batch_size) if has_test else None
    found: Located | str = "--located false"
    if workers:
        found = embed_located(run, dataset, split.held_out.study_ids, embeddings, batch_size, workers)
    run.release()
    learning = replace(split, train=split.train.without_grades(run.dropped_sites))
    heads = fit_heads(learning.train, embeddings, prompts.text_SCD, prompts.logit_scale)
    others = predict_others(learning, embeddings, prompts)
    others[PLAIN_BASELINE] = baseline_log_probabilities(run.folder / "heads", split, embeddings, crops)
    raw = predict_raw(heads, split, embeddings, others)
    typicality = None
    if (in_use := placed_as_new(embeddings, found, split.held_out.study_ids)) is not None:
        typicality = learn_typicality(*embeddings.shown(split.train), *in_use.shown(split.held_out))
    if isinstance(found, str):
        return EvaluatedRun(run, split, heads, raw, found, {}, new, typicality)
    located = predict_raw(heads, split, found.embeddings)
    return EvaluatedRun(run, split, heads, raw, located, found.sources, new, typicality)


def placed_as_new(embeddings: Embeddings, found: Located | str, held_out: Collection[int]) -> Embeddings | None:
    """Return the embeddings of the held-out studies where new studies are graded; None if those places are not known.

    Of studies without marks, those of the train split are such.
    """
    if isinstance(found, Located):
        return found.embeddings
    studies = set(held_out)
    are_marked = any(row.source is Source.ANNOTATED and row.study_id in studies for row in embeddings.rows)
    return None if are_marked else embeddings


def predict_others(split: StudySplit, embeddings: Embeddings, prompts: TextEmbeddings) -> dict[str, Floats]:
    """Return predictions by single wordings, and of probes that learned from a part of the training studies."""
    (train, train_ND), (shown, image_MD) = (embeddings.shown(table) for table in (split.train, split.held_out))
    wordings = predict_by_wording(prompts.wording_WSCD, prompts.logit_scale, shown, image_MD)
    return wordings | predict_by_share(train, train_ND, shown, image_MD)


def join_located(evaluated: Sequence[EvaluatedRun]) -> tuple[RawHeldOut | None, str, dict[str, int]]:
    """Return the predictions at places as in use, joined, with the sites by source; or None and the reason in words."""
    located = [one.located for one in evaluated if isinstance(one.located, RawHeldOut)]
    if len(located) < len(evaluated):
        lacking = next(one for one in evaluated if isinstance(one.located, str))
        return None, f"{lacking.run.name}: {lacking.located}", {}
    sources: Counter[str] = Counter()
    for one in evaluated:
        sources.update(one.sources)
    return join_folds(located), "", dict(sources)


def fit_on_all(
    run: LoadedRun, siblings: FoldRuns, labels: SiteTable, batch_size: int, has_test: bool
) -> tuple[Grader, Embeddings | None]:
    """Return the grader of a run that held nothing out, with the calibrators of its fold siblings, and its embeddings
    of the test split.

    The heads are fitted on all studies. Raises ValueError if the run held studies out, or is no sibling of these runs.
    """
    if run.record.held_out_folds:
        raise SettingError(
            "calibrators",
            f"{siblings.name!r}: run {run.name!r} has held-out studies of its own; evaluate it without --calibrators",
        )
    check_siblings(siblings.runs[0], run)
    theirs = siblings.grader()
    embeddings, prompts = run.embed("train", batch_size), prompt_embeddings(run)
    new = run.embed("test", batch_size) if has_test else None
    learning = labels.without_grades(run.dropped_sites)
    heads = fit_heads(learning, embeddings, prompts.text_SCD, prompts.logit_scale)
    prior, constants = ColumnPrior().fit(labels), best_constants(labels)
    models = {run.name: heads}
    grader = replace(
        theirs, models=models, prior=prior, fingerprint=run.fingerprint, constant_X3=constants, typicality={}
    )
    return grader, new


def fold_blocks(evaluated: Sequence[EvaluatedRun]) -> list[dict[str, Any]]:
    """Return each run's fold and numbers of studies, for ``report.json``."""
    return [
        {
            "run": one.run.name,
            "held_out_folds": list(one.run.record.held_out_folds),
            "training_studies": len(one.split.train.study_ids),
            "held_out_studies": len(one.split.held_out.study_ids),
            "checkpoint": one.run.checkpoint,
        }
        for one in evaluated
    ]
