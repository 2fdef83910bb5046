"""Anyone's predictions: a CSV file of three probabilities per site, read strictly.

The rows are named by ``row_id``, as in the competition's submission, or by ``study_id``, ``condition``, ``side`` and
``level``. Rows and columns may have any order, and other columns are ignored. Nothing is guessed: a row is refused and
quoted if it cannot be read, has fewer or more cells than the heading, appears twice, or is no distribution.

Legend: N rows, 3 severities.
"""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.sites import SITE_COLUMNS, SITES, Site, parse_row_id_site
from data_prep.truth import NO_VALUE, check_cells, parse_study_id
from vl_model.data.site_table import SITE_INDEX, Floats, Ints
from vl_model.scoring.metrics import EPSILON, GRADES

#: Files with few digits, or in float32, have sums that differ from one by less than this.
SUM_TOLERANCE = 1e-3
_Identify = Callable[[Mapping[str, str]], tuple[int, int]]


@dataclass(frozen=True)
class PredictionTable:
    """The predictions of N sites in the order of the file.

    prob_N3: probabilities; each row sums to one.
    given_N3: what the metric reads: the same, or, if rows of any sum were taken, the values of the file. The
        competition's code divides rows by their sums itself, but not for the any-severe part.
    largest_deviation: the largest difference of a row's sum from one, in the file.
    """

    path: Path
    study_N: Ints
    site_N: Ints
    prob_N3: Floats
    given_N3: Floats
    largest_deviation: float

    def by_site(self) -> dict[tuple[int, int], list[float]]:
        """Return (study id, index in `SITES`) -> three probabilities."""
        keys = zip(self.study_N.tolist(), self.site_N.tolist(), strict=True)
        return dict(zip(keys, self.prob_N3.tolist(), strict=True))


def read_prediction_table(path: Path, normalise: bool = False) -> PredictionTable:
    """Read a file of predictions.

    Args:
        path: the file.
        normalise: take rows of any sum, as the competition's code does: values are clipped to [eps, 1 - eps], and then
            each row is divided by its sum.

    Raises:
        ValueError: the file is no such table; or a row, which is quoted with its line, cannot be read, appears twice,
            has a value that is negative or not finite, or (without `normalise`) a sum that differs from one by more
            than `SUM_TOLERANCE`.
    """
    rows: dict[tuple[int, int], tuple[float, ...]] = {}
    first_of: dict[tuple[int, int], tuple[int, str | None, str | None]] = {}  # its line, head and kind
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            table.fieldnames = heading = [name.strip().lower() for name in table.fieldnames or ()]
            identify = _identifier(path, heading)
            for cells in table:
                try:
                    check_cells(cells)
                    key, values = identify(cells), _probabilities([cells[grade] for grade in GRADES], normalise)
                    told = table.line_num, cells.get("head"), cells.get("kind")
                    first = first_of.setdefault(key, told)
                    if first[1:] != told[1:]:
                        raise ValueError(
                            "appears with several heads and kinds (of predictions.csv): keep the rows of one of each"
                        )
                    if key in rows:
                        raise ValueError(f"appears twice, first in line {first[0]}")
                except ValueError as error:
                    raise ValueError(f"{path}: line {table.line_num}: row {_quoted(cells)}: {error}") from None
                rows[key] = values
    except OSError as error:
        problem = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise ValueError(f"{path}: {problem}; expected a CSV file of predictions") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    if not rows:
        raise ValueError(f"{path}: contains no prediction")
    return _table(path, rows, normalise)


def row_name(study: int, site: int) -> str:
    """Return the ``row_id`` of a site (its index in `SITES`): ``7_spinal_canal_stenosis_l1_l2``."""
    return f"{study}_{SITES[site].key}"


def _table(path: Path, rows: Mapping[tuple[int, int], tuple[float, ...]], normalise: bool) -> PredictionTable:
    key_N2, given_N3 = np.array(list(rows), dtype=np.int64), np.array(list(rows.values()), dtype=np.float64)
    sum_N1 = given_N3.sum(axis=1, keepdims=True)
    if normalise:
        clipped_N3 = np.clip(given_N3, EPSILON, 1 - EPSILON)
        prob_N3 = clipped_N3 / clipped_N3.sum(axis=1, keepdims=True)
    else:
        given_N3 = prob_N3 = given_N3 / sum_N1
    deviation = float(np.abs(sum_N1 - 1).max())
    return PredictionTable(path, key_N2[:, 0].copy(), key_N2[:, 1].copy(), prob_N3, given_N3, deviation)


def _quoted(cells: Mapping[str, str | None]) -> str:
    if "row_id" in cells:
        return repr(cells["row_id"])
    return repr(", ".join(cells[name] or "" for name in ("study_id", *SITE_COLUMNS)))


def _identifier(path: Path, heading: Sequence[str]) -> _Identify:
    """Return the function that names the site of a row. Raises ValueError if a column is missing or there twice."""
    by_row_id = "row_id" in heading
    needed = [*(("row_id",) if by_row_id else ("study_id", *SITE_COLUMNS)), *GRADES]
    for name in needed:
        if name not in heading:
            found = ", ".join(heading[:8]) + (" ..." if len(heading) > 8 else "") if heading else "none, it is empty"
            raise ValueError(
                f"{path}: no column {name!r} (the columns are {found}); expected row_id, {', '.join(GRADES)}, or "
                f"study_id, {', '.join(SITE_COLUMNS)} instead of row_id"
            )
        if heading.count(name) > 1:
            raise ValueError(f"{path}: {heading.count(name)} columns are named {name!r}; expected one")
    return _of_row_id if by_row_id else _of_columns


def _of_row_id(cells: Mapping[str, str]) -> tuple[int, int]:
    study, _, key = cells["row_id"].strip().partition("_")
    return parse_study_id(study), SITE_INDEX[parse_row_id_site(key)]


def _of_columns(cells: Mapping[str, str]) -> tuple[int, int]:
    site = {name: "" if cells[name].strip().lower() in NO_VALUE else cells[name].strip() for name in SITE_COLUMNS}
    return parse_study_id(cells["study_id"]), SITE_INDEX[Site.from_columns(site)]


def _probabilities(words: Sequence[str], normalise: bool) -> tuple[float, ...]:
    """Return the three values of a row as they are. Raises ValueError that quotes what is no probability."""
    values = tuple(map(_number, words))
    total, quoted = sum(values), ", ".join(word.strip() for word in words)
    if min(values) < 0:
        raise ValueError(f"{quoted}: a probability is negative")
    if abs(total - 1) > SUM_TOLERANCE and not normalise:
        remedy = "--normalise takes such rows as the competition's code does"
        if abs(total - 100) < 1:
            remedy = "divide percentages by 100"
        raise ValueError(f"{quoted} sum to {total:.6g}, not to 1; {remedy}")
    return values


def _number(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        kind = "is a percentage" if word.strip().endswith("%") else "is no number"
        raise ValueError(f"{word!r} {kind}; expected a probability from 0 to 1") from None
    if not math.isfinite(value):
        raise ValueError(f"{word!r} is not finite; expected a probability from 0 to 1")
    return value
