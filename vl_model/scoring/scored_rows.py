"""The graded rows of a truth, each with its prediction: which of a file's rows count, and what is missing.

Only graded rows are scored. What a file lacks is never left out in silence, since a model would look better without
its difficult studies: the caller chooses what happens (`Missing`), and the counts say what did. A condition of which a
file predicts no site at all has no part of the metric, and then there is no score of the whole.

Legend: N scored rows, T graded rows of the truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from data_prep.sites import SITES
from data_prep.truth import read_truth
from vl_model.data.site_table import CONDITIONS, Bools, Floats, Ints, SiteTable, site_table
from vl_model.scoring.constant_baseline import constant_baseline
from vl_model.scoring.metrics import SEVERITY_WEIGHTS, StudySums, study_sums
from vl_model.scoring.prediction_table import PredictionTable, row_name

#: What happens to graded rows that a file does not predict. refuse: an error that names them. constant: each gets the
#: best constant of its column (`constants_of_others`). leave_out: the studies that lack one are not scored.
Missing = Literal["refuse", "constant", "leave_out"]
_GROUPS = 5
_NAMED = 3


@dataclass(frozen=True)
class ScoredRows:
    """N graded rows with probabilities.

    row_N: the row of the truth of each. filled_N: whether the probabilities are a constant, for want of a prediction.
    given_N3: what the metric reads (`PredictionTable.given_N3`).
    unknown: the studies of the file that the truth does not have. left_out: the graded studies that are not scored.
    unpredicted: the graded conditions, as indices in `CONDITIONS`, of which the file predicts no site.
    """

    table: SiteTable
    row_N: Ints
    prob_N3: Floats
    given_N3: Floats
    filled_N: Bools
    unknown: tuple[int, ...] = ()
    left_out: tuple[int, ...] = ()
    unpredicted: tuple[int, ...] = ()

    def sums(self) -> StudySums:
        """Return what each study contributes to the metric."""
        return study_sums(self.table, self.given_N3)

    def take(self, rows: Bools) -> "ScoredRows":
        """Return the rows of a mask."""
        return ScoredRows(
            self.table.take(rows), self.row_N[rows], self.prob_N3[rows], self.given_N3[rows], self.filled_N[rows]
        )


def read_truth_table(path: Path) -> SiteTable:
    """Read true grades in either format of `data_prep.truth`; if there is a column ``split``, only the test split.

    Raises ValueError that quotes the file, the line and the cell.
    """
    return site_table((one.study_id, one.site, one.severity) for one in read_truth(path, split="test"))


def graded_rows(path: Path) -> SiteTable:
    """Read the graded rows of a truth (`read_truth_table`), sorted: no figure depends on the order of its lines.

    Raises ValueError if there are none.
    """
    table = read_truth_table(path)
    if not table.labelled_N.any():
        raise ValueError(f"{path}: contains no grade")
    order = np.lexsort((table.site_N, table.study_N))
    return table.take(order[table.labelled_N[order]])


def scored_rows(truth: SiteTable, predictions: PredictionTable, missing: Missing = "refuse") -> ScoredRows:
    """Give each graded row of `truth` (T) its prediction.

    Raises ValueError if the file has no study of the truth, or, with `missing` "refuse", if it lacks a graded row.
    """
    study_S = np.unique(truth.study_N)
    found_N = np.isin(predictions.study_N, study_S)
    unknown = np.unique(predictions.study_N[~found_N])
    if not found_N.any():
        raise ValueError(
            f"{predictions.path}: none of its {len(unknown)} studies is in the table of true grades "
            f"({_named([str(study) for study in unknown])} here, {_named([str(study) for study in study_S])} there)"
        )
    key_T = _keys(study_S, truth.study_N, truth.site_N)
    place = np.full(len(study_S) * len(SITES), -1, dtype=np.int64)
    place[_keys(study_S, predictions.study_N[found_N], predictions.site_N[found_N])] = np.flatnonzero(found_N)
    place_T = place[key_T]

    is_missing_T = place_T < 0
    predicted = np.unique(truth.condition_N[~is_missing_T])
    unpredicted = np.setdiff1d(np.unique(truth.condition_N), predicted)
    keep_T, left_out = np.ones(len(truth), dtype=bool), np.array([], dtype=np.int64)
    if missing != "constant":
        keep_T = np.isin(truth.condition_N, predicted)
        if not keep_T.any():
            raise ValueError(f"{predictions.path}: predicts none of the {len(truth)} graded rows")
        if missing == "refuse":
            _check_complete(predictions.path, truth, is_missing_T & keep_T)
        left_out = np.unique(truth.study_N[is_missing_T & keep_T])
        keep_T &= ~np.isin(truth.study_N, left_out)
        if not keep_T.any():
            raise ValueError(f"{predictions.path}: lacks graded rows of every study, so that none can be scored")
    filled_T = is_missing_T & keep_T
    prob_T3 = constants_of_others(truth) if filled_T.any() else np.zeros((len(truth), len(SEVERITY_WEIGHTS)))
    given_T3 = prob_T3.copy()
    prob_T3[~is_missing_T] = predictions.prob_N3[place_T[~is_missing_T]]
    given_T3[~is_missing_T] = predictions.given_N3[place_T[~is_missing_T]]
    return ScoredRows(
        truth.take(keep_T),
        np.flatnonzero(keep_T),
        prob_T3[keep_T],
        given_T3[keep_T],
        filled_T[keep_T],
        tuple(unknown.tolist()),
        tuple(left_out.tolist()),
        tuple(unpredicted.tolist()) if missing != "constant" else (),
    )


def constants_of_others(truth: SiteTable) -> Floats:
    """Return (T, 3): for each row the best constant of its column, learned from other studies, in five groups."""
    studies, study_of_T = np.unique(truth.study_N, return_inverse=True)
    group_S = np.random.default_rng(0).permutation(len(studies)) % _GROUPS
    prob_T3 = np.empty((len(truth), len(SEVERITY_WEIGHTS)))
    for group in range(_GROUPS):
        rows = group_S[study_of_T] == group
        prob_T3[rows] = constant_baseline(truth.take(~rows), truth.take(rows))
    return prob_T3


def constant_rows(truth: SiteTable) -> ScoredRows:
    """Return all graded rows with `constants_of_others`: what a file scores that ignores the images."""
    prob_T3 = constants_of_others(truth)
    return ScoredRows(truth, np.arange(len(truth)), prob_T3, prob_T3, np.ones(len(truth), dtype=bool))


def shared_rows(ours: ScoredRows, theirs: ScoredRows) -> tuple[ScoredRows, ScoredRows]:
    """Return the rows that both have, of two files that were scored against one truth."""
    return ours.take(np.isin(ours.row_N, theirs.row_N)), theirs.take(np.isin(theirs.row_N, ours.row_N))


def condition_words(indices: Sequence[int]) -> str:
    """Return conditions in words, separated by commas."""
    return ", ".join(CONDITIONS[index].words for index in indices)


def _keys(study_S: Ints, study_N: Ints, site_N: Ints) -> Ints:
    """Return one number per row, from the place of its study in the sorted `study_S` and its site."""
    return np.searchsorted(study_S, study_N) * len(SITES) + site_N


def _check_complete(path: Path, truth: SiteTable, missing_T: Bools) -> None:
    if missing_T.any():
        lacking = truth.take(missing_T)
        rows = [row_name(int(study), int(site)) for study, site in zip(lacking.study_N, lacking.site_N, strict=True)]
        raise ValueError(
            f"{path}: {len(rows)} graded row{'s are' if len(rows) > 1 else ' is'} missing, of "
            f"{len(lacking.study_ids)} of {len(truth.study_ids)} studies ({_named(rows)}); --missing constant fills "
            "rows with the best constants, --missing leave_out scores the other studies"
        )


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
