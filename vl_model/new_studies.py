"""Tables and folders of graded new studies: ``probabilities.csv``, checks of the paths, and temporary folders."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd

from data_prep.conversion.pairs import Dataset
from data_prep.sites import SITES, Severity
from vl_model.data.site_rows import evidence_of
from vl_model.data.site_table import SiteTable, full_table, site_table
from vl_model.evaluation.embeddings import Embeddings
from vl_model.evaluation.grader import Grader
from vl_model.evaluation.predictions import site_columns
from workspace.file_modes import check_may_write
from workspace.setting_error import SettingError
from workspace.tidying import remove_what_can_be
from workspace.whole_files import ESCAPED, replacing

#: Columns of probabilities.csv after the probabilities: empty for a site that no image shows.
EVIDENCE = ("source", "view", "series_id", "instance_number", "x0", "y0", "x1", "y1")


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


def probability_table(dataset: Dataset, embeddings: Embeddings, grader: Grader) -> pd.DataFrame:
    """Return calibrated probabilities, one row per site, with the slice and box that show it best and the folder."""
    table = full_table(dataset.study_ids, site_table([]))
    prob_N3 = grader.predict_proba(table, embeddings, "calibrated")
    rows = site_columns(table).assign(**{severity.key: prob_N3[:, severity] for severity in Severity})
    evidence = pd.DataFrame(_evidence(dataset, table), columns=list(EVIDENCE))
    evidence = evidence.astype({"series_id": "Int64", "instance_number": "Int64"})
    return pd.concat([rows, evidence], axis=1).assign(folder=rows["study_id"].map(dataset.folder_names))


def write_probabilities(path: Path, table: pd.DataFrame) -> None:
    """Write a `probability_table` as CSV, by rename."""
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
