"""The runs of all folds: one model per fold, each trained on the studies of the other folds.

``train_vl.py --run lora --fold 2`` trains the run ``lora-2``, and ``eval_vl.py --run lora --folds all`` joins the runs
of all folds: every study is then predicted by a model that did not see it, and new studies by the mean of all models.
What belongs to the join lies under the name ``lora`` itself: ``logs/lora/`` and ``checkpoints/lora/heads/``.

Importing this module imports neither torch nor pandas nor scikit-learn.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.conversion.pairs import read_dataset
from runs.run_record import RUN_RECORD
from vl_model.data.dropped_sites import DROPPED
from vl_model.loaded_run import LoadedRun, is_joined, load_run, read_report
from vl_model.model.model_card import CARD
from workspace.json_files import read_object
from workspace.layout import DataRoot, data_root
from workspace.setting_error import SettingError

if TYPE_CHECKING:
    import pandas as pd

    from data_prep.conversion.folder_batches import StudyBatch
    from vl_model.evaluation.embeddings import Embeddings
    from vl_model.evaluation.grader import Grader

#: Settings in which the runs of a join may differ: the fold, and what does not change the result of a training.
FREE_SETTINGS = frozenset(
    {
        *("run", "root", "config", "fold", "held_out_folds", "held_out_sites", "evaluation_steps", "overwrite"),
        *("resume_from_checkpoint", "checkpointing_steps", "checkpoints_total_limit", "stop_margin", "join_timeout"),
        *("report_to", "dataloader_num_workers", "gradient_checkpointing", "compile", "doctor", "export", "base"),
        "push_to_hub",
        *("drop_suspects", "drop_share", "drop_first"),  # which are compared by the sites that they choose
    }
)
#: Settings that name the base, which is compared by its weights instead if their digest is recorded.
BASE_SETTINGS = frozenset(("model", "pretrained"))


def fold_run_name(run: str, fold: int) -> str:
    """Return the name of the run that holds out one fold."""
    return f"{run}-{fold}"


def load_fold_runs(root: DataRoot, run: str, base: str | None = None) -> tuple[LoadedRun, ...]:
    """Open the finished runs RUN-0, RUN-1, ... that hold out one fold each, in the order of the folds.

    Raises ValueError if the run of a fold is missing or not finished, or if the runs cannot be joined: one holds out
    anything but its own fold, or they differ in the data set, the base, or a setting that changes the result.
    """
    if (root.run(run) / RUN_RECORD).is_file():
        raise SettingError(
            "folds",
            f"all: there is also a run {run!r}, whose report the joined one would replace; evaluate it without "
            "--folds, or give the runs of the folds another name",
        )
    dataset = read_dataset(root.processed("train"))
    folds = sorted(set(dataset.fold_of.values()))
    _check_complete(root, run, folds)
    runs = tuple(load_run(root, fold_run_name(run, fold), base) for fold in folds)
    for fold, one in zip(folds, runs, strict=True):
        _check_held_out(one, fold)
        one.check_dataset(dataset)
        check_siblings(runs[0], one)
    return runs


def check_siblings(one: LoadedRun, other: LoadedRun) -> None:
    """Raise SettingError if two runs differ in their base, or in a setting that changes the result, but the folds."""
    ours, theirs = (_compared(run) for run in (one, other))
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            raise SettingError(
                "run",
                f"{other.name!r}: was trained with {name} = {theirs.get(name)!r}, but {one.name!r} with "
                f"{ours.get(name)!r}; runs that are joined differ in their folds only",
            )


def joined_checkpoint(runs: Sequence[LoadedRun]) -> str:
    """Return the checkpoint of one run, or a sha256 of those of several."""
    if len(runs) == 1:
        return runs[0].checkpoint
    return hashlib.sha256("\n".join(run.checkpoint for run in runs).encode()).hexdigest()


@dataclass(frozen=True)
class FoldRuns:
    """The runs of all folds, which grade new studies together: the mean of their log-probabilities, calibrated."""

    root: DataRoot
    name: str
    runs: tuple[LoadedRun, ...]

    @property
    def folder(self) -> Path:
        """``train/checkpoints/<run>/``: the heads and calibrators of the join."""
        return self.root.run(self.name)

    @property
    def logs(self) -> Path:
        """``train/logs/<run>/``: the joined report, predictions and submission."""
        return self.root.logs(self.name)

    @cached_property
    def checkpoint(self) -> str:
        """sha256 over the checkpoints of the runs."""
        return joined_checkpoint(self.runs)

    def grader(self) -> "Grader":
        """Return the heads of all runs with their calibrators. Raises ValueError if they are of other models."""
        from vl_model.evaluation.grader import read_grader

        return read_grader(self.folder / "heads", self.runs[0].fingerprint | {"checkpoint": self.checkpoint})

    def grade(
        self,
        images: str | Path,
        *,
        series_descriptions: str | Path | None = None,
        locator: str | None = None,
        workers: int = 1,
        batch_size: int = 64,
        out: str | Path | None = None,
        keep: str | None = None,
        overwrite: bool = False,
        sample_submission: str | Path | None = None,
        prevalence: str | Path | None = None,
        time_budget: float | None = None,
        studies_per_batch: int = 8,
        share: str | None = None,
    ) -> "pd.DataFrame":
        """Grade new DICOM studies, as `LoadedRun.grade` does, by all models. Raises ValueError as it does, and if the
        runs place the sites of new studies differently, or if the studies are to be kept.
        """
        if keep is not None or overwrite:
            raise SettingError(
                "overwrite" if keep is None else "keep",
                f"{overwrite if keep is None else keep!r}: {self.name!r} stands for several models, whose embeddings "
                f"cannot be searched together; keep studies with one of its runs, for example {self.runs[0].name!r}",
            )
        from locator.carried import placer_for_run
        from vl_model.model.site_model_files import check_base_is_there
        from vl_model.new_studies import OpenModels, checked_new_studies

        def embed(batch: "StudyBatch") -> list["Embeddings"]:
            return [_embed_and_release(run, batch, batch_size) for run in self.runs]

        inputs = (images, series_descriptions, workers, batch_size, out, sample_submission, prevalence)
        studies = checked_new_studies(*inputs, time_budget, studies_per_batch, share)
        grader = self.grader()
        placers = {run.name: placer_for_run(self.root, run.folder, locator) for run in self.runs}
        first, *others = placers.items()
        for name, placer in others:
            if placer.fingerprint != first[1].fingerprint:
                raise SettingError(
                    "run", f"{name!r}: places sites otherwise than {first[0]!r}; name a locator with --locator"
                )
        for run in self.runs:  # now: nothing is written for runs that cannot grade
            check_base_is_there(run.folder / "final", run.base)
        models = OpenModels(lambda: self.runs[0].model, embed, self.runs[0].crops, len(self.runs))
        return studies.grade(first[1], grader, models)

    def report(self) -> dict[str, Any]:
        """Return the content of the joined ``report.json``. Raises ValueError if it does not exist."""
        return read_report(self.logs, self.name)


def load_folds(root: str | Path | DataRoot | None = None, run: str = "default", base: str | None = None) -> FoldRuns:
    """Open the runs of all folds that eval_vl.py has joined under the name `run`.

    Raises ValueError as `load_fold_runs` does, and if they have not been joined.
    """
    if not isinstance(root, DataRoot):
        root = data_root(None if root is None else str(root))
    if not is_joined(root, run):
        raise SettingError("run", f"{run!r}: no joined runs of this name; run eval_vl.py --run {run} --folds all first")
    return FoldRuns(root, run, load_fold_runs(root, run, base))


def _embed_and_release(run: LoadedRun, batch: "StudyBatch", batch_size: int) -> "Embeddings":
    """Return a run's embeddings of new studies, and let go of its model: those of all folds may not fit into memory."""
    from vl_model.run_embeddings import embed_batch

    embeddings = embed_batch(run, batch, batch_size)
    run.release()
    return embeddings


def _check_complete(root: DataRoot, run: str, folds: Sequence[int]) -> None:
    missing = [fold for fold in folds if not root.run(fold_run_name(run, fold)).is_dir()]
    if not folds:
        raise SettingError("folds", f"all: the data set in {root.processed('train')} has no folds")
    if not missing:
        return
    there = [fold_run_name(run, fold) for fold in folds if fold not in missing]
    like = f", with the other settings of {there[0]!r}" if there else ""
    count = f"folds {', '.join(map(str, missing))}" if len(missing) > 1 else f"fold {missing[0]}"
    raise SettingError(
        "folds",
        f"all: there is no run {fold_run_name(run, missing[0])!r} (missing: {count} of {len(folds)}); train it with "
        f"python train_vl.py --run {run} --fold {missing[0]}{like}",
    )


def _check_held_out(run: LoadedRun, fold: int) -> None:
    """Raise SettingError unless the run and its model both say that it held out this fold alone."""
    card = read_object(run.folder / "final" / CARD, "train_vl.py")
    for source, found in ((RUN_RECORD, run.record.held_out_folds), (CARD, card.get("held_out_folds", [fold]))):
        if list(found) != [fold]:
            words = "no fold" if not found else f"folds {', '.join(map(str, found))}"
            raise SettingError(
                "folds",
                f"all: run {run.name!r} holds out {words} ({source}), but should hold out fold {fold} alone; studies "
                "would be predicted by a model that was trained on them, or twice",
            )


def _compared(run: LoadedRun) -> dict[str, Any]:
    """Return the settings that two runs of a join must share, with the digest of their base."""
    card = read_object(run.folder / "final" / CARD, "train_vl.py")
    digest, dropped = card.get("base_sha256"), card.get(DROPPED) or {}
    settings = {name: value for name, value in run.record.settings.items() if name not in FREE_SETTINGS}
    if digest:
        settings = {name: value for name, value in settings.items() if name not in BASE_SETTINGS}
    return settings | {"the base's sha256": digest, "the suspect labels' sha256": dropped.get("sha256")}
