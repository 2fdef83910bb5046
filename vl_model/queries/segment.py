"""One segment of the query index in memory: the studies of a split, or new studies that were kept.

Legend: S studies, X sites in the order of `data_prep.sites.SITES`, D dimensions, 3 severities, 2 views,
Q questions about whole studies.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.conversion.pairs import png_path
from data_prep.sites import Source, View
from vl_model.calibration.study_answers import QUESTIONS

VIEWS: tuple[View, ...] = tuple(View)
SOURCES: tuple[Source, ...] = tuple(Source)
#: The view and the source of a record of `EVIDENCE` without evidence: no image shows the site in this view.
NONE = 255
#: One view of one site. `view` and `source` are indices in `VIEWS` and `SOURCES`; `weight` is NaN if it is not known.
EVIDENCE = np.dtype(
    [
        ("series_id", np.int64),
        ("instance_number", np.int64),
        ("box", np.float32, (4,)),
        ("weight", np.float32),
        ("view", np.uint8),
        ("source", np.uint8),
    ],
    align=True,
)


class IndexRefused(ValueError):
    """The index does not exist, is damaged, or has other fingerprints. reason: in words, without the folder."""

    def __init__(self, where: Path | str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Evidence:
    """What shows a site in one view: a slice, and a box (x0, y0, x1, y1) in (column, row) pixels of its PNG.

    weight: what the model's pooling gave to the view; the weights of a site sum to 1. None if it is not known.
    """

    view: View
    series_id: int
    instance_number: int
    box: tuple[float, float, float, float]
    source: Source
    weight: float | None = None


@dataclass(frozen=True, eq=False)
class Segment:
    """The S studies of a split or of a kept set, also those without a usable image.

    Attributes:
        name: train, test, or the name of a kept set.
        study_S: int64, ascending.
        seen_S: Whether the adapters and heads were trained on the study, so that its probabilities are optimistic.
        graded_SX3: float32, calibrated probabilities; NaN where no image shows the site.
        sets_SX: uint8, the grades of the site's 90 % prediction set, as bits; all of them where no image shows the site
            or where the set is empty.
        answers_SQ: float64, the calibrated probability of each question about the whole study, in the order of
            `calibration.study_answers.QUESTIONS`; NaN where the heads know of no answer.
        typicality_S: float64, the typicality of the study's images; NaN where it is not known, and of the train split.
        vector_XSD: float32, L2-normalised embeddings; 0 where no image shows the site. One site is one block.
        label_SX: int8, the known severity; -1 if there is none.
        evidence_SX2: Records of `EVIDENCE`, in the order of `Site.views`: first the view that readers mark.
        fingerprint: Of the data, the model, the heads and the embeddings that the segment was made from.
    """

    name: str
    study_S: NDArray[np.int64]
    seen_S: NDArray[np.bool_]
    graded_SX3: NDArray[np.float32]
    sets_SX: NDArray[np.uint8]
    answers_SQ: NDArray[np.float64]
    typicality_S: NDArray[np.float64]
    vector_XSD: NDArray[np.float32]
    label_SX: NDArray[np.int8]
    evidence_SX2: NDArray[np.void]
    fingerprint: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.study_S)

    @property
    def imaged_SX(self) -> NDArray[np.bool_]:
        """Whether an image shows the site."""
        imaged_SX: NDArray[np.bool_] = ~np.isnan(self.graded_SX3[:, :, 0])
        return imaged_SX

    def row_of(self, study_id: int) -> int | None:
        """Return the row of a study; None if the segment does not contain it."""
        row = int(np.searchsorted(self.study_S, study_id))
        return row if row < len(self) and self.study_S[row] == study_id else None

    def study_answers(self, row: int) -> dict[str, float | None]:
        """Return the probability of each question about a whole study; None if there is none."""
        values = self.answers_SQ[row].tolist()
        return {name: None if np.isnan(p) else p for name, p in zip(QUESTIONS, values, strict=True)}

    def typicality(self, row: int) -> float | None:
        """Return the typicality of a study's images; None if it is not known."""
        value = float(self.typicality_S[row])
        return None if np.isnan(value) else value

    def evidence(self, row: int, site_index: int) -> tuple[Evidence, ...]:
        """Return the evidence of a site in each view that shows it, first the one that readers mark."""
        records = self.evidence_SX2[row, site_index]
        return tuple(_evidence(record) for record in records if record["view"] != NONE)


def image_path(study_id: int, evidence: Evidence) -> str:
    """Return the path of the slice's PNG, relative to the segment's ``processed_data``."""
    return png_path(study_id, evidence.series_id, evidence.instance_number)


def _evidence(record: np.void) -> Evidence:
    x0, y0, x1, y1 = record["box"].tolist()
    return Evidence(
        view=VIEWS[record["view"]],
        series_id=int(record["series_id"]),
        instance_number=int(record["instance_number"]),
        box=(x0, y0, x1, y1),
        source=SOURCES[record["source"]],
        weight=None if np.isnan(record["weight"]) else float(record["weight"]),
    )
