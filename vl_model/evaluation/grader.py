"""A run's heads, calibrators and column priors: from embeddings to probabilities, for every site of every study.

The files are in a run's ``heads/``: ``heads.npz`` (arrays) and, written last, ``heads.json`` (the calibrators, the
better head, and the fingerprints of the checkpoint and the data set).
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.sites import SITES, Severity
from vl_model.data.site_table import Floats, SiteTable, full_table, site_table
from vl_model.evaluation.calibrate import UNWEIGHTED, Calibrator
from vl_model.evaluation.embeddings import Embeddings
from vl_model.evaluation.heads import LinearProbe, ZeroShotHead
from vl_model.evaluation.predictions_card import check_fingerprint
from vl_model.scoring.metrics import SEVERITY_WEIGHTS
from vl_model.scoring.priors import ColumnPrior
from workspace.json_files import read_object
from workspace.whole_files import replacing

SCHEMA_VERSION = 1
HeadName = Literal["zero_shot", "linear_probe"]
Kind = Literal["raw", "calibrated", "metric_optimal"]
HEADS: tuple[HeadName, ...] = ("zero_shot", "linear_probe")
KINDS: tuple[Kind, ...] = ("raw", "calibrated", "metric_optimal")

#: The weights of the loss that each kind of probability minimises.
KIND_WEIGHTS: dict[Kind, tuple[float, ...]] = {
    "raw": UNWEIGHTED,
    "calibrated": UNWEIGHTED,
    "metric_optimal": SEVERITY_WEIGHTS,
}
_Heads = Mapping[HeadName, ZeroShotHead | LinearProbe]


@dataclass(frozen=True)
class Grader:
    """Fitted heads, their calibrators (none for `raw`), and the column priors of each kind.

    best: the head with the better metric on held-out studies. fingerprint: of the checkpoint, the data set and the
    zero-shot prompts.
    """

    heads: _Heads
    calibrators: Mapping[HeadName, Mapping[Kind, Calibrator]]
    priors: Mapping[Kind, ColumnPrior]
    best: HeadName
    fingerprint: Mapping[str, str]

    def predict_proba(
        self, table: SiteTable, embeddings: Embeddings, kind: Kind, head: HeadName | None = None
    ) -> Floats:
        """Return (N, 3) for every row of `table`, by `head` or, if None, the best one.

        A site that no image shows has the constant of its column.
        """
        head = head or self.best
        row_N = embeddings.rows_of(table)
        imaged = row_N >= 0
        prob_N3 = self.priors[kind].predict_proba(table)
        if imaged.any():
            log_prob_M3 = self.heads[head].predict_log_proba(table.take(imaged), embeddings.image_ND[row_N[imaged]])
            if kind == "raw":
                prob_N3[imaged] = np.exp(log_prob_M3)
            else:
                prob_N3[imaged] = self.calibrators[head][kind].predict_proba(log_prob_M3, table.take(imaged))
        return prob_N3

    def grade_studies(self, study_ids: Sequence[int], embeddings: Embeddings, kind: Kind) -> Floats:
        """Return (S, 25, 3) for all sites of each study, in the order of `SITES`, by the best head."""
        table = full_table(study_ids, site_table([]))
        return self.predict_proba(table, embeddings, kind).reshape(-1, len(SITES), len(Severity))


def column_priors(train: SiteTable) -> dict[Kind, ColumnPrior]:
    """Return the probabilities of sites without an image, in each kind."""
    return {kind: ColumnPrior(weights).fit(train) for kind, weights in KIND_WEIGHTS.items()}


def write_grader(folder: Path, grader: Grader) -> None:
    """Write both files, each by rename, ``heads.json`` last."""
    (folder / "heads.json").unlink(missing_ok=True)
    arrays = {f"{name}.{key}": array for name, head in grader.heads.items() for key, array in head.arrays().items()}
    arrays |= {f"prior.{kind}": prior.prob_SC_ for kind, prior in grader.priors.items()}
    with replacing(folder / "heads.npz") as partial, partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    card = {
        "schema_version": SCHEMA_VERSION,
        "best": grader.best,
        "fingerprint": dict(grader.fingerprint),
        "arrays_sha256": _sha256(folder / "heads.npz"),
        "calibrators": {
            head: {kind: calibrator.as_dict() for kind, calibrator in kinds.items()}
            for head, kinds in grader.calibrators.items()
        },
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
        heads={
            "zero_shot": ZeroShotHead.from_arrays(_under("zero_shot", arrays)),
            "linear_probe": LinearProbe.from_arrays(_under("linear_probe", arrays)),
        },
        calibrators={
            head: {kind: Calibrator.from_dict(saved) for kind, saved in kinds.items()}
            for head, kinds in card["calibrators"].items()
        },
        priors={kind: _prior(kind, arrays[f"prior.{kind}"]) for kind in KINDS},
        best=card["best"],
        fingerprint=dict(card["fingerprint"]),
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _under(name: str, arrays: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(f"{name}."): array for key, array in arrays.items() if key.startswith(f"{name}.")}


def _prior(kind: Kind, prob_SC: Floats) -> ColumnPrior:
    prior = ColumnPrior(KIND_WEIGHTS[kind])
    prior.prob_SC_ = prob_SC
    return prior
