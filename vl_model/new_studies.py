"""Grade new studies: convert a folder of DICOM files, embed and grade its sites, and write what people read."""

import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from data_prep.conversion.convert import convert_folder
from data_prep.conversion.crop_geometry import CropGeometry
from data_prep.conversion.pairs import Dataset, read_dataset
from data_prep.placement.placer import Placer
from data_prep.sites import SITES, Severity
from prompts.render import caption
from vl_model.calibration.prediction_sets import SET_LEVELS, set_column
from vl_model.calibration.study_answers import QUESTIONS
from vl_model.data.site_rows import evidence_of
from vl_model.data.site_table import Floats, SiteTable, full_table, site_table
from vl_model.evaluation.embeddings import Embeddings
from vl_model.evaluation.grader import Grader
from vl_model.evaluation.predictions import set_texts, site_columns
from vl_model.kept_studies import KeptStudies
from vl_model.loaded_run import check_count, path_of
from vl_model.scoring.submission import write_submission
from workspace.file_modes import check_may_write
from workspace.setting_error import SettingError
from workspace.tidying import remove_what_can_be
from workspace.whole_files import ESCAPED, replacing

#: Columns of probabilities.csv after the probabilities: empty for a site that no image shows.
EVIDENCE = ("source", "view", "series_id", "instance_number", "x0", "y0", "x1", "y1")


@dataclass(frozen=True)
class NewStudies:
    """A folder of DICOM files to grade, and how: see `vl_model.loaded_run.LoadedRun.grade`."""

    images: Path
    series_descriptions: Path | None
    workers: int
    out: Path | None
    keep: KeptStudies | None = None

    def grade(
        self,
        placer: Placer,
        grader: Grader,
        embed: Callable[[Dataset, Path], Sequence[Embeddings]],
        geometry: CropGeometry,
    ) -> pd.DataFrame:
        """Return the table of probabilities; write the files if there is a folder for them.

        embed: makes the embeddings of each of the grader's models from a data set and its folder. geometry: of the
        crops that these models were made for.
        """
        with self._folder() as folder:
            processed = folder / "processed_data"
            convert_folder(
                self.images,
                processed,
                descriptions=self.series_descriptions,
                placer=placer,
                caption=caption,
                workers=self.workers,
                geometry=geometry,
            )
            dataset = read_dataset(processed)
            embeddings = embed(dataset, processed)
            table = probability_table(dataset, embeddings, grader)
            if self.keep:
                self.keep.complete(folder, *embeddings)
            if self.out:
                prob_SX3 = grader.grade_studies(dataset.study_ids, embeddings, "metric_optimal")
                studies = study_table(table, grader)
                _write_outputs(self.out, table, studies, dataset.study_ids, prob_SX3, processed / "faults.csv")
        return table

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


def checked_new_studies(
    images: str | Path,
    series_descriptions: str | Path | None,
    workers: int,
    batch_size: int,
    out: str | Path | None,
) -> NewStudies:
    """Return the studies to grade. Raises ValueError if a path or a number is not possible."""
    check_count("workers", workers)
    check_count("batch_size", batch_size)
    images = path_of("images", images)
    written_to = None if out is None else path_of("out", out)
    descriptions = None if series_descriptions is None else path_of("series_descriptions", series_descriptions)
    check_paths(images, written_to, descriptions)
    return NewStudies(images, descriptions, workers, written_to)


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


def probability_table(dataset: Dataset, embeddings: Sequence[Embeddings], grader: Grader) -> pd.DataFrame:
    """Return calibrated probabilities, one row per site, with its sets, the slice and box that show it best, and the
    study's folder.
    """
    table = full_table(dataset.study_ids, site_table([]))
    prob_N3 = grader.predict_proba(table, embeddings, "calibrated")
    rows = site_columns(table).assign(**{severity.key: prob_N3[:, severity] for severity in Severity})
    for level in SET_LEVELS:
        rows[set_column(level)] = set_texts(grader.prediction_sets(table, embeddings, prob_N3, level))
    evidence = pd.DataFrame(_evidence(dataset, table), columns=list(EVIDENCE))
    evidence = evidence.astype({"series_id": "Int64", "instance_number": "Int64"})
    return pd.concat([rows, evidence], axis=1).assign(folder=rows["study_id"].map(dataset.folder_names))


def study_table(probabilities: pd.DataFrame, grader: Grader) -> pd.DataFrame:
    """Return one row per study of a `probability_table`, in its order: the study answers and which sites are imaged.

    A question whose conditions have no graded held-out site has no answer: nan.
    """
    studies = probabilities["study_id"].drop_duplicates()
    table = full_table(studies, site_table([]))
    prob_N3 = probabilities[[severity.key for severity in Severity]].to_numpy(np.float64)
    columns: dict[str, Any] = {"study_id": studies.to_numpy()}
    for question in QUESTIONS:
        found_S, probability_S = grader.answers.predict(question, prob_N3, table)
        columns[f"p_{question}"] = probability_S[np.searchsorted(found_S, studies)]
    is_imaged_SX = probabilities["source"].notna().to_numpy().reshape(-1, len(SITES))
    columns["imaged_sites"] = is_imaged_SX.sum(axis=1)
    columns["missing_sites"] = [
        "|".join(site.key for site, is_imaged in zip(SITES, imaged_X, strict=True) if not is_imaged)
        for imaged_X in is_imaged_SX
    ]
    return pd.DataFrame(columns | {"folder": probabilities["folder"].to_numpy()[:: len(SITES)]})


def _write_outputs(
    out: Path,
    table: pd.DataFrame,
    studies: pd.DataFrame,
    study_ids: Sequence[int],
    prob_SX3: Floats,
    faults: Path,
) -> None:
    with replacing(out / "faults.csv") as partial:
        shutil.copyfile(faults, partial)
    write_probabilities(out / "probabilities.csv", table)
    write_probabilities(out / "studies.csv", studies)
    write_submission(out / "submission.csv", study_ids, prob_SX3)


def write_probabilities(path: Path, table: pd.DataFrame) -> None:
    """Write a `probability_table` or a `study_table` as CSV, by rename."""
    with replacing(path) as partial:
        table.to_csv(partial, index=False, float_format="%.9g", lineterminator="\n", errors=ESCAPED)


def _evidence(dataset: Dataset, table: SiteTable) -> list[dict[str, Any]]:
    """Return the slice and box of each row, in the view in which readers mark the site; {} if no image shows it."""
    best = evidence_of(dataset.pairs)
    shown = [best.get((study, SITES[site])) for study, site in zip(table.study_N.tolist(), table.site_N, strict=True)]
    return [
        {}
        if pair is None
        else {
            "source": pair.source.value,
            "view": pair.view.value,
            "series_id": pair.series_id,
            "instance_number": pair.instance_number,
            **dict(zip(("x0", "y0", "x1", "y1"), pair.box, strict=True)),
        }
        for pair in shown
    ]
