"""A run's heads, calibrators and column priors: from embeddings to probabilities, for every site of every study.

A grader has one model, or the models of all folds: their predictions are averaged in log-probability before they are
calibrated. The files are in a run's ``heads/``: ``heads.npz`` (arrays) and, written last, ``heads.json`` (the
calibrators, the prediction sets and the study answers of the better head, its name, the names of the runs, and the
fingerprints of the checkpoint and the data set).
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.special import log_softmax

from data_prep.sites import SITES, Severity
from vl_model.calibration.calibrator import Calibrator
from vl_model.calibration.prediction_sets import ALL_GRADES, Bits, PredictionSets
from vl_model.calibration.study_answers import StudyAnswers
from vl_model.data.site_table import Bools, Floats, SiteTable, full_table, site_table
from vl_model.evaluation.embeddings import Embeddings
from vl_model.evaluation.heads import LinearProbe, ZeroShotHead
from vl_model.evaluation.neighbouring_levels import NeighbouringLevels
from vl_model.evaluation.predictions_card import check_fingerprint
from vl_model.evaluation.typicality import Typicality
from vl_model.scoring.metric_optimum import metric_optimal
from vl_model.scoring.prevalence import Prevalences, PrevalenceShift, prevalence_shift
from vl_model.scoring.priors import ColumnPrior
from workspace.json_files import read_object
from workspace.whole_files import replacing

SCHEMA_VERSION = 3
HeadName = Literal["zero_shot", "linear_probe"]
Kind = Literal["raw", "calibrated", "metric_optimal"]
HEADS: tuple[HeadName, ...] = ("zero_shot", "linear_probe")
KINDS: tuple[Kind, ...] = ("raw", "calibrated", "metric_optimal")

#: The fitted heads of one model.
Heads = Mapping[HeadName, ZeroShotHead | LinearProbe]


@dataclass(frozen=True)
class Grader:
    """Fitted heads, the calibrator of each, and the column priors of sites without an image.

    models: the heads of each model by the name of its run; there is one if the run grades by itself. best: the head
    with the better metric on held-out studies. sets, answers: of that head. fingerprint: of the checkpoint, the data
    set and the zero-shot prompts. levels: what neighbouring levels say about a site without an image. constant_X3: the
    best constants for the metric; None of heads of an earlier version. shift: to the prevalences of another hospital.
    typicality: of the images of new studies, by the run's name; empty if it cannot be told.
    """

    models: Mapping[str, Heads]
    calibrators: Mapping[HeadName, Calibrator]
    prior: ColumnPrior
    best: HeadName
    sets: PredictionSets
    answers: StudyAnswers
    fingerprint: Mapping[str, str]
    levels: NeighbouringLevels = field(default_factory=lambda: NeighbouringLevels.from_list(None))
    constant_X3: Floats | None = None
    shift: PrevalenceShift | None = None
    typicality: Mapping[str, Typicality] = field(default_factory=dict)

    def shifted(self, prevalences: Prevalences) -> "Grader":
        """Return a grader of the same heads for another hospital.

        Raises ValueError if the calibrator of the best head learned from no site of a severity that is to shift.
        """
        return replace(self, shift=prevalence_shift(prevalences, self.calibrators[self.best].examples_KC_))

    def constants(self) -> Floats:
        """Return (25, 3): the best constant answer for the metric, sites in the order of `SITES`."""
        if self.constant_X3 is not None and self.shift is None:
            return self.constant_X3
        table = full_table([0], site_table([]))
        prob_X3 = self.prior.prob_SC_ if self.shift is None else self.shift.shift(self.prior.prob_SC_, table)
        return self._metric_optimal(prob_X3, table, self.best)

    def predict_proba(
        self, table: SiteTable, embeddings: Sequence[Embeddings], kind: Kind, head: HeadName | None = None
    ) -> Floats:
        """Return (N, 3) for every row of `table`, by `head` or, if None, the best one.

        embeddings: of each model, in the order of `models`. A site that no image shows is graded from its neighbouring
        levels; if no image shows these either, it has the frequencies of its column. All rows of a study are required
        at once. Only calibrated and metric-optimal probabilities depend on neighbours and on the prevalences.
        """
        head = head or self.best
        row_N = embeddings[0].rows_of(table)
        imaged = row_N >= 0
        prob_N3 = self.prior.predict_proba(table)
        if imaged.any():
            shown = table.take(imaged)
            log_prob_M3 = mean_log_proba(
                [
                    heads[head].predict_log_proba(shown, own.image_ND[row_N[imaged]])
                    for heads, own in zip(self.models.values(), embeddings, strict=True)
                ]
            )
            if kind == "raw":
                prob_N3[imaged] = np.exp(log_prob_M3)
                return prob_N3
            prob_N3[imaged] = self.calibrators[head].predict_proba(log_prob_M3, shown)
            guessed = self.guessed_from_neighbours(imaged, table)
            prob_N3[guessed] = self.levels.predict_proba(prob_N3, imaged, self.prior.prob_SC_, table)[guessed]
        if self.shift is not None and kind != "raw":
            prob_N3 = self.shift.shift(prob_N3, table)
        return self._metric_optimal(prob_N3, table, head) if kind == "metric_optimal" else prob_N3

    def guessed_from_neighbours(self, imaged_N: Bools, table: SiteTable) -> Bools:
        """Return which rows are graded from their neighbouring levels; `imaged_N`: which ones an image shows."""
        guessed_N: Bools = ~imaged_N & self.levels.speaks_for(imaged_N, table)
        return guessed_N

    def _metric_optimal(self, prob_N3: Floats, table: SiteTable, head: HeadName) -> Floats:
        rule = self.calibrators[head].rule_
        return metric_optimal(table, prob_N3, rule if self.shift is None else self.shift.rule(rule))

    def grade_studies(self, study_ids: Sequence[int], embeddings: Sequence[Embeddings], kind: Kind) -> Floats:
        """Return (S, 25, 3) for all sites of each study, in the order of `SITES`, by the best head.

        Metric-optimal ones of a study without any image are the best constants.
        """
        table = full_table(study_ids, site_table([]))
        prob_SX3 = self.predict_proba(table, embeddings, kind).reshape(-1, len(SITES), len(Severity))
        if kind == "metric_optimal":
            is_shown_S = (embeddings[0].rows_of(table) >= 0).reshape(-1, len(SITES)).any(axis=1)
            prob_SX3[~is_shown_S] = self.constants()
        return prob_SX3

    def typicality_of(self, study_ids: Sequence[int], embeddings: Sequence[Embeddings]) -> Floats:
        """Return the typicality (S,) of each study's images; nan if it cannot be told.

        That of several models is the mean of theirs, which is small less often than each of them.
        """
        typicality_S = np.full(len(study_ids), np.nan)
        if not study_ids or any(run not in self.typicality for run in self.models):
            return typicality_S
        told: dict[int, list[float]] = {}
        for run, own in zip(self.models, embeddings, strict=True):
            typicality = self.typicality[run]
            studies, distance_S = typicality.distances(own.table, own.image_ND)
            for study, value in zip(studies.tolist(), typicality.of_distances(distance_S).tolist(), strict=True):
                told.setdefault(study, []).append(value)
        known = {study: round(float(np.mean(own)), 9) for study, own in told.items() if len(own) == len(self.models)}
        return np.array([known.get(study, np.nan) for study in study_ids])

    @property
    def compared_studies(self) -> int:
        """The number of held-out studies with which new ones are compared; the least of several models."""
        return min((len(one.held_out_S) for one in self.typicality.values()), default=0)

    def prediction_sets(self, table: SiteTable, embeddings: Sequence[Embeddings], prob_N3: Floats, level: int) -> Bits:
        """Return the grades (N,) that each site may have at a level, as bits; all of them if no image shows the site.

        prob_N3: the calibrated probabilities of the best head.
        """
        set_N = self.sets.sets(prob_N3, table, level)
        return np.where(embeddings[0].rows_of(table) >= 0, set_N, ALL_GRADES).astype(np.uint8)


def mean_log_proba(log_probs: Sequence[Floats]) -> Floats:
    """Return the mean (N, 3) of several models' log-probabilities, normalised; that of one model as it is."""
    if len(log_probs) == 1:
        return log_probs[0]
    mean_N3: Floats = log_softmax(np.mean(log_probs, axis=0), axis=1)
    return mean_N3


def write_grader(folder: Path, grader: Grader) -> None:
    """Write both files, each by rename, ``heads.json`` last."""
    (folder / "heads.json").unlink(missing_ok=True)
    arrays = {
        f"{number}.{name}.{key}": array
        for number, heads in enumerate(grader.models.values())
        for name, head in heads.items()
        for key, array in head.arrays().items()
    }
    arrays["prior"] = grader.prior.prob_SC_
    if grader.constant_X3 is not None:
        arrays["constant"] = grader.constant_X3
    for number, run in enumerate(grader.models):
        if run in grader.typicality:
            saved = grader.typicality[run].arrays()
            arrays |= {f"{number}.typicality.{key}": array for key, array in saved.items()}
    with replacing(folder / "heads.npz") as partial, partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    card = {
        "schema_version": SCHEMA_VERSION,
        "runs": list(grader.models),
        "best": grader.best,
        "fingerprint": dict(grader.fingerprint),
        "arrays_sha256": _sha256(folder / "heads.npz"),
        "calibrators": {head: calibrator.as_dict() for head, calibrator in grader.calibrators.items()},
        "neighbouring_levels": grader.levels.as_list(),
        "prediction_sets": grader.sets.as_dict(),
        "study_answers": grader.answers.as_dict(),
    }
    with replacing(folder / "heads.json") as partial:
        partial.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def read_grader(folder: Path, expected: Mapping[str, str] | None = None) -> Grader:
    """Read a run's heads.

    Raises ValueError if there are none, if they cannot be read, or if a part of their fingerprint (checkpoint, dataset,
    prompts) is not the one of that name in `expected`.
    """
    if not (folder / "heads.json").exists():
        raise ValueError(f"{folder}: the run has no heads yet; run eval_vl.py first")
    card = read_object(folder / "heads.json", "eval_vl.py", SCHEMA_VERSION)
    try:
        with np.load(folder / "heads.npz", allow_pickle=False) as file:
            arrays = dict(file)
        grader = _from_saved(card, arrays)
    except (OSError, EOFError, LookupError, AttributeError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as e:
        raise ValueError(f"{folder}: the heads cannot be read ({e}); run eval_vl.py again") from None
    check_fingerprint(f"{folder}: the heads", grader.fingerprint, expected or {}, "run eval_vl.py again")
    if card.get("arrays_sha256") != _sha256(folder / "heads.npz"):
        raise ValueError(f"{folder}: heads.npz is not the file that heads.json was written for; run eval_vl.py again")
    return grader


def _from_saved(card: dict[str, Any], arrays: dict[str, Any]) -> Grader:
    return Grader(
        models={
            run: {
                "zero_shot": ZeroShotHead.from_arrays(_under(f"{number}.zero_shot", arrays)),
                "linear_probe": LinearProbe.from_arrays(_under(f"{number}.linear_probe", arrays)),
            }
            for number, run in enumerate(card["runs"])
        },
        calibrators={head: Calibrator.from_dict(card["calibrators"][head]) for head in HEADS},
        prior=_prior(arrays["prior"]),
        best=card["best"],
        sets=PredictionSets.from_dict(card["prediction_sets"]),
        answers=StudyAnswers.from_dict(card["study_answers"]),
        fingerprint=dict(card["fingerprint"]),
        levels=NeighbouringLevels.from_list(card.get("neighbouring_levels")),
        constant_X3=arrays.get("constant"),
        typicality={
            run: Typicality.from_arrays(saved)
            for number, run in enumerate(card["runs"])
            if (saved := _under(f"{number}.typicality", arrays))
        },
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _under(name: str, arrays: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(f"{name}."): array for key, array in arrays.items() if key.startswith(f"{name}.")}


def _prior(prob_SC: Floats) -> ColumnPrior:
    prior = ColumnPrior()
    prior.prob_SC_ = prob_SC
    return prior
