"""The competition's submission, 25 rows per study.

Probabilities of studies are (S, 25, 3), studies in the order given, sites in the order of `SITES`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from data_prep.sites import SITES, SUBMISSION_SITES
from vl_model.data.site_table import SITE_INDEX, Floats
from vl_model.scoring.metrics import GRADES
from workspace.whole_files import replacing

FLOOR = 1e-4
SUM_TOLERANCE = 1e-9


def floored(prob: Floats) -> Floats:
    """Return probabilities (..., 3) of at least `FLOOR` that sum to one; the largest pays for the small ones."""
    prob_N3 = np.maximum(prob.reshape(-1, len(GRADES)), FLOOR)
    prob_N3 = np.maximum(prob_N3 / prob_N3.sum(axis=1, keepdims=True), FLOOR)
    rows, largest = np.arange(len(prob_N3)), prob_N3.argmax(axis=1)
    prob_N3[rows, largest] -= prob_N3.sum(axis=1) - 1
    return prob_N3.reshape(prob.shape)


def write_submission(
    path: Path, study_ids: Sequence[int], prob_SX3: Floats, sample_submission: Path | None = None
) -> None:
    """Write ``row_id,normal_mild,moderate,severe``; the file is checked, then renamed to `path`.

    Args:
        path: the file.
        study_ids: S studies.
        prob_SX3: (S, 25, 3) probabilities, sites in the order of `SITES`.
        sample_submission: a table whose order is used if it has the same rows. Else, rows are ordered by study id and
            then as the competition's sites are, alphabetically.

    Raises:
        ValueError: the shape is wrong, a study appears twice, or a probability is negative or not finite.
    """
    if prob_SX3.shape != (len(study_ids), len(SITES), len(GRADES)):
        raise ValueError(f"probabilities of shape {prob_SX3.shape}: expected ({len(study_ids)}, 25, 3)")
    if len(set(study_ids)) != len(study_ids):
        twice = next(study for study in study_ids if list(study_ids).count(study) > 1)
        raise ValueError(f"study {twice}: appears twice in the submission")
    if not np.isfinite(prob_SX3).all() or (prob_SX3 < 0).any():
        raise ValueError("a probability is negative or not finite")
    prob_SX3 = floored(prob_SX3)
    row_of = {
        f"{study}_{site.key}": prob_SX3[index, SITE_INDEX[site]]
        for index, study in sorted(enumerate(study_ids), key=lambda pair: pair[1])
        for site in SUBMISSION_SITES
    }
    row_ids = _sample_row_ids(sample_submission)
    if sorted(row_ids) != sorted(row_of):
        row_ids = list(row_of)
    table = pd.DataFrame(np.array([row_of[row_id] for row_id in row_ids]).reshape(-1, 3), columns=list(GRADES))
    table.insert(0, "row_id", row_ids)
    with replacing(path) as partial:
        table.to_csv(partial, index=False, float_format="%.12f", lineterminator="\n")
        _check(partial, len(study_ids))


def _read_words(path: Path) -> pd.DataFrame:
    """Read a CSV with every cell as text. Raises ValueError if it is not a CSV file."""
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    except ValueError as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8 ({error})") from None


def _sample_row_ids(sample_submission: Path | None) -> list[str]:
    """Return the row ids of a sample submission in its order; empty if there is no such table."""
    if sample_submission is None or not sample_submission.is_file():
        return []
    table = _read_words(sample_submission)
    return list(table["row_id"]) if "row_id" in table.columns else []


def _check(path: Path, studies: int) -> None:
    """Check the written file against the rules of the competition. Raises RuntimeError, a defect of this program."""
    table = pd.read_csv(path)
    prob_N3 = table[list(GRADES)].to_numpy()
    if len(table) != studies * len(SITES) or not table["row_id"].is_unique:
        raise RuntimeError(f"{path}: has {len(table)} rows, or one of them twice, for {studies} studies")
    if not (prob_N3 >= FLOOR).all() or not (np.abs(prob_N3.sum(axis=1) - 1) < SUM_TOLERANCE).all():
        raise RuntimeError(f"{path}: has a row below {FLOOR} or of another sum than 1")
