"""Grades of new studies as they come: batch after batch, and constants for what is not graded (yet).

Every site says what it was graded from: all of its views, fewer of them, its neighbouring levels, or nothing of the
study, so that it has the constant of its column.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep.conversion.pairs import Pair
from data_prep.sites import SITES, Severity, View
from vl_model.calibration.prediction_sets import ALL_GRADES, SET_LEVELS, Bits, set_column
from vl_model.data.site_rows import evidence_of
from vl_model.data.site_table import SITE_INDEX, Bools, Floats, SiteTable, full_table, site_table
from vl_model.evaluation.embeddings import Embeddings
from vl_model.evaluation.grader import Grader
from vl_model.evaluation.predictions import set_texts, site_columns
from workspace.whole_files import replacing

#: Columns of probabilities.csv after the probabilities: empty for a site that no image shows.
EVIDENCE = ("source", "view", "series_id", "instance_number", "x0", "y0", "x1", "y1")


class GradedFrom(StrEnum):
    """What a site was graded from."""

    ALL_VIEWS = "all_views"
    FEWER_VIEWS = "fewer_views"
    NEIGHBOURING_LEVELS = "neighbouring_levels"
    CONSTANT = "constant"

    @property
    def words(self) -> str:
        return self.value.replace("_", " ")


class GradedStudies:
    """The grades of studies, which `add` takes in batch by batch; any other study has constants.

    waiting: the studies that have images and are still to be added; `why_waiting` says why those that remain were not.
    """

    def __init__(self, grader: Grader, waiting: Iterable[int] = ()) -> None:
        self.grader = grader
        self.waiting = frozenset(waiting)
        self.why_waiting = "the command ended before the study was graded"
        self._calibrated: dict[int, Floats] = {}
        self._optimal: dict[int, Floats] = {}
        self._from: dict[int, list[GradedFrom]] = {}
        self._shown_in: dict[int, list[frozenset[View]]] = {}
        self._evidence: dict[int, list[dict[str, Any]]] = {}
        self._sets: dict[int, dict[int, Bits]] = {}
        self._typicality: dict[int, float] = {}

    def add(self, study_ids: Sequence[int], pairs: Sequence[Pair], embeddings: Sequence[Embeddings]) -> None:
        """Grade some studies. embeddings: of each of the grader's models."""
        self.waiting -= frozenset(study_ids)
        if not study_ids:
            return
        table = full_table(study_ids, site_table([]))
        calibrated_SX3 = self.grader.grade_studies(study_ids, embeddings, "calibrated")
        optimal_SX3 = self.grader.grade_studies(study_ids, embeddings, "metric_optimal")
        set_SXof = self._prediction_sets(table, embeddings)
        self._typicality |= zip(study_ids, self.grader.typicality_of(study_ids, embeddings).tolist(), strict=True)
        imaged_N = embeddings[0].rows_of(table) >= 0
        guessed_SX = self.grader.guessed_from_neighbours(imaged_N, table).reshape(-1, len(SITES))
        views = {(row.study_id, row.site): frozenset(row.views) for row in embeddings[0].rows}
        best = evidence_of(pairs)
        for index, study in enumerate(study_ids):
            shown_in = [views.get((study, site), frozenset()) for site in SITES]
            self._calibrated[study], self._optimal[study] = calibrated_SX3[index], optimal_SX3[index]
            self._sets[study] = {level: set_SX[index] for level, set_SX in set_SXof.items()}
            self._shown_in[study] = shown_in
            self._from[study] = _graded_from(shown_in, guessed_SX[index])
            self._evidence[study] = [_cells(best.get((study, site))) for site in SITES]

    def _prediction_sets(self, table: SiteTable, embeddings: Sequence[Embeddings]) -> dict[int, Bits]:
        """Return level -> the sets (S, 25) of some studies, as bits.

        Their thresholds belong to probabilities that are not shifted: sets by grade cover as often at any prevalence.
        """
        grader = replace(self.grader, shift=None)
        prob_N3 = grader.predict_proba(table, embeddings, "calibrated")
        sets = {level: grader.prediction_sets(table, embeddings, prob_N3, level) for level in SET_LEVELS}
        return {level: set_N.reshape(-1, len(SITES)) for level, set_N in sets.items()}

    def submission(self, study_ids: Sequence[int]) -> Floats:
        """Return metric-optimal probabilities (S, 25, 3)."""
        constant_X3 = self.grader.constants()
        graded = [self._optimal.get(study, constant_X3) for study in study_ids]
        return np.array(graded).reshape(-1, len(SITES), len(Severity))

    def table(self, study_ids: Sequence[int], folder_names: Mapping[int, str]) -> pd.DataFrame:
        """Return calibrated probabilities, a row per site.

        Beside them are its prediction sets, the slice and box that show it best, and the study's folder.
        """
        table = full_table(study_ids, site_table([]))
        nothing = Embeddings((), np.zeros((0, 1), dtype=np.float32), {})
        prior_X3 = self.grader.grade_studies([0], [nothing] * len(self.grader.models), "calibrated")[0]
        prob_N3 = np.concatenate([self._calibrated.get(study, prior_X3) for study in study_ids] or [prior_X3[:0]])
        rows = site_columns(table).assign(**{severity.key: prob_N3[:, severity] for severity in Severity})
        for level in SET_LEVELS:
            every = np.full(len(SITES), ALL_GRADES, dtype=np.uint8)
            sets = [self._sets[study][level] if study in self._sets else every for study in study_ids]
            rows[set_column(level)] = set_texts(np.concatenate(sets or [every[:0]]))
        none: list[dict[str, Any]] = [{} for _ in SITES]
        cells = [cell for study in study_ids for cell in self._evidence.get(study, none)]
        evidence = pd.DataFrame(cells, columns=list(EVIDENCE))
        evidence = evidence.astype({"series_id": "Int64", "instance_number": "Int64"})
        return pd.concat([rows, evidence], axis=1).assign(
            folder=rows["study_id"].map(folder_names), graded_from=[kind.value for kind in self._kinds(study_ids)]
        )

    def typicality(self, study_ids: Sequence[int]) -> Floats:
        """Return the typicality (S,) of each study's images; nan if it cannot be told."""
        return np.array([self._typicality.get(study, np.nan) for study in study_ids], dtype=np.float64)

    def counts(self, study_ids: Sequence[int]) -> dict[GradedFrom, int]:
        """Return the number of sites by what they were graded from."""
        counts = Counter(self._kinds(study_ids))
        return {kind: counts[kind] for kind in GradedFrom}

    def write_fallbacks(self, path: Path, study_ids: Sequence[int]) -> None:
        """Write a CSV file of all sites that were not graded from all of their views, by rename, with the reason."""
        table = full_table(study_ids, site_table([]))
        kinds = self._kinds(study_ids)
        rows = site_columns(table).assign(
            graded_from=[kind.value for kind in kinds], reason=[self._reason(*row) for row in _rows(table)]
        )
        with replacing(path) as partial:
            fallbacks = rows[rows["graded_from"] != GradedFrom.ALL_VIEWS.value]
            fallbacks.to_csv(partial, index=False, lineterminator="\n")

    def _is_graded(self, study: int) -> bool:
        return any(self._shown_in.get(study, ()))

    def _kinds(self, study_ids: Iterable[int]) -> list[GradedFrom]:
        constant = [GradedFrom.CONSTANT] * len(SITES)
        return [kind for study in study_ids for kind in self._from.get(study, constant)]

    def _reason(self, study: int, site: int) -> str:
        if study not in self._shown_in:
            return self.why_waiting if study in self.waiting else "no image of the study was found"
        if not self._is_graded(study):
            return "no image of the study that can be read shows a site"
        shown_in = self._shown_in[study][site]
        return f"shown in {' and '.join(sorted(shown_in))} alone" if shown_in else "no image shows the site"


def _graded_from(shown_in: Sequence[frozenset[View]], guessed_X: Bools) -> list[GradedFrom]:
    """Return what each of the 25 sites of a study was graded from."""
    kinds = []
    for views, site in zip(shown_in, SITES, strict=True):
        if views:
            kinds.append(GradedFrom.ALL_VIEWS if views >= set(site.views) else GradedFrom.FEWER_VIEWS)
        else:
            kinds.append(GradedFrom.NEIGHBOURING_LEVELS if guessed_X[SITE_INDEX[site]] else GradedFrom.CONSTANT)
    return kinds


def _rows(table: SiteTable) -> Iterable[tuple[int, int]]:
    return zip(table.study_N.tolist(), table.site_N.tolist(), strict=True)


def _cells(pair: Pair | None) -> dict[str, Any]:
    """Return the slice and box of a pair, the one in the view in which readers mark the site; {} if there is none."""
    if pair is None:
        return {}
    return {
        "source": pair.source.value,
        "view": pair.view.value,
        "series_id": pair.series_id,
        "instance_number": pair.instance_number,
        **dict(zip(("x0", "y0", "x1", "y1"), pair.box, strict=True)),
    }
