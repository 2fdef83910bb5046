"""Grade new studies: convert a folder of DICOM files, embed and grade its sites, and write what people read.

The submission is there before the first image is read: constants, which the studies' grades replace batch by batch.
Whatever ends the command, a complete file is left.
"""

import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from data_prep.conversion.crop_geometry import CropGeometry
from data_prep.conversion.folder_batches import StudyBatch, convert_in_batches
from data_prep.conversion.pairs import read_dataset
from data_prep.folders import is_id
from data_prep.placement.placer import Placer
from data_prep.sites import SITES, Severity, View
from data_prep.studies.cohorts import Cohort, folder_cohort
from data_prep.studies.image_tree import Share, share_of_folders
from prompts.render import caption
from vl_model.calibration.study_answers import QUESTIONS
from vl_model.data.site_rows import SiteRow, group_sites
from vl_model.data.site_table import full_table, site_table
from vl_model.evaluation.embeddings import Embeddings
from vl_model.evaluation.grader import Grader
from vl_model.evaluation.typicality import typicality_sentence
from vl_model.graded_studies import GradedFrom, GradedStudies
from vl_model.kept_studies import KeptStudies
from vl_model.loaded_run import check_count, path_of
from vl_model.scoring.prevalence import Prevalences, read_prevalences
from vl_model.scoring.submission import SampleSubmission, read_sample_submission, write_submission
from workspace.file_modes import check_may_write
from workspace.setting_error import SettingError
from workspace.tidying import remove_what_can_be
from workspace.time_budget import TimeBudget
from workspace.whole_files import ESCAPED, replacing

#: Studies that are converted before they are graded together and the submission is written again.
STUDIES_PER_BATCH = 8

SUBMISSION, PROBABILITIES, FALLBACKS, FAULTS = "submission.csv", "probabilities.csv", "fallbacks.csv", "faults.csv"
STUDIES = "studies.csv"


@dataclass(frozen=True)
class OpenModels:
    """The models that grade: `load` makes the first one ready, `embed` returns each model's embeddings of a batch.

    geometry: of the crops that they were made for. loads_per_batch: how many models are loaded anew for each batch,
    which is larger by this factor.
    """

    load: Callable[[], object]
    embed: Callable[[StudyBatch], Sequence[Embeddings]]
    geometry: CropGeometry
    loads_per_batch: int = 1


@dataclass(frozen=True)
class NewStudies:
    """A folder of DICOM files to grade, and how: see `vl_model.loaded_run.LoadedRun.grade`."""

    images: Path
    series_descriptions: Path | None
    workers: int
    out: Path | None
    sample: SampleSubmission | None = None
    prevalences: Prevalences | None = None
    budget: TimeBudget = field(default_factory=lambda: TimeBudget(None))
    studies_per_batch: int = STUDIES_PER_BATCH
    share: Share = field(default_factory=Share)
    keep: KeptStudies | None = None

    def grade(self, placer: Placer, grader: Grader, models: OpenModels) -> pd.DataFrame:
        """Return the table of probabilities; write the files if there is a folder for them."""
        if self.prevalences:
            grader = grader.shifted(self.prevalences)
        named = studies_named(self.images, self.share)
        self._write_submission(GradedStudies(grader, named), named)
        cohort = folder_cohort(self.images, self.series_descriptions, self.share)
        self._say(cohort, grader)
        graded = GradedStudies(grader, [folder.study_id for folder in cohort.folders])
        self._write_submission(graded, cohort.study_ids)
        with self._folder() as folder:
            processed = folder / "processed_data"
            kept = self._grade_batches(cohort, processed, placer, graded, models)
            study_ids = self._all_studies(cohort.study_ids)
            table = graded.table(study_ids, cohort.folder_names)
            if self.keep:
                self.keep.complete(folder, _in_order_of(processed, kept))
            if self.out:
                with replacing(self.out / FAULTS) as partial:
                    shutil.copyfile(processed / "faults.csv", partial)
                write_probabilities(self.out / PROBABILITIES, table)
                write_probabilities(self.out / STUDIES, study_table(table, graded))
        if sentence := typicality_sentence(graded.typicality(study_ids), grader.compared_studies):
            print(sentence)
        return table

    def _grade_batches(
        self, cohort: Cohort, processed: Path, placer: Placer, graded: GradedStudies, models: OpenModels
    ) -> list[Embeddings]:
        """Grade the studies batch by batch, and return the embeddings of the batches if they are to be kept."""
        kept: list[Embeddings] = []
        if not self.budget.is_used_up:
            models.load()  # Reading DICOM takes long: a base that is damaged is missed before.
        batches = convert_in_batches(
            cohort,
            processed,
            placer=placer,
            caption=caption,
            workers=self.workers,
            studies_per_batch=self.studies_per_batch * models.loads_per_batch,
            keeps_images=self.keep is not None,
            may_go_on=self.budget.may_go_on,
            geometry=models.geometry,
        )
        for batch in batches:
            embeddings = models.embed(batch)
            graded.add(batch.study_ids, batch.pairs, embeddings)
            kept += embeddings[:1] if self.keep else []
            self._write_submission(graded, cohort.study_ids)
        if graded.waiting:
            graded.why_waiting = f"the time budget of {self.budget.seconds:g} s was used up"
            print(f"{graded.why_waiting}: {len(graded.waiting)} of {len(cohort.study_ids)} studies were not read")
            self._write_submission(graded, cohort.study_ids)
        return kept

    def _all_studies(self, study_ids: Sequence[int]) -> list[int]:
        """Return the studies of the folder, then those that the sample names besides."""
        return list(dict.fromkeys([*study_ids, *(self.sample.study_ids if self.sample else ())]))

    def _write_submission(self, graded: GradedStudies, study_ids: Sequence[int]) -> None:
        """Write what there is so far, and the list of what is a fallback; nothing if no study is known yet."""
        study_ids = self._all_studies(study_ids)
        if self.out is None or not study_ids:
            return
        order = self.sample.order(study_ids) if self.sample else None
        write_submission(self.out / SUBMISSION, study_ids, graded.submission(study_ids), order=order)
        graded.write_fallbacks(self.out / FALLBACKS, study_ids)

    def _say(self, cohort: Cohort, grader: Grader) -> None:
        """Print how the studies were told apart, and what differs from a plain submission."""
        notes = self.sample.notes(cohort.study_ids) if self.sample else []
        shifts = grader.shift.lines() if grader.shift else []
        print("\n".join([cohort.layout, *notes, *shifts]), flush=True)

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        """Yield the folder that the images are converted in: what is kept of them, or a temporary one."""
        if self.keep:
            with self.keep.written() as folder:
                yield folder
        elif self.out:
            with folder_within(self.out) as folder:
                yield folder
        else:
            with TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
                yield Path(temporary)


def fallback_line(table: pd.DataFrame) -> str:
    """Return in words what the sites of a table of probabilities were graded from."""
    counts = table["graded_from"].value_counts()
    return "sites graded from " + ", ".join(f"{kind.words} {counts.get(kind.value, 0)}" for kind in GradedFrom)


def studies_named(images: Path, share: Share) -> list[int]:
    """Return the studies that folders directly in `images` name: numbers that hold folders, or nothing, but no files.

    No file is opened. The headers may tell the studies apart otherwise.
    """
    folders = [path for path in share_of_folders(images, share) if is_id(path.name)]
    return sorted(int(path.name) for path in folders if all(entry.is_dir() for entry in path.iterdir()))


def checked_new_studies(
    images: str | Path,
    series_descriptions: str | Path | None,
    workers: int,
    batch_size: int,
    out: str | Path | None,
    sample_submission: str | Path | None = None,
    prevalence: str | Path | None = None,
    time_budget: float | None = None,
    studies_per_batch: int = STUDIES_PER_BATCH,
    share: str | None = None,
) -> NewStudies:
    """Return the studies to grade. Raises ValueError if a path or a number is not possible."""
    check_count("workers", workers)
    check_count("batch_size", batch_size)
    check_count("studies_per_batch", studies_per_batch)
    if time_budget is not None and not 0 < time_budget < float("inf"):
        raise SettingError("time_budget", f"{time_budget!r}: must be a number of seconds above 0")
    budget = TimeBudget(time_budget)
    images = path_of("images", images)
    written_to = None if out is None else path_of("out", out)
    descriptions = None if series_descriptions is None else path_of("series_descriptions", series_descriptions)
    check_paths(images, written_to, descriptions)
    sample = None if sample_submission is None else _file("sample_submission", sample_submission)
    prevalences = None if prevalence is None else _file("prevalence", prevalence)
    if sample is not None and written_to is not None and sample.resolve() == (written_to / SUBMISSION).resolve():
        raise SettingError("sample_submission", f"{str(sample)!r}: would be replaced; choose another --out")
    own = Share() if share is None else _share(share)
    others = set(studies_named(images, Share())) - set(studies_named(images, own))
    return NewStudies(
        images,
        descriptions,
        workers,
        written_to,
        None if sample is None else read_sample_submission(sample).without(others),
        None if prevalences is None else read_prevalences(prevalences),
        budget,
        studies_per_batch,
        own,
    )


def _share(text: str) -> Share:
    """Return the share of a text such as 1/2, the first of two. Raises SettingError for other text."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise SettingError("share", f"{text!r}: expected K/N with K from 1 to N, such as 1/2")
    return Share(int(number) - 1, int(count))


def _file(setting: str, name: str | Path) -> Path:
    path = path_of(setting, name)
    if not path.is_file():
        raise SettingError(setting, f"{str(path)!r}: no such file")
    return path


def check_paths(images: Path, out: Path | None, series_descriptions: Path | None) -> None:
    """Raise ValueError if an input does not exist, or if the output would be written among the images."""
    if not images.is_dir():
        raise SettingError("images", f"{str(images)!r}: no such folder; it should contain DICOM files")
    if series_descriptions is not None and not series_descriptions.is_file():
        raise SettingError("series_descriptions", f"{str(series_descriptions)!r}: no such file")
    if out is None:
        return
    if out.exists() and not out.is_dir():
        raise SettingError("out", f"{str(out)!r}: is a file; it should be a folder")
    check_may_write(out)
    if out.resolve().is_relative_to(images.resolve()):
        raise SettingError("out", f"{str(out)!r}: lies within images; choose a folder outside it")


@contextmanager
def folder_within(out: Path) -> Iterator[Path]:
    """Yield a temporary folder within `out`, on whose disk the slices of many studies fit; /tmp may be small.

    If `out` did not exist before and nothing was written to it, it is removed again.
    """
    folder = out / f".predicting-{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        remove_what_can_be(folder)
        with suppress(OSError):
            out.rmdir()  # fails unless it is empty


def study_table(probabilities: pd.DataFrame, graded: GradedStudies) -> pd.DataFrame:
    """Return one row per study of a table of probabilities, in its order.

    It has the study answers, the typicality of the study's images, and which sites are imaged. A question whose
    conditions have no graded held-out site has no answer, and a study without an image no typicality: nan.
    """
    studies = probabilities["study_id"].drop_duplicates()
    table = full_table(studies, site_table([]))
    prob_N3 = probabilities[[severity.key for severity in Severity]].to_numpy(np.float64)
    columns: dict[str, Any] = {"study_id": studies.to_numpy()}
    for question in QUESTIONS:
        found_S, probability_S = graded.grader.answers.predict(question, prob_N3, table)
        columns[f"p_{question}"] = probability_S[np.searchsorted(found_S, studies)]
    columns["typicality"] = graded.typicality(studies.tolist())
    is_imaged_SX = probabilities["source"].notna().to_numpy().reshape(-1, len(SITES))
    columns["imaged_sites"] = is_imaged_SX.sum(axis=1)
    columns["missing_sites"] = [
        "|".join(site.key for site, is_imaged in zip(SITES, imaged_X, strict=True) if not is_imaged)
        for imaged_X in is_imaged_SX
    ]
    return pd.DataFrame(columns | {"folder": probabilities["folder"].to_numpy()[:: len(SITES)]})


def write_probabilities(path: Path, table: pd.DataFrame) -> None:
    """Write a table of probabilities or a `study_table` as CSV, by rename."""
    with replacing(path) as partial:
        table.to_csv(partial, index=False, float_format="%.9g", lineterminator="\n", errors=ESCAPED)


def _in_order_of(processed: Path, batches: Sequence[Embeddings]) -> Embeddings:
    """Return the embeddings of batches as those of the whole data set, in the order of its rows."""
    dataset = read_dataset(processed)
    rows = group_sites(dataset.pairs)
    place = {_key(row): index for index, row in enumerate(row for one in batches for row in one.rows)}
    image_ND = np.concatenate([one.image_ND for one in batches]) if batches else np.zeros((0, 1), dtype=np.float32)
    weights = [one.weight_NV for one in batches if one.weight_NV is not None]
    weight_NV = np.concatenate(weights) if weights else np.zeros((0, len(View)), dtype=np.float32)
    order = [place[_key(row)] for row in rows]
    made_from = {**batches[0].fingerprint, "dataset": dataset.fingerprint}
    return Embeddings(rows, image_ND[order], made_from, weight_NV[order])


def _key(row: SiteRow) -> tuple[int, str]:
    return row.study_id, row.site.key
