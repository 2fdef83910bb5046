"""A finished run, for use from Python.

    from vl_model import load_run

    run = load_run("DATA", "lora")
    run.grade("folder/of/dicom/studies")  # DataFrame: 25 rows per study, calibrated probabilities, evidence
    run.search("severe left foraminal narrowing at L4-L5", top=10)  # DataFrame
    run.embed("train").image_ND  # (sites, D)
    run.report()["metric"]

The scripts eval_vl.py, predict_vl.py and query_vl.py use the same object. Importing this module and opening a run
import neither torch nor pandas nor scikit-learn: each method imports what it needs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runs.run_record import RUN_RECORD, RunRecord, final_sha256, read_run_record
from workspace.json_files import read_object
from workspace.layout import SPLITS, DataRoot, Split, data_root, home_expanded
from workspace.setting_error import SettingError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from data_prep.conversion.crop_geometry import CropGeometry
    from data_prep.conversion.pairs import Dataset
    from data_prep.sites import Site
    from vl_model.evaluation.embeddings import Embeddings
    from vl_model.evaluation.grader import Grader
    from vl_model.model.site_model import SiteModel
    from vl_model.queries.reply import Reply
    from vl_model.queries.run_queries import RunQueries

REPORT_SCHEMA_VERSION = 1


def load_run(
    root: str | Path | DataRoot | None = None, run: str = "default", base: str | Path | None = None
) -> "LoadedRun":
    """Open a finished run; its weights are read when they are needed.

    Args:
        root: the data root; if None, $LUMBAR_ROOT, else ``data/lumbarspine``.
        run: the run's name.
        base: the folder of the model that the run was trained on; None: where it was then, or beside the run.

    Raises:
        ValueError: the data root or the run does not exist (the message lists the runs that do), the run's training
            has not ended, `base` does not exist or is not needed, or the name stands for joined runs of folds.
    """
    if not isinstance(root, DataRoot):
        root = data_root(None if root is None else str(root))
    if is_joined(root, run):
        raise SettingError(
            "run", f"{run!r}: stands for the runs of all folds together, which eval_vl.py joined; name one of them"
        )
    record = read_run_record(root.run(run))
    if base is not None:
        from vl_model.model.base_places import check_base_named

        check_base_named(root.run(run) / "final", str(base))
    return LoadedRun(root, run, record, None if base is None else str(base))


def is_joined(root: DataRoot, run: str) -> bool:
    """Return whether the name stands for runs of folds that were joined, and for no run of its own."""
    folder = root.run(run)
    return (folder / "heads" / "heads.json").is_file() and not (folder / RUN_RECORD).is_file()


@dataclass(frozen=True)
class LoadedRun:
    """A finished run. The model's weights and its checkpoint's fingerprint are read once, at their first use."""

    root: DataRoot
    name: str
    record: RunRecord = field(repr=False)
    base: str | None = None

    @property
    def folder(self) -> Path:
        """``train/checkpoints/<run>/``: weights, embeddings, heads and the query index."""
        return self.root.run(self.name)

    @property
    def logs(self) -> Path:
        """``train/logs/<run>/``: metrics, report, predictions and submission."""
        return self.root.logs(self.name)

    @property
    def processed(self) -> dict[str, Path]:
        """Split -> its ``processed_data`` folder, which the paths of answers' images are relative to."""
        return {split: self.root.processed(split) for split in SPLITS}

    @property
    def report_page(self) -> Path:
        """The path of ``report.html``, which eval_vl.py writes."""
        return self.logs / "report.html"

    @cached_property
    def checkpoint(self) -> str:
        """sha256 over the files of the run's ``final/``. Raises ValueError if its training did not write these."""
        found, written = final_sha256(self.folder / "final"), self.record.final_sha256
        if written is not None and found != written:
            raise SettingError(
                "run",
                f"{self.name!r}: its final/ ({found[:12]}) is not the one that its training wrote ({written[:12]}): "
                "files of another run were copied in, or a file was changed; restore it, or train the run again",
            )
        return found

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """What the run's heads and predictions depend on: its model, its data set, and today's zero-shot prompts."""
        from prompts.render import zero_shot_ensembles
        from vl_model.evaluation.embeddings import prompts_fingerprint

        prompts = prompts_fingerprint(zero_shot_ensembles())
        return {"checkpoint": self.checkpoint, "dataset": self.record.dataset_fingerprint, "prompts": prompts}

    @cached_property
    def model(self) -> "SiteModel":
        """The model, on the GPU if there is one."""
        import torch

        from runs.processes.launch import threads_per_process
        from vl_model.model.site_model_files import load_site_model

        # The fingerprint is taken before the weights are read: weights that are replaced in between then make
        # embeddings that are refused later, never embeddings that pass for those of the new weights.
        _ = self.checkpoint
        torch.set_num_threads(threads_per_process())
        return load_site_model(self.folder / "final", self.base).to("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def crops(self) -> "CropGeometry":
        """The geometry of the crops that the run was made for."""
        from vl_model.model.run_crops import crops_of_run

        return crops_of_run(self.folder / "final")

    @property
    def view_mm(self) -> float:
        """The width of the run's tiles; it is read without loading the model."""
        from vl_model.model.model_card import CARD

        card = read_object(self.folder / "final" / CARD, "train_vl.py")
        return float(card["preprocessing"]["view_mm"])

    @property
    def dropped_sites(self) -> "frozenset[tuple[int, Site]]":
        """The sites with suspect labels that the run left out of its training (``--drop_suspects``), by study id.

        Raises ValueError if the record of them is damaged.
        """
        from vl_model.data.dropped_sites import recorded_sites
        from vl_model.model.model_card import CARD

        path = self.folder / "final" / CARD
        try:
            return recorded_sites(read_object(path, "train_vl.py"))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: has no valid record of dropped sites ({error!r}); train the run again") from None

    def has_split(self, split: Split) -> bool:
        """Whether the split has been prepared."""
        return (self.root.processed(split) / "dataset.json").is_file()

    def dataset(self, split: Split) -> "Dataset":
        """Return a prepared split.

        Raises ValueError if it has not been prepared, or if its crops are not such as the run was made for.
        """
        from data_prep.conversion.pairs import read_dataset

        dataset = read_dataset(self.root.processed(split))
        self.check_crops(self.root.processed(split))
        return dataset

    def training_dataset(self) -> "Dataset":
        """Return the train split.

        Raises ValueError if the run was trained on another version of it, or on a study that it calls held out.
        """
        dataset = self.dataset("train")
        self.check_dataset(dataset)
        return dataset

    def check_dataset(self, dataset: "Dataset") -> None:
        """Raise ValueError if the run was trained on another data set than this train split."""
        if self.record.dataset_fingerprint != dataset.fingerprint:
            raise SettingError(
                "run",
                f"{self.name!r}: was trained on another data set ({self.record.dataset_fingerprint[:12]}) than "
                f"the one in {self.root.processed('train')} ({dataset.fingerprint[:12]}), whose folds may be others; "
                "train a new run on it",
            )
        from vl_model.model.held_out_check import check_held_out

        check_held_out(self.folder, self.record, dataset)

    def grader(self) -> "Grader":
        """Return the run's heads with their calibrators.

        Raises ValueError if eval_vl.py has not been run, or was run for another model, data set or prompts.
        """
        from vl_model.evaluation.grader import read_grader

        return read_grader(self.folder / "heads", self.fingerprint)

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
        """Grade new DICOM studies: 25 rows per study, whatever is wrong with its images.

        Args:
            images: a folder of DICOM files in any layout, whose headers tell the studies apart.
            series_descriptions: a CSV with the columns study_id, series_id and series_description, whose ids may be
                UIDs or folders' names; without it, the view of each series is read from the orientation and the
                headers of its images.
            locator: the name of a locator's run, or "none" for the atlas alone; by default the locator that was
                saved with this run.
            workers: processes that read DICOM files. A Python script that sets more than one needs the guard
                ``if __name__ == "__main__":``, because the processes import it.
            batch_size: sites per forward pass.
            out: a folder for probabilities.csv (the returned table), studies.csv (the probabilities of any severe
                canal stenosis and of any severe finding, and the typicality of the images), submission.csv
                (metric-optimal probabilities), faults.csv (everything that was skipped, repaired or guessed) and
                fallbacks.csv (the sites that were not graded from all their views). The slices are kept there
                meanwhile, and without it in the system's temporary folder ($TMPDIR). submission.csv is there before the
                first image is read, filled with the best constants; studies take their place batch by batch.
            keep: a name under which the studies are kept in the run's folder, with their slices and embeddings, so that
                queries search them. It stands beside the names of the splits.
            overwrite: whether to replace what was kept under this name.
            sample_submission: a table of row ids, whose order submission.csv has; the studies that it names have 25
                rows even if there are no images of them.
            prevalence: a CSV with the columns condition, severity and prevalence: of the hospital whose studies these
                are. All probabilities are shifted to it from those of the studies that the calibrators learned from.
            time_budget: seconds from now on. Studies that are not read until then have constants; a batch that has
                begun is finished.
            studies_per_batch: studies after which submission.csv is written again.
            share: "K/N" for the K-th of N shares of the folders directly within `images`, so that N processes grade
                them together; sample_submission still names all studies.

        Returns:
            The columns study_id, condition, side, level; normal_mild, moderate, severe (calibrated); set_90 and set_95
            (the grades that the site may have: `vl_model.calibration.prediction_sets`); and the evidence:
            source, view, series_id, instance_number, x0, y0, x1, y1 (a box in pixels of that slice); and the study's
            folder, and graded_from: all_views, fewer_views, neighbouring_levels or constant. The evidence is empty for
            a site that no image shows; if no image shows its neighbouring levels either, its probabilities are the
            frequencies of the training studies.

        Raises:
            ValueError: a folder or table does not exist or has a wrong row, the images contain no study, the run is not
                evaluated, or `workers`, `batch_size`, `keep`, `time_budget`, `studies_per_batch` or `share` is not
                possible.
        """
        from locator.carried import placer_for_run
        from vl_model.kept_studies import checked_kept_studies
        from vl_model.model.site_model_files import check_base_is_there
        from vl_model.new_studies import OpenModels, checked_new_studies
        from vl_model.run_embeddings import embed_batch

        if keep is not None and time_budget is not None:
            raise SettingError("time_budget", f"{time_budget!r}: would keep some of the studies only; leave out --keep")
        inputs = (images, series_descriptions, workers, batch_size, out, sample_submission, prevalence)
        studies = checked_new_studies(*inputs, time_budget, studies_per_batch, share)
        kept = checked_kept_studies(self.root, self.name, keep, overwrite, studies.images)
        studies = replace(studies, keep=kept)
        grader = self.grader()
        placer = placer_for_run(self.root, self.folder, locator)
        check_base_is_there(self.folder / "final", self.base)  # now: nothing is written for a run that cannot grade
        models = OpenModels(lambda: self.model, lambda batch: [embed_batch(self, batch, batch_size)], self.crops)
        return studies.grade(placer, grader, models)

    def search(
        self,
        text: str,
        top: int | None = None,
        split: str = "both",
        *,
        seen: bool = False,
        least: float | None = None,
        likeness: bool = False,
    ) -> "pd.DataFrame":
        """Return the studies that match a text best, one row per site that speaks for them, with what shows it.

        `answer` returns the same together with how the text was read, and what the question is worth.

        Args:
            text: what to search for, for example "severe left foraminal narrowing at L4-L5".
            top: how many studies; by default what the text says, or 5.
            split: the studies to search: train, test, a set that `grade` kept, or "both" splits.
            seen: whether studies that the model was trained on are answers too.
            least: the least probability of an answer; by default 0.05.
            likeness: whether words that are not graded are compared with the images.

        Returns:
            The columns rank, study_id, split, seen (the model was trained on the study: its probabilities are too
            sure), score (which orders), probability (that the study matches), likeness (the cosine with words that are
            not graded), matches (whether its known grades match); condition, side, level, normal_mild, moderate,
            severe, truth (of the site); view, series_id, instance_number, x0, y0, x1, y1 (a box in pixels of `image`),
            source, image (the path of the slice's PNG).

        Raises:
            ValueError: nothing graded was asked, `top` or `split` is not possible, or the run is not evaluated.
        """
        from vl_model.queries.answer_frame import answer_frame

        queries = self.queries()
        return answer_frame(self.answer(text, top, split, seen=seen, least=least, likeness=likeness), queries.processed)

    def answer(
        self,
        text: str,
        top: int | None = None,
        split: str = "both",
        *,
        seen: bool = False,
        least: float | None = None,
        likeness: bool = False,
    ) -> "Reply":
        """Return the answers of `search` as objects, with the query as it was read and what it is worth."""
        from prompts.reading.parse import parse_query
        from vl_model.queries.run_queries import Asked, check_top

        if top is not None:
            check_count("top", top)
            check_top(top)
        query = parse_query(text)
        asked = Asked(None if split == "both" else split, top, least, seen or None, likeness)
        return self.queries().ask(query, asked)

    def queries(self, say: "Callable[[str], None] | None" = None) -> "RunQueries":
        """Return the run's query index; `say` is told what takes long, and why."""
        from vl_model.queries.run_queries import RunQueries

        return RunQueries(self.root, self.name, self.embed_texts, say or (lambda _: None))

    def embed(self, data: str | Path = "train", batch_size: int = 64) -> "Embeddings":
        """Return the embeddings of all sites of a data set: `image_ND` (N, D), one row for each of `rows`.

        Args:
            data: "train" or "test", whose embeddings are read from the run's folder if they are current and else
                computed and written there; or the path of a ``processed_data`` folder, which is always computed.
            batch_size: sites per forward pass.

        Raises:
            ValueError: the data set has not been prepared, its crops are not such as the run was made for, or
                `batch_size` is not possible.
        """
        from data_prep.conversion.pairs import read_dataset
        from vl_model.run_embeddings import embed_dataset, kept_embeddings

        check_count("batch_size", batch_size)
        split = next((split for split in SPLITS if data == split), None)
        processed = self.root.processed(split) if split else path_of("data", data)
        dataset = read_dataset(processed)
        if split is None:
            return embed_dataset(self, dataset, processed, batch_size)
        return kept_embeddings(self, split, dataset, processed, batch_size)

    def embed_texts(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """Return the L2-normalised embeddings (N, D) of any texts.

        Raises ValueError if `texts` is a single string, whose letters would be taken for texts, or contains no text.
        """
        if isinstance(texts, str) or not texts:
            raise ValueError(f"texts {texts!r}: must be a list of one or more texts")
        text_ND: NDArray[np.float32] = self.model.embed_texts(list(texts)).detach().float().cpu().numpy()
        return text_ND

    def comparable_predictions(self, other: str) -> Path:
        """Return the path of another run's ``predictions.csv``, for a comparison with this run.

        Raises ValueError if there is none, or if it belongs to another model than that run's, or to another data set or
        other prompts than this run's.
        """
        from vl_model.evaluation.predictions_card import check_predictions_card

        path = self.root.logs(other) / "predictions.csv"
        if not path.is_file():
            raise ValueError(f"{path}: no such file; run python eval_vl.py --run {other} first")
        if is_joined(self.root, other):
            from vl_model.fold_runs import load_folds

            check_predictions_card(path, self.fingerprint | {"checkpoint": load_folds(self.root, other).checkpoint})
            return path
        theirs = load_run(self.root, other)
        check_predictions_card(path, self.fingerprint | {"checkpoint": theirs.checkpoint})
        theirs.training_dataset()
        return path

    def report(self) -> dict[str, Any]:
        """Return the content of ``report.json``. Raises ValueError if eval_vl.py has not been run."""
        return read_report(self.logs, self.name)

    def release(self) -> None:
        """Let go of the model, so that those of several runs need not fit into memory together."""
        self.__dict__.pop("model", None)

    def check_crops(self, processed: Path) -> None:
        """Raise ValueError if the crops in `processed` are not such as the run was made for."""
        from vl_model.model.run_crops import check_crops

        check_crops(self.name, self.crops, processed)


def read_report(logs: Path, run: str) -> dict[str, Any]:
    """Return the content of ``report.json`` in a run's logs. Raises ValueError if eval_vl.py has not been run."""
    path = logs / "report.json"
    if not path.is_file():
        raise SettingError("run", f"{run!r}: has no report yet; run eval_vl.py first")
    return read_object(path, "eval_vl.py", REPORT_SCHEMA_VERSION)


def check_count(setting: str, value: object) -> None:
    """Raise SettingError unless `value` is a whole number and at least 1; the scripts' flags have the same bound."""
    if not isinstance(value, Integral) or value < 1:
        raise SettingError(setting, f"{value!r}: must be a whole number and at least 1")


def path_of(setting: str, value: str | Path) -> Path:
    """Return the path with the home folder expanded. Raises SettingError for '', which is no name of a folder."""
    if value == "":
        raise SettingError(setting, "'': is empty; give it a value, or leave it out")
    return home_expanded(str(value), setting)
