"""The competition's submission, 25 rows per study.

Probabilities of studies are (S, 25, 3), studies in the order given, sites in the order of `SITES`.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from data_prep.sites import SITES, SUBMISSION_SITES, Site, parse_row_id_site
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


@dataclass(frozen=True)
class SampleSubmission:
    """The rows of a sample submission, in its order: study and site of each."""

    path: Path
    rows: tuple[tuple[int, Site], ...]

    @property
    def study_ids(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(study for study, _ in self.rows))

    def without(self, study_ids: Collection[int]) -> "SampleSubmission":
        """Return it without the rows of these studies."""
        return replace(self, rows=tuple(row for row in self.rows if row[0] not in study_ids))

    def notes(self, study_ids: Collection[int]) -> list[str]:
        """Return in words what differs between its rows and 25 rows for each of these studies, and the usual order."""
        own, notes = set(self.rows), []
        if surplus := sorted(set(study_ids) - set(self.study_ids)):
            notes.append(f"has no row for {_counted(surplus, 'study', 'studies')}, whose rows follow its own")
        lacking = [f"{study}_{site.key}" for study in self.study_ids for site in SITES if (study, site) not in own]
        if lacking:
            notes.append(f"lacks {_counted(lacking, 'row', 'rows')} of its own studies, which follow its own rows")
        if imageless := sorted(set(self.study_ids) - set(study_ids)):
            notes.append(
                f"names {_counted(imageless, 'study', 'studies')} without images, which get the best constants"
            )
        if list(self.rows) != _usual_order(self.study_ids) and not lacking:
            notes.append("has another order than by study id and site, which is kept")
        return [f"{self.path.name} {note}" for note in notes]

    def order(self, study_ids: Iterable[int]) -> list[tuple[int, Site]]:
        """Return its rows in its order, then those that it lacks of its own and of the given studies."""
        own = set(self.rows)
        return [*self.rows, *(row for row in _usual_order({*self.study_ids, *study_ids}) if row not in own)]


def read_sample_submission(path: Path) -> SampleSubmission:
    """Read a sample submission.

    Raises ValueError, which quotes the row, if the file is no CSV table with a column row_id, if a row id does not
    consist of a study's number and a site, or if one appears twice.
    """
    table = read_words(path)
    if "row_id" not in table.columns:
        raise ValueError(f"{path}: has no column 'row_id'")
    rows: dict[tuple[int, Site], int] = {}
    for line, row_id in enumerate(table["row_id"], start=2):
        study, _, site = row_id.partition("_")
        try:
            if not (study.isascii() and study.isdigit()):
                raise ValueError(f"row id {row_id!r} does not begin with a study's number")
            row = int(study), parse_row_id_site(site)
            if row in rows:
                raise ValueError(f"row id {row_id!r} appears twice, first in line {rows[row]}")
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
        rows[row] = line
    return SampleSubmission(path, tuple(rows))


def _usual_order(study_ids: Iterable[int]) -> list[tuple[int, Site]]:
    """Return the rows of studies by study id and then as the competition's sites are, alphabetically."""
    return [(study, site) for study in sorted(study_ids) for site in SUBMISSION_SITES]


def _counted(names: Sequence[object], one: str, several: str) -> str:
    """Return how many there are, and the first: ``3 studies (the first is 12)``."""
    return f"1 {one} ({names[0]})" if len(names) == 1 else f"{len(names)} {several} (the first is {names[0]})"


def write_submission(
    path: Path,
    study_ids: Sequence[int],
    prob_SX3: Floats,
    sample_submission: Path | None = None,
    order: Sequence[tuple[int, Site]] | None = None,
) -> str:
    """Write ``row_id,normal_mild,moderate,severe``; the file is checked, then renamed to `path`.

    Args:
        path: the file.
        study_ids: S studies.
        prob_SX3: (S, 25, 3) probabilities, sites in the order of `SITES`.
        sample_submission: a table whose order is used if it has the same rows. Else, rows are ordered by study id and
            then as the competition's sites are, alphabetically.
        order: all rows of these studies in the order in which they are written, instead of a table.

    Returns:
        in words, why the order is not that of the table; "" if it is, or if there is no table.

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
    place = {study: index for index, study in enumerate(study_ids)}
    rows = _usual_order(study_ids) if order is None else list(order)
    row_ids, why = [f"{study}_{site.key}" for study, site in rows], ""
    if order is None:
        row_ids, why = _in_order_of(sample_submission, row_ids)
        rows = [(int(study), parse_row_id_site(key)) for study, _, key in (name.partition("_") for name in row_ids)]
    prob_N3 = np.array([prob_SX3[place[study], SITE_INDEX[site]] for study, site in rows]).reshape(-1, 3)
    table = pd.DataFrame(prob_N3, columns=list(GRADES))
    table.insert(0, "row_id", row_ids)
    with replacing(path) as partial:
        table.to_csv(partial, index=False, float_format="%.12f", lineterminator="\n")
        _check(partial, len(study_ids))
    return why


def read_words(path: Path) -> pd.DataFrame:
    """Read a CSV with every cell as text. Raises ValueError if it is not a CSV file."""
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    except ValueError as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8 ({error})") from None


def _sample_row_ids(sample_submission: Path | None) -> list[str]:
    """Return the row ids of a sample submission in its order; empty if there is no such table."""
    if sample_submission is None or not sample_submission.is_file():
        return []
    table = read_words(sample_submission)
    return list(table["row_id"]) if "row_id" in table.columns else []


def _in_order_of(sample_submission: Path | None, row_ids: list[str]) -> tuple[list[str], str]:
    """Return the row ids in the order of a sample that has the same ones; else as they are, and why."""
    sample = _sample_row_ids(sample_submission)
    if sorted(sample) == sorted(row_ids):
        return sample, ""
    if not sample or sample_submission is None:
        return row_ids, ""
    lacking, surplus = len(set(row_ids) - set(sample)), len(set(sample) - set(row_ids))
    why = (
        f"{sample_submission.name} lacks {lacking} of its rows and has {surplus} others"
        if lacking or surplus
        else (f"{sample_submission.name} has a row twice")
    )
    return row_ids, f"{why}: the order is by study id and site"


def _check(path: Path, studies: int) -> None:
    """Check the written file against the rules of the competition. Raises RuntimeError, a defect of this program."""
    table = pd.read_csv(path)
    prob_N3 = table[list(GRADES)].to_numpy()
    if len(table) != studies * len(SITES) or not table["row_id"].is_unique:
        raise RuntimeError(f"{path}: has {len(table)} rows, or one of them twice, for {studies} studies")
    if not (prob_N3 >= FLOOR).all() or not (np.abs(prob_N3.sum(axis=1) - 1) < SUM_TOLERANCE).all():
        raise RuntimeError(f"{path}: has a row below {FLOOR} or of another sum than 1")
